import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from nnunet_ext.evaluation.metrics.declarations import METRICS
from nnunet_ext.evaluation.metrics.infnet import (
    INFNET_METRICS,
    e_measure,
    s_measure,
    stretched,
    threshold_averages,
)
from nnunet_ext.evaluation.metrics.overlap import mae

# From py_sod_metrics 1.6.2 (PyPI ``pysodmetrics``; Smeasure, mean of Emeasure's curve, MAE), a port
# of the MATLAB code by the measures' authors, on the images of `pair` below; the order of
# operations differs, hence the last digits.
GOLDEN = {
    "disc": (0.7362821471318571, 0.6838391945431941, 0.16183849884039636),
    "corner": (0.3962965881499344, 0.5567474435017821, 0.2566308243727598),
    "two": (0.43288467695650673, 0.409948395584257, 0.45206620282521615),
    "binary": (0.6789251350392903, 0.8712019805713622, 0.12634408602150538),
    "inverted": (0.0, 0.10591622753340435, 0.8381615011596035),
    "empty": (0.8038003373392368, 0.8017380972409153, 0.1961996626607632),
    "full": (0.1961996626607632, 0.19960779777927323, 0.8038003373392368),
}


def infnet_metrics(prediction: np.ndarray, reference: np.ndarray) -> dict[str, float]:
    image = stretched(prediction, reference)
    values = {}
    for name in INFNET_METRICS:
        compute = METRICS[name].from_soft_map
        assert compute is not None
        values[name] = compute(image)
    return values


def pair(name: str) -> tuple[np.ndarray, np.ndarray]:
    """A map of exact multiples of 1/255 that reaches 0 and 1, and a mask."""
    y, x = np.mgrid[0:24, 0:31]
    disc = (y - 10) ** 2 + (x - 12) ** 2 < 49
    soft = np.clip(1.2 - np.hypot(y - 12, x - 15) / 9, 0, 1)
    wave = np.clip(0.5 + 0.5 * np.sin(x / 3.0) * np.cos(y / 4.0), 0, 1)
    prediction = {"two": wave, "binary": (soft > 0.5) * 1.0, "inverted": 1 - soft}.get(name, soft)
    masks = {
        "corner": (y < 5) & (x < 9),
        "two": disc | ((y > 18) & (x > 22)),
        "empty": disc & False,
        "full": disc | True,
    }
    prediction = (prediction - prediction.min()) / (prediction.max() - prediction.min())
    return np.round(prediction * 255) / 255, masks.get(name, disc)


@pytest.mark.parametrize("name", GOLDEN)
def test_golden_values_of_the_reference_implementation(name: str) -> None:
    prediction, reference = pair(name)
    found = (
        s_measure(prediction, reference),
        e_measure(prediction, reference),
        mae(prediction, reference),
    )
    assert found == pytest.approx(GOLDEN[name], rel=1e-12, abs=1e-15)
    whole = infnet_metrics(prediction, reference)
    assert (whole["s_measure"], whole["e_measure"], whole["mae"]) == pytest.approx(
        found, rel=1e-12, abs=1e-15
    )


def averages_by_loop(prediction: np.ndarray, reference: np.ndarray) -> dict[str, float]:
    """Threshold by threshold, on integers, with the rule for no true positive."""
    sums = {"dice": 0.0, "sensitivity": 0.0, "specificity": 0.0}
    levels = np.round(prediction * 255).astype(int)
    for threshold in range(255, -1, -1):
        positive = levels >= threshold
        tp, fp = int((positive & reference).sum()), int((positive & ~reference).sum())
        fn, tn = int((~positive & reference).sum()), int((~positive & ~reference).sum())
        if tp:
            sums["dice"] += 2 * tp / (2 * tp + fp + fn)
            sums["sensitivity"] += tp / (tp + fn)
            sums["specificity"] += tn / (tn + fp) if tn + fp else 0.0
    return {name: total / 256 for name, total in sums.items()}


def e_measure_by_image(prediction: np.ndarray, reference: np.ndarray) -> float:
    """Fan et al. 2018, eq. 2-5, with whole images."""
    levels, g = np.round(prediction * 255).astype(int), reference.astype(float)
    scores = []
    for threshold in range(256):
        f = (levels >= threshold).astype(float)
        if not g.any():
            enhanced = 1 - f
        elif g.all():
            enhanced = f
        else:
            a, b = f - f.mean(), g - g.mean()
            enhanced = (2 * a * b / (a * a + b * b + np.finfo(float).eps) + 1) ** 2 / 4
        scores.append(enhanced.sum() / (g.size - 1))
    return float(np.mean(scores))


@settings(max_examples=40)
@given(hnp.arrays(np.uint8, (4, 5), elements=st.integers(0, 255)), hnp.arrays(bool, (4, 5)))
def test_counts_give_what_images_give(levels: np.ndarray, reference: np.ndarray) -> None:
    prediction = levels / 255
    assert threshold_averages(prediction, reference) == pytest.approx(
        averages_by_loop(prediction, reference)
    )
    assert e_measure(prediction, reference) == pytest.approx(
        e_measure_by_image(prediction, reference)
    )


def test_a_perfect_binary_mask_has_the_specificity_255_of_256() -> None:
    _, reference = pair("disc")
    metrics = infnet_metrics(reference, reference)
    assert metrics["specificity"] == 255 / 256 == pytest.approx(0.99609, abs=1e-5)
    assert metrics["sensitivity"] == 1 and metrics["mae"] == 0
    at_zero = 2 * reference.mean() / (1 + reference.mean())  # everything positive
    assert metrics["dice"] == pytest.approx((255 + at_zero) / 256)
    assert metrics["s_measure"] == pytest.approx(1)
    assert metrics["e_measure"] == pytest.approx(
        (255 + 0.25) / 256 * reference.size / (reference.size - 1)
    )


def test_a_missed_lesion_scores_zero() -> None:
    _, reference = pair("disc")
    metrics = infnet_metrics(np.zeros(reference.shape), reference)
    assert [metrics[name] for name in ("dice", "sensitivity", "specificity")] == [0, 0, 0]
    assert metrics["mae"] == reference.mean()


@pytest.mark.parametrize("constant", [0.0, 0.3, 1.0])
def test_a_constant_map_cannot_be_stretched(constant: float) -> None:
    metrics = infnet_metrics(np.full((6, 6), constant), np.eye(6))
    assert metrics["dice"] == 0 and all(math.isfinite(value) for value in metrics.values())


def test_maps_are_stretched() -> None:
    prediction, reference = pair("disc")
    weak = infnet_metrics(0.1 + 0.2 * prediction, reference)
    assert weak == pytest.approx(infnet_metrics(prediction, reference), rel=1e-12)


def test_one_pixel_lesion_and_one_pixel_image() -> None:
    reference = np.zeros((5, 7), bool)
    reference[0, 6] = True
    assert infnet_metrics(reference, reference)["s_measure"] == pytest.approx(1)
    assert math.isfinite(s_measure([[0.4]], [[1]])) and math.isfinite(
        s_measure(np.eye(2), np.eye(2))
    )


@pytest.mark.parametrize(
    ("prediction", "reference", "message"),
    [
        (np.zeros((2, 2, 2)), np.zeros((2, 2, 2)), "expected an image"),
        (np.zeros((2, 2)), np.zeros((2, 3)), "shapes differ"),
        (np.full((2, 2), 1.5), np.zeros((2, 2)), r"outside \[0, 1\]"),
        (np.zeros((2, 2)), np.full((2, 2), 255), "not a mask"),
    ],
)
def test_refusals(prediction: np.ndarray, reference: np.ndarray, message: str) -> None:
    for measure in (infnet_metrics, s_measure, e_measure):
        with pytest.raises(ValueError, match=message):
            measure(prediction, reference)
