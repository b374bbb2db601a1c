"""Which predictions become labels: confident cases, and their confident voxels of every class.

Confidence is the probability of the predicted class, kept in steps of 1 / 65535 so that a quantile
over all voxels of a data set is exact and needs no more memory than a histogram.

Reference: Zou et al. 2018, "Unsupervised Domain Adaptation for Semantic Segmentation via
Class-Balanced Self-Training" (CBST), eq. 5 and algorithm 2: every class has a threshold of its own,
so that rare classes are not thresholded away. Unlike there, background has a fixed one.
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
    of_predicted = np.take_along_axis(probabilities, channels, axis=0)[0]
    steps = np.rint(of_predicted * STEPS).clip(0, STEPS)
    return steps.astype(np.uint16)


def confidence_counts(
    labels: Labels, confidence: Confidence, classes: int
) -> npt.NDArray[np.int64]:
    """Count the voxels of each predicted class by confidence.

    Returns:
        ``(classes, 65536)``; counts of several cases may be added.
    """
    width = STEPS + 1
    first_places = labels.astype(np.int64).ravel() * width
    places = first_places + confidence.ravel()
    counts = np.bincount(places, minlength=classes * width)
    return counts.reshape(classes, width)


def class_thresholds(
    counts: npt.NDArray[np.int64], keep: float, background: float
) -> npt.NDArray[np.int64]:
    """Return the confidence of each class from which on a voxel keeps its label.

    For a foreground class it is the highest one that at least the share ``keep`` of the class's
    voxels reach: voxels of equal confidence are treated alike. Background has a fixed one: most of
    it lies far from any lesion and is certain, so that a share of it would leave the whole organ
    without labels.

    Args:
        counts: of :func:`confidence_counts`, background first.
        keep: share of the voxels of every foreground class, above 0 and at most 1.
        background: least probability of background that stays background, in [0, 1].

    Returns:
        ``(classes,)`` in steps of 1 / 65535; 0 for a foreground class without voxels.
    """
    reaching = counts[:, ::-1].cumsum(axis=1)[:, ::-1]  # voxels of at least that confidence
    thresholds = [math.ceil(round(background * STEPS, 6))]
    for of_class in reaching[1:]:
        voxels = int(of_class[0])
        wanted = math.ceil(round(keep * voxels, 6))
        if not wanted:
            thresholds.append(0)
            continue
        reached = np.flatnonzero(of_class >= wanted)
        thresholds.append(int(reached[-1]))

    return np.array(thresholds)


def kept_voxels(
    labels: Labels, confidence: Confidence, thresholds: npt.NDArray[np.int64]
) -> npt.NDArray[np.bool_]:
    """Return which voxels reach their class's threshold; shapes ``(*spatial)``."""
    return confidence >= thresholds[labels]


def class_means(labels: Labels, confidence: Confidence, classes: int) -> npt.NDArray[np.float64]:
    """Return the mean confidence of each predicted class in [0, 1].

    It is NaN for a class that is not predicted.
    """
    places = labels.ravel()
    totals = np.bincount(places, weights=confidence.ravel(), minlength=classes)
    voxels = np.bincount(places, minlength=classes)
    means = np.full(classes, np.nan)
    np.divide(totals, STEPS * voxels, out=means, where=voxels > 0)
    return means


def best_share(scores: Mapping[str, float], share: float) -> list[str]:
    """Return the names with the highest scores: the given share of them, and at least one.

    Equal scores are ordered by name.

    >>> best_share({"a": 0.5, "b": 0.9, "c": 0.7}, 2 / 3)
    ['b', 'c']
    """
    ordered = sorted(scores, key=lambda name: (-scores[name], name))
    count = rounded_share(share, len(ordered))
    return ordered[: max(1, count)]


def rounded_share(share: float, count: int) -> int:
    """Return the whole number nearest to a share of a number; halves are rounded up.

    >>> rounded_share(0.5, 3), rounded_share(0.67, 3)
    (2, 2)
    """
    return math.floor(share * count + 0.5 + 1e-9)
