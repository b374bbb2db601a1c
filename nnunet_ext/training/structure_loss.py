"""The structure losses on what nnU-Net delivers: labels or regions, ignored pixels, one or several
outputs.
"""

from typing import NamedTuple

import torch
from nnunetv2.utilities.label_handling.label_handling import LabelManager
from torch import nn
from torch.nn import functional

from nnunet_ext.losses.structure import (
    boundary_weight,
    legacy_unweighted_bce,
    weighted_bce,
    weighted_dice,
)
from nnunet_ext.networks.segmentation import Segmentation


def resized(images: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """Interpolate ``[B, C, H, W]`` bilinearly, corners on corners."""
    if images.shape[2:] == size:
        return images
    return functional.interpolate(images, size=size, mode="bilinear", align_corners=True)


class Masks(NamedTuple):
    """What a batch's outputs are compared with."""

    foreground: torch.Tensor  # [B, classes or regions, H, W] in [0, 1], the background left out
    counted: torch.Tensor  # [B, 1, H, W] in [0, 1]; 0 where nnU-Net's ignore label is

    def resized(self, size: tuple[int, int]) -> "Masks":
        """Both at another size; borders become soft."""
        return Masks(resized(self.foreground, size), resized(self.counted, size))


class StructureLoss(nn.Module):
    """Binary cross entropy plus Dice, weighed towards borders, of each foreground class or region
    against the rest.

    Args:
        labels: of the data set.
        gamma, count_padding: of :func:`boundary_weight`.
        unweighted_bce: :func:`legacy_unweighted_bce` in place of the weighted one.
    """

    def __init__(
        self, labels: LabelManager, gamma: float, count_padding: bool, unweighted_bce: bool
    ) -> None:
        super().__init__()
        self.regions = labels.has_regions
        self.foreground_labels = list(labels.foreground_labels)
        self.ignore_label = labels.ignore_label
        self.gamma, self.count_padding, self.unweighted_bce = gamma, count_padding, unweighted_bce

    def masks(self, target: torch.Tensor) -> Masks:
        """Turn nnU-Net's target, labels ``[B, 1, H, W]`` or regions ``[B, C, H, W]``, into
        masks.
        """
        ignores = self.ignore_label is not None
        if self.regions:
            foreground = target[:, :-1] if ignores else target
            ignored = (
                target[:, -1:].bool()
                if ignores
                else torch.zeros_like(target[:, :1], dtype=torch.bool)
            )
        else:
            foreground = torch.cat([target == label for label in self.foreground_labels], 1)
            ignored = (
                target == self.ignore_label
                if ignores
                else torch.zeros_like(target, dtype=torch.bool)
            )
        return Masks(foreground.float(), (~ignored).float())

    def foreground_logits(self, logits: torch.Tensor) -> torch.Tensor:
        """The network's logits without the background, relative to which they are."""
        return logits if self.regions else logits[:, 1:] - logits[:, :1]

    def terms(self, outputs: Segmentation, masks: Masks) -> tuple[torch.Tensor, torch.Tensor]:
        """Cross entropy and Dice, each the mean over the outputs (eq. 5 has the sum)."""
        weight = (
            boundary_weight(masks.foreground, gamma=self.gamma, count_padding=self.count_padding)
            * masks.counted
        )
        levels = outputs if isinstance(outputs, list) else [outputs]
        every_logits = [self.foreground_logits(level) for level in levels]

        if self.unweighted_bce:
            bces = [legacy_unweighted_bce(logits, masks.foreground) for logits in every_logits]
        else:
            bces = [weighted_bce(logits, masks.foreground, weight) for logits in every_logits]
        dices = [weighted_dice(logits, masks.foreground, weight) for logits in every_logits]
        return torch.stack(bces).mean(), torch.stack(dices).mean()

    def forward(self, outputs: Segmentation, target: torch.Tensor) -> torch.Tensor:
        """The sum of both terms; nnU-Net's validation loss."""
        bce, dice = self.terms(outputs, self.masks(target))
        return bce + dice
