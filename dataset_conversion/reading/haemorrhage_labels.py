"""Masks of single slices of the RSNA haemorrhage challenge, in any format."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from dataset_conversion.reading.haemorrhage_table import TYPES
from dataset_conversion.reading.label_values import binary_mask, integer_labels
from dataset_conversion.reading.nifti_headers import open_volume
from dataset_conversion.reading.pictures import open_picture, read_grey
from dataset_conversion.reading.volumes import label_place, read_voxels, spatial_axes
from nnunet_ext.errors import InputError
from nnunet_ext.worker_processes import first_line

MASK_ENDINGS = (".nii.gz", ".nii", ".png", ".npy", ".dcm")


def read_slice_mask(
    path: Path, types: bool, image_affine_mm: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray | None, tuple[str, ...]]:
    """A mask of one slice from PNG, NPY, NIfTI or DICOM.

    Args:
        path: the file.
        types: values are BHSD's 0 to 5; otherwise anything marked is haemorrhage.
        image_affine_mm: (4, 4), index of the slice's image to RAS in mm; None: not known.

    Returns:
        Label uint8, its place (:func:`label_place`), and warnings. NIfTI gives (x, y, 1); anything
        else (row, column) on the pixels of the slice, without a place.

    Raises:
        InputError: damaged, not two-dimensional, or values of no mask.
    """
    place_mm = None
    volume = None
    if path.name.lower().endswith((".nii", ".nii.gz")):
        volume = open_volume(path)
        values = read_voxels(path, volume)
        values = (
            values[..., None] if values.ndim == 2 else spatial_axes(path, values, anywhere=True)
        )
        place_mm = (
            volume.affine if image_affine_mm is None else label_place(volume, image_affine_mm)
        )
    elif path.suffix.lower() == ".png":
        picture = open_picture(path)
        values = np.asarray(picture) if picture.mode == "P" else read_grey(path)
    elif path.suffix.lower() == ".npy":
        try:
            values = np.load(path, allow_pickle=False)
        except (ValueError, OSError, EOFError) as error:
            raise InputError(
                f"{path}: cannot be read ({first_line(error)}); it must hold plain numbers"
            ) from error
    else:
        values = _dicom_values(path)
    single = values.ndim == 2 or (volume is not None and values.shape[2] == 1)
    if not single or values.dtype.kind not in "biuf":
        raise InputError(f"{path}: has shape {values.shape}, expected the mask of one slice")
    try:
        label, warnings = slice_label(values, types)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    return label, place_mm, warnings


def _dicom_values(path: Path) -> np.ndarray:
    from nnunet_ext.dicom.reading.headers import read_headers
    from nnunet_ext.dicom.reading.pixels import read_pixels

    slices = read_headers(path)
    if len(slices) != 1:
        raise InputError(f"{path}: holds {len(slices)} images, expected the mask of one slice")
    return read_pixels(slices[0]).values


def slice_label(values: np.ndarray, types: bool) -> tuple[np.ndarray, tuple[str, ...]]:
    """Mask values as labels: 0 to 5 of BHSD, or any two values of which the lower is background.

    Raises:
        InputError: other values.

    >>> slice_label(np.array([[-32768, 32767]]), types=False)[0].tolist()
    [[0, 1]]
    """
    if types:
        return integer_labels(values, range(len(TYPES) + 1)), ()
    found = np.unique(values)
    if len(found) == 1:
        return np.full(values.shape, int(found[0] > 0), np.uint8), ()
    if len(found) == 2 and found[0] <= 0 < found[1]:
        return (values > 0).astype(np.uint8), ()
    if np.isin(found, range(len(TYPES) + 1)).all():
        return (values > 0).astype(np.uint8), ()
    if values.dtype == np.uint8:
        return binary_mask(values)
    raise InputError(
        f"holds {len(found)} different values, expected a mask of two or BHSD's 0 to {len(TYPES)}"
    )
