"""MinEnt: the network learns to make confident predictions on the target domain."""

from typing import Any, ClassVar

from nnunet_ext.losses.entropy import entropy_loss
from nnunet_ext.networks.segmentation import finest
from nnunet_ext.training.multi_stream_trainer import MultiStreamTrainer
from nnunet_ext.training.settings.hyperparameters import Weight


class MinEntTrainer(MultiStreamTrainer):
    """Minimises the entropy of predictions on the target in addition to the segmentation loss.

    Reference: Vu et al. 2019, "ADVENT: Adversarial Entropy Minimization for Domain Adaptation in
    Semantic Segmentation", eq. 2-4, with nnU-Net's loss and optimizer.
    """

    use_when: ClassVar[str] = "you compare with ImageSpaceDATrainer: it only lowers the entropy"
    required_streams: ClassVar[tuple[str, ...]] = ("target_domain",)
    loss_terms: ClassVar[tuple[str, ...]] = ("segmentation", "entropy")

    entropy_weight: Weight = 0.001  # lambda_ent

    def training_step(self, batch: dict[str, Any]) -> None:
        """Make one update with both losses."""
        target_images = batch["target_domain"]["data"]
        source = self.network(batch["data"])
        target = self.network(target_images)

        logits = self.class_logits(finest(target))
        entropy = entropy_loss(logits)  # L_ent
        self.update(
            "network",
            segmentation=self.loss(source, batch["target"]),  # L_seg
            entropy=self.entropy_weight * entropy,
        )
