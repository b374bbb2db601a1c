"""A small but whole adversarial method, to test the engine: output-space alignment of a domain without labels."""

from typing import Any, ClassVar

import torch
from torch import nn
from torch.nn.functional import binary_cross_entropy_with_logits

from nnunet_ext.training.engine.diagnostics import discriminator_balance
from nnunet_ext.training.engine.schedules import Schedule, polynomial
from nnunet_ext.training.multi_stream_trainer import MultiStreamTrainer


class AdversarialTrainer(MultiStreamTrainer):
    """Two players; the second one's learning rate falls with every iteration."""

    required_streams: ClassVar[tuple[str, ...]] = ("target_domain",)
    loss_terms: ClassVar[tuple[str, ...]] = ("segmentation", "adversarial", "discriminator")
    diagnostics: ClassVar[tuple[str, ...]] = ("discriminator_balance",)

    def build_auxiliary_networks(self) -> dict[str, nn.Module]:
        heads = self.label_manager.num_segmentation_heads
        return {"discriminator": nn.Sequential(nn.Conv2d(heads, 4, 3), nn.LeakyReLU(0.2), nn.Conv2d(4, 1, 3))}

    def configure_auxiliary_optimizer(
        self, name: str, network: nn.Module
    ) -> tuple[torch.optim.Optimizer, Schedule | None]:
        return torch.optim.Adam(network.parameters(), 1e-3), polynomial(self.total_iterations)

    def training_step(self, batch: dict[str, Any]) -> None:
        source, target = (self.network(images) for images in (batch["data"], batch["target_domain"]["data"]))
        discriminator = self.players["discriminator"].module
        fooled = discriminator(target[0].softmax(1))
        self.update(
            "network",
            segmentation=self.loss(source, batch["target"]),
            adversarial=0.1 * binary_cross_entropy_with_logits(fooled, torch.ones_like(fooled)),
        )
        real, fake = (discriminator(maps[0].detach().softmax(1)) for maps in (source, target))
        self.update(
            "discriminator",
            discriminator=binary_cross_entropy_with_logits(real, torch.ones_like(real))
            + binary_cross_entropy_with_logits(fake, torch.zeros_like(fake)),
        )
        self.note(discriminator_balance=discriminator_balance(real, fake))
