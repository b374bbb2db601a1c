"""Calibration of soft maps: of the voxels with probability 0.7, do 70 % hold the label?

The maps are nnU-Net's probabilities as they are. Most voxels of a CT are background that no network
doubts, so their sheer number makes every calibration error look small: `possible_ece` therefore
looks only at voxels whose probability is at least 1 %.

References: Brier 1950, "Verification of forecasts expressed in terms of probability"; Guo et al.
2017, "On calibration of modern neural networks", eq. 5.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from nnunet_ext.evaluation.metrics.metric import Better, Metric, ProbabilityPair

BINS = 15  # of equal width, as in Guo et al.
POSSIBLE_FROM = 0.01  # a voxel below it is background beyond doubt

_COUNTS = ("voxels", "probability", "positives")


@dataclass(frozen=True)
class Reliability:
    """Voxels by their probability, in `BINS` bins of equal width.

    Args:
        voxels: how many lie in each bin.
        probability: the sum of their probabilities.
        positives: how many of them hold the label.
    """

    voxels: npt.NDArray[np.float64]
    probability: npt.NDArray[np.float64]
    positives: npt.NDArray[np.float64]

    @property
    def error(self) -> float:
        """The expected calibration error, in [0, 1]; NaN without voxels."""
        total = self.voxels.sum()
        if not total:
            return float("nan")
        # |mean probability - frequency| of each bin, weighted by its share of the voxels
        return float(np.abs(self.probability - self.positives).sum() / total)


def reliability(
    prediction: npt.NDArray[np.float32], reference: npt.NDArray[np.bool_]
) -> Reliability:
    """Sort voxels into bins by their probability.

    Args:
        prediction: probabilities in [0, 1], any shape.
        reference: mask of the same shape.
    """
    probabilities = prediction.ravel().astype(np.float64)
    bins = np.minimum((probabilities * BINS).astype(np.int64), BINS - 1)
    truth = reference.ravel().astype(np.float64)
    return Reliability(
        voxels=_sum_by_bin(bins, np.ones_like(probabilities)),
        probability=_sum_by_bin(bins, probabilities),
        positives=_sum_by_bin(bins, truth),
    )


def _sum_by_bin(
    bins: npt.NDArray[np.int64], values: npt.NDArray[np.float64]
) -> npt.NDArray[np.float64]:
    return np.bincount(bins, weights=values, minlength=BINS).astype(np.float64)


def brier_score(pair: ProbabilityPair) -> float:
    """Return the mean squared difference between probability and truth."""
    difference = pair.prediction.astype(np.float64) - pair.reference
    return float(np.square(difference).mean())


def expected_calibration_error(pair: ProbabilityPair) -> float:
    """Return the mean over voxels of their bin's |mean probability - frequency|."""
    return pair.shared(_reliability_of).error


def possible_ece(pair: ProbabilityPair) -> float:
    """Return the calibration error of voxels with a probability of at least `POSSIBLE_FROM`.

    NaN if there is none. They are chosen by their probability alone, so that a calibrated map has
    an error of 0 here as well.
    """
    possible = pair.prediction >= POSSIBLE_FROM
    return reliability(pair.prediction[possible], pair.reference[possible]).error


def bin_counts(pair: ProbabilityPair) -> dict[str, float]:
    """Return the bins of a case as named numbers, which `pooled_reliability` adds up."""
    found = pair.shared(_reliability_of)
    counts = {}
    for name in _COUNTS:
        for number, value in enumerate(getattr(found, name)):
            counts[_bin_name(name, number)] = float(value)
    return counts


def pooled_reliability(cases: Iterable[Mapping[str, float]]) -> Reliability:
    """Return the bins of all voxels of several cases, from their `bin_counts`."""
    sums = {name: np.zeros(BINS) for name in _COUNTS}
    for counts in cases:
        for name, of_bins in sums.items():
            of_bins += [counts[_bin_name(name, number)] for number in range(BINS)]
    return Reliability(**sums)


def _bin_name(count: str, number: int) -> str:
    return f"bin_{number:02}_{count}"


def _reliability_of(pair: ProbabilityPair) -> Reliability:
    return reliability(pair.prediction, pair.reference)


DECLARED = (
    Metric(
        name="brier",
        header="Brier score",
        better=Better.LOWER,
        decimals=4,
        range=(0, 1),
        from_probabilities=brier_score,
    ),
    Metric(
        name="ece",
        header="ECE",
        better=Better.LOWER,
        decimals=4,
        range=(0, 1),
        from_probabilities=expected_calibration_error,
    ),
    Metric(
        name="possible_ece",
        header="ECE where p is at least 0.01",
        better=Better.LOWER,
        decimals=4,
        range=(0, 1),
        from_probabilities=possible_ece,
    ),
)

CALIBRATION_METRICS = tuple(metric.name for metric in DECLARED)
