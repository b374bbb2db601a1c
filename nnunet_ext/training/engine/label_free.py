"""Scores that judge a network on a domain without labels, to choose a checkpoint for it.

The labelled stream's validation Dice guards against two collapses that look good without labels: a
network that predicts only background, and one that ignores its input.
"""

import math

import torch

CHECKPOINT = "checkpoint_labelfree.pth"
TERMS = ("labelfree_entropy", "labelfree_agreement", "labelfree_source_dice", "labelfree_score")


def lesion_entropy(probabilities: torch.Tensor) -> torch.Tensor:
    """Return how unsure a network is about its foreground.

    This is the mean of the entropy, weighted by the foreground probability. The plain mean would
    measure the background, which fills most of a CT.

    Args:
        probabilities: ``[B, classes, *spatial]`` softmax, background first.

    Returns:
        Scalar in [0, 1]; 1 is complete indecision.
    """
    foreground = 1 - probabilities[:, 0]
    classes = probabilities.shape[1]
    largest_entropy = torch.log(torch.tensor(float(classes)))
    information = torch.special.entr(probabilities)
    entropy = information.sum(1) / largest_entropy

    weighted = foreground * entropy
    total = foreground.sum()
    smallest = torch.finfo(total.dtype).tiny
    return weighted.sum() / total.clamp_min(smallest)


def agreement(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """Return the foreground's soft Dice of two predictions, 2 Σ pq / (Σ p² + Σ q²).

    Args:
        first, second: ``[B, classes, *spatial]`` softmax, background first.

    Returns:
        Scalar in [0, 1]; 1 means equal.
    """
    p = first[:, 1:]
    q = second[:, 1:]
    common = p * q
    both = p.square() + q.square()
    total = both.sum()
    smallest = torch.finfo(total.dtype).tiny
    return 2 * common.sum() / total.clamp_min(smallest)


def combined_score(source_dice: float, entropy: float, agreement: float) -> float:
    """Return source Dice x agreement x (1 - entropy), in [0, 1].

    If one of the three is at its worst, the score is 0.
    """
    certainty = 1 - entropy
    return source_dice * agreement * certainty


def augmented_view(
    images: torch.Tensor, mirror_axes: tuple[int, ...]
) -> tuple[torch.Tensor, list[int]]:
    """Return images mirrored at random, with changed contrast and noise.

    The contrast is multiplied by 0.75 to 1.25; the standard deviation of the noise is at most 0.1
    (in z-scores).

    Args:
        images: ``[B, channels, *spatial]``.
        mirror_axes: spatial axes, counted from 0, that may be mirrored.

    Returns:
        The view and the flipped dimensions; flip its prediction along them to undo the mirroring.
    """
    coins = torch.rand(len(mirror_axes))
    contrast = float(torch.empty(1).uniform_(0.75, 1.25))
    noise_sd = 0.1 * float(torch.rand(1))

    flipped = []
    for axis, coin in zip(mirror_axes, coins, strict=True):
        if coin < 0.5:
            flipped.append(axis + 2)

    spatial = tuple(range(2, images.ndim))
    mean = images.mean(dim=spatial, keepdim=True)
    contrasted = (images - mean) * contrast + mean
    noise = noise_sd * torch.randn_like(images)
    view = contrasted + noise
    return view.flip(flipped), flipped


def is_best(scores: list[float]) -> bool:
    """Return whether the latest epoch's smoothed score is the highest.

    Scores are smoothed as nnU-Net smooths its pseudo Dice, with 0.9 of the past.

    Args:
        scores: one per epoch; NaN where it is unknown, which is never the best.
    """
    if not scores or math.isnan(scores[-1]):
        return False

    first, *others = [score for score in scores if not math.isnan(score)]
    smoothed = first
    earlier_best = -math.inf
    for score in others:
        earlier_best = max(earlier_best, smoothed)
        smoothed = 0.9 * smoothed + 0.1 * score
    return smoothed > earlier_best
