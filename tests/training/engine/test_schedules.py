"""Learning rates and weights over the iterations."""

import math

import pytest

from nnunet_ext.training.engine.schedules import (
    gaussian_rampup,
    linear_decay,
    one_step,
    per_epoch,
    polynomial,
    step_decay,
)


@pytest.mark.parametrize("squared", [True, False])
def test_rampup_end_points(squared: bool) -> None:
    assert gaussian_rampup(0, 100, squared=squared) == pytest.approx(0.1 * math.exp(-5))
    assert (
        gaussian_rampup(100, 100, squared=squared)
        == gaussian_rampup(250, 100, squared=squared)
        == 0.1
    )


def test_rampup_middle_values() -> None:
    assert gaussian_rampup(50, 100) == pytest.approx(
        0.1 * math.exp(-5 / 4)
    )  # 0.02865, methods: squared
    assert gaussian_rampup(50, 100, squared=False) == pytest.approx(
        0.1 * math.exp(-5 / 2)
    )  # 0.00821, as printed
    assert gaussian_rampup(50, 100, max_weight=2.0) == pytest.approx(2 * math.exp(-5 / 4))
    values = [gaussian_rampup(step, 20) for step in range(21)]
    assert values == sorted(values)


def test_rampup_needs_a_length() -> None:
    with pytest.raises(ValueError, match="at least 1"):
        gaussian_rampup(0, 0)


def test_schedules() -> None:
    assert [polynomial(4, 2.0)(i) for i in (0, 2, 4, 9)] == pytest.approx([1, 0.25, 0, 0])
    assert [linear_decay(2, 6)(i) for i in (0, 2, 3, 6, 9)] == pytest.approx([1, 1, 0.75, 0, 0])
    assert [per_epoch(polynomial(6, 1.0), 3)(i) for i in range(6)] == pytest.approx(
        [1, 1, 1, 0.5, 0.5, 0.5]
    )
    assert [step_decay(10, 0.8)(i) for i in (0, 9, 10, 25)] == pytest.approx([1, 1, 0.8, 0.8**2])


def test_one_step_falls_once() -> None:
    schedule = one_step(50, 0.1)
    assert [schedule(iteration) for iteration in (0, 49, 50, 500)] == [1, 1, 0.1, 0.1]
