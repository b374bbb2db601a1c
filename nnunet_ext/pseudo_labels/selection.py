"""Which predictions become labels: confident cases, and their confident voxels of every class.

Confidence is the probability of the predicted class, stored in steps of 1 / 65535. A quantile over
all voxels of a data set is thus exact and needs no more memory than a histogram.

Reference: Zou et al. 2018, "Unsupervised Domain Adaptation for Semantic Segmentation via
Class-Balanced Self-Training" (CBST), eq. 5 and algorithm 2: every class has its own threshold, so
that rare classes do not disappear. In contrast to the paper, the background's threshold is fixed.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

STEPS = 65535  # of a confidence of 1

Labels = npt.NDArray[np.integer[Any]]
Confidence = npt.NDArray[np.uint16]


def confidence_of(labels: Labels, probabilities: npt.NDArray[np.floating[Any]]) -> Confidence:
    """Return the probability of the predicted class in steps of 1 / 65535.

    Args:
        labels: ``(*spatial)``, predicted classes 0 .. C - 1.
        probabilities: ``(C, *spatial)`` in [0, 1].
    """
    channels = labels[None].astype(np.int64)
    of_predicted = np.take_along_axis(probabilities, channels, axis=0)
    steps = of_predicted[0] * STEPS
    whole_steps = np.rint(steps).clip(0, STEPS)
    return whole_steps.astype(np.uint16)


def confidence_counts(
    labels: Labels, confidence: Confidence, classes: int
) -> npt.NDArray[np.int64]:
    """Count the voxels of each predicted class by confidence.

    Returns:
        ``(classes, 65536)``; counts of several cases may be added.
    """
    width = STEPS + 1
    classes_of_voxels = labels.astype(np.int64).ravel()
    first_places = classes_of_voxels * width
    places = first_places + confidence.ravel()
    counts = np.bincount(places, minlength=classes * width)
    return counts.reshape(classes, width)


def class_thresholds(
    counts: npt.NDArray[np.int64], keep: float, background: float
) -> npt.NDArray[np.int64]:
    """Return the lowest confidence with which a voxel of each class keeps its label.

    For a foreground class this is the highest confidence that at least the share ``keep`` of its
    voxels reach: voxels of equal confidence are treated alike. The background's threshold is fixed:
    most of the background is far from any lesion and certain, so keeping a share of it would leave
    the whole organ without labels.

    Args:
        counts: of :func:`confidence_counts`, background first.
        keep: share of the voxels of every foreground class, above 0 and at most 1.
        background: least probability of background that stays background, in [0, 1].

    Returns:
        ``(classes,)`` in steps of 1 / 65535; 0 for a foreground class without voxels.
    """
    most_confident_first = counts[:, ::-1]
    reaching = most_confident_first.cumsum(axis=1)[:, ::-1]  # voxels of at least that confidence

    background_steps = round(background * STEPS, 6)
    thresholds = [math.ceil(background_steps)]
    for of_class in reaching[1:]:
        voxels = int(of_class[0])
        wanted = math.ceil(round(keep * voxels, 6))
        threshold = 0
        if wanted:
            reached = np.flatnonzero(of_class >= wanted)
            threshold = int(reached[-1])
        thresholds.append(threshold)
    return np.array(thresholds)


def kept_voxels(
    labels: Labels, confidence: Confidence, thresholds: npt.NDArray[np.int64]
) -> npt.NDArray[np.bool_]:
    """Return which voxels reach the threshold of their class; shapes ``(*spatial)``."""
    return confidence >= thresholds[labels]


def class_means(labels: Labels, confidence: Confidence, classes: int) -> npt.NDArray[np.float64]:
    """Return the mean confidence of each predicted class in [0, 1].

    It is NaN for a class that is not predicted.
    """
    classes_of_voxels = labels.ravel()
    totals = np.bincount(
        classes_of_voxels,
        weights=confidence.ravel(),
        minlength=classes,
    )
    voxels = np.bincount(classes_of_voxels, minlength=classes)
    means = np.full(classes, np.nan)
    np.divide(totals, STEPS * voxels, out=means, where=voxels > 0)
    return means


def best_share(scores: Mapping[str, float], share: float) -> list[str]:
    """Return the names with the highest scores: the given share of them, and at least one.

    Equal scores are ordered by name.

    >>> best_share({"a": 0.5, "b": 0.9, "c": 0.7}, 2 / 3)
    ['b', 'c']
    """

    def highest_first(name: str) -> tuple[float, str]:
        return -scores[name], name

    ordered = sorted(scores, key=highest_first)
    rounded = rounded_share(share, len(ordered))
    count = max(1, rounded)
    return ordered[:count]


def rounded_share(share: float, count: int) -> int:
    """Return the whole number nearest to a share of a number; halves are rounded up.

    >>> rounded_share(0.5, 3), rounded_share(0.67, 3)
    (2, 2)
    """
    exact = share * count
    return math.floor(exact + 0.5 + 1e-9)
