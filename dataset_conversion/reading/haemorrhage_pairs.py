"""Head CT with a mask of the same name in a second folder: BHSD, PhysioNet ct-ich, slices of it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from dataset_conversion.converter import Inventory, LoadedCase, SourceCase
from dataset_conversion.reading.download_folder import (
    case_id,
    files_by_stem,
    find_folder,
    natural_key,
)
from dataset_conversion.reading.haemorrhage_labels import slice_label
from dataset_conversion.reading.haemorrhage_slices import as_hu
from dataset_conversion.reading.nifti_headers import open_volume, states_orientation
from dataset_conversion.reading.volumes import label_place, read_voxels, spatial_axes
from nnunet_ext.errors import InputError, first_line, naming
from nnunet_ext.files.json_files import read_object

VOLUME_ENDINGS = (".nii.gz", ".nii")
PAIR_ENDINGS = (*VOLUME_ENDINGS, ".dcm")
# Images and masks: BHSD (its name has a space), PhysioNet ct-ich, and slices cut from the latter.
FOLDER_NAMES = (("images", "ground truths"), ("ct_scans", "masks"), ("images", "masks"))
COLLECTIONS = {"ground truths": "BHSD", "ct_scans": "ct-ich"}


@dataclass(frozen=True)
class PairedFolders:
    """A folder of images, and one with a mask for each of them."""

    images: Path
    masks: Path

    @property
    def collection(self) -> str | None:
        """``BHSD`` or ``ct-ich``; None where the folders' names do not tell."""
        for folder, collection in COLLECTIONS.items():
            if folder in (self.images.name, self.masks.name):
                return collection

        return None

    @property
    def tells_types(self) -> bool:
        """Whether the masks may tell types of haemorrhage; those of ct-ich do not."""
        return self.images.name != "ct_scans"

    def find_cases(self) -> Inventory:
        """Find the images that have a mask, and what is wrong with the others."""
        images, broken_images = files_by_stem(self.images, PAIR_ENDINGS)
        masks, broken_masks = files_by_stem(self.masks, PAIR_ENDINGS)
        broken = broken_images.keys() | broken_masks.keys()
        found = Inventory(problems=[*broken_images.values(), *broken_masks.values()])

        alone = (images.keys() ^ masks.keys()) - broken
        for stem in sorted(alone, key=natural_key):
            has_image = stem in images
            file = images[stem] if has_image else masks[stem]
            missing = "mask" if has_image else "image"
            found.problems.append(f"{file}: has no {missing}; download it again or remove the file")

        for stem in images.keys() & masks.keys():
            case = _pair(stem, images[stem], masks[stem])
            found.cases.append(case)

        found.problems += self._files_without_ending()

        return found

    def _files_without_ending(self) -> list[str]:
        names = []
        for path in self.images.iterdir():
            if not path.suffix and not path.name.startswith("."):
                names.append(path.name)
        if not names:
            return []

        file = self.images / min(names)
        return [f"{file}: has no ending, as {len(names)} files; call them .nii.gz"]

    def official_split(self) -> tuple[list[str], list[str]]:
        """Return BHSD's own split: half of its scans to train on, half to test.

        Raises:
            InputError: its list is missing, or is not a list of BHSD.
        """
        root = self.masks.parent
        places = (root / "dataset.json", root.parent / "dataset.json")
        present = [path for path in places if path.is_file()]
        if not present:
            raise InputError(
                f"{root}: --split official needs BHSD's dataset.json there; it lies beside its "
                f"README"
            )

        file = present[0]
        try:
            content = read_object(file, "download it again")
            train = [_listed_case(entry["image"]) for entry in content["training"]]
            test = [_listed_case(name) for name in content["test"]]
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise InputError(
                f"{file}: is not BHSD's list ({first_line(error)}); download it again"
            ) from error

        return train, test


def paired_folders(download: Path) -> PairedFolders | None:
    """Return the folders of a download that is one of these collections; None where it is not."""
    for images, masks in FOLDER_NAMES:
        image_folder = find_folder(download, images)
        if image_folder is None:
            continue

        mask_folder = image_folder.parent / masks
        if mask_folder.is_dir():
            return PairedFolders(image_folder, mask_folder)

    return None


def _pair(stem: str, image: Path, mask: Path) -> SourceCase:
    """Return an image and its mask as a case.

    Names of BHSD give patient and study, those of slices of ct-ich patient and slice, those of
    ct-ich itself the patient.
    """
    words = stem.split("_")
    is_bhsd = stem.startswith("ID_")
    patient = "_".join(words[:2]) if is_bhsd else words[0]
    name = stem if is_bhsd else f"ich_{stem}"

    return SourceCase(
        id=case_id(name),
        part="Tr",
        image_files=(image,),
        label_files=(mask,),
        details={"patient": patient},
    )


def _listed_case(name: str) -> str:
    return case_id(Path(name).name.removesuffix(".nii.gz"))


def read_paired_volumes(case: SourceCase, types: bool) -> LoadedCase:
    """Read a case whose image and mask are NIfTI volumes.

    Args:
        case: to read.
        types: masks hold BHSD's types; otherwise anything marked is haemorrhage.

    Raises:
        InputError: a file is damaged, or holds other values.
    """
    (image_file,) = case.image_files
    image = open_volume(image_file)
    stored = read_voxels(image_file, image)
    voxels = spatial_axes(image_file, stored)
    hu, transforms, remarks = as_hu(voxels)
    loaded = LoadedCase(
        hu[None],
        None,
        "HU",
        image.affine,
        transforms=transforms,
        warnings=remarks,
    )
    if not case.label_files:
        return loaded

    (mask_file,) = case.label_files
    mask = open_volume(mask_file)
    label, warnings = volume_label(mask_file, mask, types)
    place = label_place(mask, image.affine, states_orientation(image))

    return replace(
        loaded,
        label=label,
        label_affine_mm=place,
        warnings=(*warnings, *remarks),
    )


def volume_label(file: Path, volume: Any, types: bool) -> tuple[np.ndarray, tuple[str, ...]]:
    """Return the mask of an opened volume as labels (x, y, z), and warnings.

    Raises:
        InputError: the file is damaged, or holds other values; the message names it.
    """
    with naming(file):
        voxels = read_voxels(file, volume)
        spatial = spatial_axes(file, voxels, anywhere=True)
        return slice_label(spatial, types)
