"""Distances between the surfaces of two masks.

The areas of surface elements are those of marching cubes; the nearest neighbours are SciPy's. MONAI
measures the same, but its import takes five seconds, and its functions hold several float32 copies
of the volume: 9 GB for a chest CT.
"""

import functools
import math
from collections.abc import Sequence
from itertools import product
from multiprocessing import parent_process
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from nnunet_ext.boxes import bounding_box
from nnunet_ext.evaluation.metrics.arrays import mask_pair
from nnunet_ext.evaluation.metrics.metric import Better, MaskPair, Metric

# Relative. A distance of exactly the tolerance is within it; spacings are binary fractions.
_ROUNDING = 1e-9
_ISOSURFACE = 0.5  # between background 0 and foreground 1


class _Surface(NamedTuple):
    """Surface elements of one mask.

    Their places in one grid in rising order, positions in mm, and areas in mm2.
    """

    places: npt.NDArray[np.int64]
    positions: npt.NDArray[np.float64]
    areas: npt.NDArray[np.float64]


def surface_dice(
    prediction: npt.ArrayLike,
    reference: npt.ArrayLike,
    spacing: Sequence[float],
    tolerance_mm: float,
) -> float:
    """Return the normalised surface Dice, in [0, 1].

    It is the share of both surfaces within ``tolerance_mm`` of the other one. Surface elements lie
    between voxels and are weighted by their area in mm2, as in DeepMind's ``surface-distance``,
    which the COVID-19-CT-Seg benchmark used. NaN when both masks are empty, 0 when one is.

    Args:
        prediction: mask, 2D or 3D.
        reference: mask of the same shape.
        spacing: mm per voxel in the order of the array's axes.
        tolerance_mm: the benchmark takes 3 for lesions and 1 for lungs.

    Raises:
        ValueError: the shapes differ, an array is not a mask, or the spacing does not fit it.

    Reference: Nikolov et al. 2021, "Clinically applicable segmentation of head and neck anatomy";
    Zhang et al. 2021 (relation-driven), eq. 7.
    """
    p, g = _checked(prediction, reference, spacing)
    is_predicted = p.any()
    is_present = g.any()
    if not is_predicted and not is_present:
        return float("nan")
    if not is_predicted or not is_present:
        return 0.0

    surface_p = _surface_between_voxels(p, spacing)
    surface_g = _surface_between_voxels(g, spacing)
    near = _area_within(surface_p, surface_g, tolerance_mm)
    near += _area_within(surface_g, surface_p, tolerance_mm)
    whole = surface_p.areas.sum() + surface_g.areas.sum()
    return float(near / whole)


def hd95(prediction: npt.ArrayLike, reference: npt.ArrayLike, spacing: Sequence[float]) -> float:
    """Return the 95th percentile of the Hausdorff distance in mm, the larger of both directions.

    NaN if a mask is empty. The surface is made of the foreground voxels with a background neighbour
    by face. Arguments and errors as `surface_dice`.

    Reference: Huttenlocher et al. 1993, with the percentile of Metrics Reloaded (Maier-Hein et al.
    2024).
    """
    distances = surface_distances(prediction, reference, spacing)
    return distances["hd95"]


def assd(prediction: npt.ArrayLike, reference: npt.ArrayLike, spacing: Sequence[float]) -> float:
    """Return the average symmetric surface distance in mm, over the voxels of both surfaces.

    NaN if a mask is empty. Arguments, errors and surfaces as `hd95`.
    """
    distances = surface_distances(prediction, reference, spacing)
    return distances["assd"]


def surface_distances(
    prediction: npt.ArrayLike, reference: npt.ArrayLike, spacing: Sequence[float]
) -> dict[str, float]:
    """Return `hd95` and `assd`, by one search for neighbours."""
    p, g = _checked(prediction, reference, spacing)
    both_have_surface = p.any() and g.any()
    if not both_have_surface:
        return {"hd95": float("nan"), "assd": float("nan")}

    border_p = _border_voxels(p, spacing)
    border_g = _border_voxels(g, spacing)
    forward = _distances(border_p, border_g)
    backward = _distances(border_g, border_p)
    far_forward = np.percentile(forward, 95)
    far_backward = np.percentile(backward, 95)
    all_distances = np.concatenate((forward, backward))
    return {
        "hd95": float(max(far_forward, far_backward)),
        "assd": float(all_distances.mean()),
    }


def _surface_dice_of(pair: MaskPair) -> float:
    return surface_dice(
        pair.prediction,
        pair.reference,
        pair.spacing,
        pair.tolerance_mm,
    )


def _distances_of(pair: MaskPair) -> dict[str, float]:
    return surface_distances(
        pair.prediction,
        pair.reference,
        pair.spacing,
    )


DECLARED = (
    Metric(
        name="surface_dice",
        header="Surface Dice",
        better=Better.HIGHER,
        decimals=3,
        range=(0, 1),
        from_masks=_surface_dice_of,
        uses_tolerance=True,
    ),
    Metric(
        name="hd95",
        header="HD95 [mm]",
        better=Better.LOWER,
        decimals=2,
        range=(0, math.inf),
        from_masks=lambda pair: pair.shared(_distances_of)["hd95"],
    ),
    Metric(
        name="assd",
        header="ASSD [mm]",
        better=Better.LOWER,
        decimals=2,
        range=(0, math.inf),
        from_masks=lambda pair: pair.shared(_distances_of)["assd"],
    ),
)

SURFACE_METRICS = tuple(metric.name for metric in DECLARED)


def _checked(
    prediction: npt.ArrayLike, reference: npt.ArrayLike, spacing: Sequence[float]
) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
    p, g = mask_pair(prediction, reference)
    is_known_shape = p.ndim in (2, 3) and len(spacing) == p.ndim
    is_positive = all(size > 0 for size in spacing)
    if not is_known_shape or not is_positive:
        raise ValueError(
            f"spacing {tuple(spacing)} does not fit a mask of shape {p.shape}; "
            f"2D or 3D, one per axis"
        )

    box = bounding_box(p | g)  # all surfaces lie in it, and the rest of a CT is most of it
    return p[box], g[box]


def _area_within(first: _Surface, second: _Surface, tolerance_mm: float) -> float:
    """Return the area of the first surface within the tolerance of the second, in mm2."""
    tolerance_mm *= 1 + _ROUNDING
    reach = math.nextafter(tolerance_mm, math.inf)
    distances = _distances(first, second, reach)
    near = distances <= tolerance_mm
    area: float = first.areas[near].sum()
    return area


def _surface_between_voxels(mask: npt.NDArray[np.bool_], spacing: Sequence[float]) -> _Surface:
    """Find the elements between the 2 x 2 (x 2) voxels that are not all alike.

    Outside the array is background.
    """
    table = _element_areas(tuple(spacing))
    padded = np.pad(mask, 1).view(np.uint8)

    # The bits of a code say which of the voxels around are foreground.
    code = np.zeros([size + 1 for size in mask.shape], dtype=np.uint8)
    corners = product((0, 1), repeat=mask.ndim)
    for bit, corner in enumerate(corners):
        window = []
        for start, size in zip(corner, code.shape, strict=True):
            window.append(slice(start, start + size))
        code += padded[tuple(window)] << np.uint8(bit)

    all_foreground = len(table) - 1
    is_surface = (code != 0) & (code != all_foreground)
    places = np.flatnonzero(is_surface)
    positions = _positions(places, code.shape, spacing)
    areas = table[code.ravel()[places]]
    return _Surface(places, positions, areas)


@functools.lru_cache(maxsize=16)
def _element_areas(spacing: tuple[float, ...]) -> npt.NDArray[np.float64]:
    """Return the area of the surface between 2 x 2 x 2 voxels, by the bits of the foreground ones.

    In mm2 (2D: length in mm). By marching cubes (Lorensen and Cline 1987), whose areas of a pattern
    and of its complement can differ: the smaller one, as in DeepMind's ``surface-distance``.
    """
    from skimage.measure import marching_cubes

    corners = 1 << len(spacing)
    # A prism of thickness 1 has as much area as its base has contour.
    thickness = spacing[:-2] or (1.0,)
    areas = np.zeros(1 << corners)
    for code in range(1, len(areas) - 1):
        bits = [code >> bit & 1 for bit in range(corners)]
        voxels = np.array(bits, dtype=float).reshape(-1, 2, 2)
        if len(spacing) == 2:
            voxels = np.repeat(voxels, 2, axis=0)

        vertices, faces, *_ = marching_cubes(
            voxels,
            _ISOSURFACE,
            spacing=(*thickness, *spacing[-2:]),
            method="lorensen",
            allow_degenerate=True,
        )
        triangles = vertices[faces].astype(np.float64)
        a, b, c = np.moveaxis(triangles, 1, 0)
        normals = np.cross(b - a, c - a)
        areas[code] = np.linalg.norm(normals, axis=-1).sum() / 2

    of_complements = areas[::-1]
    return np.minimum(areas, of_complements)


def _border_voxels(mask: npt.NDArray[np.bool_], spacing: Sequence[float]) -> _Surface:
    """Find foreground voxels with a background neighbour by face; outside is background."""
    padded = np.pad(mask, 1)
    inside = mask.copy()
    for axis in range(mask.ndim):
        for step in (0, 2):
            window = [slice(1, -1)] * mask.ndim
            window[axis] = slice(step, step + mask.shape[axis])
            neighbours = padded[tuple(window)]
            inside &= neighbours

    places = np.flatnonzero(mask ^ inside)
    positions = _positions(places, mask.shape, spacing)
    return _Surface(places, positions, areas=np.ones(len(places)))


def _positions(
    places: npt.NDArray[np.int64], shape: tuple[int, ...], spacing: Sequence[float]
) -> npt.NDArray[np.float64]:
    """Return positions in mm, shape (places, axes)."""
    by_axis = np.unravel_index(places, shape)
    indices = np.stack(by_axis, axis=-1)
    return np.multiply(indices, spacing, dtype=np.float64)


def _distances(
    first: _Surface, second: _Surface, reach: float = math.inf
) -> npt.NDArray[np.float64]:
    """Return the distance of each element of the first surface to the nearest of the second.

    In mm; infinite from ``reach`` on.
    """
    from scipy.spatial import KDTree  # slow to import

    distances = np.zeros(len(first.places))
    # Mostly few: good predictions share surface.
    apart = ~np.isin(first.places, second.places, assume_unique=True)
    if apart.any():
        tree = KDTree(second.positions, balanced_tree=False, compact_nodes=False)
        threads = 1 if parent_process() else -1  # worker processes share the cores already
        found = tree.query(first.positions[apart], distance_upper_bound=reach, workers=threads)
        distances[apart] = found[0]
    return distances
