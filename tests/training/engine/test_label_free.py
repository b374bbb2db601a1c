"""Scores without labels: closed forms, collapses, and views that can be turned back."""

import itertools
import math

import pytest
import torch

from nnunet_ext.training.engine.label_free import (
    agreement,
    augmented_view,
    combined_score,
    is_best,
    lesion_entropy,
)


def softmax_of(foreground: torch.Tensor) -> torch.Tensor:
    return torch.stack((1 - foreground, foreground), 1)


def test_entropy_is_weighted_by_the_foreground() -> None:
    assert lesion_entropy(softmax_of(torch.full((1, 4), 0.5))).item() == pytest.approx(1)
    assert lesion_entropy(softmax_of(torch.tensor([[0.0, 1.0, 1.0]]))).item() == 0
    # background of p = 0 adds nothing, whatever its size
    sure, unsure = 0.9, 0.5
    h = -(sure * math.log2(sure) + 0.1 * math.log2(0.1))
    expected = (sure * h + unsure * 1) / (sure + unsure)
    for background in (0, 100):
        maps = torch.cat((torch.tensor([[sure, unsure]]), torch.zeros(1, background)), 1)
        assert lesion_entropy(softmax_of(maps)).item() == pytest.approx(expected)
    uniform = torch.full((2, 4, 3, 3), 0.25)
    assert lesion_entropy(uniform).item() == pytest.approx(1)
    assert lesion_entropy(softmax_of(torch.zeros(1, 4))).item() == 0


def test_agreement_is_one_only_for_equal_predictions() -> None:
    p, q = torch.tensor([[1.0, 1.0, 0.0]]), torch.tensor([[1.0, 0.0, 0.0]])
    assert agreement(softmax_of(p), softmax_of(p)).item() == 1
    assert agreement(softmax_of(p), softmax_of(q)).item() == pytest.approx(2 * 1 / 3)
    assert agreement(softmax_of(p), softmax_of(1 - p)).item() == 0


def test_a_collapse_is_rejected_by_one_factor() -> None:
    assert combined_score(0.0, 0.0, 1.0) == 0  # nothing but background, and sure of it
    assert combined_score(0.9, 1.0, 1.0) == 0  # unsure
    assert combined_score(0.9, 0.0, 0.0) == 0  # not stable
    assert combined_score(0.8, 0.25, 0.5) == pytest.approx(0.3)


@pytest.mark.parametrize("dimension", [2, 3])
def test_a_flip_at_the_returned_dimensions_undoes_the_view(dimension: int) -> None:
    torch.manual_seed(0)
    images = torch.randn(2, 1, *range(8, 8 + dimension)).cumsum(2)
    seen = set()
    for _ in range(30):
        view, flipped = augmented_view(images, tuple(range(dimension)))
        seen.add(tuple(flipped))
        back = view.flip(flipped)
        correlation = torch.corrcoef(torch.stack((back.flatten(), images.flatten())))[0, 1]
        assert correlation > 0.98 and not torch.equal(back, images)
    every = {
        subset
        for n in range(dimension + 1)
        for subset in itertools.combinations(range(2, 2 + dimension), n)
    }
    assert seen == every
    assert augmented_view(images, ())[1] == []


@pytest.mark.parametrize(
    ("scores", "best"),
    [
        ([], False),
        ([0.1], True),
        ([math.nan], False),
        ([0.1, 0.2], True),
        ([0.1, 0.1], False),
        ([0.5, 0.1, 0.6], False),  # smoothed: 0.5, 0.46, 0.474
        ([math.nan, 0.2], True),
        ([0.2, math.nan], False),
        ([0.2, math.nan, 0.3], True),
    ],
)
def test_best_is_the_highest_smoothed_score(scores: list[float], best: bool) -> None:
    assert is_best(scores) is best
