"""Scores that judge a network on a domain without labels, to choose a checkpoint there.

No label of the unlabelled stream exists; the labelled stream's own validation Dice guards against
the two collapses that look good without labels: a network sure of nothing but background, and one
that ignores its input.
"""

import math

import torch

CHECKPOINT = "checkpoint_labelfree.pth"
TERMS = ("labelfree_entropy", "labelfree_agreement", "labelfree_source_dice", "labelfree_score")


def lesion_entropy(probabilities: torch.Tensor) -> torch.Tensor:
    """Return how unsure a network is about what it calls foreground.

    It is the entropy averaged with the foreground probability.

    The plain mean would measure background, which fills most of a CT.

    Args:
        probabilities: ``[B, classes, *spatial]`` softmax, background first.

    Returns:
        Scalar in [0, 1]; 1 is complete indecision.
    """
    foreground = 1 - probabilities[:, 0]
    classes = torch.tensor(float(probabilities.shape[1]))
    entropy = torch.special.entr(probabilities).sum(1) / torch.log(classes)

    smallest = torch.finfo(foreground.dtype).tiny
    return (foreground * entropy).sum() / foreground.sum().clamp_min(smallest)


def agreement(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """Return the foreground's soft Dice of two predictions, 2 Σ pq / (Σ p² + Σ q²).

    Args:
        first, second: ``[B, classes, *spatial]`` softmax, background first.

    Returns:
        Scalar in [0, 1]; 1 means equal.
    """
    p, q = first[:, 1:], second[:, 1:]
    total = (p.square() + q.square()).sum()
    return 2 * (p * q).sum() / total.clamp_min(torch.finfo(p.dtype).tiny)


def combined_score(source_dice: float, entropy: float, agreement: float) -> float:
    """Return source Dice x agreement x (1 - entropy), in [0, 1].

    One of the three at its worst is enough to reject.
    """
    return source_dice * agreement * (1 - entropy)


def augmented_view(
    images: torch.Tensor, mirror_axes: tuple[int, ...]
) -> tuple[torch.Tensor, list[int]]:
    """Return images mirrored at random, with other contrast and noise.

    The factor of contrast is 0.75 to 1.25, the standard deviation of the noise up to 0.1 (in
    z-scores).

    Args:
        images: ``[B, channels, *spatial]``.
        mirror_axes: spatial axes, counted from 0, that may be mirrored.

    Returns:
        The view and the dimensions that were flipped; flip a prediction of it there to undo them.
    """
    coins = torch.rand(len(mirror_axes))
    contrast = float(torch.empty(1).uniform_(0.75, 1.25))
    noise = float(torch.rand(1))
    flipped = [axis + 2 for axis, coin in zip(mirror_axes, coins, strict=True) if coin < 0.5]

    spatial = tuple(range(2, images.ndim))
    mean = images.mean(dim=spatial, keepdim=True)
    view = (images - mean) * contrast + mean + 0.1 * noise * torch.randn_like(images)
    return view.flip(flipped), flipped


def is_best(scores: list[float]) -> bool:
    """Return whether the latest epoch's smoothed score is the highest.

    Scores are smoothed as nnU-Net smooths its pseudo Dice, with 0.9 of the past.

    Args:
        scores: one per epoch; NaN where it is unknown, which is never the best.
    """
    if not scores or math.isnan(scores[-1]):
        return False

    known = [score for score in scores if not math.isnan(score)]
    smoothed = [known[0]]
    for score in known[1:]:
        smoothed.append(0.9 * smoothed[-1] + 0.1 * score)
    *earlier, latest = smoothed
    return latest > max(earlier, default=-math.inf)
