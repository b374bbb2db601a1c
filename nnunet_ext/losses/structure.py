"""Losses that weigh pixels near the border of a lesion more, one logit per class.

Reference: Liu et al. 2021, "COVID-19 lung infection segmentation with a novel two-stage
cross-domain transfer learning framework", eq. 6-8, with the weights of Wei et al. 2020, "F3Net".
docs/ncovsegnet.md says where both differ.
"""

import torch
from torch.nn import functional

from nnunet_ext.losses.precision import full_precision


@full_precision
def boundary_weight(
    target: torch.Tensor,
    window: int = 31,
    gamma: float = 5.0,
    count_padding: bool = False,
    counted: torch.Tensor | None = None,
) -> torch.Tensor:
    """Return the pixel weights of eq. 6-8, 1 + γ |mean of the target in a window - target|.

    Args:
        target: ``[B, C, H, W]`` in [0, 1], a mask per class.
        window: odd edge of the square window, in pixels.
        gamma: γ, 5 in F3Net and in the authors' code; 1 as the paper prints it.
        count_padding: pixels outside the image count as background, as in the authors' code. A mask
            that fills the image then has a border at the image's edge.
        counted: ``[B, 1, H, W]``, 0 at pixels that the means leave out, else 1; None: all count.

    Returns:
        ``[B, C, H, W]`` in [1, 1 + γ]; of no meaning at pixels that do not count.

    Reference: Liu et al. 2021, eq. 7.
    """
    if counted is None:
        mean = _window_mean(target, window, count_padding)
    else:
        counted_targets = _window_mean(target * counted, window, count_padding)
        left_out_share = _window_mean(1 - counted, window, count_padding)
        counted_share = 1 - left_out_share
        one_pixel = 1 / window**2
        mean = counted_targets / counted_share.clamp_min(one_pixel)
    difference = mean - target
    return 1 + gamma * difference.abs()


def _window_mean(maps: torch.Tensor, window: int, count_padding: bool) -> torch.Tensor:
    """Return the mean of ``[B, C, H, W]`` in the window around every pixel."""
    margin = window // 2
    # the mean over a rectangle is the mean of its rows' means, also where the image cuts it
    rows = functional.avg_pool2d(
        maps,
        kernel_size=(1, window),
        stride=1,
        padding=(0, margin),
        count_include_pad=count_padding,
    )
    return functional.avg_pool2d(
        rows,
        kernel_size=(window, 1),
        stride=1,
        padding=(margin, 0),
        count_include_pad=count_padding,
    )


@full_precision
def weighted_bce(logits: torch.Tensor, target: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """Return Σ w bce / Σ w of each image and channel, averaged over both.

    Args:
        logits: ``[B, C, H, W]``.
        target: of the same shape, in [0, 1].
        weight: at least 0, broadcast to their shape; 0 leaves a pixel out.

    Returns:
        Scalar, at least 0.

    Reference: Liu et al. 2021, eq. 6, with the weights' sum as denominator: the printed one is 0
    for an empty mask.
    """
    per_pixel = functional.binary_cross_entropy_with_logits(
        logits,
        target,
        reduction="none",
    )
    weight = weight.expand_as(per_pixel)
    total = weight.sum((2, 3))
    smallest = torch.finfo(total.dtype).tiny
    weighted = weight * per_pixel
    means = weighted.sum((2, 3)) / total.clamp_min(smallest)
    return means.mean()


@full_precision
def weighted_dice(logits: torch.Tensor, target: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """Return 1 - (2 I + 1) / (U + 1), averaged over images and channels.

    I = Σ w p g and U = Σ w (p + g).

    Args:
        logits: ``[B, C, H, W]``.
        target: of the same shape, in [0, 1].
        weight: at least 0, broadcast to their shape; 0 leaves a pixel out.

    Returns:
        Scalar in [0, 1]; 0 at a perfect prediction, also of an empty mask.

    Reference: Liu et al. 2021, eq. 8, as in the authors' code; the printed one is 1/3 at a perfect
    prediction.
    """
    probability = logits.sigmoid()
    common = weight * probability * target
    both = weight * (probability + target)
    intersection = common.sum((2, 3))  # I
    union = both.sum((2, 3))  # U
    dice = (2 * intersection + 1) / (union + 1)
    loss = 1 - dice
    return loss.mean()


@full_precision
def legacy_unweighted_bce(
    logits: torch.Tensor, target: torch.Tensor, counted: torch.Tensor
) -> torch.Tensor:
    """Return the plain mean of the binary cross entropy, which is what the authors' code computes.

    The code passes the deprecated ``reduce='none'``. PyTorch reads that as a mean, so the weights
    cancel.

    Args:
        logits: ``[B, C, H, W]``.
        target: of the same shape, in [0, 1].
        counted: 1, or 0 to leave a pixel out; broadcast to their shape.
    """
    per_pixel = functional.binary_cross_entropy_with_logits(
        logits,
        target,
        reduction="none",
    )
    counted = counted.expand_as(per_pixel)
    total = counted.sum().clamp_min(1)
    return (counted * per_pixel).sum() / total
