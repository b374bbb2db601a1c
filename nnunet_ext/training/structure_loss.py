"""The structure losses on nnU-Net's data: labels or regions, ignored pixels, several outputs."""

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

ALMOST_ALL = 0.999  # of a resized pixel; 1 but for rounding


def resized(images: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """Interpolate ``[B, C, H, W]`` bilinearly, corners on corners."""
    if images.shape[2:] == size:
        return images
    return functional.interpolate(images, size=size, mode="bilinear", align_corners=True)


class Masks(NamedTuple):
    """The masks with which a batch's outputs are compared."""

    foreground: torch.Tensor  # [B, classes or regions, H, W] in [0, 1], without the background
    counted: torch.Tensor  # [B, 1, H, W]; 0 where nnU-Net's ignore label is, else 1

    def resized(self, size: tuple[int, int]) -> "Masks":
        """Return both at another size.

        Borders of the foreground become soft. A pixel counts if nothing ignored is mixed into it.
        """
        foreground = resized(self.foreground, size)
        counted_share = resized(self.counted, size)
        is_counted = counted_share > ALMOST_ALL
        return Masks(foreground, is_counted.float())


class StructureLoss(nn.Module):
    """Binary cross entropy plus Dice, weighted towards borders, of each class against the rest.

    A class is a foreground class or a region.

    Args:
        labels: of the data set.
        gamma, count_padding: of :func:`boundary_weight`.
        unweighted_bce: :func:`legacy_unweighted_bce` instead of the weighted one.
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
        one_channel = target[:, :1]
        counted = torch.ones_like(one_channel, dtype=torch.float32)
        if self.regions:
            foreground = target
            if self.ignore_label is not None:
                foreground = target[:, :-1]
                is_ignored = target[:, -1:].bool()
                counted = (~is_ignored).float()
            return Masks(foreground.float(), counted)

        classes = [target == label for label in self.foreground_labels]
        foreground = torch.cat(classes, 1)
        if self.ignore_label is not None:
            is_known = target != self.ignore_label
            counted = is_known.float()
        return Masks(foreground.float(), counted)

    def foreground_logits(self, logits: torch.Tensor) -> torch.Tensor:
        """Return the logits of the foreground relative to the logit of the background."""
        if self.regions:
            return logits
        background = logits[:, :1]
        foreground = logits[:, 1:]
        return foreground - background

    def terms(self, outputs: Segmentation, masks: Masks) -> tuple[torch.Tensor, torch.Tensor]:
        """Return cross entropy and Dice, each the mean over the outputs (eq. 5 has the sum)."""
        foreground = masks.foreground
        border = boundary_weight(
            foreground,
            gamma=self.gamma,
            count_padding=self.count_padding,
            counted=None if self.ignore_label is None else masks.counted,
        )
        weight = border * masks.counted

        levels = outputs if isinstance(outputs, list) else [outputs]
        bces = []
        dices = []
        for level in levels:
            logits = self.foreground_logits(level)
            if self.unweighted_bce:
                bce = legacy_unweighted_bce(logits, foreground, masks.counted)
            else:
                bce = weighted_bce(logits, foreground, weight)  # eq. 6
            dice = weighted_dice(logits, foreground, weight)  # eq. 8
            bces.append(bce)
            dices.append(dice)

        mean_bce = torch.stack(bces).mean()
        mean_dice = torch.stack(dices).mean()
        return mean_bce, mean_dice

    def forward(self, outputs: Segmentation, target: torch.Tensor) -> torch.Tensor:
        """Return the sum of both terms, which nnU-Net logs as its validation loss."""
        masks = self.masks(target)
        bce, dice = self.terms(outputs, masks)
        return bce + dice
