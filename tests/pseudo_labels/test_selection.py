"""Thresholds and rankings of pseudo-labels, by values that can be counted by hand."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from nnunet_ext.errors import InputError
from nnunet_ext.pseudo_labels.selection import (
    STEPS,
    best_share,
    class_means,
    class_thresholds,
    confidence_counts,
    confidence_of,
    kept_voxels,
)
from nnunet_ext.pseudo_labels.splitting import split_by_entropy

LABELS = np.array([[0, 0, 0, 0], [1, 1, 2, 0]])
CONFIDENCE = np.array([[60000, 50000, 40000, 30000], [45000, 41000, 25000, 20000]], np.uint16)


def test_confidence_is_the_probability_of_the_predicted_class() -> None:
    probabilities = np.array([[[0.7, 0.1]], [[0.2, 0.5]], [[0.1, 0.4]]])
    confidence = confidence_of(np.array([[0, 1]]), probabilities)
    assert confidence.dtype == np.uint16
    assert confidence.tolist() == [[round(0.7 * STEPS), round(0.5 * STEPS)]]


def test_every_foreground_class_keeps_its_own_most_confident_share() -> None:
    counts = confidence_counts(LABELS, CONFIDENCE, 3)
    assert counts.sum(axis=1).tolist() == [5, 2, 1]
    # ceil(0.4 * 2) = 1 voxel of class 1, ceil(0.4 * 1) = 1 of class 2; background from 40000 on
    thresholds = class_thresholds(counts, keep=0.4, background=40000 / STEPS)
    assert thresholds.tolist() == [40000, 45000, 25000]
    kept = kept_voxels(LABELS, CONFIDENCE, thresholds)
    assert kept.tolist() == [[True, True, True, False], [True, False, True, False]]


def test_all_voxels_are_kept_by_a_share_of_one() -> None:
    thresholds = class_thresholds(confidence_counts(LABELS, CONFIDENCE, 3), keep=1, background=0)
    assert thresholds.tolist() == [0, 41000, 25000]
    assert kept_voxels(LABELS, CONFIDENCE, thresholds).all()


def test_certain_background_does_not_cost_the_less_certain_one_its_label() -> None:
    """Most of a CT is air and table: a share of all background would leave only that."""
    confidence = np.array([STEPS] * 90 + [62000] * 10, np.uint16)
    labels = np.zeros(100, int)
    thresholds = class_thresholds(
        confidence_counts(labels, confidence, 2), keep=0.5, background=0.9
    )
    assert thresholds.tolist() == [math.ceil(0.9 * STEPS), 0]
    assert kept_voxels(labels, confidence, thresholds).all()


def test_voxels_of_equal_confidence_are_treated_alike() -> None:
    labels, confidence = np.ones(10, int), np.full(10, 7, np.uint16)
    thresholds = class_thresholds(confidence_counts(labels, confidence, 2), keep=0.1, background=0)
    assert kept_voxels(labels, confidence, thresholds).all()


@given(arrays(np.uint16, st.integers(1, 50)), st.floats(0.01, 1))
def test_the_threshold_is_the_highest_that_keeps_the_share(
    confidence: np.ndarray, keep: float
) -> None:
    counts = confidence_counts(np.ones(len(confidence), int), confidence, 2)
    _, threshold = class_thresholds(counts, keep, background=0)
    wanted = np.ceil(round(keep * len(confidence), 6))
    assert np.count_nonzero(confidence >= threshold) >= wanted
    assert np.count_nonzero(confidence > threshold) < wanted


def test_counts_of_cases_add_up() -> None:
    whole = confidence_counts(LABELS, CONFIDENCE, 3)
    parts = [
        confidence_counts(label, confidence, 3)
        for label, confidence in zip(LABELS, CONFIDENCE, strict=True)
    ]
    assert (sum(parts) == whole).all()


def test_mean_confidence_of_each_class() -> None:
    means = class_means(LABELS, CONFIDENCE, 4)
    expected = [200000 / 5 / STEPS, 86000 / 2 / STEPS, 25000 / STEPS, np.nan]
    np.testing.assert_allclose(means, expected, rtol=1e-12)


def test_the_best_share_is_ordered_and_never_empty() -> None:
    scores = {"c": 0.5, "a": 0.9, "b": 0.5, "d": 0.1}
    assert best_share(scores, 0.5) == ["a", "b"]
    assert best_share(scores, 0.01) == ["a"]
    assert best_share(scores, 1) == ["a", "b", "c", "d"]


def test_easy_cases_are_those_of_low_entropy() -> None:
    entropies = {"a": 0.30, "b": 0.10, "c": 0.20, "d": 0.10}
    assert split_by_entropy(entropies, 0.5) == (["b", "d"], ["c", "a"])
    assert split_by_entropy(entropies, 0.01) == (["b"], ["d", "c", "a"])
    assert split_by_entropy(entropies, 0.99) == (["b", "d", "c"], ["a"])
    with pytest.raises(InputError, match="cannot be split"):
        split_by_entropy({"a": 0.1}, 0.5)
