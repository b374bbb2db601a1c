import math
import warnings

import numpy as np
import pytest

from nnunet_ext.evaluation.statistics import CONSTANT, METHOD, TOO_FEW, mean_with_interval

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
    half = 1.972 * values.std(ddof=1) / math.sqrt(200)  # 97.5 % quantile of Student's t with 199 degrees of freedom
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
def test_no_interval_where_resampling_says_nothing(values: list[float], mean: float, n: int, reason: str) -> None:
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
