"""Distances between the surfaces of two masks.

The areas of surface elements are those of marching cubes, nearest neighbours SciPy's. MONAI
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

from nnunet_ext.evaluation.metrics.arrays import mask_pair

SURFACE_METRICS = ("surface_dice", "hd95", "assd")
# relative: a distance of exactly the tolerance is within it, although spacings are binary fractions
_ROUNDING = 1e-9


class _Surface(NamedTuple):
    """Surface elements of one mask: their places in one grid in rising order, positions in mm, and
    areas in mm2.
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
    """Normalised surface Dice: the share of both surfaces within ``tolerance_mm`` of the other one,
    in [0, 1].

    Surface elements lie between voxels and are weighted by their area in mm2, as in DeepMind's
    ``surface-distance``, which the COVID-19-CT-Seg benchmark used. NaN when both masks are empty, 0
    when one is.

    Args:
        prediction: mask, 2D or 3D.
        reference: mask of the same shape.
        spacing: mm per voxel in the order of the array's axes.
        tolerance_mm: the benchmark takes 3 for lesions and 1 for lungs.

    Raises:
        ValueError: the shapes differ, an array is no mask, or the spacing does not fit it.

    Reference: Nikolov et al. 2021, "Clinically applicable segmentation of head and neck anatomy";
    Zhang et al. 2021 (relation-driven), eq. 7.
    """
    p, g = _checked(prediction, reference, spacing)
    if not (p.any() and g.any()):
        return 0.0 if p.any() or g.any() else float("nan")
    surface_p, surface_g = (_surface_between_voxels(mask, spacing) for mask in (p, g))
    tolerance_mm *= 1 + _ROUNDING
    reach = math.nextafter(tolerance_mm, math.inf)
    near = surface_p.areas[_distances(surface_p, surface_g, reach) <= tolerance_mm].sum()
    near += surface_g.areas[_distances(surface_g, surface_p, reach) <= tolerance_mm].sum()
    return float(near / (surface_p.areas.sum() + surface_g.areas.sum()))


def hd95(prediction: npt.ArrayLike, reference: npt.ArrayLike, spacing: Sequence[float]) -> float:
    """95th percentile of the Hausdorff distance in mm: the larger one of the two directions; NaN if
    a mask is empty.

    The surface are the foreground voxels with a background neighbour by face. Arguments and errors
    as `surface_dice`.

    Reference: Huttenlocher et al. 1993, with the percentile of Metrics Reloaded (Maier-Hein et al.
    2024).
    """
    return surface_distances(prediction, reference, spacing)["hd95"]


def assd(prediction: npt.ArrayLike, reference: npt.ArrayLike, spacing: Sequence[float]) -> float:
    """Average symmetric surface distance in mm, the mean over the voxels of both surfaces; NaN if a
    mask is empty.

    Arguments, errors and surfaces as `hd95`.
    """
    return surface_distances(prediction, reference, spacing)["assd"]


def surface_distances(
    prediction: npt.ArrayLike, reference: npt.ArrayLike, spacing: Sequence[float]
) -> dict[str, float]:
    """`hd95` and `assd` by one search for neighbours."""
    p, g = _checked(prediction, reference, spacing)
    if not (p.any() and g.any()):
        return {"hd95": float("nan"), "assd": float("nan")}
    border_p, border_g = (_border_voxels(mask, spacing) for mask in (p, g))
    directed = _distances(border_p, border_g), _distances(border_g, border_p)
    return {
        "hd95": float(max(np.percentile(distances, 95) for distances in directed)),
        "assd": float(np.concatenate(directed).mean()),
    }


def _checked(
    prediction: npt.ArrayLike, reference: npt.ArrayLike, spacing: Sequence[float]
) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
    p, g = mask_pair(prediction, reference)
    if p.ndim not in (2, 3) or len(spacing) != p.ndim or not all(s > 0 for s in spacing):
        raise ValueError(
            f"spacing {tuple(spacing)} does not fit a mask of shape {p.shape}; 2D or 3D, one per "
            f"axis"
        )
    box = _bounding_box(p | g)  # all surfaces lie in it, and the rest of a CT is most of it
    return p[box], g[box]


def _bounding_box(mask: npt.NDArray[np.bool_]) -> tuple[slice, ...]:
    axes = range(mask.ndim)
    lines = [np.flatnonzero(mask.any(axis=tuple(a for a in axes if a != axis))) for axis in axes]
    return tuple(
        slice(int(line[0]), int(line[-1]) + 1) if len(line) else slice(0, 0) for line in lines
    )


def _surface_between_voxels(mask: npt.NDArray[np.bool_], spacing: Sequence[float]) -> _Surface:
    """Elements between the 2 x 2 (x 2) voxels that are not all alike, outside the array being
    background.
    """
    table = _element_areas(tuple(spacing))
    padded = np.pad(mask, 1).view(np.uint8)
    code = np.zeros(
        [size + 1 for size in mask.shape], dtype=np.uint8
    )  # which of the voxels around are foreground
    for bit, corner in enumerate(product((0, 1), repeat=mask.ndim)):
        code += padded[
            tuple(slice(c, c + size) for c, size in zip(corner, code.shape, strict=True))
        ] << np.uint8(bit)
    places = np.flatnonzero((code != 0) & (code != len(table) - 1))
    return _Surface(places, _positions(places, code.shape, spacing), table[code.ravel()[places]])


@functools.lru_cache(maxsize=16)
def _element_areas(spacing: tuple[float, ...]) -> npt.NDArray[np.float64]:
    """Area in mm2 (2D: length in mm) of the surface between 2 x 2 x 2 voxels, by the bits of those
    in the foreground.

    By marching cubes (Lorensen and Cline 1987), whose areas of a pattern and of its complement can
    differ: the smaller one, as in DeepMind's ``surface-distance``.
    """
    from skimage.measure import marching_cubes

    *thick, height, width = spacing
    areas = np.zeros(1 << (1 << len(spacing)))
    for code in range(1, len(areas) - 1):
        corners = np.array(
            [code >> bit & 1 for bit in range(1 << len(spacing))], dtype=float
        ).reshape(-1, 2, 2)
        if not thick:  # a prism of thickness 1 has as much area as its base has contour
            corners = np.repeat(corners, 2, axis=0)
        vertices, faces, *_ = marching_cubes(
            corners,
            0.5,
            spacing=(*(thick or [1.0]), height, width),
            method="lorensen",
            allow_degenerate=True,
        )
        a, b, c = np.moveaxis(vertices[faces].astype(np.float64), 1, 0)
        areas[code] = np.linalg.norm(np.cross(b - a, c - a), axis=-1).sum() / 2
    return np.minimum(areas, areas[::-1])


def _border_voxels(mask: npt.NDArray[np.bool_], spacing: Sequence[float]) -> _Surface:
    """Foreground voxels with a background neighbour by face, outside the array being background."""
    padded = np.pad(mask, 1)
    inside = mask.copy()
    for axis in range(mask.ndim):
        for step in (0, 2):
            window = [slice(1, -1)] * mask.ndim
            window[axis] = slice(step, step + mask.shape[axis])
            inside &= padded[tuple(window)]
    places = np.flatnonzero(mask ^ inside)
    return _Surface(places, _positions(places, mask.shape, spacing), np.ones(len(places)))


def _positions(
    places: npt.NDArray[np.int64], shape: tuple[int, ...], spacing: Sequence[float]
) -> npt.NDArray[np.float64]:
    indices = np.stack(np.unravel_index(places, shape), axis=-1)
    return np.multiply(indices, spacing, dtype=np.float64)


def _distances(
    first: _Surface, second: _Surface, reach: float = math.inf
) -> npt.NDArray[np.float64]:
    """From each element of the first surface to the nearest of the second in mm; infinite from
    ``reach`` on.
    """
    from scipy.spatial import KDTree  # slow to import

    distances = np.zeros(len(first.places))
    apart = ~np.isin(
        first.places, second.places, assume_unique=True
    )  # mostly few: good predictions share surface
    if apart.any():
        tree = KDTree(second.positions, balanced_tree=False, compact_nodes=False)
        threads = 1 if parent_process() else -1  # worker processes share the cores already
        distances[apart] = tree.query(
            first.positions[apart], distance_upper_bound=reach, workers=threads
        )[0]
    return distances
