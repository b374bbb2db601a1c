"""Means over seeds and cases with bootstrap intervals over both, and what follows from them."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from nnunet_ext.evaluation.report.statistics import CONFIDENCE_LEVEL, RESAMPLES, SEED

Scores = npt.NDArray[np.float64]
"""``(seeds, cases)``: one number per trained network and test case, NaN where it is undefined."""


@dataclass(frozen=True)
class RowScores:
    """Scores ``(seeds, cases)`` of a row, with the names of both."""

    seeds: list[int]
    cases: list[str]
    values: Scores


def matched(rows: Sequence[RowScores]) -> list[Scores]:
    """Return the rows' scores of what all of them have, ``(common seeds, cases)``.

    A case that is undefined for one row and seed is undefined for all rows with that seed, so that
    a difference never compares other cases or other networks.

    Args:
        rows: all on the same cases in the same order.
    """
    seeds = _common_seeds(rows)
    scores = [row.values[_positions(row.seeds, seeds)] for row in rows]
    is_defined = ~np.isnan(scores).any(axis=0)
    return [np.where(is_defined, of_row, np.nan) for of_row in scores]


def _common_seeds(rows: Sequence[RowScores]) -> list[int]:
    common = set(rows[0].seeds)
    for row in rows[1:]:
        common &= set(row.seeds)
    return sorted(common)


def _positions(seeds: Sequence[int], chosen: Sequence[int]) -> list[int]:
    return [seeds.index(seed) for seed in chosen]


def mean_score(scores: Scores) -> float:
    """Return the mean over cases of a network, then over networks; undefined cases are left out."""
    seeds, cases = scores.shape
    each_seed_once = np.ones((1, seeds))
    each_case_once = np.ones((1, cases))
    means = _means(scores, each_seed_once, each_case_once)
    return float(means[0])


def resampled_means(
    rows: Sequence[Scores], *, resamples: int = RESAMPLES, seed: int = SEED
) -> list[npt.NDArray[np.float64]]:
    """Draw seeds and cases with replacement many times, and take each row's mean.

    A hierarchical bootstrap of crossed factors: all networks of a row predict the same cases. In
    one resample all rows get the same seeds and cases, so that their differences are paired: rows
    of one seed share training cases, a fold, or the model of a first stage.

    Args:
        rows: scores of one shape, see :func:`matched`.
        resamples: number of draws.
        seed: of the draws.

    Returns:
        ``(resamples,)`` means of each row; position i of all rows belongs to the same draw.

    Reference: Owen 2007, The pigeonhole bootstrap; Davison and Hinkley 1997, section 3.8.
    """
    generator = np.random.default_rng(seed)
    seeds, cases = rows[0].shape
    of_seeds = _drawn(seeds, resamples, generator)
    of_cases = _drawn(cases, resamples, generator)
    return [_means(scores, of_seeds, of_cases) for scores in rows]


def _drawn(count: int, resamples: int, generator: np.random.Generator) -> npt.NDArray:
    """Return how often each of ``count`` is drawn in ``count`` draws, ``(resamples, count)``."""
    equal = np.full(count, 1 / count)
    return generator.multinomial(count, equal, size=resamples)


def _means(scores: Scores, of_seeds: npt.NDArray, of_cases: npt.NDArray) -> npt.NDArray[np.float64]:
    """Return means weighted by how often each seed and case was drawn.

    These are ``(resamples, seeds)`` and ``(resamples, cases)``.
    """
    is_defined = ~np.isnan(scores)
    defined_or_zero = np.where(is_defined, scores, 0)
    of_network = of_cases @ defined_or_zero.T
    counts = of_cases @ is_defined.T
    with np.errstate(invalid="ignore", divide="ignore"):
        network_means = np.nan_to_num(of_network / counts)

    drawn = of_seeds * (counts > 0)
    total = (drawn * network_means).sum(axis=1)
    networks = drawn.sum(axis=1)
    with np.errstate(invalid="ignore"):
        return total / networks


def interval(values: npt.NDArray[np.float64]) -> tuple[float, float]:
    """Return the percentile interval of resampled numbers; undefined ones are left out."""
    is_defined = np.isfinite(values)
    finite = values[is_defined]
    if not len(finite):
        return float("nan"), float("nan")

    outside = 100 * (1 - CONFIDENCE_LEVEL)
    tail = outside / 2
    low, high = np.percentile(finite, (tail, 100 - tail))
    return float(low), float(high)


def share_of_gap(
    value: npt.NDArray[np.float64], lower: npt.NDArray[np.float64], upper: npt.NDArray[np.float64]
) -> npt.NDArray[np.float64]:
    """Return (value - lower) / (upper - lower): 0 is the lower row, 1 the upper one.

    NaN where there is no gap.
    """
    gap = np.asarray(upper, dtype=np.float64) - lower
    closed = value - lower
    with np.errstate(invalid="ignore", divide="ignore"):
        share = closed / gap
    return np.where(gap == 0, np.nan, share)
