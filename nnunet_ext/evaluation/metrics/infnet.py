"""The metrics of Inf-Net's toolbox on soft maps of one image.

They are averages over 256 thresholds, the S-measure, the E-measure and the MAE. The tables of the
relation-driven paper (2D) and of the VQ-VAE paper were made with them. The numbers differ from
textbook ones by design: see :func:`threshold_averages`.
"""

import math

import numpy as np
import numpy.typing as npt

from nnunet_ext.evaluation.metrics.arrays import mask_pair, require_same_shape, soft_map
from nnunet_ext.evaluation.metrics.metric import Better, Metric, SoftMapPair

INFNET_METRICS = ("dice", "sensitivity", "specificity", "s_measure", "e_measure", "mae")
"""What the toolbox prints."""

_LEVELS = 256
_HIGHEST_LEVEL = _LEVELS - 1
_EPS = float(np.finfo(np.float64).eps)


def stretched(prediction: npt.ArrayLike, reference: npt.ArrayLike) -> SoftMapPair:
    """Stretch the map to [0, 1] and round it to 8 bits, as the toolbox does with every image.

    A constant map cannot be stretched: it stays as it is.

    Args:
        prediction: soft map in [0, 1], shape (rows, columns).
        reference: mask of the same shape.

    Raises:
        ValueError: shapes differ or are not 2D, values outside [0, 1], or the reference is not a
            mask.

    Reference: Fan et al. 2020, "Inf-Net: automatic COVID-19 lung infection segmentation from CT
    images".
    """
    p, g = _image_pair(prediction, reference)
    low = float(p.min())
    high = float(p.max())
    if high != low:
        p = (p - low) / (high - low)
    levels = np.rint(p * _HIGHEST_LEVEL)
    return SoftMapPair(levels / _HIGHEST_LEVEL, g)


def averages(pair: SoftMapPair) -> dict[str, float]:
    """Return :func:`threshold_averages`; a constant map counts as positive at no threshold."""
    lowest = pair.prediction.min()
    highest = pair.prediction.max()
    if lowest == highest:
        return dict.fromkeys(("dice", "sensitivity", "specificity"), 0.0)
    return threshold_averages(pair.prediction, pair.reference)


def map_error(pair: SoftMapPair) -> float:
    """Return the mean absolute difference between map and mask."""
    errors = np.abs(pair.prediction - pair.reference)
    return float(errors.mean())


def threshold_averages(prediction: npt.ArrayLike, reference: npt.ArrayLike) -> dict[str, float]:
    """Return Dice, sensitivity and specificity, averaged over the thresholds 0, 1/255, ..., 1.

    A pixel is positive if the map is at least the threshold. All three are 0 at a threshold without
    a true positive. At threshold 0 all is positive, so that a perfect binary mask has the
    specificity 255/256 = 0.99609, and an image with an empty reference has 0 everywhere.
    """
    p, g = _image_pair(prediction, reference)
    tp, fp = _positives(p, g)
    positives = int(g.sum())
    negatives = g.size - positives

    voxels_of_both = np.maximum(tp + fp + positives, 1)
    true_negatives = negatives - fp
    scores = {
        "dice": 2 * tp / voxels_of_both,
        "sensitivity": tp / max(positives, 1),
        "specificity": true_negatives / max(negatives, 1),
    }

    hit = tp > 0
    means = {}
    for name, score in scores.items():
        with_hits = np.where(hit, score, 0.0)
        means[name] = float(with_hits.mean())
    return means


def s_measure(prediction: npt.ArrayLike, reference: npt.ArrayLike) -> float:
    """Return the structure measure of a soft map in [0, 1] against a mask, in [0, 1].

    It is half object-aware, half region-aware. An empty reference gives 1 - mean(map), a full one
    mean(map). Arguments and errors as `stretched`.

    Reference: Fan et al. 2017, "Structure-measure: a new way to evaluate foreground maps", eq. 1-8,
    alpha = 0.5.
    """
    p, g = _image_pair(prediction, reference)
    share = float(g.mean())
    mean_map = float(p.mean())
    if share == 0.0:
        return 1.0 - mean_map
    if share == 1.0:
        return mean_map

    foreground = _object_score(p[g])
    background = _object_score(1 - p[~g])
    objects = share * foreground + (1 - share) * background
    regions = _region_score(p, g)
    return max(0.0, 0.5 * objects + 0.5 * regions)


def e_measure(prediction: npt.ArrayLike, reference: npt.ArrayLike) -> float:
    """Return the enhanced-alignment measure of a soft map; from 0, about 1 at best.

    It is averaged over the thresholds 0, 1/255, ..., 1. The enhanced alignment of a pixel depends
    only on whether it is predicted and whether it is foreground, so four counts replace the image.
    An empty reference scores the share of negatives, a full one that of positives. Arguments and
    errors as `stretched`.

    Reference: Fan et al. 2018, "Enhanced-alignment measure for binary foreground map evaluation",
    eq. 2-5.
    """
    p, g = _image_pair(prediction, reference)
    tp, fp = _positives(p, g)
    positives = int(g.sum())
    voxels = g.size

    if positives == 0:
        total = (voxels - fp).astype(np.float64)
    elif positives == voxels:
        total = tp.astype(np.float64)
    else:
        total = _enhanced_alignment(tp, fp, positives, voxels)

    per_threshold = total / (voxels - 1 + _EPS)
    return float(per_threshold.mean())


def _enhanced_alignment(
    tp: npt.NDArray[np.int64], fp: npt.NDArray[np.int64], positives: int, voxels: int
) -> npt.NDArray[np.float64]:
    """Return the sum over the image at each threshold."""
    fn = positives - tp
    tn = voxels - positives - fp
    predicted = (tp + fp) / voxels
    share = positives / voxels
    kinds_of_pixel = (
        (tp, 1, 1),
        (fp, 1, 0),
        (fn, 0, 1),
        (tn, 0, 0),
    )

    total = np.zeros(_LEVELS)
    for count, value, truth in kinds_of_pixel:
        a = value - predicted  # the bias matrices of eq. 2
        b = truth - share
        alignment = 2 * a * b / (a**2 + b**2 + _EPS)
        total += count * (alignment + 1) ** 2 / 4
    return total


DECLARED = (
    Metric(
        name="s_measure",
        header="S-measure",
        better=Better.HIGHER,
        decimals=3,
        range=(0, 1),
        from_soft_map=lambda pair: s_measure(pair.prediction, pair.reference),
    ),
    Metric(
        name="e_measure",
        header="E-measure",
        better=Better.HIGHER,
        decimals=3,
        range=(0, math.inf),  # n / (n - 1) at best, in an image of n pixels
        from_soft_map=lambda pair: e_measure(pair.prediction, pair.reference),
    ),
)


def _image_pair(
    prediction: npt.ArrayLike, reference: npt.ArrayLike
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.bool_]]:
    p = soft_map(prediction)
    g, _ = mask_pair(reference, reference)
    require_same_shape(p, g)
    if p.ndim != 2:
        raise ValueError(f"expected an image (rows, columns), got shape {p.shape}")
    return p, g


def _positives(
    p: npt.NDArray[np.float64], g: npt.NDArray[np.bool_]
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Return true and false positives at the thresholds k / 255 for k = 0 ... 255."""
    # 8-bit values are exact multiples of 1/255
    scaled = p * _HIGHEST_LEVEL + 1e-6
    levels = np.floor(scaled).astype(np.int64)
    tp = _at_least(levels[g])
    fp = _at_least(levels[~g])
    return tp, fp


def _at_least(levels: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Count the pixels at or above each level."""
    histogram = np.bincount(levels, minlength=_LEVELS)
    from_highest = np.cumsum(histogram[::-1])
    return from_highest[::-1]


def _object_score(values: npt.NDArray[np.float64]) -> float:
    """Return eq. 4, which is high where the values are near 1 and uniform."""
    mean = float(values.mean())
    deviation = 0.0
    if values.size > 1:
        deviation = float(values.std(ddof=1))
    denominator = mean**2 + 1 + deviation + _EPS
    return 2 * mean / denominator


def _region_score(p: npt.NDArray[np.float64], g: npt.NDArray[np.bool_]) -> float:
    """Return eq. 5: structural similarity of four blocks, weighted by their area.

    The reference's centroid divides the image into the blocks.
    """
    row, column = map(_centre, np.nonzero(g))
    upper, lower = slice(None, row), slice(row, None)
    left, right = slice(None, column), slice(column, None)

    score = 0.0
    for block in ((upper, left), (upper, right), (lower, left), (lower, right)):
        predicted = p[block]
        if predicted.size:
            truth = g[block].astype(np.float64)
            similarity = _similarity(predicted, truth)
            score += predicted.size / p.size * similarity
    return score


def _centre(indices: npt.NDArray[np.int64]) -> int:
    """Return the mean index, counted from 1, halves rounded up."""
    rounded = np.floor(indices.mean() + 1.5)
    return int(rounded)


def _similarity(x: npt.NDArray[np.float64], y: npt.NDArray[np.float64]) -> float:
    """Return the structural similarity without constants, on a whole block."""
    n = x.size - 1 + _EPS
    mean_x = float(x.mean())
    mean_y = float(y.mean())
    from_mean_x = x - mean_x
    from_mean_y = y - mean_y
    variance_x = float((from_mean_x**2).sum()) / n
    variance_y = float((from_mean_y**2).sum()) / n
    covariance = float((from_mean_x * from_mean_y).sum()) / n

    squared_means = mean_x**2 + mean_y**2
    variances = variance_x + variance_y
    numerator = 4 * mean_x * mean_y * covariance
    denominator = squared_means * variances
    if numerator:
        return numerator / (denominator + _EPS)
    return 0.0 if denominator else 1.0
