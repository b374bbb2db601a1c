"""What a student learns from a teacher without labels, at confident pixels only.

A rejected pixel counts neither in the sum of a loss nor in its number of pixels; it is not
background. The caller computes the teacher's prediction without gradients.
"""

from collections.abc import Sequence

import torch
from torch.nn import functional

from nnunet_ext.losses.precision import full_precision


@full_precision
def confident(probabilities: torch.Tensor, threshold: float) -> torch.Tensor:
    """Return the mask of pixels whose likeliest class is more probable than ``threshold``.

    Args:
        probabilities: ``[B, C, *spatial]`` softmax of the teacher.
        threshold: in [0, 1); 0 keeps every pixel, 0.968 is DAFormer's.

    Returns:
        ``[B, *spatial]`` boolean.
    """
    return probabilities.amax(dim=1) > threshold


@full_precision
def pseudo_label_loss(
    logits: torch.Tensor, labels: torch.Tensor, kept: torch.Tensor
) -> torch.Tensor:
    """Return the cross entropy with a teacher's hard labels, averaged over the kept pixels.

    Args:
        logits: ``[B, C, *spatial]`` of the student.
        labels: ``[B, *spatial]`` integer, the teacher's likeliest classes.
        kept: ``[B, *spatial]`` boolean.

    Returns:
        Scalar, at least 0; 0 without gradient where no pixel is kept.

    Reference: Hoyer et al. 2022, "DAFormer", eq. 2-4, with the mask at each pixel instead of one
    weight per image.
    """
    per_pixel = _cross_entropy(logits, labels)
    return _mean_of_kept(per_pixel, kept)


@full_precision
def class_balanced_pseudo_label_loss(
    logits: torch.Tensor, labels: torch.Tensor, kept: torch.Tensor
) -> torch.Tensor:
    """Return this cross entropy, averaged over the kept pixels of each class, then over classes.

    A lesion of few pixels counts as much as the background around it. Classes without a kept pixel
    take no part.

    Args:
        logits: see :func:`pseudo_label_loss`.
        labels: likewise.
        kept: likewise.

    Returns:
        Scalar, at least 0; 0 without gradient where no pixel is kept.
    """
    per_pixel = _cross_entropy(logits, labels)
    total = per_pixel.new_zeros(())
    present = per_pixel.new_zeros(())
    for label in range(logits.shape[1]):
        of_class = kept & (labels == label)
        total = total + _mean_of_kept(per_pixel, of_class)
        present = present + of_class.any()
    return total / present.clamp_min(1)


@full_precision
def soft_consistency(
    logits: torch.Tensor, probabilities: torch.Tensor, kept: torch.Tensor
) -> torch.Tensor:
    """Return the mean squared difference of student and teacher softmax.

    The mean is over the classes and the kept pixels of the batch.

    Args:
        logits: ``[B, C, *spatial]`` of the student.
        probabilities: ``[B, C, *spatial]`` softmax of the teacher.
        kept: ``[B, *spatial]`` boolean.

    Returns:
        Scalar in [0, 2 / C]; 0 without gradient where no pixel is kept.

    Reference: Tarvainen & Valpola 2017, "Mean teachers are better role models", the MSE of their
    section 2; Perone et al. 2019 for segmentation.
    """
    student = logits.softmax(dim=1)
    difference = student - probabilities
    squared = difference.square()
    per_pixel = squared.mean(dim=1)
    return _mean_of_kept(per_pixel, kept)


def _cross_entropy(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Return that of each pixel, ``[B, *spatial]``."""
    target = labels.long()
    return functional.cross_entropy(logits, target, reduction="none")


def _mean_of_kept(per_pixel: torch.Tensor, kept: torch.Tensor) -> torch.Tensor:
    counted = torch.where(kept, per_pixel, 0.0)
    pixels = kept.sum()
    return counted.sum() / pixels.clamp_min(1)


def rare_class_weights(pixels: Sequence[float], temperature: float = 0.01) -> torch.Tensor:
    """Return the probability of drawing each class when a case is chosen by a class it contains.

    This is softmax((1 - f) / T) over the classes that occur, where f is the class frequency. A low
    temperature draws almost only rare classes, a high one all classes alike. A class that never
    occurs gets 0.

    Args:
        pixels: number of pixels of each class in the training set.
        temperature: T, above 0; 0.01 is DAFormer's.

    Returns:
        ``[C]`` float64, sum 1.

    Raises:
        ValueError: no pixel at all, or a temperature that is not positive.

    Reference: Hoyer et al. 2022, "DAFormer", eq. 5-6.
    """
    counts = torch.tensor(pixels, dtype=torch.float64)
    total = counts.sum()
    if total <= 0:
        raise ValueError("rare-class weights need at least one pixel")
    if temperature <= 0:
        raise ValueError(f"temperature must be above 0, not {temperature}")

    frequency = counts / total  # f
    score = (1 - frequency) / temperature
    is_absent = counts == 0
    score = score.masked_fill(is_absent, -torch.inf)
    return score.softmax(dim=0)
