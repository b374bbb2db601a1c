"""The proportion loss: the predicted share of each class in an image should equal the true one.

Reference: Jin et al. 2022, "An efficient deep neural network framework for COVID-19 lung infection
segmentation", eq. 11; eq. 9 is its form with the Kullback-Leibler divergence.
"""

from typing import Literal, get_args

import torch

from nnunet_ext.losses.one_hot import one_hot_maps
from nnunet_ext.losses.precision import full_precision

Norm = Literal["l2", "l1", "kl"]


@full_precision
def proportion_loss(
    logits: torch.Tensor, target: torch.Tensor, norm: Norm = "l2", valid: torch.Tensor | None = None
) -> torch.Tensor:
    """Return the distance of the true and the mean predicted share of each class, per image.

    The background is one of the classes.

    Args:
        logits: ``[B, C, *spatial]``; their softmax gives the predicted probabilities.
        target: ``[B, *spatial]`` or ``[B, 1, *spatial]`` integers; any value at pixels that are not
            valid.
        norm: ``l2`` squares the differences and sums over the classes, ``l1`` sums their absolute
            values, ``kl`` is the divergence of the predicted shares from the true ones.
        valid: of the target's shape; pixels that are zero or False do not count. None: all pixels
            count.

    Returns:
        Scalar, at least 0: mean over the images that have a valid pixel; 0 without any.

    Raises:
        ValueError: unknown norm.

    (3/4 - 1/2)² + (1/4 - 1/2)²:

    >>> proportion_loss(torch.zeros(1, 2, 4), torch.tensor([[0, 0, 0, 1]]))
    tensor(0.1250)
    """
    probabilities = logits.softmax(dim=1)
    labels = _without_channel(target, logits)
    kept = torch.ones_like(labels, dtype=torch.bool)
    if valid is not None:
        kept = _without_channel(valid, logits).bool()

    classes = logits.shape[1]
    known_labels = torch.where(kept, labels, 0)
    truth = one_hot_maps(known_labels, classes)

    true_shares = _shares(truth, kept)
    predicted_shares = _shares(probabilities, kept)
    return _distance(true_shares, predicted_shares, norm, kept)


@full_precision
def region_proportion_loss(
    logits: torch.Tensor, target: torch.Tensor, norm: Norm = "l2", valid: torch.Tensor | None = None
) -> torch.Tensor:
    """Return the proportion loss of regions, which may overlap.

    Each region is a problem of two classes, inside and outside, by the sigmoid of its logit.

    Args:
        logits: ``[B, R, *spatial]``.
        target: ``[B, R, *spatial]`` of zeros and ones.
        norm: as in :func:`proportion_loss`.
        valid: ``[B, *spatial]`` or ``[B, 1, *spatial]``, as in :func:`proportion_loss`.

    Returns:
        Scalar, at least 0.

    Raises:
        ValueError: unknown norm.
    """
    one_region = logits[:, 0]
    kept = torch.ones_like(one_region, dtype=torch.bool)
    if valid is not None:
        kept = _without_channel(valid, logits).bool()

    probabilities = logits.sigmoid()
    inside = _shares(target, kept)
    predicted_inside = _shares(probabilities, kept)

    has_kept_pixels = kept.flatten(1).any(dim=1, keepdim=True)
    outside = torch.where(has_kept_pixels, 1 - inside, 0.0)
    predicted_outside = torch.where(has_kept_pixels, 1 - predicted_inside, 0.0)

    true_shares = torch.cat((inside, outside), dim=1)
    predicted_shares = torch.cat((predicted_inside, predicted_outside), dim=1)
    return _distance(true_shares, predicted_shares, norm, kept)


def _without_channel(tensor: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
    has_channel = tensor.ndim == logits.ndim
    return tensor[:, 0] if has_channel else tensor


def _shares(maps: torch.Tensor, kept: torch.Tensor) -> torch.Tensor:
    """Return the mean ``[B, C]`` of ``[B, C, *spatial]`` over the kept pixels ``[B, *spatial]``.

    It is 0 where no pixel is kept.
    """
    mask = kept.flatten(1)[:, None]
    values = maps.flatten(2)
    counted = torch.where(mask, values, 0)
    pixels = mask.sum(dim=2)
    return counted.sum(dim=2) / pixels.clamp_min(1)


def _distance(
    true: torch.Tensor, predicted: torch.Tensor, norm: Norm, kept: torch.Tensor
) -> torch.Tensor:
    """Return the distance of shares ``[B, C]``, as a mean over the images that have kept pixels."""
    if norm == "l2":
        per_class = (true - predicted).square()
    elif norm == "l1":
        per_class = (true - predicted).abs()
    elif norm == "kl":
        smallest = torch.finfo(predicted.dtype).tiny
        positive = predicted.clamp_min(smallest)
        per_class = torch.xlogy(true, true) - torch.xlogy(true, positive)
    else:
        norms = ", ".join(get_args(Norm))
        raise ValueError(f"norm must be one of {norms}, not {norm!r}")

    has_kept_pixels = kept.flatten(1).any(dim=1)
    images = has_kept_pixels.sum()
    return per_class.sum() / images.clamp_min(1)
