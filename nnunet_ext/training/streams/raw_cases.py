"""The cases of a raw data set that a stream uses."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from nnunetv2.utilities.utils import get_filenames_of_train_images_and_targets

from nnunet_ext.errors import InputError
from nnunet_ext.stock.folders import plain_name
from nnunet_ext.training.streams.location import UNLABELLED_ROLES


@dataclass(frozen=True)
class RawCase:
    """Files of one case; an unlabelled case has no label file."""

    name: str
    images: list[str]
    label: str | None

    @property
    def files(self) -> list[str]:
        """All files, the label last."""
        if self.label is None:
            return self.images
        return [*self.images, self.label]


def raw_cases(role: str, raw_folder: Path, dataset_json: dict) -> list[RawCase]:
    """Return the cases that a role uses: imagesTr with labelsTr, or imagesUn without labels.

    A target domain without imagesUn gives its imagesTr; their labels are not read.

    Raises:
        InputError: the folder is missing or empty, a file has no channel number, or a label file is
            missing.
    """
    if role in UNLABELLED_ROLES:
        labels_ignored = ignores_labels(role, raw_folder)
        return unlabelled_cases(raw_folder, dataset_json, labels_ignored)

    if "ignore" in dataset_json["labels"]:
        raise InputError(
            f"{raw_folder}: has an ignore label, which cannot be merged into lesion; convert "
            "without it"
        )
    return labelled_cases(raw_folder, dataset_json)


def ignores_labels(role: str, raw_folder: Path) -> bool:
    """Return whether a target domain has no imagesUn, and so uses imagesTr without their labels."""
    if role != "target_domain":
        return False
    has_labelled = (raw_folder / "imagesTr").is_dir()
    has_unlabelled = (raw_folder / "imagesUn").is_dir()
    return has_labelled and not has_unlabelled


def labelled_cases(raw_folder: Path, dataset_json: dict) -> list[RawCase]:
    """Return the training cases of a raw data set.

    Raises:
        InputError: the folder is missing or empty, a file has no channel number, or a label file is
            missing.
    """
    if "dataset" in dataset_json:  # nnU-Net's list of files in other folders
        cases = _listed_cases(raw_folder, dataset_json)
    else:
        cases = _cases_in_folder(raw_folder, dataset_json["file_ending"])

    for case in cases:
        if not Path(str(case.label)).is_file():
            raise InputError(
                f"{case.label}: label of case {case.name} is missing; convert the data set again"
            )
    return _with_usable_files(cases, raw_folder)


def _cases_in_folder(raw_folder: Path, ending: str) -> list[RawCase]:
    """Return the cases of imagesTr, with the places where their labels should be."""
    advice = "convert the data set with labels"
    folder = raw_folder / "imagesTr"
    images = images_by_case(folder, ending, "labelled", advice)

    labels = raw_folder / "labelsTr"
    cases = []
    for name, files in images.items():
        label = labels / f"{name}{ending}"
        case = RawCase(name, files, str(label))
        cases.append(case)
    return cases


def _listed_cases(raw_folder: Path, dataset_json: dict) -> list[RawCase]:
    """Return the cases of nnU-Net's list of files."""
    cases = []
    try:
        listed = get_filenames_of_train_images_and_targets(str(raw_folder), dataset_json)
        for name, entry in listed.items():
            images = list(entry["images"])
            label = str(entry["label"])
            cases.append(RawCase(str(name), images, label))
    except (KeyError, TypeError, AttributeError) as error:
        raise InputError(
            f"{raw_folder / 'dataset.json'}: 'dataset' is not a list of images and labels; fix it"
        ) from error
    return cases


def unlabelled_cases(
    raw_folder: Path, dataset_json: dict, labels_ignored: bool = False
) -> list[RawCase]:
    """Return the cases of a raw data set's imagesUn, or those of imagesTr without their labels.

    Raises:
        InputError: the folder is missing or empty, or a file has no channel number.
    """
    folder_name = "imagesTr" if labels_ignored else "imagesUn"
    folder = raw_folder / folder_name
    ending = dataset_json["file_ending"]
    advice = "convert the data set with --unlabeled"
    images = images_by_case(folder, ending, "unlabelled", advice)

    cases = []
    for name, files in images.items():
        case = RawCase(name, files, label=None)
        cases.append(case)
    return _with_usable_files(cases, raw_folder)


def _with_usable_files(cases: list[RawCase], raw_folder: Path) -> list[RawCase]:
    """Return the cases; check that there are any, and that names and image files are usable."""
    description = raw_folder / "dataset.json"
    for case in cases:
        plain_name(case.name, f"{description}: case")
        for image in case.images:
            _require_image(image, case)
    if not cases:
        raise InputError(f"{raw_folder}: no images; convert the data set again")
    return cases


def _require_image(image: str, case: RawCase) -> None:
    """Check that an image file exists."""
    path = Path(image)
    if path.is_file():
        return
    what = "is a link that leads to no file" if path.is_symlink() else "no such file"
    raise InputError(f"{image}: {what}; restore the image of case {case.name}, or remove the case")


def images_by_case(folder: Path, ending: str, kind: str, advice: str) -> dict[str, list[str]]:
    """Return the image files of each case in a folder, channels in order.

    Args:
        folder: ``imagesTr`` or the like.
        ending: of its files.
        kind: of the images in it, for the message.
        advice: what to do if the folder is missing, for the message.

    Raises:
        InputError: no such folder, or a file has no channel number.
    """
    if not folder.is_dir():
        raise InputError(
            f"{folder}: no such folder; {kind} images belong in {folder.name}, {advice}"
        )

    image_name = re.compile(rf"(.+)_\d{{4}}{re.escape(ending)}")
    images: dict[str, list[str]] = {}
    for file in sorted(folder.iterdir()):
        if not file.name.endswith(ending) or file.name.startswith("."):
            continue
        match = image_name.fullmatch(file.name)
        if match is None:
            raise InputError(
                f"{file}: has no channel number; nnU-Net names images CASE_0000{ending}"
            )
        case = match[1]
        images.setdefault(case, []).append(str(file))
    return images
