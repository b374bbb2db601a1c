"""The box around the lungs: found in a CT (``--crop lungs``), or given as ``--lung-masks``."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from dataset_conversion.reading.volumes import (
    axial_axis,
    label_on_image_grid,
    label_place,
    read_voxels,
    spacing_of,
)
from nnunet_ext.boxes import bounding_box
from nnunet_ext.errors import InputError, naming
from nnunet_ext.lungs import find_lungs

Box = tuple[tuple[int, int], ...]
"""Start and stop along each array axis."""

MARGIN_MM = 10.0


def lung_box(image_hu: np.ndarray, affine_mm: np.ndarray) -> Box:
    """Find the box around the lungs of a chest CT, with a margin of 10 mm.

    Args:
        image_hu: (x, y, z) in HU, axes in any order.
        affine_mm: (4, 4), voxel index to mm.

    Raises:
        InputError: none are found by :func:`nnunet_ext.lungs.find_lungs`.
    """
    spacing_mm = spacing_of(affine_mm)
    try:
        lungs = find_lungs(image_hu, spacing_mm, axial_axis(affine_mm))
    except InputError as error:
        raise InputError(f"{error}; give masks with --lung-masks, or leave --crop out") from error

    box = []
    for (start, stop), step in zip(mask_box(lungs.coarse), lungs.steps, strict=True):
        box.append((int(start * step), int(stop * step)))

    return with_margin(tuple(box), image_hu.shape, spacing_mm, MARGIN_MM)


def mask_box(mask: np.ndarray) -> Box:
    """Return the smallest box that holds all of a mask that is not empty."""
    box = []
    for of_axis in bounding_box(mask):
        box.append((of_axis.start, of_axis.stop))

    return tuple(box)


def with_margin(box: Box, shape: tuple[int, ...], spacing_mm: np.ndarray, margin_mm: float) -> Box:
    """Return the box, wider by the margin on each side, as far as the image reaches."""
    voxels = np.ceil(margin_mm / spacing_mm)
    margins = voxels.astype(int).tolist()
    wide = []
    for (start, stop), size, margin in zip(box, shape, margins, strict=True):
        first = max(0, start - margin)
        end = min(size, stop + margin)
        wide.append((first, end))

    return tuple(wide)


def box_of_mask_file(path: Path, shape: tuple[int, ...], affine_mm: np.ndarray) -> Box:
    """Return the box around a lung mask of the user's, with a margin of 10 mm; not 0 is lung.

    Args:
        path: NIfTI, on the image's grid up to flipped or swapped axes.
        shape: of the image.
        affine_mm: (4, 4) of the image, voxel index to mm.

    Raises:
        InputError: no such file, another grid, or an empty mask.
    """
    from dataset_conversion.reading.nifti_headers import open_volume

    volume = open_volume(path)
    voxels = read_voxels(path, volume)
    place_mm = label_place(volume, affine_mm)
    with naming(path):
        mask, _ = label_on_image_grid(voxels, place_mm, shape, affine_mm)

    if not mask.any():
        raise InputError(f"{path}: marks no lung; give another mask, or leave the case out")

    return with_margin(mask_box(mask != 0), shape, spacing_of(affine_mm), MARGIN_MM)


def box_text(box: Box) -> str:
    """Return a box as conversion.csv holds it, e.g. ``40:300 12:260 0:51``."""
    return " ".join(f"{start}:{stop}" for start, stop in box)


def box_from_text(text: str) -> Box:
    """Return the box of a text of :func:`box_text`.

    Raises:
        ValueError: it is something else.
    """
    pairs = [part.split(":") for part in text.split()]
    return tuple((int(start), int(stop)) for start, stop in pairs)
