"""The bootstrap over seeds and cases against closed forms and plain loops."""

import math

import numpy as np
import pytest

from nnunet_ext.benchmark.seed_statistics import (
    RowScores,
    _means,
    interval,
    matched,
    mean_score,
    resampled_means,
    share_of_gap,
)

RNG = np.random.default_rng(4)
SEED_EFFECTS = RNG.normal(0, 0.03, 5)
CASE_EFFECTS = RNG.normal(0, 0.1, 20)
MANY = 40_000  # resamples: a variance is then known to 0.7 %


def test_additive_effects_add_their_variances() -> None:
    """x_sc = a_s + b_c: the variance of a resampled mean is var(a) / S + var(b) / C."""
    scores = 0.6 + SEED_EFFECTS[:, None] + CASE_EFFECTS[None, :]
    drawn = resampled_means([scores], resamples=MANY)[0]
    expected = SEED_EFFECTS.var() / 5 + CASE_EFFECTS.var() / 20
    assert drawn.var() == pytest.approx(expected, rel=0.04)
    assert drawn.mean() == pytest.approx(scores.mean(), abs=4 * math.sqrt(expected / MANY))


def test_interaction_alone_varies_with_its_squares() -> None:
    """E[W_s W_t] = delta_st + 1 - 1/S for the counts W of drawn seeds, likewise for cases.

    Where rows and columns of x sum to 0, only the deltas survive: var = sum x_sc^2 / (S C)^2.
    """
    noise = RNG.normal(0, 0.1, (5, 20))
    noise -= noise.mean(axis=0)
    noise -= noise.mean(axis=1, keepdims=True)
    drawn = resampled_means([noise], resamples=MANY)[0]
    assert drawn.var() == pytest.approx((noise**2).sum() / (5 * 20) ** 2, rel=0.04)


def test_one_seed_leaves_the_bootstrap_over_cases() -> None:
    drawn = resampled_means([CASE_EFFECTS[None]], resamples=MANY)[0]
    assert drawn.var() == pytest.approx(CASE_EFFECTS.var() / 20, rel=0.04)


def test_interval_is_that_of_the_normal_distribution() -> None:
    scores = RNG.normal(0.7, 0.1, (1, 2000))
    low, high = interval(resampled_means([scores], resamples=MANY)[0])
    half = 1.96 * scores[0].std() / math.sqrt(2000)
    assert low == pytest.approx(scores.mean() - half, abs=0.05 * half)
    assert high == pytest.approx(scores.mean() + half, abs=0.05 * half)


def test_rows_are_drawn_on_the_same_cases() -> None:
    """With one seed each, rows that differ by a constant differ by it in every resample."""
    a, b = resampled_means([CASE_EFFECTS[None] + 0.1, CASE_EFFECTS[None]], resamples=500)
    assert a - b == pytest.approx(np.full(500, 0.1))


def test_rows_are_drawn_on_the_same_seeds() -> None:
    """What a seed does to both rows, as its training cases do, is not part of their difference."""
    scores = np.repeat(SEED_EFFECTS[:, None], 20, axis=1)
    a, b = resampled_means([scores + 0.1, scores], resamples=500)
    assert a - b == pytest.approx(np.full(500, 0.1))


def test_only_common_seeds_and_cases_are_compared() -> None:
    """The rows have seeds 1 and 2 in common, and without case y for seed 2."""
    cases = ["x", "y"]
    first = RowScores([0, 1, 2], cases, np.array([[0.9, 0.9], [0.1, 0.2], [0.3, 0.4]]))
    second = RowScores([1, 2], cases, np.array([[0.5, 0.6], [0.7, np.nan]]))
    a, b = matched([first, second])
    np.testing.assert_array_equal(a, [[0.1, 0.2], [0.3, np.nan]])
    np.testing.assert_array_equal(b, [[0.5, 0.6], [0.7, np.nan]])


def test_means_equal_plain_loops_also_where_cases_are_undefined() -> None:
    scores = RNG.uniform(size=(3, 6))
    scores[0, 2] = scores[1, 2] = scores[1, 5] = np.nan
    of_seeds = RNG.multinomial(3, np.full(3, 1 / 3), size=50)
    of_cases = RNG.multinomial(6, np.full(6, 1 / 6), size=50)
    for number, (seeds, cases) in enumerate(zip(of_seeds, of_cases, strict=True)):
        networks = []
        for seed in np.repeat(np.arange(3), seeds):
            values = [scores[seed, case] for case in np.repeat(np.arange(6), cases)]
            networks.append(np.nanmean(values))
        assert _means(scores, of_seeds, of_cases)[number] == pytest.approx(np.mean(networks))


def test_equal_scores_have_no_spread() -> None:
    drawn = resampled_means([np.full((3, 4), 0.7)], resamples=100)[0]
    assert interval(drawn) == (pytest.approx(0.7), pytest.approx(0.7))
    assert mean_score(np.full((3, 4), 0.7)) == pytest.approx(0.7)


def test_nothing_defined_has_no_mean() -> None:
    drawn = resampled_means([np.full((2, 3), np.nan)], resamples=10)[0]
    assert np.isnan(drawn).all() and all(math.isnan(bound) for bound in interval(drawn))


def test_share_of_gap() -> None:
    lower, upper = np.array([0.4, 0.4, 0.5]), np.array([0.8, 0.8, 0.5])
    assert share_of_gap(np.array([0.4, 0.7, 0.6]), lower, upper)[:2].tolist() == pytest.approx(
        [0.0, 0.75]
    )
    assert math.isnan(share_of_gap(np.array([0.4, 0.7, 0.6]), lower, upper)[2])
