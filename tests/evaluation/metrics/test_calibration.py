import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nnunet_ext.evaluation.metrics.calibration import (
    BINS,
    bin_counts,
    brier_score,
    expected_calibration_error,
    pooled_reliability,
    possible_ece,
)
from nnunet_ext.evaluation.metrics.metric import ProbabilityPair


def pair_of(probabilities: list[float], truth: list[int]) -> ProbabilityPair:
    return ProbabilityPair(np.array(probabilities, np.float32), np.array(truth, bool))


def random_pair(seed: int, size: int = 200) -> ProbabilityPair:
    generator = np.random.default_rng(seed)
    return ProbabilityPair(
        generator.random(size, dtype=np.float32), generator.random(size) < generator.random()
    )


def test_worked_by_hand() -> None:
    """Bins of 1/15: 0.91 and 0.92 share one, of which half is true; 0.1 is alone and false."""
    pair = pair_of([0.91, 0.92, 0.1], [1, 0, 0])
    expected = (2 * abs(0.915 - 0.5) + abs(0.1 - 0)) / 3
    assert expected_calibration_error(pair) == pytest.approx(expected, abs=1e-6)
    assert brier_score(pair) == pytest.approx((0.09**2 + 0.92**2 + 0.1**2) / 3, abs=1e-6)


def test_background_beyond_doubt_hides_the_error_of_the_rest() -> None:
    pair = pair_of([0.0] * 98 + [0.9, 0.9], [0] * 100)
    assert expected_calibration_error(pair) == pytest.approx(0.018, abs=1e-6)
    assert possible_ece(pair) == pytest.approx(0.9, abs=1e-6)
    assert math.isnan(possible_ece(pair_of([0.0, 0.001], [0, 1])))


def test_certain_and_right_is_perfect() -> None:
    pair = pair_of([0, 1, 1], [0, 1, 1])
    assert (brier_score(pair), expected_calibration_error(pair), possible_ece(pair)) == (0, 0, 0)


@settings(max_examples=30)
@given(st.integers(0, 2**32 - 1))
def test_against_a_loop_over_bins(seed: int) -> None:
    pair = random_pair(seed)
    error = 0.0
    for number in range(BINS):
        low = number / BINS
        high = (number + 1) / BINS
        probabilities = pair.prediction.astype(np.float64)
        inside = (probabilities >= low) & (probabilities < high)
        if inside.any():
            gap = probabilities[inside].mean() - pair.reference[inside].mean()
            error += abs(gap) * inside.sum() / len(inside)
    assert expected_calibration_error(pair) == pytest.approx(error)


def test_probabilities_that_are_drawn_from_are_calibrated() -> None:
    generator = np.random.default_rng(0)
    probabilities = generator.random(400_000, dtype=np.float32)
    truth = generator.random(400_000) < probabilities
    assert expected_calibration_error(ProbabilityPair(probabilities, truth)) < 0.005


def test_bins_of_cases_add_up_to_those_of_all_voxels() -> None:
    first = random_pair(1)
    second = random_pair(2)
    both = ProbabilityPair(
        np.concatenate((first.prediction, second.prediction)),
        np.concatenate((first.reference, second.reference)),
    )
    pooled = pooled_reliability([bin_counts(first), bin_counts(second)])
    assert pooled.error == pytest.approx(expected_calibration_error(both))
