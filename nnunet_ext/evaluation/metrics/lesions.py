"""Metrics that count lesions instead of voxels.

A lesion is a connected component of a mask: voxels that share a face, an edge or a corner (26
neighbours in a volume, 8 in a slice). Two rules of matching are in use:

* Detection, as in the ISLES challenges: a reference lesion is detected, and a predicted lesion is
  true, when it shares at least one voxel with the other mask.
* Panoptic quality: two lesions match when their intersection over union exceeds 0.5, so that none
  matches two.

References: Hernandez Petzsche et al. 2022, "ISLES 2022"; Kirillov et al. 2019, "Panoptic
segmentation"; Metrics Reloaded (Maier-Hein et al. 2024).
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from nnunet_ext.boxes import bounding_box
from nnunet_ext.evaluation.metrics.arrays import mask_pair
from nnunet_ext.evaluation.metrics.metric import Better, MaskPair, Metric

MATCHING_IOU = 0.5  # above it, no lesion can match two
# Bounds of the size classes. A nodule of 0.1 ml measures about 6 mm, one of 1 ml about 12 mm.
SMALL_BELOW_ML = 0.1
LARGE_FROM_ML = 1.0
MM3_PER_ML = 1000.0

Integers = npt.NDArray[np.int64]


@dataclass(frozen=True)
class LesionOverlaps:
    """The lesions of two masks, and how many voxels each pair of them shares.

    Args:
        reference_sizes: voxels of each reference lesion, ``[R]``.
        predicted_sizes: voxels of each predicted lesion, ``[P]``.
        pairs: which lesions share voxels, ``[K, 2]``: indices of a reference and a predicted one.
        shared: how many voxels each pair shares, ``[K]``.
    """

    reference_sizes: Integers
    predicted_sizes: Integers
    pairs: Integers
    shared: Integers

    @property
    def detected(self) -> npt.NDArray[np.bool_]:
        """Which reference lesions share a voxel with the prediction, ``[R]``."""
        return np.isin(np.arange(len(self.reference_sizes)), self.pairs[:, 0])

    @property
    def true(self) -> npt.NDArray[np.bool_]:
        """Which predicted lesions share a voxel with the reference, ``[P]``."""
        return np.isin(np.arange(len(self.predicted_sizes)), self.pairs[:, 1])

    @property
    def matched_ious(self) -> npt.NDArray[np.float64]:
        """Intersection over union of the pairs in which it exceeds `MATCHING_IOU`."""
        reference_sizes = self.reference_sizes[self.pairs[:, 0]]
        predicted_sizes = self.predicted_sizes[self.pairs[:, 1]]
        unions = reference_sizes + predicted_sizes - self.shared
        ious = self.shared / unions
        return ious[ious > MATCHING_IOU]


def lesion_overlaps(prediction: npt.ArrayLike, reference: npt.ArrayLike) -> LesionOverlaps:
    """Return the lesions of both masks and their overlaps.

    Args:
        prediction: mask, 2D or 3D.
        reference: mask of the same shape.

    Raises:
        ValueError: the shapes differ, or an array is not a mask.
    """
    predicted_mask, reference_mask = mask_pair(prediction, reference)
    box = bounding_box(predicted_mask | reference_mask)  # the rest of a CT is most of it
    predicted = _components(predicted_mask[box])
    true = _components(reference_mask[box])

    in_both = (predicted > 0) & (true > 0)
    predicted_count = int(predicted.max(initial=0))
    # One number per pair, because NumPy finds unique numbers much faster than unique rows.
    pair_numbers = (true[in_both] - 1).astype(np.int64) * predicted_count + predicted[in_both] - 1
    found, shared = np.unique(pair_numbers, return_counts=True)
    of_reference, of_prediction = np.divmod(found, max(predicted_count, 1))
    return LesionOverlaps(
        reference_sizes=np.bincount(true.ravel())[1:],
        predicted_sizes=np.bincount(predicted.ravel())[1:],
        pairs=np.stack((of_reference, of_prediction), axis=1),
        shared=shared,
    )


def lesion_sensitivity(overlaps: LesionOverlaps) -> float:
    """Return the share of reference lesions that were detected; NaN without one."""
    return _share(overlaps.detected)


def lesion_precision(overlaps: LesionOverlaps) -> float:
    """Return the share of predicted lesions that are true; NaN without one."""
    return _share(overlaps.true)


def lesion_f1(overlaps: LesionOverlaps) -> float:
    """Return 2 TP / (2 TP + FP + FN), in lesions; NaN if both masks are empty.

    TP are detected reference lesions, FN the other reference lesions, FP predicted lesions that are
    not true.
    """
    tp = int(overlaps.detected.sum())
    fn = len(overlaps.detected) - tp
    fp = int((~overlaps.true).sum())
    denominator = 2 * tp + fp + fn
    return 2 * tp / denominator if denominator else math.nan


def false_positive_lesions(overlaps: LesionOverlaps) -> float:
    """Return how many predicted lesions are not true."""
    return float((~overlaps.true).sum())


def panoptic_quality(overlaps: LesionOverlaps) -> float:
    """Return the sum of the matches' IoU over TP + FP / 2 + FN / 2; NaN if both masks are empty.

    TP are matches, FP and FN predicted and reference lesions without one (Kirillov et al. 2019,
    eq. 1).
    """
    # TP + FP / 2 + FN / 2 is half of all lesions, since a match holds one of each kind.
    lesions = len(overlaps.reference_sizes) + len(overlaps.predicted_sizes)
    return float(overlaps.matched_ious.sum() / (lesions / 2)) if lesions else math.nan


def sensitivity_by_volume(
    overlaps: LesionOverlaps, spacing: Sequence[float], from_ml: float, below_ml: float
) -> float:
    """Return the share of detected lesions among those of a size class; NaN without one.

    Args:
        overlaps: of volumes; a slice has no millilitres (NaN).
        spacing: mm per voxel.
        from_ml: smallest volume of the class.
        below_ml: smallest volume above the class.
    """
    if len(spacing) < 3:
        return math.nan
    ml_per_voxel = math.prod(spacing) / MM3_PER_ML
    volumes_ml = overlaps.reference_sizes * ml_per_voxel
    in_class = (volumes_ml >= from_ml) & (volumes_ml < below_ml)
    return _share(overlaps.detected[in_class])


def _components(mask: npt.NDArray[np.bool_]) -> npt.NDArray[np.int32]:
    """Number the connected components from 1; 0 is background."""
    from scipy import ndimage  # slow to import

    all_neighbours = np.ones((3,) * mask.ndim, dtype=bool)
    components: npt.NDArray[np.int32] = ndimage.label(mask, structure=all_neighbours)[0]
    return components


def _share(chosen: npt.NDArray[np.bool_]) -> float:
    return float(chosen.mean()) if len(chosen) else math.nan


def _overlaps_of(pair: MaskPair) -> LesionOverlaps:
    return lesion_overlaps(pair.prediction, pair.reference)


def _from_lesions(compute: Callable[[LesionOverlaps], float]) -> Callable[[MaskPair], float]:
    """Return a function of masks that seeks their lesions once for all metrics."""
    return lambda pair: compute(pair.shared(_overlaps_of))


def _sensitivity_of_class(
    name: str, header: str, from_ml: float, below_ml: float = math.inf
) -> Metric:
    def of_pair(pair: MaskPair) -> float:
        if not pair.has_spacing:
            return math.nan  # voxels have no millilitres
        overlaps = pair.shared(_overlaps_of)
        return sensitivity_by_volume(overlaps, pair.spacing, from_ml, below_ml)

    return Metric(
        name=name,
        header=header,
        better=Better.HIGHER,
        decimals=3,
        range=(0, 1),
        from_masks=of_pair,
    )


DECLARED = (
    Metric(
        name="lesion_f1",
        header="Lesion F1",
        better=Better.HIGHER,
        decimals=3,
        range=(0, 1),
        from_masks=_from_lesions(lesion_f1),
    ),
    Metric(
        name="lesion_sensitivity",
        header="Lesion sensitivity",
        better=Better.HIGHER,
        decimals=3,
        range=(0, 1),
        from_masks=_from_lesions(lesion_sensitivity),
    ),
    Metric(
        name="lesion_precision",
        header="Lesion precision",
        better=Better.HIGHER,
        decimals=3,
        range=(0, 1),
        from_masks=_from_lesions(lesion_precision),
    ),
    Metric(
        name="false_positive_lesions",
        header="False positive lesions",
        better=Better.LOWER,
        decimals=2,
        range=(0, math.inf),
        from_masks=_from_lesions(false_positive_lesions),
    ),
    Metric(
        name="panoptic_quality",
        header="Panoptic quality",
        better=Better.HIGHER,
        decimals=3,
        range=(0, 1),
        from_masks=_from_lesions(panoptic_quality),
    ),
    _sensitivity_of_class(
        "small_lesion_sensitivity", "Sensitivity below 0.1 ml", 0, SMALL_BELOW_ML
    ),
    _sensitivity_of_class(
        "medium_lesion_sensitivity", "Sensitivity 0.1 to 1 ml", SMALL_BELOW_ML, LARGE_FROM_ML
    ),
    _sensitivity_of_class("large_lesion_sensitivity", "Sensitivity from 1 ml", LARGE_FROM_ML),
)

LESION_METRICS = tuple(metric.name for metric in DECLARED)
