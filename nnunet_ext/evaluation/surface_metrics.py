"""Distances between the surfaces of two masks, by MONAI (the extra ``nnunetv2-ext[metrics]``), imported when called."""

import warnings
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from nnunet_ext.errors import InputError
from nnunet_ext.evaluation.arrays import mask_pair

SURFACE_METRICS = ("surface_dice", "hd95", "assd")


class _Surfaces(NamedTuple):
    """Distance in mm of each surface element to the other surface, and its area (empty without sub-voxels)."""

    to_reference: npt.NDArray[np.float64]
    to_prediction: npt.NDArray[np.float64]
    prediction_areas: npt.NDArray[np.float64]
    reference_areas: npt.NDArray[np.float64]


def surface_dice(
    prediction: npt.ArrayLike, reference: npt.ArrayLike, spacing: Sequence[float], tolerance_mm: float
) -> float:
    """Normalised surface Dice: the share of both surfaces within ``tolerance_mm`` of the other one, in [0, 1].

    Surface elements lie between voxels and are weighted by their area in mm2, as in DeepMind's ``surface-distance``,
    which the COVID-19-CT-Seg benchmark used. NaN when both masks are empty, 0 when one is.

    Args:
        prediction: mask, 2D or 3D.
        reference: mask of the same shape.
        spacing: mm per voxel in the order of the array's axes.
        tolerance_mm: the benchmark takes 3 for lesions and 1 for lungs.

    Raises:
        ValueError: the shapes differ, an array is no mask, or the spacing does not fit it.
        InputError: MONAI is not installed.

    Reference: Nikolov et al. 2021, "Clinically applicable segmentation of head and neck anatomy"; Zhang et al. 2021
    (relation-driven), eq. 7.
    """
    p, g = _checked(prediction, reference, spacing)
    if not (p.any() and g.any()):
        return 0.0 if p.any() or g.any() else float("nan")
    surfaces = _surfaces(p, g, spacing, subvoxel=True)
    near = surfaces.prediction_areas[surfaces.to_reference <= tolerance_mm].sum()
    near += surfaces.reference_areas[surfaces.to_prediction <= tolerance_mm].sum()
    return float(near / (surfaces.prediction_areas.sum() + surfaces.reference_areas.sum()))


def hd95(prediction: npt.ArrayLike, reference: npt.ArrayLike, spacing: Sequence[float]) -> float:
    """95th percentile of the Hausdorff distance in mm: the larger one of the two directions; NaN if a mask is empty.

    The surface are the foreground voxels with a background neighbour by face. Arguments and errors as `surface_dice`.

    Reference: Huttenlocher et al. 1993, with the percentile of Metrics Reloaded (Maier-Hein et al. 2024).
    """
    return surface_distances(prediction, reference, spacing)["hd95"]


def assd(prediction: npt.ArrayLike, reference: npt.ArrayLike, spacing: Sequence[float]) -> float:
    """Average symmetric surface distance in mm, the mean over the voxels of both surfaces; NaN if a mask is empty.

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
    surfaces = _surfaces(p, g, spacing, subvoxel=False)
    directed = surfaces.to_reference, surfaces.to_prediction
    return {
        "hd95": float(max(np.percentile(distances, 95) for distances in directed)),
        "assd": float(np.concatenate(directed).mean()),
    }


def require_monai() -> None:
    """Raise InputError where MONAI is missing, before an evaluation has begun."""
    from importlib.util import find_spec

    if find_spec("monai") is None:
        raise InputError("surface metrics need MONAI; pip install 'nnunetv2-ext[metrics]', or choose other metrics")


def _checked(
    prediction: npt.ArrayLike, reference: npt.ArrayLike, spacing: Sequence[float]
) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
    p, g = mask_pair(prediction, reference)
    if p.ndim not in (2, 3) or len(spacing) != p.ndim or not all(s > 0 for s in spacing):
        raise ValueError(f"spacing {tuple(spacing)} does not fit a mask of shape {p.shape}; 2D or 3D, one per axis")
    box = _bounding_box(p | g)  # all surfaces lie in it, and the rest of a CT is most of it
    return p[box], g[box]


def _bounding_box(mask: npt.NDArray[np.bool_]) -> tuple[slice, ...]:
    axes = range(mask.ndim)
    lines = [np.flatnonzero(mask.any(axis=tuple(a for a in axes if a != axis))) for axis in axes]
    return tuple(slice(int(line[0]), int(line[-1]) + 1) if len(line) else slice(0, 0) for line in lines)


def _surfaces(
    p: npt.NDArray[np.bool_], g: npt.NDArray[np.bool_], spacing: Sequence[float], subvoxel: bool
) -> _Surfaces:
    require_monai()
    import torch
    from monai.metrics.utils import get_edge_surface_distance

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # deprecations inside MONAI
        edges, distances, areas = get_edge_surface_distance(
            torch.from_numpy(p), torch.from_numpy(g), spacing=list(spacing), use_subvoxels=subvoxel, symmetric=True
        )
    weights: list[Any] = (
        [area[edge] for area, edge in zip(areas, edges, strict=True)] if subvoxel else [np.empty(0)] * 2
    )
    return _Surfaces(*(np.asarray(values, dtype=np.float64) for values in (*distances, *weights)))
