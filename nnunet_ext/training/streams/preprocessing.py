"""Preprocess a stream's raw cases with the labelled data set's plans, resumably, by nnU-Net's own
preprocessor.
"""

from __future__ import annotations

import json
import re
import shutil
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from nnunetv2.preprocessing.preprocessors.default_preprocessor import DefaultPreprocessor
from nnunetv2.training.dataloading.nnunet_dataset import comp_blosc2_params, nnUNetDatasetBlosc2
from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager, PlansManager
from nnunetv2.utilities.utils import get_filenames_of_train_images_and_targets
from tqdm import tqdm

from nnunet_ext.errors import InputError
from nnunet_ext.files.atomic_json import write_json
from nnunet_ext.files.declared_size import require_intact, shape_in_header
from nnunet_ext.files.json_files import read_object
from nnunet_ext.stock.files import read_dataset_json
from nnunet_ext.stock.folders import plain_name
from nnunet_ext.stock.readers import reader_class
from nnunet_ext.training.streams.location import (
    CASE_FILES,
    LESION_LABELS,
    MANIFEST,
    UNLABELLED_ROLES,
    Stream,
    preprocessing_fingerprint,
)
from nnunet_ext.training.streams.normalization import Window, normalize_by
from nnunet_ext.worker_processes import first_line, in_worker_processes

UNKNOWN_SPACING = 999.0  # nnU-Net's slice spacing of PNG and the like, which have no spacing in mm
SHOWN_ERRORS = 5


@dataclass(frozen=True)
class RawCase:
    """Files of one case; an unlabelled case has no label file."""

    name: str
    images: list[str]
    label: str | None


@dataclass(frozen=True)
class CaseSettings:
    """What a worker process needs beside the case."""

    folder: str
    dataset_json: dict
    lesion_values: list[int] | None  # None: every value above 0
    plans: dict
    configuration: str
    window: Window | None = None  # None: normalised as the plans say


def raw_cases(role: str, raw_folder: Path, dataset_json: dict) -> list[RawCase]:
    """The cases of a raw data set that a role uses: imagesTr with labelsTr, or imagesUn for
    unlabelled ones.

    A target domain without imagesUn gives its imagesTr, whose labels are not looked at.

    Raises:
        InputError: the folder is missing or empty, a file has no channel number, or a label file is
            missing.
    """
    labelled = role not in UNLABELLED_ROLES
    if labelled and "ignore" in dataset_json["labels"]:
        raise InputError(
            f"{raw_folder}: has an ignore label, which cannot be merged to lesion; convert "
            f"without it"
        )
    if labelled:
        return labelled_cases(raw_folder, dataset_json)
    return unlabelled_cases(
        raw_folder, dataset_json, labels_ignored=ignores_labels(role, raw_folder)
    )


def ignores_labels(role: str, raw_folder: Path) -> bool:
    """Whether a stream without labels takes the images of a labelled data set, which has no
    imagesUn.
    """
    has_only_labelled = (raw_folder / "imagesTr").is_dir() and not (
        raw_folder / "imagesUn"
    ).is_dir()
    return role == "target_domain" and has_only_labelled


def labelled_cases(raw_folder: Path, dataset_json: dict) -> list[RawCase]:
    """The training cases of a raw data set.

    Raises:
        InputError: the folder is missing or empty, a file has no channel number, or a label file is
            missing.
    """
    if "dataset" in dataset_json:  # nnU-Net's list of files that lie elsewhere
        cases = _listed_cases(raw_folder, dataset_json)
    else:
        ending = dataset_json["file_ending"]
        images = images_by_case(
            raw_folder / "imagesTr", ending, "labelled", "convert the data set with labels"
        )
        labels = {name: str(raw_folder / "labelsTr" / f"{name}{ending}") for name in images}
        cases = [RawCase(name, files, labels[name]) for name, files in images.items()]
    for case in cases:
        if not Path(str(case.label)).is_file():
            raise InputError(
                f"{case.label}: label of case {case.name} is missing; convert the data set again"
            )
    return _named(cases, raw_folder)


def unlabelled_cases(
    raw_folder: Path, dataset_json: dict, labels_ignored: bool = False
) -> list[RawCase]:
    """The cases of a raw data set's imagesUn, or those of imagesTr without their labels.

    Raises:
        InputError: the folder is missing or empty, or a file has no channel number.
    """
    folder = raw_folder / ("imagesTr" if labels_ignored else "imagesUn")
    mend = "convert the data set with --unlabeled"
    images = images_by_case(folder, dataset_json["file_ending"], "unlabelled", mend)
    return _named([RawCase(name, files, None) for name, files in images.items()], raw_folder)


def _named(cases: list[RawCase], raw_folder: Path) -> list[RawCase]:
    for case in cases:
        plain_name(case.name, f"{raw_folder / 'dataset.json'}: case")
        gone = [image for image in case.images if not Path(image).is_file()]
        if gone:
            what = (
                "is a link that leads to no file" if Path(gone[0]).is_symlink() else "no such file"
            )
            raise InputError(
                f"{gone[0]}: {what}; bring back the image of case {case.name}, or remove it"
            )
    if not cases:
        raise InputError(f"{raw_folder}: no images; convert the data set again")
    return cases


def _listed_cases(raw_folder: Path, dataset_json: dict) -> list[RawCase]:
    """The cases of nnU-Net's list of files."""
    try:
        listed = get_filenames_of_train_images_and_targets(str(raw_folder), dataset_json)
        return [
            RawCase(str(name), list(entry["images"]), str(entry["label"]))
            for name, entry in listed.items()
        ]
    except (KeyError, TypeError, AttributeError) as error:
        raise InputError(
            f"{raw_folder / 'dataset.json'}: 'dataset' is no list of images and labels; mend it"
        ) from error


def images_by_case(folder: Path, ending: str, what: str, mend: str) -> dict[str, list[str]]:
    """Image files of each case in a folder, channels in order.

    Args:
        folder: ``imagesTr`` or the like.
        ending: of its files.
        what: kind of images that live there, for the message.
        mend: what to do where the folder is missing, for the message.

    Raises:
        InputError: no such folder, or a file has no channel number.
    """
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder; {what} images live in {folder.name}, {mend}")
    images: dict[str, list[str]] = {}
    for file in sorted(
        file for file in folder.iterdir() if file.name.endswith(ending) and file.name[0] != "."
    ):
        match = re.fullmatch(rf"(.+)_\d{{4}}{re.escape(ending)}", file.name)
        if match is None:
            raise InputError(
                f"{file}: has no channel number; nnU-Net names images CASE_0000{ending}"
            )
        images.setdefault(match[1], []).append(str(file))
    return images


def lesion_values(stream: Stream, dataset_json: dict) -> list[int] | None:
    """The label values that count as lesion: those of the stream's named labels, or None for every
    value above 0.

    Raises:
        InputError: a named label does not exist.
    """
    if not stream.lesions:
        return None
    known = {name: value for name, value in dataset_json["labels"].items() if name != "background"}
    unknown = [name for name in stream.lesions if name not in known]
    if unknown:
        raise InputError(
            f"{stream.dataset} has no label {', '.join(unknown)}; it has {', '.join(known)}"
        )
    values = [
        known[name] if isinstance(known[name], list) else [known[name]] for name in stream.lesions
    ]
    return sorted({int(value) for group in values for value in group})


def preprocess_stream(
    stream: Stream, raw_folder: Path, plans: PlansManager, configuration_name: str, processes: int
) -> str:
    """Preprocess what is missing; finished cases stay unless plans or source files changed.

    Returns:
        One line for the user.

    Raises:
        InputError: cases that cannot be read, the first of them named; the others are done and
            kept.
    """
    configuration = plans.get_configuration(configuration_name)
    dataset_json = read_dataset_json(raw_folder / "dataset.json", "convert the data set again")
    cases = raw_cases(stream.role, raw_folder, dataset_json)
    values = lesion_values(stream, dataset_json)
    record = {
        "plans": preprocessing_fingerprint(plans, configuration, stream.window),
        "lesion_values": values,
        "sources": {
            file: _stamp(file)
            for case in cases
            for file in [*case.images, *filter(None, [case.label])]
        },
        "cases": [case.name for case in cases],
    }
    record = json.loads(json.dumps(record))  # as it reads back
    title = f"{stream.role} {stream.dataset} {stream.folder.name}"
    _begin(stream.folder, record)
    todo = [case for case in cases if not stream.is_done(case.name)]
    if not todo and stream.manifest() == record:
        return f"{title}: {len(cases)} cases, done before"
    settings = CaseSettings(
        str(stream.folder), dataset_json, values, plans.plans, configuration_name, stream.window
    )
    outcomes = in_worker_processes(partial(_attempt, settings), todo, processes)
    errors = [
        error
        for _, error in tqdm(outcomes, desc=title, total=len(todo), unit="case")
        if error is not None
    ]
    if errors:
        shown = "; ".join(sorted(errors)[:SHOWN_ERRORS])
        more = f"; and {len(errors) - SHOWN_ERRORS} more" if len(errors) > SHOWN_ERRORS else ""
        raise InputError(
            f"{len(errors)} of {len(cases)} cases failed, the others are done: {shown}{more}"
        )
    write_json(record, stream.folder / MANIFEST)
    return f"{title}: {len(cases)} cases, {len(todo)} new"


def _begin(folder: Path, record: dict) -> None:
    """Make the folder; drop what an earlier run left there for other plans or other files.

    Raises:
        InputError: the folder holds something else.
    """
    begun = folder / "begun.json"
    if begun.is_file() and read_object(begun, f"delete {folder} and run again") == record:
        return
    if begun.is_file():
        shutil.rmtree(folder)
    elif folder.is_dir() and any(folder.iterdir()):
        raise InputError(
            f"{folder}: holds files that no preprocessing of a stream wrote; move them elsewhere"
        )

    folder.mkdir(parents=True, exist_ok=True)
    write_json(record, begun)


def _attempt(settings: CaseSettings, case: RawCase) -> str | None:
    """Preprocess one case; returns what went wrong, in one line. Every reader raises exceptions of
    its own.
    """
    try:
        preprocess_case(case, settings)
    except InputError as error:
        text = str(error)
        named = text.startswith((settings.folder, *case.images, *filter(None, [case.label])))
        return text if named else f"{case.images[0]}: {text}"
    except Exception as error:
        return f"{case.images[0]}: {first_line(error)}"
    return None


def preprocess_case(case: RawCase, settings: CaseSettings) -> None:
    """Read, normalise and resample one case and write nnU-Net's preprocessed files; all of them or
    none.

    Labels become lesion (1) or background (0). An unlabelled case gets nnU-Net's nonzero mask (0
    inside, -1 outside; all 0 where the stream has a window of its own) and no foreground locations.

    Raises:
        InputError: the case cannot be used with these plans.
    """
    plans = PlansManager(settings.plans)
    configuration = plans.get_configuration(settings.configuration)
    for file in (*case.images, *filter(None, [case.label])):
        require_intact(Path(file))
        with suppress(RuntimeError):  # of a format that another reader knows
            shape_in_header(Path(file))
    reader = reader_class(settings.dataset_json, case.images[0])()
    data, properties = reader.read_images(case.images)
    channels = len(settings.dataset_json["channel_names"])
    if len(data) != channels:
        raise InputError(
            f"has {len(data)} channels, dataset.json names {channels}; convert it again"
        )
    label = None
    if case.label is not None:
        label = reader.read_seg(case.label)[0]
        label = (
            label > 0 if settings.lesion_values is None else np.isin(label, settings.lesion_values)
        )
        if label.shape[1:] != data.shape[1:]:
            raise InputError(
                f"has shape {data.shape[1:]}, label {case.label} {label.shape[1:]}; convert it "
                f"again"
            )
        label = label.astype(np.int8)
    if data.shape[1] == 1 and (len(configuration.spacing) == 3 or plans.transpose_forward[0] != 0):
        raise InputError(
            "is a single slice, which fits only 2d plans of axial slices; configure those with -c "
            "2d"
        )
    properties["spacing"] = _usable_spacing(list(properties["spacing"]), plans, configuration)
    preprocessor: DefaultPreprocessor = configuration.preprocessor_class(verbose=False)
    if settings.window is not None:
        data = normalize_by(settings.window, preprocessor, data)
    data, label, properties = preprocessor.run_case_npy(
        data, label, properties, plans, configuration, {"labels": LESION_LABELS}
    )
    properties.setdefault("class_locations", {})  # nnU-Net's loader reads it for every case
    arrays = data.astype(np.float32, copy=False), label.astype(np.int16, copy=False)
    try:
        _save(*arrays, properties, Path(settings.folder) / case.name, configuration)
    except (OSError, RuntimeError) as error:  # the second from blosc2, which leaves out the reason
        reason = getattr(error, "strerror", None) or first_line(error)
        raise InputError(
            f"{settings.folder}: cannot write case {case.name} ({reason}); is the disk full?"
        ) from error


def _usable_spacing(
    spacing: list[float], plans: PlansManager, configuration: ConfigurationManager
) -> list[float]:
    """Where either data set has no spacing in mm (PNG), pixels are taken as they are: no resampling
    in the plane.
    """
    labelled = plans.plans["original_median_spacing_after_transp"]
    if UNKNOWN_SPACING in (spacing[0], labelled[0]):
        for axis, target in zip(plans.transpose_forward[1:], configuration.spacing, strict=True):
            spacing[axis] = target
    return spacing


def _save(
    data: np.ndarray,
    label: np.ndarray,
    properties: dict,
    path: Path,
    configuration: ConfigurationManager,
) -> None:
    """Write into a folder of its own, then move every file of the case to ``path`` plus its
    ending.
    """
    unfinished = path.parent / "unfinished" / path.name
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    (blocks, chunks), (blocks_label, chunks_label) = (
        comp_blosc2_params(array.shape, tuple(configuration.patch_size), array.itemsize)
        for array in (data, label)
    )
    nnUNetDatasetBlosc2.save_case(
        data,
        label,
        properties,
        str(unfinished / path.name),
        chunks,
        blocks,
        chunks_label,
        blocks_label,
    )
    for ending in CASE_FILES:
        (unfinished / f"{path.name}{ending}").replace(path.parent / f"{path.name}{ending}")
    unfinished.rmdir()


def _stamp(file: str) -> list[int]:
    """Size and modification time: what tells a changed source file."""
    status = Path(file).stat()
    return [status.st_size, status.st_mtime_ns]
