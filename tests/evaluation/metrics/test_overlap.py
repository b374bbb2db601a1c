import math
from collections.abc import Callable

import numpy as np
import pytest
import sklearn.metrics
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from nnunetv2.evaluation.evaluate_predictions import compute_tp_fp_fn_tn

from nnunet_ext.evaluation.metrics.declarations import metrics_from_counts
from nnunet_ext.evaluation.metrics.metric import EMPTY_POLICIES, ConfusionCounts
from nnunet_ext.evaluation.metrics.overlap import (
    COUNT_METRICS,
    confusion_counts,
    dice,
    jaccard,
    mae,
    precision,
    rvd,
    sensitivity,
    specificity,
    voe,
)

FRACTIONS: dict[str, Callable[..., float]] = {
    "dice": dice,
    "sensitivity": sensitivity,
    "specificity": specificity,
    "precision": precision,
    "jaccard": jaccard,
    "voe": voe,
}


@st.composite
def mask_pairs(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    shape = draw(hnp.array_shapes(min_dims=1, max_dims=3, max_side=5))
    return draw(hnp.arrays(bool, shape)), draw(hnp.arrays(bool, shape))


def counts_by_loop(prediction: np.ndarray, reference: np.ndarray) -> ConfusionCounts:
    tp = fp = fn = tn = 0
    for p, g in zip(prediction.ravel(), reference.ravel(), strict=True):
        if p and g:
            tp += 1
        elif p:
            fp += 1
        elif g:
            fn += 1
        else:
            tn += 1
    return ConfusionCounts(tp, fp, fn, tn)


def test_half_overlap() -> None:
    """Two bars of 4 voxels that share 2, in an image of 4 x 4."""
    prediction, reference = np.zeros((4, 4)), np.zeros((4, 4))
    prediction[0:2, 0:2] = 1
    reference[1:3, 0:2] = 1
    assert dice(prediction, reference) == 2 * 2 / (4 + 4)
    assert sensitivity(prediction, reference) == 2 / 4
    assert precision(prediction, reference) == 2 / 4
    assert specificity(prediction, reference) == (16 - 6) / (16 - 4)
    assert mae(prediction, reference) == 4 / 16


def test_one_voxel_in_a_volume() -> None:
    reference = np.zeros((3, 4, 5), dtype=np.uint8)
    reference[1, 2, 3] = 1
    everything = np.ones_like(reference)
    assert dice(everything, reference) == 2 * 1 / (60 + 1)
    assert sensitivity(everything, reference) == 1
    assert precision(everything, reference) == 1 / 60
    assert specificity(everything, reference) == 0
    assert dice(reference, reference) == 1


@pytest.mark.parametrize("empty", EMPTY_POLICIES)
@pytest.mark.parametrize(
    ("name", "prediction", "reference"),
    [
        ("dice", 0, 0),
        ("sensitivity", 0, 0),
        ("sensitivity", 1, 0),
        ("precision", 0, 1),
        ("specificity", 0, 1),
    ],
)
def test_the_policy_decides_about_a_zero_denominator(
    name: str, prediction: int, reference: int, empty: str
) -> None:
    value = FRACTIONS[name](np.full((2, 2), prediction), np.full((2, 2), reference), empty=empty)
    assert math.isnan(value) if empty == "nan" else value == {"one": 1, "zero": 0}[empty]


@pytest.mark.parametrize("empty", EMPTY_POLICIES)
def test_the_policy_changes_nothing_else(empty: str) -> None:
    full, nothing = np.ones((2, 2)), np.zeros((2, 2))
    assert dice(full, nothing, empty=empty) == 0  # false alarm: 0 / 4
    assert dice(nothing, full, empty=empty) == 0  # everything missed: 0 / 4
    assert sensitivity(nothing, full, empty=empty) == 0
    assert precision(full, nothing, empty=empty) == 0
    assert specificity(nothing, nothing, empty=empty) == 1


def test_unknown_policy_names_the_valid_ones() -> None:
    with pytest.raises(ValueError, match="nan, one, zero"):
        dice([1], [1], empty="legacy")


@settings(max_examples=60)
@given(mask_pairs())
def test_counts_equal_a_loop_and_nnunet(masks: tuple[np.ndarray, np.ndarray]) -> None:
    prediction, reference = masks
    counts = confusion_counts(prediction, reference)
    assert counts == counts_by_loop(prediction, reference)
    assert counts == tuple(compute_tp_fp_fn_tn(reference, prediction))


@settings(max_examples=60)
@given(mask_pairs())
def test_fractions_equal_sklearn(masks: tuple[np.ndarray, np.ndarray]) -> None:
    p, g = (m.ravel() for m in masks)
    assert dice(p, g, empty="zero") == pytest.approx(
        sklearn.metrics.f1_score(g, p, zero_division=0)
    )
    assert sensitivity(p, g, empty="one") == pytest.approx(
        sklearn.metrics.recall_score(g, p, zero_division=1)
    )
    assert precision(p, g, empty="zero") == pytest.approx(
        sklearn.metrics.precision_score(g, p, zero_division=0)
    )
    specificity_expected = sklearn.metrics.recall_score(~g, ~p, zero_division=0)
    assert specificity(p, g, empty="zero") == pytest.approx(specificity_expected)
    assert mae(p, g) == pytest.approx(
        sklearn.metrics.mean_absolute_error(g.astype(float), p.astype(float))
    )


@settings(max_examples=60)
@given(mask_pairs(), st.sampled_from(EMPTY_POLICIES))
def test_symmetries_and_ranges(masks: tuple[np.ndarray, np.ndarray], empty: str) -> None:
    p, g = masks
    np.testing.assert_equal(dice(p, g, empty=empty), dice(g, p, empty=empty))
    np.testing.assert_equal(sensitivity(p, g, empty=empty), precision(g, p, empty=empty))
    np.testing.assert_equal(specificity(p, g, empty=empty), sensitivity(~p, ~g, empty=empty))
    assert mae(p, g) == mae(g, p) == mae(~p, g ^ True)
    for metric in FRACTIONS.values():
        value = metric(p, g, empty=empty)
        assert math.isnan(value) or 0 <= value <= 1


@settings(max_examples=60)
@given(mask_pairs(), st.sampled_from(EMPTY_POLICIES))
def test_metrics_from_counts_equal_the_functions(
    masks: tuple[np.ndarray, np.ndarray], empty: str
) -> None:
    values = metrics_from_counts(confusion_counts(*masks), empty=empty)
    assert tuple(values) == COUNT_METRICS
    for name, metric in FRACTIONS.items():
        np.testing.assert_equal(values[name], metric(*masks, empty=empty))
    assert values["mae"] == pytest.approx(mae(*masks))


def test_dice_is_the_harmonic_mean_of_sensitivity_and_precision() -> None:
    p, g = np.array([1, 1, 1, 0, 0, 0]), np.array([0, 1, 1, 1, 1, 0])
    assert dice(p, g) == pytest.approx(2 / (1 / sensitivity(p, g) + 1 / precision(p, g)))


@pytest.mark.parametrize(
    ("counts", "expected"),
    [((0, 0, 0, 9), 0), ((0, 3, 0, 6), 0), ((0, 0, 3, 6), 0), ((2, 1, 3, 4), 4 / 8)],
)
@pytest.mark.parametrize("empty", EMPTY_POLICIES)
def test_dice_of_hits_counts_every_case(
    counts: tuple[int, int, int, int], expected: float, empty: str
) -> None:
    assert metrics_from_counts(ConfusionCounts(*counts), empty=empty)["dice_hits"] == expected


def test_mae_of_soft_maps() -> None:
    assert mae([[0.25, 1.0]], [[1, 1]]) == 0.75 / 2


def test_without_voxels_the_mae_is_undefined_under_every_policy() -> None:
    assert math.isnan(metrics_from_counts(ConfusionCounts(0, 0, 0, 0), empty="one")["mae"])


@pytest.mark.parametrize("metric", [*FRACTIONS.values(), mae, confusion_counts])
def test_shape_mismatch(metric: Callable[..., float]) -> None:
    with pytest.raises(ValueError, match=r"shapes differ: prediction \(4,\), reference \(2, 2\)"):
        metric(np.zeros(4), np.zeros((2, 2)))


@pytest.mark.parametrize("wrong", [255, 0.5, -1, math.nan])
def test_masks_hold_0_and_1_only(wrong: float) -> None:
    with pytest.raises(ValueError, match="reference is not a mask"):
        dice([0.0, 1.0], [0, wrong])


@pytest.mark.parametrize("wrong", [255, -0.1, math.nan])
def test_mae_refuses_values_outside_0_to_1(wrong: float) -> None:
    with pytest.raises(ValueError, match=r"prediction holds values outside \[0, 1\]"):
        mae([wrong, 0], [1, 0])


def test_mae_refuses_empty_arrays() -> None:
    with pytest.raises(ValueError, match="no elements"):
        mae([], [])


@settings(max_examples=60)
@given(mask_pairs(), st.sampled_from(EMPTY_POLICIES))
def test_identities_of_overlap(masks: tuple[np.ndarray, np.ndarray], empty: str) -> None:
    """VOE = 1 - Jaccard, Jaccard = Dice / (2 - Dice), and RVD from the volumes; under every
    policy.
    """
    j = jaccard(*masks, empty=empty)
    np.testing.assert_allclose(voe(*masks, empty=empty), 1 - j, atol=1e-12)
    d = dice(*masks, empty=empty)
    np.testing.assert_allclose(j, d / (2 - d), atol=1e-12)
    prediction, reference = (int(mask.sum()) for mask in masks)
    if reference:
        assert rvd(*masks, empty=empty) == pytest.approx(prediction / reference - 1)


@pytest.mark.parametrize(
    ("empty", "overlap", "volume"), [("nan", math.nan, math.nan), ("one", 0, 0), ("zero", 1, 1)]
)
def test_errors_of_empty_masks_are_perfect_or_failed(
    empty: str, overlap: float, volume: float
) -> None:
    nothing = np.zeros((2, 2))
    np.testing.assert_equal(voe(nothing, nothing, empty=empty), overlap)
    np.testing.assert_equal(rvd(nothing, nothing, empty=empty), volume)


@pytest.mark.parametrize("empty", EMPTY_POLICIES)
def test_volume_against_an_empty_reference_has_no_relative_difference(empty: str) -> None:
    assert math.isnan(rvd(np.ones((2, 2)), np.zeros((2, 2)), empty=empty))


def test_smoothed_dice() -> None:
    assert metrics_from_counts(ConfusionCounts(0, 0, 0, 9))["dice_smooth1"] == 1
    assert metrics_from_counts(ConfusionCounts(2, 1, 3, 9))["dice_smooth1"] == (2 * 2 + 1) / (
        2 * 2 + 1 + 3 + 1
    )
