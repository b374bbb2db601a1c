"""Brain CT without skull, scalp and head rest, slice by slice.

Reference: Muschelli et al., Validated automatic brain extraction of head CT images, NeuroImage 114
(2015), for the idea and for the range of brain, 0 to 100 HU after smoothing. Where they fit a
surface with BET, the inside of the skull is found here by closing the gaps of the bone.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

HEAD_ABOVE_HU = -300
BONE_ABOVE_HU = 200
BRAIN_HU = (0, 100)
SMOOTHING_MM = 1.0  # standard deviation
GAP_MM = 8.0  # half the widest gap of the skull that is closed
TABLE_MM = 4.0  # half the thickness of what is not the head: head rest, wires
BRIDGE_MM = 3.0  # half the width of what may connect the brain to other tissue
LEAST_BRAIN_MM2 = 1500.0  # more than a spinal canal


def brain_mask(hu: np.ndarray, spacing_mm: Sequence[float]) -> np.ndarray:
    """Return where the brain is in an axial slice.

    Ventricles, haemorrhages and calcifications belong to it.

    Args:
        hu: ``(height, width)`` in Hounsfield units.
        spacing_mm: of rows and columns.

    Returns:
        bool ``(height, width)``; nothing where no brain of 15 square centimetres is found.
    """
    from scipy import ndimage

    head = _largest_component(_opened(hu > HEAD_ABOVE_HU, TABLE_MM, spacing_mm))
    brain = np.zeros(hu.shape, bool)
    if head.any():
        box = ndimage.find_objects(head.astype(np.uint8))[0]  # most of a slice is air
        whole_head = ndimage.binary_fill_holes(head[box])
        brain[box] = _brain_in_head(hu[box], whole_head, spacing_mm)
    return brain


def _brain_in_head(hu: np.ndarray, head: np.ndarray, spacing_mm: Sequence[float]) -> np.ndarray:
    """Return where the brain is in the part of a slice that shows the head.

    It is bool ``(height, width)``.
    """
    from scipy import ndimage

    sigma_pixels = [SMOOTHING_MM / size for size in spacing_mm]
    clipped = np.clip(hu, -200, 300).astype(np.float32)
    smooth = ndimage.gaussian_filter(clipped, sigma_pixels)

    bone = head & (hu > BONE_ABOVE_HU)
    skull = _closed(bone, GAP_MM, spacing_mm)
    inside = ndimage.binary_fill_holes(skull) & head

    lowest, highest = BRAIN_HU
    tissue = inside & (smooth > lowest) & (smooth < highest)
    core = _largest_component(_opened(tissue, BRIDGE_MM, spacing_mm))
    if core.sum() * np.prod(spacing_mm) < LEAST_BRAIN_MM2:
        return np.zeros(hu.shape, bool)

    near = _dilated(core, BRIDGE_MM, spacing_mm)
    return ndimage.binary_fill_holes(core | (tissue & near))


def without_skull(
    hu: np.ndarray, spacing_mm: Sequence[float], background: float
) -> tuple[np.ndarray, bool]:
    """Return a slice in which everything but the brain has one value.

    Args:
        hu: ``(height, width)`` in Hounsfield units.
        spacing_mm: of rows and columns.
        background: value of what is removed: the low end of the window in which the slice is used.

    Returns:
        The slice, and whether there is any brain.
    """
    brain = brain_mask(hu, spacing_mm)
    removed = np.asarray(background, hu.dtype)
    return np.where(brain, hu, removed), bool(brain.any())


def _dilated(mask: np.ndarray, radius_mm: float, spacing_mm: Sequence[float]) -> np.ndarray:
    """Return all places within the radius of the mask."""
    from scipy import ndimage

    if not mask.any():
        return mask
    distances_mm = ndimage.distance_transform_edt(~mask, sampling=spacing_mm)
    return distances_mm <= radius_mm


def _eroded(mask: np.ndarray, radius_mm: float, spacing_mm: Sequence[float]) -> np.ndarray:
    """Return all places farther than the radius from what is outside the mask.

    What lies beyond the image's edge is not outside.
    """
    from scipy import ndimage

    if mask.all():
        return mask
    distances_mm = ndimage.distance_transform_edt(mask, sampling=spacing_mm)
    return distances_mm > radius_mm


def _opened(mask: np.ndarray, radius_mm: float, spacing_mm: Sequence[float]) -> np.ndarray:
    eroded = _eroded(mask, radius_mm, spacing_mm)
    return _dilated(eroded, radius_mm, spacing_mm) & mask


def _closed(mask: np.ndarray, radius_mm: float, spacing_mm: Sequence[float]) -> np.ndarray:
    """Close gaps; beyond the image's edge there is nothing to close them with."""
    rows, columns = (int(np.ceil(radius_mm / size)) + 1 for size in spacing_mm)
    padded = np.pad(mask, [(rows, rows), (columns, columns)])
    dilated = _dilated(padded, radius_mm, spacing_mm)
    closed = _eroded(dilated, radius_mm, spacing_mm)
    return closed[rows:-rows, columns:-columns] | mask


def _largest_component(mask: np.ndarray) -> np.ndarray:
    from scipy import ndimage

    labels, count = ndimage.label(mask)
    if count == 0:
        return mask
    sizes = np.bincount(labels.ravel())
    sizes[0] = 0
    return labels == sizes.argmax()
