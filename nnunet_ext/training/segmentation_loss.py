"""nnU-Net's segmentation loss, with a weighted proportion loss, or of lesions in general."""

import torch
from nnunetv2.training.loss.compound_losses import DC_and_CE_loss
from nnunetv2.training.loss.dice import MemoryEfficientSoftDiceLoss
from torch import nn

from nnunet_ext.losses.proportion import Norm, proportion_loss, region_proportion_loss
from nnunet_ext.networks.segmentation import Segmentation, finest


class LossWithProportions(nn.Module):
    """The sum of a segmentation loss and the proportion loss of the finest output.

    Args:
        loss: nnU-Net's, with or without deep supervision.
        weight: of the proportion loss.
        norm: of the proportion loss.
        has_regions: heads are sigmoid, the target has a channel per region and, with an ignore
            label, one for it.
        ignore_label: value of ignored pixels in the target; None where nothing is ignored.
    """

    def __init__(
        self,
        loss: nn.Module,
        weight: float,
        norm: Norm,
        has_regions: bool,
        ignore_label: int | None,
    ) -> None:
        super().__init__()
        self.loss = loss
        self.weight = weight
        self.norm: Norm = norm
        self.has_regions = has_regions
        self.ignore_label = ignore_label
        self.latest = torch.tensor(0.0)  # weighted proportion loss of the latest call, for the log

    def forward(self, output: Segmentation, target: Segmentation) -> torch.Tensor:
        logits = finest(output)
        labels = finest(target)
        proportion = self.weight * self.proportion(logits, labels)
        self.latest = proportion.detach()
        segmentation = self.loss(output, target)
        return segmentation + proportion

    def proportion(self, logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """Return the proportion loss, not weighted, over the pixels that are not ignored."""
        valid = None
        if self.has_regions:
            count = logits.shape[1]
            regions = target[:, :count]
            if self.ignore_label is not None:
                valid = target[:, -1] == 0
            return region_proportion_loss(logits, regions, self.norm, valid)

        if self.ignore_label is not None:
            valid = torch.ne(target, self.ignore_label)
        return proportion_loss(logits, target, self.norm, valid)


def lesion_segmentation_loss(batch_dice: bool, is_ddp: bool) -> nn.Module:
    """Return nnU-Net's Dice and cross entropy of lesion against background.

    Args:
        batch_dice: whether the Dice is that of the whole batch, as the plans say.
        is_ddp: whether the batch is spread over several processes.
    """
    dice = {"batch_dice": batch_dice, "smooth": 1e-5, "do_bg": False, "ddp": is_ddp}
    return DC_and_CE_loss(dice, {}, dice_class=MemoryEfficientSoftDiceLoss)
