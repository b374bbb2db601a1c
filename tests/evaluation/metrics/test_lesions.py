"""Lesion-wise metrics: hand-worked cases, another labeller with sets; panoptica if installed."""

import math

import cc3d
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import ndimage

from nnunet_ext.evaluation.metrics import lesions
from nnunet_ext.evaluation.metrics.declarations import METRICS
from nnunet_ext.evaluation.metrics.metric import MaskPair

MASKS = hnp.arrays(bool, st.tuples(*[st.integers(1, 7)] * 3)) | hnp.arrays(
    bool, st.tuples(*[st.integers(1, 12)] * 2)
)


def boxes(*corners: tuple[slice, slice]) -> np.ndarray:
    mask = np.zeros((20, 20), bool)
    for corner in corners:
        mask[corner] = True
    return mask


def sets_of_voxels(mask: np.ndarray) -> list[set[int]]:
    """The lesions, by another library, as sets of voxel numbers."""
    connectivity = 26 if mask.ndim == 3 else 8
    numbers = cc3d.connected_components(mask.astype(np.uint8), connectivity=connectivity)
    flat = numbers.ravel()
    return [set(np.flatnonzero(flat == number)) for number in range(1, int(flat.max()) + 1)]


@pytest.fixture
def four_lesions() -> lesions.LesionOverlaps:
    """Four reference lesions: one hit well, one barely, two missed; one false alarm.

    Sizes in pixels: 16 (12 of them found, nothing else), 16 (1 found by a lesion of 4), 4, 4.
    """
    reference = boxes(
        (slice(0, 4), slice(0, 4)),
        (slice(0, 4), slice(8, 12)),
        (slice(10, 12), slice(0, 2)),
        (slice(10, 12), slice(8, 10)),
    )
    prediction = boxes(
        (slice(0, 3), slice(0, 4)),
        (slice(3, 5), slice(11, 13)),
        (slice(16, 18), slice(16, 18)),
    )
    return lesions.lesion_overlaps(prediction, reference)


def test_hand_worked_case(four_lesions: lesions.LesionOverlaps) -> None:
    assert lesions.lesion_sensitivity(four_lesions) == 2 / 4
    assert lesions.lesion_precision(four_lesions) == 2 / 3
    assert lesions.lesion_f1(four_lesions) == 2 * 2 / (2 * 2 + 1 + 2)
    assert lesions.false_positive_lesions(four_lesions) == 1
    # One match of IoU 12 / 16; two predicted and three reference lesions without one.
    assert lesions.panoptic_quality(four_lesions) == pytest.approx(0.75 / (1 + 2 / 2 + 3 / 2))


def test_a_match_must_exceed_half() -> None:
    reference = boxes((slice(0, 2), slice(0, 4)))
    half = lesions.lesion_overlaps(boxes((slice(0, 2), slice(0, 2))), reference)
    more = lesions.lesion_overlaps(boxes((slice(0, 2), slice(0, 3))), reference)
    assert lesions.panoptic_quality(half) == 0
    assert lesions.panoptic_quality(more) == 0.75


def test_lesions_that_touch_at_a_corner_are_one() -> None:
    corner = boxes((slice(0, 2), slice(0, 2)), (slice(2, 4), slice(2, 4)))
    assert len(lesions.lesion_overlaps(corner, corner).reference_sizes) == 1


def test_empty_masks() -> None:
    empty = np.zeros((3, 4, 5), bool)
    full = ~empty
    nothing = lesions.lesion_overlaps(empty, empty)
    false_alarm = lesions.lesion_overlaps(full, empty)
    missed = lesions.lesion_overlaps(empty, full)

    assert math.isnan(lesions.lesion_f1(nothing))
    assert math.isnan(lesions.panoptic_quality(nothing))
    assert math.isnan(lesions.lesion_sensitivity(false_alarm))
    assert math.isnan(lesions.lesion_precision(missed))
    assert lesions.lesion_sensitivity(missed) == 0
    assert lesions.lesion_f1(false_alarm) == 0
    assert lesions.panoptic_quality(missed) == 0
    assert lesions.false_positive_lesions(false_alarm) == 1
    assert lesions.false_positive_lesions(missed) == 0


def test_classes_of_volume() -> None:
    """Voxels of 50 mm3: lesions of 0.05, 0.1 and 1 ml, of which the last two are detected."""
    reference = np.zeros((5, 9, 30), bool)
    reference[0, 0, 0] = True
    reference[0, 4, 0:2] = True
    reference[0, 8, 0:20] = True
    prediction = reference.copy()
    prediction[0, 0, 0] = False
    pair = MaskPair(prediction, reference, (5.0, 2.0, 5.0), 3.0)

    by_class = [METRICS[f"{size}_lesion_sensitivity"] for size in ("small", "medium", "large")]
    assert [metric.from_masks(pair) for metric in by_class if metric.from_masks] == [0, 1, 1]


def test_slices_have_no_volume() -> None:
    mask = boxes((slice(0, 4), slice(0, 4)))
    metric = METRICS["small_lesion_sensitivity"]
    assert metric.from_masks
    assert math.isnan(metric.from_masks(MaskPair(mask, mask, (1.0, 1.0), 3.0)))


@settings(max_examples=60)
@given(MASKS, st.integers(0, 2**32 - 1))
def test_against_sets_of_voxels(reference: np.ndarray, seed: int) -> None:
    prediction = reference ^ (np.random.default_rng(seed).random(reference.shape) < 0.3)
    overlaps = lesions.lesion_overlaps(prediction, reference)
    true = sets_of_voxels(reference)
    predicted = sets_of_voxels(prediction)

    detected = sum(any(lesion & other for other in predicted) for lesion in true)
    false = sum(not any(lesion & other for other in true) for lesion in predicted)
    assert overlaps.detected.sum() == detected
    assert lesions.false_positive_lesions(overlaps) == false

    quality = 0.0
    for lesion in true:
        for other in predicted:
            iou = len(lesion & other) / len(lesion | other)
            quality += iou if iou > 0.5 else 0
    if true or predicted:
        expected = quality / ((len(true) + len(predicted)) / 2)
        assert lesions.panoptic_quality(overlaps) == pytest.approx(expected)


def test_lesions_of_files_without_spacing_have_no_volume() -> None:
    mask = np.ones((2, 2, 2), bool)
    small = METRICS["small_lesion_sensitivity"]
    assert small.from_masks is not None
    assert small.from_masks(MaskPair(mask, mask, (1, 1, 1), 3.0)) == 1
    without = MaskPair(mask, mask, (1, 1, 1), 3.0, has_spacing=False)
    assert math.isnan(small.from_masks(without))


@pytest.mark.parametrize("seed", range(4))
def test_agreement_with_panoptica(seed: int) -> None:
    """Numbers of lesions and panoptic quality, matched at an overlap above one half."""
    panoptica = pytest.importorskip("panoptica")
    generator = np.random.default_rng(seed)
    smooth = ndimage.gaussian_filter(generator.standard_normal((16, 48, 48)), 2)
    error = ndimage.gaussian_filter(generator.standard_normal(smooth.shape), 2)
    reference = smooth > np.quantile(smooth, 0.9)
    disturbed = smooth + 0.5 * error
    prediction = disturbed > np.quantile(disturbed, 0.9)

    evaluator = panoptica.Panoptica_Evaluator(
        expected_input=panoptica.InputType.SEMANTIC,
        instance_approximator=panoptica.ConnectedComponentsInstanceApproximator(),
        instance_matcher=panoptica.NaiveThresholdMatching(matching_threshold=0.5 + 1e-7),
    )
    theirs = evaluator.evaluate(
        prediction.astype(np.uint8), reference.astype(np.uint8), verbose=False
    )["ungrouped"]
    ours = lesions.lesion_overlaps(prediction, reference)
    assert len(ours.reference_sizes) == theirs.n_ref_instances
    assert len(ours.predicted_sizes) == theirs.n_pred_instances
    assert lesions.panoptic_quality(ours) == pytest.approx(theirs.pq)
