"""The metrics of one case, as pure functions on arrays of any dimension; this module holds those of
overlap.

They follow from four voxel counts. A fraction 0/0 is undefined; what it then yields is the caller's
decision and never a hidden constant: ``empty="nan"`` gives NaN, ``"one"`` counts the case as
perfect (a score of 1, an error of 0) and ``"zero"`` as failed (a score of 0, an error of 1). The
denominator is 0

* for Dice, Jaccard and VOE when prediction and reference are both empty,
* for the sensitivity when the reference is empty,
* for the precision when the prediction is empty,
* for the specificity when the reference fills the whole image,
* for the RVD when the reference is empty: 0/0 if the prediction is, too; else infinite, hence NaN
  under each policy.

``dice_hits`` is Dice, and 0 for every case without a true positive, also where both masks are
empty.
"""

from collections.abc import Callable
from typing import Literal, NamedTuple, get_args

import numpy as np
import numpy.typing as npt

from nnunet_ext.evaluation.metrics.arrays import mask_pair, require_same_shape, soft_map
from nnunet_ext.evaluation.metrics.infnet import e_measure, s_measure
from nnunet_ext.evaluation.metrics.surfaces import assd, hd95, surface_dice

__all__ = [
    "assd",
    "dice",
    "e_measure",
    "hd95",
    "jaccard",
    "mae",
    "precision",
    "rvd",
    "s_measure",
    "sensitivity",
    "specificity",
    "surface_dice",
    "voe",
]

EmptyPolicy = Literal["nan", "one", "zero"]
EMPTY_POLICIES: tuple[EmptyPolicy, ...] = get_args(EmptyPolicy)
_EMPTY_SCORE: dict[str, float] = {"nan": float("nan"), "one": 1.0, "zero": 0.0}


class ConfusionCounts(NamedTuple):
    """Voxels of one case by prediction (positive, negative) and by whether the prediction is right
    (true, false).
    """

    tp: int
    fp: int
    fn: int
    tn: int


_FRACTIONS: dict[str, Callable[[ConfusionCounts], tuple[int, int]]] = {
    "dice": lambda c: (2 * c.tp, 2 * c.tp + c.fp + c.fn),
    "dice_smooth1": lambda c: (2 * c.tp + 1, 2 * c.tp + c.fp + c.fn + 1),
    "dice_hits": lambda c: (2 * c.tp, max(2 * c.tp + c.fp + c.fn, 1)),
    "jaccard": lambda c: (c.tp, c.tp + c.fp + c.fn),
    "sensitivity": lambda c: (c.tp, c.tp + c.fn),
    "specificity": lambda c: (c.tn, c.tn + c.fp),
    "precision": lambda c: (c.tp, c.tp + c.fp),
    "voe": lambda c: (c.fp + c.fn, c.tp + c.fp + c.fn),
    "rvd": lambda c: (c.fp - c.fn, c.tp + c.fn),
    "abs_rvd": lambda c: (abs(c.fp - c.fn), c.tp + c.fn),
    "mae": lambda c: (c.fp + c.fn, sum(c)),
}
_ERRORS = ("voe", "rvd", "abs_rvd")

COUNT_METRICS = tuple(_FRACTIONS)
"""Names of the metrics that :func:`metrics_from_counts` returns."""


def confusion_counts(prediction: npt.ArrayLike, reference: npt.ArrayLike) -> ConfusionCounts:
    """Count true and false positives and negatives of two masks of the same shape (bool, or numbers
    0 and 1).

    Raises:
        ValueError: the shapes differ, or a mask holds values other than 0 and 1.
    """
    p, g = mask_pair(prediction, reference)
    tp = int(np.count_nonzero(p & g))
    fp = int(np.count_nonzero(p)) - tp
    fn = int(np.count_nonzero(g)) - tp
    return ConfusionCounts(tp, fp, fn, p.size - tp - fp - fn)


def metrics_from_counts(counts: ConfusionCounts, *, empty: EmptyPolicy = "nan") -> dict[str, float]:
    """All metrics of :data:`COUNT_METRICS` from the counts of one case; MAE of two masks is (FP +
    FN) / voxels.

    >>> metrics_from_counts(ConfusionCounts(tp=1, fp=1, fn=1, tn=1))["dice"]
    0.5
    """
    return {name: _fraction(name, counts, empty) for name in _FRACTIONS}


def dice(
    prediction: npt.ArrayLike, reference: npt.ArrayLike, *, empty: EmptyPolicy = "nan"
) -> float:
    """Dice coefficient 2 TP / (2 TP + FP + FN) of two masks of the same shape, in [0, 1]; 0/0 when
    both are empty.

    Raises:
        ValueError: the shapes differ, a mask holds values other than 0 and 1, or the policy is
            unknown.

    >>> dice([1, 1, 0, 0], [0, 1, 1, 0])
    0.5
    """
    return _fraction("dice", confusion_counts(prediction, reference), empty)


def jaccard(
    prediction: npt.ArrayLike, reference: npt.ArrayLike, *, empty: EmptyPolicy = "nan"
) -> float:
    """Jaccard index TP / (TP + FP + FN) = Dice / (2 - Dice), in [0, 1]; 0/0 when both are empty. As
    `dice`.
    """
    return _fraction("jaccard", confusion_counts(prediction, reference), empty)


def voe(
    prediction: npt.ArrayLike, reference: npt.ArrayLike, *, empty: EmptyPolicy = "nan"
) -> float:
    """Volumetric overlap error 1 - Jaccard, in [0, 1], 0 is best; 0/0 when both are empty. As
    `dice`.

    Reference: Liu et al. 2021 (nCoVSegNet), eq. 13.
    """
    return _fraction("voe", confusion_counts(prediction, reference), empty)


def rvd(
    prediction: npt.ArrayLike, reference: npt.ArrayLike, *, empty: EmptyPolicy = "nan"
) -> float:
    """Relative volume difference (predicted - reference) / reference volume, signed, from -1; 0 is
    best.

    NaN where only the reference is empty. Arguments as for `dice`.

    Reference: Liu et al. 2021 (nCoVSegNet), eq. 14.

    >>> rvd([1, 1, 1], [1, 1, 0])
    0.5
    """
    return _fraction("rvd", confusion_counts(prediction, reference), empty)


def sensitivity(
    prediction: npt.ArrayLike, reference: npt.ArrayLike, *, empty: EmptyPolicy = "nan"
) -> float:
    """Sensitivity (recall) TP / (TP + FN), in [0, 1]; 0/0 when the reference is empty. Arguments as
    for `dice`.

    Raises:
        ValueError: as `dice`.
    """
    return _fraction("sensitivity", confusion_counts(prediction, reference), empty)


def specificity(
    prediction: npt.ArrayLike, reference: npt.ArrayLike, *, empty: EmptyPolicy = "nan"
) -> float:
    """Specificity TN / (TN + FP), in [0, 1]; 0/0 when the reference fills the image. Arguments as
    for `dice`.

    It counts all voxels of the image, so it depends on how much background the field of view holds.

    Raises:
        ValueError: as `dice`.
    """
    return _fraction("specificity", confusion_counts(prediction, reference), empty)


def precision(
    prediction: npt.ArrayLike, reference: npt.ArrayLike, *, empty: EmptyPolicy = "nan"
) -> float:
    """Precision (positive predictive value) TP / (TP + FP), in [0, 1]; 0/0 when the prediction is
    empty.

    Raises:
        ValueError: as `dice`.
    """
    return _fraction("precision", confusion_counts(prediction, reference), empty)


def mae(
    prediction: npt.ArrayLike, reference: npt.ArrayLike, *, empty: EmptyPolicy = "nan"
) -> float:
    """Mean absolute error, the mean of |p - g| over all voxels of two binary or soft maps in [0,
    1]; in [0, 1].

    ``empty`` is there to be called like its neighbours: a mean over at least one voxel is never
    0/0.

    Raises:
        ValueError: the shapes differ, the arrays are empty, or a value lies outside [0, 1] or is
            NaN.

    >>> mae([0.5, 0.0], [1.0, 0.0])
    0.25
    """
    p, g = soft_map(prediction, "prediction"), soft_map(reference, "reference")
    require_same_shape(p, g)
    return float(np.abs(p - g).mean())


def _fraction(name: str, counts: ConfusionCounts, empty: EmptyPolicy) -> float:
    if empty not in _EMPTY_SCORE:
        raise ValueError(
            f"unknown policy for empty masks {empty!r}; choose one of {', '.join(EMPTY_POLICIES)}"
        )
    numerator, denominator = _FRACTIONS[name](counts)
    if denominator:
        return numerator / denominator
    if (
        numerator or name == "mae"
    ):  # n/0 has no value, and an image without a voxel no error, under any policy
        return float("nan")
    return 1.0 - _EMPTY_SCORE[empty] if name in _ERRORS else _EMPTY_SCORE[empty]
