"""Masks of single slices of the RSNA haemorrhage challenge, in any format."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from dataset_conversion.reading.haemorrhage_table import TYPES
from dataset_conversion.reading.label_values import binary_mask, integer_labels
from dataset_conversion.reading.nifti_headers import open_volume
from dataset_conversion.reading.pictures import open_picture, read_grey
from dataset_conversion.reading.volumes import label_place, read_voxels, spatial_axes
from nnunet_ext.errors import InputError, first_line, naming

MASK_ENDINGS = (".nii.gz", ".nii", ".png", ".npy", ".dcm")


def read_slice_mask(
    path: Path, types: bool, image_affine_mm: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray | None, tuple[str, ...]]:
    """Read a mask of one slice from PNG, NPY, NIfTI or DICOM.

    Args:
        path: the file.
        types: values are BHSD's 0 to 5; otherwise anything marked is haemorrhage.
        image_affine_mm: (4, 4), index of the slice's image to RAS in mm; None: not known.

    Returns:
        Label uint8, its place (:func:`label_place`), and warnings. NIfTI gives (x, y, 1); anything
        else (row, column) on the pixels of the slice, without a place.

    Raises:
        InputError: damaged, not two-dimensional, or other values than those of a mask.
    """
    values, place_mm = _mask_values(path, image_affine_mm)
    is_layer = place_mm is not None and values.shape[2] == 1
    is_slice = values.ndim == 2 or is_layer
    if not is_slice or values.dtype.kind not in "biuf":
        raise InputError(f"{path}: has shape {values.shape}, expected the mask of one slice")

    with naming(path):
        label, warnings = slice_label(values, types)

    return label, place_mm, warnings


def _mask_values(
    path: Path, image_affine_mm: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray | None]:
    """Return the values of a mask, and its place; only NIfTI has one."""
    name = path.name.lower()
    if name.endswith((".nii", ".nii.gz")):
        return _nifti_values(path, image_affine_mm)
    if name.endswith(".png"):
        picture = open_picture(path)
        return np.asarray(picture) if picture.mode == "P" else read_grey(path), None
    if name.endswith(".npy"):
        return _numpy_values(path), None

    return _dicom_values(path), None


def _nifti_values(path: Path, image_affine_mm: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    volume = open_volume(path)
    voxels = read_voxels(path, volume)
    is_flat = voxels.ndim == 2
    values = voxels[..., None] if is_flat else spatial_axes(path, voxels, anywhere=True)
    if image_affine_mm is None:
        return values, volume.affine

    return values, label_place(volume, image_affine_mm)


def _numpy_values(path: Path) -> np.ndarray:
    try:
        values: np.ndarray = np.load(path, allow_pickle=False)
    except (ValueError, OSError, EOFError) as error:
        raise InputError(
            f"{path}: cannot be read ({first_line(error)}); it must hold plain numbers"
        ) from error

    return values


def _dicom_values(path: Path) -> np.ndarray:
    from nnunet_ext.dicom.reading.headers import read_headers
    from nnunet_ext.dicom.reading.pixels import read_pixels

    slices = read_headers(path)
    if len(slices) != 1:
        raise InputError(f"{path}: holds {len(slices)} images, expected the mask of one slice")
    return read_pixels(slices[0]).values


def slice_label(values: np.ndarray, types: bool) -> tuple[np.ndarray, tuple[str, ...]]:
    """Return mask values as labels: 0 to 5 of BHSD, or two of which the lower is background.

    Raises:
        InputError: other values.

    >>> slice_label(np.array([[-32768, 32767]]), types=False)[0].tolist()
    [[0, 1]]
    """
    known = range(len(TYPES) + 1)
    if types:
        return integer_labels(values, known), ()

    found = np.unique(values)
    if len(found) == 1:
        return np.full(values.shape, int(found[0] > 0), np.uint8), ()

    has_two = len(found) == 2 and found[0] <= 0 < found[1]
    if has_two or np.isin(found, known).all():
        return (values > 0).astype(np.uint8), ()
    if values.dtype == np.uint8:
        return binary_mask(values)

    raise InputError(
        f"holds {len(found)} different values, expected a mask of two or BHSD's 0 to {len(TYPES)}"
    )
