import math
import warnings

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from nnunet_ext.evaluation.report.statistics import (
    CONSTANT,
    METHOD,
    TOO_FEW,
    compare_paired,
    holm,
    mean_with_interval,
)

SKEWED = 1 - np.random.default_rng(3).beta(1, 6, size=40)


def test_interval_holds_the_mean_and_is_reproducible() -> None:
    result = mean_with_interval(SKEWED)
    assert result.mean == pytest.approx(SKEWED.sum() / 40)
    assert result.low < result.mean < result.high
    assert result.interval == METHOD
    assert result == mean_with_interval(SKEWED)
    assert result != mean_with_interval(SKEWED, seed=1)


def test_interval_is_close_to_the_t_interval_for_normal_values() -> None:
    values = np.random.default_rng(0).normal(0.8, 0.1, size=200)
    half = (
        1.972 * values.std(ddof=1) / math.sqrt(200)
    )  # 97.5 % quantile of Student's t with 199 degrees of freedom
    result = mean_with_interval(values)
    assert result.low == pytest.approx(values.mean() - half, abs=0.1 * half)
    assert result.high == pytest.approx(values.mean() + half, abs=0.1 * half)


def test_interval_covers_the_true_mean_about_95_times_in_100() -> None:
    rng = np.random.default_rng(0)
    hits = 0
    for _ in range(200):
        result = mean_with_interval(rng.uniform(size=30), resamples=499)
        hits += result.low <= 0.5 <= result.high
    assert 180 <= hits <= 199  # 190 expected, standard deviation 3


def test_undefined_cases_are_left_out_and_counted() -> None:
    result = mean_with_interval([*SKEWED, math.nan, math.nan])
    assert (result.n, result.n_undefined) == (40, 2)
    assert result.mean == mean_with_interval(SKEWED).mean


@pytest.mark.parametrize(
    ("values", "mean", "n", "reason"),
    [
        ([], math.nan, 0, TOO_FEW),
        ([math.nan, math.nan], math.nan, 0, TOO_FEW),
        ([0.7], 0.7, 1, TOO_FEW),
        ([0.7, math.nan], 0.7, 1, TOO_FEW),
        ([0.7, 0.7, 0.7], 0.7, 3, CONSTANT),
    ],
)
def test_no_interval_where_resampling_says_nothing(
    values: list[float], mean: float, n: int, reason: str
) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        result = mean_with_interval(values)
    assert result.mean == pytest.approx(mean, nan_ok=True)
    assert (result.n, result.n_undefined, result.interval) == (n, len(values) - n, reason)
    assert math.isnan(result.low) and math.isnan(result.high)


@pytest.mark.parametrize("values", [[0.0, 1.0], [1.0] * 19 + [0.9], [0.5, 0.6, 0.7]])
def test_few_or_nearly_constant_values_give_an_ordered_interval(values: list[float]) -> None:
    result = mean_with_interval(values)
    assert min(values) <= result.low <= result.mean <= result.high <= max(values)


def test_one_value_per_case_is_demanded() -> None:
    with pytest.raises(ValueError, match="one value per case"):
        mean_with_interval([[0.1, 0.2]])


def test_standard_deviation_is_of_the_sample() -> None:
    assert mean_with_interval([0.2, 0.4, math.nan]).sd == pytest.approx(math.sqrt(2 * 0.1**2))


def test_paired_t_test_by_hand() -> None:
    """Differences 1, 2, 3: t = 2 / (1 / sqrt(3)); two-sided p for 2 degrees of freedom is 1 - t /
    sqrt(t^2 + 2).
    """
    result = compare_paired([1, 2, 3, 5], [0, 0, 0, math.nan])
    t = 2 * math.sqrt(3)
    assert (result.n, result.mean_difference, result.cohen_dz) == (3, 2.0, 2.0)
    assert result.t_p == pytest.approx(1 - t / math.sqrt(t**2 + 2))
    assert result.wilcoxon_p == pytest.approx(
        2 / 2**3
    )  # of the 8 patterns of signs, + + + and - - - are as extreme


def test_tests_between_methods_agree_with_scipy() -> None:
    rng = np.random.default_rng(1)
    a = rng.uniform(size=25)
    b = a + rng.normal(0.05, 0.1, size=25)
    result = compare_paired(a, b)
    assert result.t_p == pytest.approx(scipy.stats.ttest_rel(a, b).pvalue)
    assert result.wilcoxon_p == pytest.approx(scipy.stats.wilcoxon(a, b).pvalue)
    turned = compare_paired(b, a)
    assert (turned.t_p, turned.cohen_dz) == (
        pytest.approx(result.t_p),
        pytest.approx(-result.cohen_dz),
    )


def test_differences_without_spread() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        same = compare_paired([0.5, 0.7], [0.5, 0.7])
        shifted = compare_paired([0.5] * 6, [0.25] * 6)
        single = compare_paired([0.5], [0.7])
    assert (same.t_p, same.wilcoxon_p, same.cohen_dz) == (1, 1, 0)
    assert math.isnan(shifted.t_p) and math.isnan(shifted.cohen_dz) and shifted.wilcoxon_p < 0.05
    assert single.n == 1 and math.isnan(single.wilcoxon_p)
    with pytest.raises(ValueError, match="one value per case and method"):
        compare_paired([1, 2], [1])


@settings(max_examples=60)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
def test_holm_equals_the_sequential_procedure(p: list[float]) -> None:
    """Rejected at level alpha iff all with smaller p are, and p * (number not yet rejected) <=
    alpha.
    """
    corrected = holm(p)
    order = sorted(range(len(p)), key=lambda i: p[i])
    for alpha in (0.01, 0.05, 0.3, 0.9):
        rejected = set()
        for position, i in enumerate(order):
            if p[i] * (len(p) - position) > alpha:
                break
            rejected.add(i)
        assert {i for i in range(len(p)) if corrected[i] <= alpha} == rejected


def test_holm_ignores_tests_that_were_not_possible() -> None:
    np.testing.assert_allclose(holm([0.04, math.nan, 0.01]), [0.04, math.nan, 0.02])
