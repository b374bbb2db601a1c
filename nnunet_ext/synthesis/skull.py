"""Brain CT without skull, scalp and head rest, slice by slice.

Reference: Muschelli et al., Validated automatic brain extraction of head CT images, NeuroImage 114
(2015), for the idea and for the range of brain, 0 to 100 HU after smoothing. They fit a surface
with BET; here the inside of the skull is found by closing the gaps of the bone.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

HEAD_ABOVE_HU = -300
BONE_ABOVE_HU = 200
BRAIN_HU = (0, 100)
SMOOTHING_MM = 1.0  # standard deviation
GAP_MM = 8.0  # half the width of the widest gap of the skull that is closed
TABLE_MM = 4.0  # half the thickness of the thickest object beside the head: head rest, wires
BRIDGE_MM = 3.0  # half the width of the widest connection of the brain to other tissue
LEAST_BRAIN_MM2 = 1500.0  # more than a spinal canal


def brain_mask(hu: np.ndarray, spacing_mm: Sequence[float]) -> np.ndarray:
    """Return where the brain is in an axial slice, with ventricles, haemorrhages, calcifications.

    Args:
        hu: ``(height, width)`` in Hounsfield units.
        spacing_mm: of rows and columns.

    Returns:
        bool ``(height, width)``; nothing where no brain of 15 square centimetres is found.
    """
    from scipy import ndimage

    body = hu > HEAD_ABOVE_HU
    without_table = _opened(body, TABLE_MM, spacing_mm)
    head = _largest_component(without_table)
    brain = np.zeros(hu.shape, bool)
    if not head.any():
        return brain

    boxes = ndimage.find_objects(head.astype(np.uint8))
    box = boxes[0]  # most of a slice is air
    whole_head = ndimage.binary_fill_holes(head[box])
    brain[box] = _brain_in_head(hu[box], whole_head, spacing_mm)
    return brain


def _brain_in_head(hu: np.ndarray, head: np.ndarray, spacing_mm: Sequence[float]) -> np.ndarray:
    """Return where the brain is, bool ``(height, width)``, in the part of a slice with the head."""
    from scipy import ndimage

    sigma_pixels = [SMOOTHING_MM / size for size in spacing_mm]
    clipped = np.clip(hu, -200, 300).astype(np.float32)
    smooth = ndimage.gaussian_filter(clipped, sigma_pixels)

    # the inside of the skull
    bone = head & (hu > BONE_ABOVE_HU)
    skull = _closed(bone, GAP_MM, spacing_mm)
    filled = ndimage.binary_fill_holes(skull)
    inside = filled & head

    # the largest piece of brain tissue in it
    lowest, highest = BRAIN_HU
    tissue = inside & (smooth > lowest) & (smooth < highest)
    separated = _opened(tissue, BRIDGE_MM, spacing_mm)
    core = _largest_component(separated)
    area_mm2 = core.sum() * np.prod(spacing_mm)
    if area_mm2 < LEAST_BRAIN_MM2:
        return np.zeros(hu.shape, bool)

    # with the edge that the separation took away
    near = _dilated(core, BRIDGE_MM, spacing_mm)
    edge = tissue & near
    return ndimage.binary_fill_holes(core | edge)


def without_skull(
    hu: np.ndarray, spacing_mm: Sequence[float], background: float
) -> tuple[np.ndarray, bool]:
    """Return a slice in which everything but the brain has one value.

    Args:
        hu: ``(height, width)`` in Hounsfield units.
        spacing_mm: of rows and columns.
        background: value of everything else: the low end of the window in which the slice is used.

    Returns:
        The slice, and whether there is any brain.
    """
    brain = brain_mask(hu, spacing_mm)
    has_brain = bool(brain.any())
    removed = np.asarray(background, hu.dtype)
    stripped = np.where(brain, hu, removed)
    return stripped, has_brain


def _dilated(mask: np.ndarray, radius_mm: float, spacing_mm: Sequence[float]) -> np.ndarray:
    """Return all places within the radius of the mask."""
    from scipy import ndimage

    if not mask.any():
        return mask
    distances_mm = ndimage.distance_transform_edt(~mask, sampling=spacing_mm)
    return distances_mm <= radius_mm


def _eroded(mask: np.ndarray, radius_mm: float, spacing_mm: Sequence[float]) -> np.ndarray:
    """Return all places farther than the radius from any place outside the mask.

    Places beyond the image's edge do not count as outside.
    """
    from scipy import ndimage

    if mask.all():
        return mask
    distances_mm = ndimage.distance_transform_edt(mask, sampling=spacing_mm)
    return distances_mm > radius_mm


def _opened(mask: np.ndarray, radius_mm: float, spacing_mm: Sequence[float]) -> np.ndarray:
    """Remove what is narrower than twice the radius."""
    eroded = _eroded(mask, radius_mm, spacing_mm)
    opened = _dilated(eroded, radius_mm, spacing_mm)
    return opened & mask


def _closed(mask: np.ndarray, radius_mm: float, spacing_mm: Sequence[float]) -> np.ndarray:
    """Close gaps narrower than twice the radius; nothing is closed against the image's edge."""
    margins = []
    for size in spacing_mm:
        pixels = np.ceil(radius_mm / size)
        margins.append(int(pixels) + 1)

    rows, columns = margins
    padded = np.pad(mask, [(rows, rows), (columns, columns)])
    dilated = _dilated(padded, radius_mm, spacing_mm)
    closed = _eroded(dilated, radius_mm, spacing_mm)
    own_part = closed[rows:-rows, columns:-columns]
    return own_part | mask


def _largest_component(mask: np.ndarray) -> np.ndarray:
    from scipy import ndimage

    labels, count = ndimage.label(mask)
    if count == 0:
        return mask
    sizes = np.bincount(labels.ravel())
    sizes[0] = 0
    return labels == sizes.argmax()
