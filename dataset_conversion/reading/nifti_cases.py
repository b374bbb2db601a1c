"""One CT or MR volume and its label as NIfTI files: what most data sets consist of."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from dataset_conversion.converter import Inventory, LoadedCase, Part, SourceCase
from dataset_conversion.reading.download_folder import case_id
from dataset_conversion.reading.label_values import rounded_labels
from dataset_conversion.reading.nifti_headers import open_volume, states_orientation
from dataset_conversion.reading.volumes import label_place, read_voxels, spatial_axes
from nnunet_ext.errors import InputError
from nnunet_ext.hounsfield import AIR_SHOWS_BELOW_HU

SCANNED_ABOVE_HU = -1100  # neither tissue nor air lies below
# for patterns of names: some browsers unpack files or drop their endings
ENDING = r"(?:\.nii)?(?:\.gz)?"


def intensity_unit(image: np.ndarray) -> str:
    """Return the unit as the values show it, since names do not.

    It is ``HU``, ``grey values 0..255``, ``0..1`` or ``unknown``.
    """
    low, high = float(image.min()), float(image.max())
    if low < AIR_SHOWS_BELOW_HU:
        return "HU"
    if low < 0:
        return "unknown"
    if high <= 1:
        return "0..1"

    return "grey values 0..255" if high <= 255 else "unknown"


def paired(
    images: Mapping[str, Path],
    labels: Mapping[str, Path],
    problems: list[str],
    *,
    name: Callable[[str], str] = str,
    details: Callable[[str], dict[str, str]] = lambda _: {},
    without_label: Part | None = None,
) -> Inventory:
    """Return the cases of images and labels with the same key.

    Args:
        images: by key.
        labels: by key.
        problems: found before.
        name: key to what the case is called.
        details: key to columns of conversion.csv.
        without_label: where images without label belong; None: they are problems.
    """
    found = Inventory(problems=list(problems))
    for key, image in images.items():
        if key not in labels and without_label is None:
            found.problems.append(
                f"{image}: has no label file; unpack the download again or remove the image"
            )
            continue

        label_files = (labels[key],) if key in labels else ()
        part = "Tr" if label_files or without_label is None else without_label
        case = SourceCase(case_id(name(key)), part, (image,), label_files, details(key))
        found.cases.append(case)

    for key in labels.keys() - images.keys():
        found.problems.append(
            f"{labels[key]}: has no image; unpack the download again or remove the label"
        )

    return found


def read_volume(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Return voxels (x, y, z) and affine (4, 4) of a 3-D file; further axes have length 1.

    Raises:
        InputError: damaged, or not 3-D.
    """
    volume = open_volume(path)
    stored = read_voxels(path, volume)
    voxels = spatial_axes(path, stored)

    return voxels, volume.affine


def read_label(path: Path, image: Any) -> tuple[np.ndarray, np.ndarray | None]:
    """Return voxels (x, y, z) of a label file, and its place as :func:`label_place` gives it.

    Args:
        path: of the label.
        image: nibabel volume that the label belongs to.

    Raises:
        InputError: damaged, or not 3-D.
    """
    volume = open_volume(path)
    stored = read_voxels(path, volume)
    voxels = spatial_axes(path, stored, anywhere=True)
    is_stated = states_orientation(image)
    place_mm = label_place(volume, image.affine, is_stated)

    return voxels, place_mm


def read_ct(
    case: SourceCase,
    label_values: Callable[[np.ndarray], tuple[np.ndarray, tuple[str, ...]]] | None = None,
) -> LoadedCase:
    """Read a CT volume and its label; odd intensities become warnings, no value is changed.

    Args:
        case: one image file, at most one label file.
        label_values: from label voxels to integers, with warnings; None: they are integers, but for
            rounding.

    Raises:
        InputError: a damaged file.
    """
    file = case.image_files[0]
    volume = open_volume(file)
    image = spatial_axes(file, read_voxels(file, volume))
    unit = intensity_unit(image)
    warnings: list[str] = []
    if unit != "HU":
        warnings.append(f"no value lies below {AIR_SHOWS_BELOW_HU}: not HU, or air was cut off")
    elif image.min() < SCANNED_ABOVE_HU:
        warnings.append(f"values down to {image.min():g} HU are padding outside the field of view")

    label = label_affine_mm = None
    if case.label_files:
        voxels, label_affine_mm = read_label(case.label_files[0], volume)
        to_integers = label_values or rounded_labels
        label, more = to_integers(voxels)
        warnings += more

    return LoadedCase(
        image[None],
        label,
        unit,
        volume.affine,
        label_affine_mm,
        warnings=tuple(warnings),
        as_read=image,
    )


def above_half(label: np.ndarray) -> tuple[np.ndarray, tuple[str, ...]]:
    """Return labels 0 and 1 of a resampled mask from 0 to 1; from 0.5 on is inside.

    Raises:
        InputError: values outside 0..1.
    """
    if label.dtype.kind != "f":
        return label, ()
    if label.size and not (label.min() >= 0 and label.max() <= 1):
        raise InputError(
            f"mask values run from {label.min():g} to {label.max():g}, expected 0 to 1"
        )

    warnings: tuple[str, ...] = ()
    is_between = (label > 0) & (label < 1)
    between = np.count_nonzero(is_between)
    if between:
        warnings = (f"{between} mask voxels between 0 and 1: threshold 0.5",)
    is_inside = label >= 0.5

    return is_inside.astype(np.uint8), warnings
