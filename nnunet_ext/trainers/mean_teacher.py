"""Mean teacher: a moving average of the network labels the target domain for it."""

from typing import Any, ClassVar

import torch
from torch import nn

from nnunet_ext.losses.consistency import confident, pseudo_label_loss
from nnunet_ext.networks.segmentation import finest
from nnunet_ext.training.engine.averaging import frozen_copy
from nnunet_ext.training.engine.label_free import augmented_view
from nnunet_ext.training.engine.schedules import Schedule, gaussian_rampup
from nnunet_ext.training.multi_stream_trainer import MultiStreamTrainer
from nnunet_ext.training.settings.hyperparameters import Fraction, Weight


class MeanTeacherTrainer(MultiStreamTrainer):
    """The student learns the teacher's confident labels on another view of the target images.

    The teacher follows the student by a moving average. A pixel whose likeliest class is not probable enough takes no
    part, neither in the sum nor in the count.

    Reference: Tarvainen & Valpola 2017, "Mean teachers are better role models"; confident pseudo-labels as in Hoyer et
    al. 2022, "DAFormer", eq. 2-4.
    """

    required_streams: ClassVar[tuple[str, ...]] = ("target_domain",)
    loss_terms: ClassVar[tuple[str, ...]] = ("segmentation", "consistency")
    diagnostics: ClassVar[tuple[str, ...]] = ("kept_fraction",)

    consistency_weight: Weight = 1.0  # after the ramp-up
    rampup_fraction: Fraction = 0.4  # of the training, over which the weight grows
    teacher_decay: Fraction = 0.99
    confidence: Fraction = 0.9  # tau

    def build_auxiliary_networks(self) -> dict[str, nn.Module]:
        """The teacher, equal to the student at first."""
        return {"teacher": frozen_copy(self.module_of("network"))}

    def configure_optimizer(
        self, player: str, module: nn.Module
    ) -> tuple[torch.optim.Optimizer | None, Schedule | None]:
        """nnU-Net's for the student, none for the teacher."""
        return super().configure_optimizer(player, module) if player == "network" else (None, None)

    def training_step(self, batch: dict[str, Any]) -> None:
        """The teacher labels the target images, the student sees them in another view."""
        images = batch["target_domain"]["data"]
        view, flipped = augmented_view(images, self.inference_allowed_mirroring_axes or ())
        with torch.no_grad():
            teacher = self.auxiliary_networks["teacher"]
            taught = self.class_logits(finest(teacher(images))).softmax(1)
        labels = taught.argmax(1)
        kept = confident(taught, self.confidence)

        source = self.network(batch["data"])
        student = finest(self.network(view)).flip(flipped)
        consistency = pseudo_label_loss(self.class_logits(student), labels, kept)
        rampup = max(1, round(self.rampup_fraction * self.total_iterations))
        weight = gaussian_rampup(self.iteration, rampup, self.consistency_weight)

        self.update("network", segmentation=self.loss(source, batch["target"]), consistency=weight * consistency)
        self.follow("teacher", "network", self.teacher_decay)
        self.note(kept_fraction=kept.float().mean())
        self.draw(target=(images, labels[:, None], kept[:, None].float()))
