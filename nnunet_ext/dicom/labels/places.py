"""DICOM objects that hold labels, and which slice a plane of a label lies on."""

from __future__ import annotations

import warnings
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from nnunet_ext.dicom.reading.geometry import Stack
from nnunet_ext.errors import InputError, first_line

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

SEGMENTATIONS = ("1.2.840.10008.5.1.4.1.1.66.4", "1.2.840.10008.5.1.4.1.1.66.7")
STRUCTURE_SETS = ("1.2.840.10008.5.1.4.1.1.481.3",)

OFF_SLICE = 0.1  # of the smallest distance between slices: how far a plane may lie off its slice
ROUNDING_MM = 0.05  # of coordinates that other programs write


def read_object(file: Path, classes: Collection[str], *, with_pixels: bool = True) -> Dataset:
    """Read a DICOM object of one of these SOP classes.

    Raises:
        InputError: it cannot be read, or is another kind of object.
    """
    from pydicom import dcmread

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            data = dcmread(file, force=True, stop_before_pixels=not with_pixels)
            sop_class = str(data.get("SOPClassUID") or "")
    except Exception as error:  # damaged files make pydicom raise a dozen kinds
        raise InputError(
            f"{file}: DICOM object is damaged ({first_line(error)}); copy it again"
        ) from error

    if sop_class not in classes:
        raise InputError(f"{file}: is damaged or does not hold labels; copy it again or remove it")
    return data


def tolerance_mm(stack: Stack) -> float:
    """Return how far a plane may lie off a slice along the normal."""
    steps_mm = np.diff(stack.offsets_mm[:, 2])
    smallest_mm = stack.step_mm
    if len(steps_mm):
        smallest_mm = float(steps_mm.min())
    return OFF_SLICE * smallest_mm + ROUNDING_MM


def slice_at(along_mm: float, stack: Stack) -> int | None:
    """Return the index of the slice at a position along the normal.

    None beyond the first and the last slice.

    Raises:
        InputError: the position lies between two slices.
    """
    distances_mm = np.abs(stack.offsets_mm[:, 2] - along_mm)
    nearest = int(distances_mm.argmin())
    if distances_mm[nearest] <= tolerance_mm(stack):
        return nearest

    first_mm, last_mm = stack.offsets_mm[[0, -1], 2]
    if not first_mm < along_mm < last_mm:
        return None
    raise InputError(
        f"lies {distances_mm[nearest]:.2f} mm off the nearest image of the series; it was drawn on "
        "other images"
    )
