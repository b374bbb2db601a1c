"""Means over seeds and cases with bootstrap intervals over both, and what follows from them."""

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from nnunet_ext.evaluation.report.statistics import CONFIDENCE_LEVEL, RESAMPLES, SEED

Scores = npt.NDArray[np.float64]
"""``(seeds, cases)``: one number per trained network and test case, NaN where it is undefined."""


def mean_score(scores: Scores) -> float:
    """Return the mean over cases of a network, then over networks; undefined cases are left out."""
    seeds, cases = scores.shape
    once_each = _means(scores, np.ones((1, seeds)), np.ones((1, cases)))
    return float(np.nanmean(once_each))


def resampled_means(
    rows: Mapping[str, Scores], *, resamples: int = RESAMPLES, seed: int = SEED
) -> dict[str, npt.NDArray[np.float64]]:
    """Draw seeds and cases with replacement many times, and take each row's mean.

    A hierarchical bootstrap of crossed factors: all networks of a row predict the same cases. In
    one resample all rows get the same cases, so that their differences are paired; each row draws
    its own seeds.

    Args:
        rows: scores by row; all on the same cases in the same order.
        resamples: number of draws.
        seed: of the draws.

    Returns:
        ``(resamples,)`` means by row; position i of every row belongs to the same drawn cases.

    Reference: Owen 2007, The pigeonhole bootstrap; Davison and Hinkley 1997, section 3.8.
    """
    generator = np.random.default_rng(seed)
    cases = next(iter(rows.values())).shape[1]
    of_cases = generator.multinomial(cases, np.full(cases, 1 / cases), size=resamples)
    means = {}
    for name, scores in rows.items():
        seeds = len(scores)
        of_seeds = generator.multinomial(seeds, np.full(seeds, 1 / seeds), size=resamples)
        means[name] = _means(scores, of_seeds, of_cases)
    return means


def _means(scores: Scores, of_seeds: npt.NDArray, of_cases: npt.NDArray) -> npt.NDArray[np.float64]:
    """Return means weighted by how often each seed and case was drawn.

    These are ``(resamples, seeds)`` and ``(resamples, cases)``.
    """
    defined = ~np.isnan(scores)
    of_network = of_cases @ np.where(defined, scores, 0).T
    counts = of_cases @ defined.T
    with np.errstate(invalid="ignore", divide="ignore"):
        network_means = of_network / counts
    drawn = of_seeds * (counts > 0)
    total = (drawn * np.nan_to_num(network_means)).sum(axis=1)
    with np.errstate(invalid="ignore"):
        return total / drawn.sum(axis=1)


def interval(values: npt.NDArray[np.float64]) -> tuple[float, float]:
    """Return the percentile interval of resampled numbers; undefined ones are left out."""
    finite = values[np.isfinite(values)]
    if not len(finite):
        return float("nan"), float("nan")
    tail = 100 * (1 - CONFIDENCE_LEVEL) / 2
    low, high = np.percentile(finite, (tail, 100 - tail))
    return float(low), float(high)


def share_of_gap(
    value: npt.NDArray[np.float64], lower: npt.NDArray[np.float64], upper: npt.NDArray[np.float64]
) -> npt.NDArray[np.float64]:
    """Return (value - lower) / (upper - lower): 0 is the lower row, 1 the upper one.

    NaN where there is no gap.
    """
    gap = np.asarray(upper, dtype=np.float64) - lower
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(gap == 0, np.nan, (value - lower) / gap)


def common_seeds(first: Sequence[int], second: Sequence[int]) -> list[int]:
    """Seeds that both rows were trained with."""
    return [seed for seed in first if seed in second]
