"""Small but whole methods, to test the engine: games of two players, and two players in one
backward pass.
"""

from typing import Any, ClassVar

import torch
from torch import nn
from torch.nn.functional import binary_cross_entropy_with_logits

from nnunet_ext.training.engine.diagnostics import discriminator_balance
from nnunet_ext.training.engine.schedules import Schedule, polynomial
from nnunet_ext.training.multi_stream_trainer import MultiStreamTrainer

Optimizer = torch.optim.Optimizer


def judged(logits: torch.Tensor, source: bool) -> torch.Tensor:
    return binary_cross_entropy_with_logits(logits, torch.full_like(logits, float(source)))


class AdversarialTrainer(MultiStreamTrainer):
    """Output-space alignment: both players learn from one graph; the critic's rate falls with every
    iteration.
    """

    required_streams: ClassVar[tuple[str, ...]] = ("target_domain",)
    loss_terms: ClassVar[tuple[str, ...]] = ("segmentation", "adversarial", "discriminator")
    diagnostics: ClassVar[tuple[str, ...]] = ("discriminator_balance",)

    def build_auxiliary_networks(self) -> dict[str, nn.Module]:
        heads = self.label_manager.num_segmentation_heads
        return {
            "discriminator": nn.Sequential(
                nn.Conv2d(heads, 4, 3), nn.LeakyReLU(0.2), nn.Conv2d(4, 1, 3)
            )
        }

    def configure_optimizer(
        self, player: str, module: nn.Module
    ) -> tuple[Optimizer | None, Schedule | None]:
        if player == "network":
            return super().configure_optimizer(player, module)
        return torch.optim.Adam(module.parameters(), 1e-3), polynomial(self.total_iterations)

    def training_step(self, batch: dict[str, Any]) -> None:
        source, target = (
            self.network(images) for images in (batch["data"], batch["target_domain"]["data"])
        )
        discriminator = self.auxiliary_networks["discriminator"]
        on_source, on_target = (discriminator(output[0].softmax(1)) for output in (source, target))
        with self.simultaneous():
            segmentation = self.loss(source, batch["target"])
            self.update(
                "network", segmentation=segmentation, adversarial=0.1 * judged(on_target, True)
            )
            self.update(
                "discriminator", discriminator=judged(on_source, True) + judged(on_target, False)
            )
        self.note(discriminator_balance=discriminator_balance(on_source, on_target))


class AlternatingTrainer(AdversarialTrainer):
    """The classic loop: the critic judges again, detached, after the network has moved."""

    diagnostics: ClassVar[tuple[str, ...]] = ()

    def training_step(self, batch: dict[str, Any]) -> None:
        source, target = (
            self.network(images) for images in (batch["data"], batch["target_domain"]["data"])
        )
        discriminator = self.auxiliary_networks["discriminator"]
        fooled = discriminator(target[0].softmax(1))
        segmentation = self.loss(source, batch["target"])
        self.update("network", segmentation=segmentation, adversarial=0.1 * judged(fooled, True))
        on_source, on_target = (
            discriminator(output[0].detach().softmax(1)) for output in (source, target)
        )
        self.update(
            "discriminator", discriminator=judged(on_source, True) + judged(on_target, False)
        )


class ReconstructingTrainer(MultiStreamTrainer):
    """One backward pass for segmentation and a decoder beside it, a frozen network and a teacher
    that follows.
    """

    loss_terms: ClassVar[tuple[str, ...]] = ("segmentation", "reconstruction", "consistency")

    def build_auxiliary_networks(self) -> dict[str, nn.Module]:
        def convolution(channels: int) -> nn.Module:
            return nn.Conv2d(channels, 1, 3, padding=1)

        heads = self.label_manager.num_segmentation_heads
        return {
            "decoder": convolution(heads),
            "frozen": convolution(1),
            "teacher": convolution(heads),
        }

    def configure_optimizer(
        self, player: str, module: nn.Module
    ) -> tuple[Optimizer | None, Schedule | None]:
        if player == "network":
            return super().configure_optimizer(player, module)
        if player == "decoder":
            return torch.optim.Adam(module.parameters(), 1e-3), None
        return None, None

    def training_step(self, batch: dict[str, Any]) -> None:
        output = self.network(batch["data"])
        decoder, frozen, teacher = (
            self.auxiliary_networks[name] for name in ("decoder", "frozen", "teacher")
        )
        image = decoder(output[0])
        self.update(
            "network",
            "decoder",
            segmentation=self.loss(output, batch["target"]),
            reconstruction=(image - frozen(batch["data"])).square().mean(),
            consistency=(image - teacher(output[0]).detach()).square().mean(),
        )
        self.follow("teacher", "decoder", 0.9)
        if self.iteration == 1:  # as a codebook restarts its dead codes
            decoder.bias.data.normal_(generator=self.shared_generator())
        self.draw(reconstruction=(batch["data"], image))
