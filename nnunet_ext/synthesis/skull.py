"""Brain CT without skull, scalp and head rest, slice by slice.

Reference: Muschelli et al., Validated automatic brain extraction of head CT images, NeuroImage 114
(2015), for the idea and for the range of brain, 0 to 100 HU after smoothing. Where they fit a
surface with BET, the inside of the skull is found here by closing the gaps of the bone.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

AIR_BELOW_HU = -300
BONE_ABOVE_HU = 200
BRAIN_HU = (0, 100)
SMOOTHING_MM = 1.0  # standard deviation
GAP_MM = 8.0  # half the widest gap of the skull that is closed
TABLE_MM = 4.0  # half the thickness of what is no head: head rest, wires
BRIDGE_MM = 3.0  # half the width of what may connect the brain to other tissue
LEAST_BRAIN_MM2 = 1500.0  # more than a spinal canal


def brain_mask(hu: np.ndarray, spacing_mm: Sequence[float]) -> np.ndarray:
    """Return where the brain is in an axial slice, with its ventricles, haemorrhages and
    calcifications.

    Args:
        hu: ``(height, width)`` in Hounsfield units.
        spacing_mm: of rows and columns.

    Returns:
        bool ``(height, width)``; nothing where no brain of 15 square centimetres is found.
    """
    from scipy import ndimage

    head = _largest_component(_opened(hu > AIR_BELOW_HU, TABLE_MM, spacing_mm))
    brain = np.zeros(hu.shape, bool)
    if head.any():
        box = ndimage.find_objects(head.astype(np.uint8))[0]  # most of a slice is air
        brain[box] = _brain_in_head(hu[box], ndimage.binary_fill_holes(head[box]), spacing_mm)

    return brain


def _brain_in_head(hu: np.ndarray, head: np.ndarray, spacing_mm: Sequence[float]) -> np.ndarray:
    """Return where the brain is in the part of a slice that shows the head, bool ``(height,
    width)``.
    """
    from scipy import ndimage

    sigma_pixels = [SMOOTHING_MM / size for size in spacing_mm]
    smooth = ndimage.gaussian_filter(np.clip(hu, -200, 300).astype(np.float32), sigma_pixels)

    bone = head & (hu > BONE_ABOVE_HU)
    skull = _closed(bone, GAP_MM, spacing_mm)
    inside = ndimage.binary_fill_holes(skull) & head

    tissue = inside & (smooth > BRAIN_HU[0]) & (smooth < BRAIN_HU[1])
    core = _largest_component(_opened(tissue, BRIDGE_MM, spacing_mm))
    if core.sum() * np.prod(spacing_mm) < LEAST_BRAIN_MM2:
        return np.zeros(hu.shape, bool)

    near = _dilated(core, BRIDGE_MM, spacing_mm)
    return ndimage.binary_fill_holes(core | (tissue & near))


def without_skull(
    hu: np.ndarray, spacing_mm: Sequence[float], background: float
) -> tuple[np.ndarray, bool]:
    """Return a slice in which everything but the brain has one value, and whether there is any
    brain.

    Args:
        hu: ``(height, width)`` in Hounsfield units.
        spacing_mm: of rows and columns.
        background: value of what is removed: the low end of the window in which the slice is used.
    """
    brain = brain_mask(hu, spacing_mm)
    return np.where(brain, hu, np.asarray(background, hu.dtype)), bool(brain.any())


def _dilated(mask: np.ndarray, radius_mm: float, spacing_mm: Sequence[float]) -> np.ndarray:
    """Return all places within the radius of the mask."""
    from scipy import ndimage

    if not mask.any():
        return mask
    return ndimage.distance_transform_edt(~mask, sampling=spacing_mm) <= radius_mm


def _eroded(mask: np.ndarray, radius_mm: float, spacing_mm: Sequence[float]) -> np.ndarray:
    """Return all places farther than the radius from what is outside the mask; the image's edge is
    not outside.
    """
    from scipy import ndimage

    if mask.all():
        return mask
    return ndimage.distance_transform_edt(mask, sampling=spacing_mm) > radius_mm


def _opened(mask: np.ndarray, radius_mm: float, spacing_mm: Sequence[float]) -> np.ndarray:
    return _dilated(_eroded(mask, radius_mm, spacing_mm), radius_mm, spacing_mm) & mask


def _closed(mask: np.ndarray, radius_mm: float, spacing_mm: Sequence[float]) -> np.ndarray:
    """Close gaps; beyond the image's edge there is nothing to close them with."""
    margin = [int(np.ceil(radius_mm / size)) + 1 for size in spacing_mm]
    padded = np.pad(mask, [(pixels, pixels) for pixels in margin])
    closed = _eroded(_dilated(padded, radius_mm, spacing_mm), radius_mm, spacing_mm)
    inner = tuple(
        slice(pixels, size - pixels) for pixels, size in zip(margin, closed.shape, strict=True)
    )
    return closed[inner] | mask


def _largest_component(mask: np.ndarray) -> np.ndarray:
    from scipy import ndimage

    labels, count = ndimage.label(mask)
    if count == 0:
        return mask
    sizes = np.bincount(labels.ravel())
    sizes[0] = 0
    return labels == sizes.argmax()
