"""AdvEnt: adversarial alignment of the entropy of predictions."""

from typing import ClassVar

import torch

from nnunet_ext.losses.entropy import self_information_map
from nnunet_ext.networks.segmentation import Segmentation, finest
from nnunet_ext.training.domain_critic import DomainCriticTrainer


class AdvEntTrainer(DomainCriticTrainer):
    """A critic judges the weighted self-information map -p log p of the prediction.

    Reference: Vu et al. 2019, "ADVENT: Adversarial Entropy Minimization for Domain Adaptation in
    Semantic Segmentation", eq. 8-9, with nnU-Net's loss and optimizer.
    """

    use_when: ClassVar[str] = "you compare with ImageSpaceDATrainer: it aligns entropy maps instead"

    def judged_map(self, images: torch.Tensor) -> tuple[Segmentation, torch.Tensor]:
        """Return the segmentation and its map I = -p log p, at full size."""
        segmentation = self.network(images)
        logits = self.class_logits(finest(segmentation))
        probabilities = logits.softmax(1)
        return segmentation, self_information_map(probabilities)

    def judged_channels(self) -> int:
        """Return one channel per class."""
        return self.class_count
