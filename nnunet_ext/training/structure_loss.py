"""The structure losses on what nnU-Net delivers.

These are labels or regions, ignored pixels, and one or several outputs.
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
    """Binary cross entropy plus Dice, weighted towards borders, of each class against the rest.

    A class is a foreground class or a region.

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
        self.gamma = gamma
        self.count_padding = count_padding
        self.unweighted_bce = unweighted_bce

    def masks(self, target: torch.Tensor) -> Masks:
        """Turn nnU-Net's target into masks.

        The target is labels ``[B, 1, H, W]`` or regions ``[B, C, H, W]``.
        """
        counted = torch.ones_like(target[:, :1], dtype=torch.float32)
        if self.regions:
            foreground = target
            if self.ignore_label is not None:
                foreground = target[:, :-1]
                counted = (~target[:, -1:].bool()).float()
            return Masks(foreground.float(), counted)

        foreground = torch.cat([target == label for label in self.foreground_labels], 1)
        if self.ignore_label is not None:
            counted = (target != self.ignore_label).float()
        return Masks(foreground.float(), counted)

    def foreground_logits(self, logits: torch.Tensor) -> torch.Tensor:
        """Return the logits of the foreground, relative to that of the background."""
        if self.regions:
            return logits
        return logits[:, 1:] - logits[:, :1]

    def terms(self, outputs: Segmentation, masks: Masks) -> tuple[torch.Tensor, torch.Tensor]:
        """Return cross entropy and Dice, each the mean over the outputs (eq. 5 has the sum)."""
        border = boundary_weight(
            masks.foreground, gamma=self.gamma, count_padding=self.count_padding
        )
        weight = border * masks.counted

        bces, dices = [], []
        for level in outputs if isinstance(outputs, list) else [outputs]:
            logits = self.foreground_logits(level)
            bces.append(self._bce(logits, masks.foreground, weight))
            dices.append(weighted_dice(logits, masks.foreground, weight))
        return torch.stack(bces).mean(), torch.stack(dices).mean()

    def _bce(
        self, logits: torch.Tensor, foreground: torch.Tensor, weight: torch.Tensor
    ) -> torch.Tensor:
        if self.unweighted_bce:
            return legacy_unweighted_bce(logits, foreground)
        return weighted_bce(logits, foreground, weight)

    def forward(self, outputs: Segmentation, target: torch.Tensor) -> torch.Tensor:
        """Return the sum of both terms, which is nnU-Net's validation loss."""
        bce, dice = self.terms(outputs, self.masks(target))
        return bce + dice
