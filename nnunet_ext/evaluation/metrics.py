"""Overlap metrics of one case, as pure functions on arrays of any dimension.

All of them are fractions of four voxel counts. A fraction 0/0 is undefined; what it then yields is the caller's
decision and never a hidden constant: ``empty="nan"`` gives NaN, ``"one"`` 1.0 and ``"zero"`` 0.0. The denominator is 0

* for Dice when prediction and reference are both empty,
* for the sensitivity when the reference is empty,
* for the precision when the prediction is empty,
* for the specificity when the reference fills the whole image.
"""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
import numpy.typing as npt

EmptyPolicy = Literal["nan", "one", "zero"]
EMPTY_POLICIES: tuple[EmptyPolicy, ...] = get_args(EmptyPolicy)
_EMPTY_VALUE: dict[str, float] = {"nan": float("nan"), "one": 1.0, "zero": 0.0}


class ConfusionCounts(NamedTuple):
    """Voxels of one case by prediction (positive, negative) and by whether the prediction is right (true, false)."""

    tp: int
    fp: int
    fn: int
    tn: int


_FRACTIONS: dict[str, Callable[[ConfusionCounts], tuple[int, int]]] = {
    "dice": lambda c: (2 * c.tp, 2 * c.tp + c.fp + c.fn),
    "sensitivity": lambda c: (c.tp, c.tp + c.fn),
    "specificity": lambda c: (c.tn, c.tn + c.fp),
    "precision": lambda c: (c.tp, c.tp + c.fp),
}

METRICS = (*_FRACTIONS, "mae")
"""Names of the metrics that :func:`metrics_from_counts` returns, in the order of the tables."""


def confusion_counts(prediction: npt.ArrayLike, reference: npt.ArrayLike) -> ConfusionCounts:
    """Count true and false positives and negatives of two masks of the same shape (bool, or numbers 0 and 1).

    Raises:
        ValueError: the shapes differ, or a mask holds values other than 0 and 1.
    """
    p, g = _mask(prediction, "prediction"), _mask(reference, "reference")
    _require_same_shape(p, g)
    tp = int(np.count_nonzero(p & g))
    fp = int(np.count_nonzero(p)) - tp
    fn = int(np.count_nonzero(g)) - tp
    return ConfusionCounts(tp, fp, fn, p.size - tp - fp - fn)


def metrics_from_counts(counts: ConfusionCounts, *, empty: EmptyPolicy = "nan") -> dict[str, float]:
    """All metrics of :data:`METRICS` from the counts of one case; MAE of two masks is (FP + FN) / voxels.

    >>> metrics_from_counts(ConfusionCounts(tp=1, fp=1, fn=1, tn=1))["dice"]
    0.5
    """
    values = {name: _fraction(name, counts, empty) for name in _FRACTIONS}
    voxels = sum(counts)
    # An error has no "best value for empty masks": without a single voxel it is undefined under every policy.
    return values | {"mae": (counts.fp + counts.fn) / voxels if voxels else float("nan")}


def dice(prediction: npt.ArrayLike, reference: npt.ArrayLike, *, empty: EmptyPolicy = "nan") -> float:
    """Dice coefficient 2 TP / (2 TP + FP + FN) of two masks of the same shape, in [0, 1]; 0/0 when both are empty.

    Raises:
        ValueError: the shapes differ, a mask holds values other than 0 and 1, or the policy is unknown.

    >>> dice([1, 1, 0, 0], [0, 1, 1, 0])
    0.5
    """
    return _fraction("dice", confusion_counts(prediction, reference), empty)


def sensitivity(prediction: npt.ArrayLike, reference: npt.ArrayLike, *, empty: EmptyPolicy = "nan") -> float:
    """Sensitivity (recall) TP / (TP + FN), in [0, 1]; 0/0 when the reference is empty. Arguments as for `dice`.

    Raises:
        ValueError: as `dice`.
    """
    return _fraction("sensitivity", confusion_counts(prediction, reference), empty)


def specificity(prediction: npt.ArrayLike, reference: npt.ArrayLike, *, empty: EmptyPolicy = "nan") -> float:
    """Specificity TN / (TN + FP), in [0, 1]; 0/0 when the reference fills the image. Arguments as for `dice`.

    It counts all voxels of the image, so it depends on how much background the field of view holds.

    Raises:
        ValueError: as `dice`.
    """
    return _fraction("specificity", confusion_counts(prediction, reference), empty)


def precision(prediction: npt.ArrayLike, reference: npt.ArrayLike, *, empty: EmptyPolicy = "nan") -> float:
    """Precision (positive predictive value) TP / (TP + FP), in [0, 1]; 0/0 when the prediction is empty.

    Raises:
        ValueError: as `dice`.
    """
    return _fraction("precision", confusion_counts(prediction, reference), empty)


def mae(prediction: npt.ArrayLike, reference: npt.ArrayLike) -> float:
    """Mean absolute error, the mean of |p - g| over all voxels of two binary or soft maps in [0, 1]; in [0, 1].

    Raises:
        ValueError: the shapes differ, the arrays are empty, or a value lies outside [0, 1] or is NaN.

    >>> mae([0.5, 0.0], [1.0, 0.0])
    0.25
    """
    p, g = np.asarray(prediction, dtype=np.float64), np.asarray(reference, dtype=np.float64)
    _require_same_shape(p, g)
    if p.size == 0:
        raise ValueError("the mean absolute error of arrays without elements is undefined")
    for name, values in (("prediction", p), ("reference", g)):
        if not (values.min() >= 0.0 and values.max() <= 1.0):  # also catches NaN
            raise ValueError(f"{name} holds values outside [0, 1]: {values.min()} to {values.max()}")
    return float(np.abs(p - g).mean())


def _fraction(name: str, counts: ConfusionCounts, empty: EmptyPolicy) -> float:
    if empty not in _EMPTY_VALUE:
        raise ValueError(f"unknown policy for empty masks {empty!r}; choose one of {', '.join(EMPTY_POLICIES)}")
    numerator, denominator = _FRACTIONS[name](counts)
    return numerator / denominator if denominator else _EMPTY_VALUE[empty]


def _mask(values: npt.ArrayLike, name: str) -> npt.NDArray[np.bool_]:
    array = np.asarray(values)
    mask = array.astype(bool)
    if array.dtype != bool and not np.array_equal(array, mask):
        raise ValueError(f"{name} is no mask: it holds values other than 0 and 1")
    return mask


def _require_same_shape(prediction: npt.NDArray[Any], reference: npt.NDArray[Any]) -> None:
    if prediction.shape != reference.shape:
        raise ValueError(f"shapes differ: prediction {prediction.shape}, reference {reference.shape}")
