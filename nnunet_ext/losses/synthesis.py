"""What a translation between two modalities must preserve.

An image translated there and back should be the same again, and so should an image that is already
in the translator's domain. Every loss is a mean over batch, channels and positions.
"""

import torch
from torch.nn import functional

from nnunet_ext.losses.precision import full_precision

ENOUGH_CORRELATION = 0.5  # of an image and its translation; an inverted one has -0.2 to -0.6
SAME_VALUE = 1e-3  # of an image's range: what interpolation changes in a constant background


@full_precision
def cycle_loss(
    source: torch.Tensor,
    source_again: torch.Tensor,
    target: torch.Tensor,
    target_again: torch.Tensor,
) -> torch.Tensor:
    """Return the mean absolute difference between images and their translation there and back.

    The differences of both domains are added.

    Args:
        source: real images ``[B, channels, *spatial]``.
        source_again: the same, translated to the other domain and back.
        target: real images of the other domain.
        target_again: the same, there and back.

    Returns:
        Scalar, at least 0.

    Reference: Zhu et al. 2017, "Unpaired Image-to-Image Translation", eq. 2; Dong et al. (AMD-DAS),
    eq. 4.

    >>> zero, one = torch.zeros(1, 1, 2, 2), torch.ones(1, 1, 2, 2)
    >>> cycle_loss(zero, one, one, 4 * one)
    tensor(4.)
    """
    of_source = _distance(source_again, source)
    of_target = _distance(target_again, target)
    return of_source + of_target


@full_precision
def identity_loss(
    source: torch.Tensor,
    source_as_source: torch.Tensor,
    target: torch.Tensor,
    target_as_target: torch.Tensor,
) -> torch.Tensor:
    """Return the mean absolute change of images that a translator should leave as they are.

    The translator to the target domain gets a target image, and vice versa; the changes of both
    domains are added. It does not prevent a translation that inverts grey values.

    Args:
        source: real images ``[B, channels, *spatial]``.
        target: real images of the other domain.
        source_as_source: the source images, translated to the source domain.
        target_as_target: the target images, translated to the target domain.

    Returns:
        Scalar, at least 0.

    Reference: Zhu et al. 2017, section 5.2; not in Dong et al. (AMD-DAS), but in their code.
    """
    of_source = _distance(source_as_source, source)
    of_target = _distance(target_as_target, target)
    return of_source + of_target


@full_precision
def contrast_loss(
    source: torch.Tensor, synthetic: torch.Tensor, target: torch.Tensor, back: torch.Tensor
) -> torch.Tensor:
    """Return how far translations are from a contrast with the sign of their originals'.

    It is what the correlation of the grey values lacks to 0.5, as a mean over images; both
    directions are added. Scale and offset of the grey values do not matter. A higher correlation
    is not asked for, because it would make everything bright in CT that is bright in MR: the
    ideal pseudo-CT of the generated slices has 0.57. The background, the image's most frequent
    value, does not count: it would hide the contrast of the rest. The lowest value may be tissue.

    Args:
        source: real images ``[B, channels, *spatial]``.
        synthetic: the same, translated to the target domain.
        target: real images of the target domain.
        back: the same, translated to the source domain.

    Returns:
        Scalar in [0, 3]: 0 if the correlation of all images is 0.5 or more, 3 if all translations
        are negatives. A constant image counts as uncorrelated.

    Not in Dong et al. (AMD-DAS). Cycle and lesion loss are as small for an inverted translation as
    for the right one.
    """
    of_source = ENOUGH_CORRELATION - _correlation(source, synthetic)
    of_target = ENOUGH_CORRELATION - _correlation(target, back)
    return of_source.relu().mean() + of_target.relu().mean()


def _correlation(original: torch.Tensor, translated: torch.Tensor) -> torch.Tensor:
    """Return Pearson's correlation of each pair of images in the original's foreground, ``[B]``."""
    one = original.flatten(1)
    other = translated.flatten(1)
    background = one.mode(1, keepdim=True).values
    value_range = one.amax(1, keepdim=True) - one.amin(1, keepdim=True)
    foreground = (one - background).abs() > SAME_VALUE * value_range
    return functional.cosine_similarity(
        _centred(one, foreground),
        _centred(other, foreground),
        dim=1,
    )


def _centred(values: torch.Tensor, foreground: torch.Tensor) -> torch.Tensor:
    """Return ``[B, values]`` minus their mean over each image's foreground, 0 elsewhere."""
    count = foreground.sum(1, keepdim=True).clamp(min=1)
    inside = values * foreground
    mean = inside.sum(1, keepdim=True) / count
    return (values - mean) * foreground


@full_precision
def lesion_loss(on_synthetic: torch.Tensor, on_reconstructed: torch.Tensor) -> torch.Tensor:
    """Return the sum of the segmentation losses of a translated image and of it translated back.

    Args:
        on_synthetic: scalar, the loss of the segmenter of synthetic target images.
        on_reconstructed: scalar, that of the segmenter of reconstructed source images.

    Returns:
        Scalar. Only the translators use its gradient; the segmenters have their own losses.

    Reference: Dong et al. (AMD-DAS), eq. 5.
    """
    return on_synthetic + on_reconstructed


def _distance(one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    difference = one - other
    return difference.abs().mean()
