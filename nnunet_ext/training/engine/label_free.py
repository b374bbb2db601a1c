"""Scores that judge a network on a domain without labels, to choose a checkpoint there.

No label of the unlabelled stream exists; the labelled stream's own validation Dice guards against
the two collapses that look good without labels: a network sure of nothing but background, and one
that ignores its input.
"""

import torch

CHECKPOINT = "checkpoint_labelfree.pth"
TERMS = ("labelfree_entropy", "labelfree_agreement", "labelfree_source_dice", "labelfree_score")


def lesion_entropy(probabilities: torch.Tensor) -> torch.Tensor:
    """How unsure a network is about what it calls foreground: entropy averaged with the foreground
    probability.

    The plain mean would measure background, which fills most of a CT.

    Args:
        probabilities: ``[B, classes, *spatial]`` softmax, background first.

    Returns:
        Scalar in [0, 1]; 1 is complete indecision.
    """
    foreground = 1 - probabilities[:, 0]
    entropy = torch.special.entr(probabilities).sum(1) / torch.log(
        torch.tensor(float(probabilities.shape[1]))
    )
    return (foreground * entropy).sum() / foreground.sum().clamp_min(
        torch.finfo(foreground.dtype).tiny
    )


def agreement(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """Soft Dice of the foreground in two predictions of the same images: 2 Σ pq / (Σ p² + Σ q²).

    Args:
        first, second: ``[B, classes, *spatial]`` softmax, background first.

    Returns:
        Scalar in [0, 1]; 1 means equal.
    """
    p, q = first[:, 1:], second[:, 1:]
    total = (p.square() + q.square()).sum()
    return 2 * (p * q).sum() / total.clamp_min(torch.finfo(p.dtype).tiny)


def combined_score(source_dice: float, entropy: float, agreement: float) -> float:
    """Source Dice x agreement x (1 - entropy), in [0, 1]: one of the three at its worst is enough
    to reject.
    """
    return source_dice * agreement * (1 - entropy)


def augmented_view(
    images: torch.Tensor, mirror_axes: tuple[int, ...]
) -> tuple[torch.Tensor, list[int]]:
    """Images mirrored at random, with other contrast (factor 0.75 to 1.25) and noise (sd up to 0.1,
    in z-scores).

    Args:
        images: ``[B, channels, *spatial]``.
        mirror_axes: spatial axes, counted from 0, that may be mirrored.

    Returns:
        The view and the dimensions that were flipped; flip a prediction of it there to undo them.
    """
    coins, contrast, noise = (
        torch.rand(len(mirror_axes)),
        float(torch.empty(1).uniform_(0.75, 1.25)),
        float(torch.rand(1)),
    )
    flipped = [axis + 2 for axis, coin in zip(mirror_axes, coins, strict=True) if coin < 0.5]
    mean = images.mean(dim=tuple(range(2, images.ndim)), keepdim=True)
    view = (images - mean) * contrast + mean + 0.1 * noise * torch.randn_like(images)
    return view.flip(flipped), flipped


def is_best(scores: list[float]) -> bool:
    """Whether the latest epoch's score, smoothed as nnU-Net smooths its pseudo Dice (0.9 of the
    past), is the highest.

    Args:
        scores: one per epoch; NaN where it could not be told, which never is the best.
    """
    smoothed, best, before = float("nan"), float("-inf"), float("-inf")
    for score in scores:
        if score == score:
            smoothed = score if smoothed != smoothed else 0.9 * smoothed + 0.1 * score
        before, best = best, max(best, smoothed) if score == score else best
    return bool(scores) and scores[-1] == scores[-1] and smoothed > before
