"""Metrics of overlap. They follow from four voxel counts of one case.

A fraction 0/0 is undefined. What it then yields is the caller's decision and never a hidden
constant: ``empty="nan"`` gives NaN, ``"one"`` counts the case as perfect (a score of 1, an error of
0) and ``"zero"`` as failed (a score of 0, an error of 1). The denominator is 0

* for Dice, Jaccard and VOE when prediction and reference are both empty,
* for the sensitivity when the reference is empty,
* for the precision when the prediction is empty,
* for the specificity when the reference fills the whole image,
* for the RVD when the reference is empty: 0/0 if the prediction is, too; else infinite, hence NaN
  under each policy.

``dice_hits`` is Dice, and 0 for every case without a true positive, also where both masks are
empty.
"""

import math

import numpy as np
import numpy.typing as npt

from nnunet_ext.evaluation.metrics.arrays import mask_pair, require_same_shape, soft_map
from nnunet_ext.evaluation.metrics.infnet import averages, map_error
from nnunet_ext.evaluation.metrics.metric import Better, ConfusionCounts, EmptyPolicy, Metric

UNIT = (0.0, 1.0)

DECLARED = (
    Metric(
        name="dice",
        header="Dice",
        better=Better.HIGHER,
        decimals=3,
        range=UNIT,
        from_counts=lambda c: (2 * c.tp, 2 * c.tp + c.fp + c.fn),
        from_soft_map=lambda pair: pair.shared(averages)["dice"],
    ),
    Metric(
        name="dice_smooth1",
        header="Dice (smooth 1)",
        better=Better.HIGHER,
        decimals=3,
        range=UNIT,
        from_counts=lambda c: (2 * c.tp + 1, 2 * c.tp + c.fp + c.fn + 1),
    ),
    Metric(
        name="dice_hits",
        header="Dice (0 without a hit)",
        better=Better.HIGHER,
        decimals=3,
        range=UNIT,
        from_counts=lambda c: (2 * c.tp, max(2 * c.tp + c.fp + c.fn, 1)),
    ),
    Metric(
        name="jaccard",
        header="Jaccard",
        better=Better.HIGHER,
        decimals=3,
        range=UNIT,
        from_counts=lambda c: (c.tp, c.tp + c.fp + c.fn),
    ),
    Metric(
        name="sensitivity",
        header="Sensitivity",
        better=Better.HIGHER,
        decimals=3,
        range=UNIT,
        from_counts=lambda c: (c.tp, c.tp + c.fn),
        from_soft_map=lambda pair: pair.shared(averages)["sensitivity"],
    ),
    Metric(
        name="specificity",
        header="Specificity",
        better=Better.HIGHER,
        decimals=4,  # background dominates
        range=UNIT,
        from_counts=lambda c: (c.tn, c.tn + c.fp),
        from_soft_map=lambda pair: pair.shared(averages)["specificity"],
    ),
    Metric(
        name="precision",
        header="Precision",
        better=Better.HIGHER,
        decimals=3,
        range=UNIT,
        from_counts=lambda c: (c.tp, c.tp + c.fp),
    ),
    Metric(
        name="voe",
        header="VOE",
        better=Better.LOWER,
        decimals=3,
        range=UNIT,
        from_counts=lambda c: (c.fp + c.fn, c.tp + c.fp + c.fn),
    ),
    Metric(
        name="rvd",
        header="RVD (signed)",
        better=Better.NEAR_ZERO,
        decimals=3,
        range=(-1, math.inf),
        from_counts=lambda c: (c.fp - c.fn, c.tp + c.fn),
    ),
    Metric(
        name="abs_rvd",
        header="|RVD|",
        better=Better.LOWER,
        decimals=3,
        range=(0, math.inf),
        from_counts=lambda c: (abs(c.fp - c.fn), c.tp + c.fn),
    ),
    Metric(
        name="mae",
        header="MAE",
        better=Better.LOWER,
        decimals=4,  # background dominates
        range=UNIT,
        from_counts=lambda c: (c.fp + c.fn, sum(c)),
        from_soft_map=map_error,
        follows_empty_policy=False,  # an image without a voxel has no error
    ),
)

COUNT_METRICS = tuple(metric.name for metric in DECLARED)
"""Names of the metrics that follow from voxel counts."""

_DECLARED = {metric.name: metric for metric in DECLARED}


def confusion_counts(prediction: npt.ArrayLike, reference: npt.ArrayLike) -> ConfusionCounts:
    """Count true and false positives and negatives of two masks (bool, or numbers 0 and 1).

    Raises:
        ValueError: the shapes differ, or a mask holds values other than 0 and 1.
    """
    p, g = mask_pair(prediction, reference)
    predicted = int(np.count_nonzero(p))
    positives = int(np.count_nonzero(g))

    tp = int(np.count_nonzero(p & g))
    fp = predicted - tp
    fn = positives - tp
    tn = p.size - tp - fp - fn
    return ConfusionCounts(tp, fp, fn, tn)


def dice(
    prediction: npt.ArrayLike, reference: npt.ArrayLike, *, empty: EmptyPolicy = "nan"
) -> float:
    """Return the Dice coefficient 2 TP / (2 TP + FP + FN) of two masks of one shape, in [0, 1].

    It is 0/0 when both are empty.

    Raises:
        ValueError: the shapes differ, a mask holds values other than 0 and 1, or the policy is
            unknown.

    >>> dice([1, 1, 0, 0], [0, 1, 1, 0])
    0.5
    """
    return _value("dice", prediction, reference, empty)


def jaccard(
    prediction: npt.ArrayLike, reference: npt.ArrayLike, *, empty: EmptyPolicy = "nan"
) -> float:
    """Return the Jaccard index TP / (TP + FP + FN) = Dice / (2 - Dice), in [0, 1].

    It is 0/0 when both masks are empty. Arguments and errors as for `dice`.
    """
    return _value("jaccard", prediction, reference, empty)


def voe(
    prediction: npt.ArrayLike, reference: npt.ArrayLike, *, empty: EmptyPolicy = "nan"
) -> float:
    """Return the volumetric overlap error 1 - Jaccard, in [0, 1]; 0 is best.

    It is 0/0 when both masks are empty. Arguments and errors as for `dice`.

    Reference: Liu et al. 2021 (nCoVSegNet), eq. 13.
    """
    return _value("voe", prediction, reference, empty)


def rvd(
    prediction: npt.ArrayLike, reference: npt.ArrayLike, *, empty: EmptyPolicy = "nan"
) -> float:
    """Return the signed relative volume difference (predicted - reference) / reference volume.

    It starts at -1, and 0 is best. NaN where only the reference is empty. Arguments and errors as
    for `dice`.

    Reference: Liu et al. 2021 (nCoVSegNet), eq. 14.

    >>> rvd([1, 1, 1], [1, 1, 0])
    0.5
    """
    return _value("rvd", prediction, reference, empty)


def sensitivity(
    prediction: npt.ArrayLike, reference: npt.ArrayLike, *, empty: EmptyPolicy = "nan"
) -> float:
    """Return the sensitivity (recall) TP / (TP + FN), in [0, 1].

    It is 0/0 when the reference is empty. Arguments and errors as for `dice`.
    """
    return _value("sensitivity", prediction, reference, empty)


def specificity(
    prediction: npt.ArrayLike, reference: npt.ArrayLike, *, empty: EmptyPolicy = "nan"
) -> float:
    """Return the specificity TN / (TN + FP), in [0, 1].

    It counts all voxels of the image, so it depends on how much background the field of view holds.
    It is 0/0 when the reference fills the image. Arguments and errors as for `dice`.
    """
    return _value("specificity", prediction, reference, empty)


def precision(
    prediction: npt.ArrayLike, reference: npt.ArrayLike, *, empty: EmptyPolicy = "nan"
) -> float:
    """Return the precision (positive predictive value) TP / (TP + FP), in [0, 1].

    It is 0/0 when the prediction is empty. Arguments and errors as for `dice`.
    """
    return _value("precision", prediction, reference, empty)


def mae(
    prediction: npt.ArrayLike, reference: npt.ArrayLike, *, empty: EmptyPolicy = "nan"
) -> float:
    """Return the mean absolute error of two binary or soft maps in [0, 1]; it lies in [0, 1].

    It is the mean of |p - g| over all voxels, so it is never 0/0: ``empty`` is accepted for
    signature compatibility.

    Raises:
        ValueError: the shapes differ, the arrays are empty, or a value lies outside [0, 1] or is
            NaN.

    >>> mae([0.5, 0.0], [1.0, 0.0])
    0.25
    """
    p = soft_map(prediction, "prediction")
    g = soft_map(reference, "reference")
    require_same_shape(p, g)
    errors = np.abs(p - g)
    return float(errors.mean())


def _value(
    name: str, prediction: npt.ArrayLike, reference: npt.ArrayLike, empty: EmptyPolicy
) -> float:
    metric = _DECLARED[name]
    counts = confusion_counts(prediction, reference)
    return metric.of_counts(counts, empty)
