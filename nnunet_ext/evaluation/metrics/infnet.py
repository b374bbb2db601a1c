"""The metrics of Inf-Net's toolbox on soft maps of one image: averages over 256 thresholds,
S-measure, E-measure.

The tables of the relation-driven paper (2D) and of the VQ-VAE paper were made with it. Its numbers
differ from textbook ones by design: see :func:`threshold_averages`.
"""

import numpy as np
import numpy.typing as npt

from nnunet_ext.evaluation.metrics.arrays import mask_pair, require_same_shape, soft_map

INFNET_METRICS = ("dice", "sensitivity", "specificity", "s_measure", "e_measure", "mae")
_LEVELS = 256
_EPS = float(np.finfo(np.float64).eps)


def infnet_metrics(prediction: npt.ArrayLike, reference: npt.ArrayLike) -> dict[str, float]:
    """All of :data:`INFNET_METRICS` for one image, after stretching the map to [0, 1] and rounding
    it to 8 bits.

    A constant map cannot be stretched: it stays as it is, and counts as positive at no threshold.

    Args:
        prediction: soft map in [0, 1], shape (rows, columns).
        reference: mask of the same shape.

    Raises:
        ValueError: shapes differ or are not 2D, values outside [0, 1], or a reference that is no
            mask.

    Reference: Fan et al. 2020, "Inf-Net: automatic COVID-19 lung infection segmentation from CT
    images".
    """
    p, g = _image_pair(prediction, reference)
    low, high = float(p.min()), float(p.max())
    constant = high == low
    p = np.rint((p if constant else (p - low) / (high - low)) * (_LEVELS - 1)) / (_LEVELS - 1)
    averages = (
        dict.fromkeys(("dice", "sensitivity", "specificity"), 0.0)
        if constant
        else threshold_averages(p, g)
    )
    return averages | {
        "s_measure": s_measure(p, g),
        "e_measure": e_measure(p, g),
        "mae": float(np.abs(p - g).mean()),
    }


def threshold_averages(prediction: npt.ArrayLike, reference: npt.ArrayLike) -> dict[str, float]:
    """Dice, sensitivity and specificity, each averaged over the thresholds 0, 1/255, ..., 1 (map >=
    threshold).

    All three are 0 at a threshold without a true positive. At threshold 0 all is positive, so that
    a perfect binary mask has the specificity 255/256 = 0.99609, and an image with an empty
    reference has 0 everywhere.
    """
    p, g = _image_pair(prediction, reference)
    tp, fp = _positives(p, g)
    positives, voxels = int(g.sum()), g.size
    hit = tp > 0
    scores = {
        "dice": 2 * tp / np.maximum(tp + fp + positives, 1),
        "sensitivity": tp / max(positives, 1),
        "specificity": (voxels - positives - fp) / max(voxels - positives, 1),
    }
    return {name: float(np.where(hit, score, 0.0).mean()) for name, score in scores.items()}


def s_measure(prediction: npt.ArrayLike, reference: npt.ArrayLike) -> float:
    """Structure measure of a soft map in [0, 1] against a mask: half object-aware, half
    region-aware; in [0, 1].

    An empty reference gives 1 - mean(map), a full one mean(map). Arguments and errors as
    `infnet_metrics`.

    Reference: Fan et al. 2017, "Structure-measure: a new way to evaluate foreground maps", eq. 1-8,
    alpha = 0.5.
    """
    p, g = _image_pair(prediction, reference)
    share = float(g.mean())
    if share in (0.0, 1.0):
        return float(p.mean()) if share else 1.0 - float(p.mean())
    objects = share * _object_score(p[g]) + (1 - share) * _object_score(1 - p[~g])
    return max(0.0, 0.5 * objects + 0.5 * _region_score(p, g))


def e_measure(prediction: npt.ArrayLike, reference: npt.ArrayLike) -> float:
    """Enhanced-alignment measure, averaged over the thresholds 0, 1/255, ..., 1 of a soft map; from
    0, about 1 at best.

    The enhanced alignment of a pixel depends only on whether it is predicted and whether it is
    foreground, so four counts replace the image. An empty reference scores the share of negatives,
    a full one that of positives. Arguments and errors as `infnet_metrics`.

    Reference: Fan et al. 2018, "Enhanced-alignment measure for binary foreground map evaluation",
    eq. 2-5.
    """
    p, g = _image_pair(prediction, reference)
    tp, fp = _positives(p, g)
    positives, voxels = int(g.sum()), g.size
    if positives == 0:
        total = (voxels - fp).astype(np.float64)
    elif positives == voxels:
        total = tp.astype(np.float64)
    else:
        fn, tn = positives - tp, voxels - positives - fp
        predicted, share = (tp + fp) / voxels, positives / voxels
        total = np.zeros(_LEVELS)
        for count, value, truth in ((tp, 1, 1), (fp, 1, 0), (fn, 0, 1), (tn, 0, 0)):
            a, b = value - predicted, truth - share  # the bias matrices of eq. 2
            total += count * (2 * a * b / (a**2 + b**2 + _EPS) + 1) ** 2 / 4
    return float((total / (voxels - 1 + _EPS)).mean())


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
    """True and false positives at the thresholds k / 255 for k = 0 ... 255."""
    levels = np.floor(p * (_LEVELS - 1) + 1e-6).astype(
        np.int64
    )  # 8-bit values are exact multiples of 1/255
    histograms = (np.bincount(levels[part], minlength=_LEVELS) for part in (g, ~g))
    tp, fp = (np.cumsum(histogram[::-1])[::-1] for histogram in histograms)
    return tp, fp


def _object_score(values: npt.NDArray[np.float64]) -> float:
    """Eq. 4: high where the values are near 1 and uniform."""
    mean = float(values.mean())
    deviation = float(values.std(ddof=1)) if values.size > 1 else 0.0
    return 2 * mean / (mean**2 + 1 + deviation + _EPS)


def _region_score(p: npt.NDArray[np.float64], g: npt.NDArray[np.bool_]) -> float:
    """Eq. 5: structural similarity of the four blocks around the reference's centroid, weighted by
    their area.
    """
    row, column = (
        int(np.floor(axis.mean() + 1.5)) for axis in np.nonzero(g)
    )  # counted from 1, halves up
    score = 0.0
    for rows in (slice(None, row), slice(row, None)):
        for columns in (slice(None, column), slice(column, None)):
            block = p[rows, columns]
            if block.size:
                score += (
                    block.size / p.size * _similarity(block, g[rows, columns].astype(np.float64))
                )
    return score


def _similarity(x: npt.NDArray[np.float64], y: npt.NDArray[np.float64]) -> float:
    """SSIM without constants, on a whole block."""
    mean_x, mean_y, n = float(x.mean()), float(y.mean()), x.size - 1 + _EPS
    variance_x, variance_y = (
        float(((x - mean_x) ** 2).sum()) / n,
        float(((y - mean_y) ** 2).sum()) / n,
    )
    covariance = float(((x - mean_x) * (y - mean_y)).sum()) / n
    numerator = 4 * mean_x * mean_y * covariance
    denominator = (mean_x**2 + mean_y**2) * (variance_x + variance_y)
    if numerator:
        return numerator / (denominator + _EPS)
    return 0.0 if denominator else 1.0
