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
from nnunet_ext.errors import InputError, naming
from nnunet_ext.hounsfield import LUNG_BELOW_HU

Box = tuple[tuple[int, int], ...]
"""Start and stop along each array axis."""

COARSE_MM = 2.5  # lungs are looked for on voxels of about this size
CLOSING_MM = 7.5  # gaps of this radius are bridged: vessels, small consolidations
SMALLEST_LUNG_ML = 50.0
SMALLEST_SHARE = 0.1  # of the largest component; smaller ones are bowel gas
MARGIN_MM = 10.0


def lung_box(image_hu: np.ndarray, affine_mm: np.ndarray) -> Box:
    """Find the box around the lungs of a chest CT, with a margin of 10 mm.

    Voxels below -400 HU are air. In each axial slice, air that touches the slice's border lies
    outside the body. What is left is closed with a ball of 7.5 mm. The largest connected component
    are the lungs, with every further one of at least a tenth of its size, such as the second lung.

    Args:
        image_hu: (x, y, z) in HU, axes in any order.
        affine_mm: (4, 4), voxel index to mm.

    Raises:
        InputError: there is no such air of 50 ml or more.

    Reference: Hu, Hoffman, Reinhardt: "Automatic lung segmentation for accurate quantitation of
    volumetric X-ray CT images", IEEE Transactions on Medical Imaging 20(6), 2001 (threshold,
    components, closing). The threshold is fixed here, and the two lungs are not separated.
    """
    spacing_mm = spacing_of(affine_mm)
    whole_steps = np.floor(COARSE_MM / spacing_mm)
    steps = np.maximum(1, whole_steps).astype(int)
    every_step = tuple(slice(None, None, step) for step in steps)
    is_air = image_hu[every_step] < LUNG_BELOW_HU
    coarse_mm = steps * spacing_mm

    inside = _air_inside(is_air, axial_axis(affine_mm))
    closed = _closed(inside, coarse_mm)
    voxel_ml = float(np.prod(coarse_mm)) / 1000
    lungs = _largest_components(closed, voxel_ml)

    box = []
    for (start, stop), step in zip(mask_box(lungs), steps.tolist(), strict=True):
        box.append((start * step, stop * step))

    return with_margin(tuple(box), image_hu.shape, spacing_mm, MARGIN_MM)


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
        raise InputError(
            f"no lungs found (no {SMALLEST_LUNG_ML:g} ml of air inside the body); give masks with "
            f"--lung-masks, or leave --crop out"
        )

    kept = sizes >= SMALLEST_SHARE * sizes.max()
    kept[0] = False
    return kept[components]


def mask_box(mask: np.ndarray) -> Box:
    """Return the smallest box that holds all of a mask that is not empty."""
    box = []
    axes = set(range(mask.ndim))
    for axis in range(mask.ndim):
        others = tuple(axes - {axis})
        marked = mask.any(axis=others)
        indices = np.flatnonzero(marked).tolist()
        box.append((indices[0], indices[-1] + 1))

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
