"""The lungs in a chest CT, found by their air.

Reference: Hu, Hoffman, Reinhardt: "Automatic lung segmentation for accurate quantitation of
volumetric X-ray CT images", IEEE Transactions on Medical Imaging 20(6), 2001 (threshold,
components, closing). The threshold is fixed here, and the two lungs are not separated.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from nnunet_ext.errors import InputError
from nnunet_ext.hounsfield import LUNG_BELOW_HU

COARSE_MM = 2.5  # lungs are looked for on voxels of about this size
CLOSING_MM = 7.5  # gaps of this radius are bridged: vessels, small consolidations
SMALLEST_LUNG_ML = 50.0
SMALLEST_SHARE = 0.1  # of the largest component; smaller ones are bowel gas


class Lungs(NamedTuple):
    """The lungs on every ``steps``-th voxel along each axis."""

    coarse: np.ndarray
    steps: tuple[int, ...]

    def on(self, shape: tuple[int, ...]) -> np.ndarray:
        """Return the lungs on all voxels of the image, boolean."""
        mask = self.coarse
        for axis, step in enumerate(self.steps):
            mask = np.repeat(mask, step, axis)
        return mask[tuple(slice(size) for size in shape)]


def find_lungs(image_hu: np.ndarray, spacing_mm: np.ndarray, axial: int) -> Lungs:
    """Find the lungs of a chest CT.

    Voxels below -400 HU are air. In each axial slice, air that touches the slice's border lies
    outside the body. What is left is closed with a ball of 7.5 mm. The largest connected component
    are the lungs, with every further one of at least a tenth of its size, such as the second lung.

    Args:
        image_hu: in HU, axes in any order.
        spacing_mm: along each axis.
        axial: axis that runs between feet and head.

    Raises:
        InputError: there is no such air of 50 ml or more.
    """
    steps = np.maximum(1, np.floor(COARSE_MM / spacing_mm)).astype(int)
    coarse_hu = image_hu[tuple(slice(None, None, step) for step in steps)]
    coarse_mm = steps * spacing_mm

    inside = _air_inside(coarse_hu < LUNG_BELOW_HU, axial)
    closed = _closed(inside, coarse_mm)
    lungs = _largest_components(closed, float(np.prod(coarse_mm)) / 1000)
    return Lungs(lungs, tuple(steps.tolist()))


def _air_inside(air: np.ndarray, axial: int) -> np.ndarray:
    """Return the air that does not touch the border of its axial slice."""
    from skimage.segmentation import clear_border

    slices = np.moveaxis(air, axial, 0)
    inside = np.stack([clear_border(one) for one in slices])
    return np.moveaxis(inside, 0, axial)


def _closed(mask: np.ndarray, spacing_mm: np.ndarray) -> np.ndarray:
    """Close a mask with a ball, by two distances: grow by the radius, then shrink by it."""
    from scipy import ndimage

    if not mask.any():
        return mask

    widths = np.ceil(CLOSING_MM / spacing_mm).astype(int).tolist()
    padded = np.pad(mask, [(width, width) for width in widths])
    grown = ndimage.distance_transform_edt(~padded, sampling=spacing_mm) <= CLOSING_MM
    if grown.all():
        return mask

    closed = ndimage.distance_transform_edt(grown, sampling=spacing_mm) > CLOSING_MM
    inner = [slice(width, width + size) for width, size in zip(widths, mask.shape, strict=True)]

    return closed[tuple(inner)] | mask


def _largest_components(mask: np.ndarray, voxel_ml: float) -> np.ndarray:
    from scipy import ndimage

    components, _ = ndimage.label(mask)
    sizes = np.bincount(components.ravel())
    sizes[0] = 0
    if sizes.max(initial=0) * voxel_ml < SMALLEST_LUNG_ML:
        raise InputError(f"no lungs found (no {SMALLEST_LUNG_ML:g} ml of air inside the body)")

    kept = sizes >= SMALLEST_SHARE * sizes.max()
    kept[0] = False
    return kept[components]
