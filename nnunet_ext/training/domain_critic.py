"""The base of methods in which a critic tells the labelled source from the target domain."""

from typing import Any, ClassVar

import torch
from torch import nn

from nnunet_ext.losses.adversarial import source_target
from nnunet_ext.networks.blocks import initialize_normal
from nnunet_ext.networks.critics import PatchCritic
from nnunet_ext.networks.segmentation import Segmentation
from nnunet_ext.training.engine.diagnostics import discriminator_balance
from nnunet_ext.training.engine.schedules import Schedule, polynomial
from nnunet_ext.training.multi_stream_trainer import MultiStreamTrainer
from nnunet_ext.training.settings.hyperparameters import Count, Weight


class DomainCriticTrainer(MultiStreamTrainer):
    """Abstract: a critic tells domains apart by some map, the network makes the maps look alike.

    A method states which map that is: :meth:`judged_map`, :meth:`judged_channels` and, if it is
    smaller than the patch, :meth:`judged_size`. The critic does not judge patches that nnU-Net
    placed on a lesion: the target has none of them, so the share of lesion would reveal the domain.

    Reference: Ganin et al. 2016, "Domain-Adversarial Training of Neural Networks", as the game of
    two players of Vu et al. 2019, "ADVENT", eq. 8-9.
    """

    required_streams: ClassVar[tuple[str, ...]] = ("target_domain",)
    judges_unforced_samples: ClassVar[bool] = True
    loss_terms: ClassVar[tuple[str, ...]] = ("segmentation", "adversarial", "discriminator")
    diagnostics: ClassVar[tuple[str, ...]] = ("discriminator_balance", "adversarial_gradient_ratio")

    adversarial_weight: Weight = 0.001  # lambda_adv
    critic_lr: Weight = 1e-4
    critic_width: Count = 64  # channels of the critic's first layer

    def judged_map(self, images: torch.Tensor) -> tuple[Segmentation, torch.Tensor]:
        """Return the segmentation of images, and the map to judge.

        Args:
            images: ``[B, channels, *spatial]``.

        Returns:
            Segmentation, and map ``[B, C, *spatial]``.
        """
        raise NotImplementedError(f"{type(self).__name__} does not say which map its critic judges")

    def judged_map_of_target(self, images: torch.Tensor) -> torch.Tensor:
        """Return the map to judge of target images, by default as of any other image."""
        _, judged = self.judged_map(images)
        return judged

    def judged_channels(self) -> int:
        """Return the number of channels of the judged map."""
        raise NotImplementedError(f"{type(self).__name__} does not say which map its critic judges")

    def judged_size(self) -> list[int]:
        """Return the spatial size of the judged map, by default that of the patch."""
        return list(self.configuration_manager.patch_size)

    def build_auxiliary_networks(self) -> dict[str, nn.Module]:
        """Build the critic, as deep as the size of the map allows."""
        critic = PatchCritic(
            self.convolution,
            self.judged_channels(),
            self.judged_size(),
            self.critic_width,
        )
        critic.apply(initialize_normal)
        return {"critic": critic}

    def configure_optimizer(
        self, player: str, module: nn.Module
    ) -> tuple[torch.optim.Optimizer | None, Schedule | None]:
        """Return nnU-Net's optimizer for the network; Adam for the critic, as in ADVENT."""
        if player == "network":
            return super().configure_optimizer(player, module)

        parameters = module.parameters()
        optimizer = torch.optim.Adam(parameters, self.critic_lr, (0.9, 0.99))
        schedule = polynomial(self.total_iterations)
        return optimizer, schedule

    def training_step(self, batch: dict[str, Any]) -> None:
        """Update both players on one graph: the critic tells domains, the network hides them."""
        target_images = batch["target_domain"]["data"]
        source, source_map = self.judged_map(batch["data"])
        target_map = self.judged_map_of_target(target_images)

        # the critic's judgements
        critic = self.auxiliary_networks["critic"]
        judged = ~batch["forced"]
        on_source = critic(source_map[judged])
        on_target = critic(target_map)

        # the network: L_seg, and lambda_adv L_D(target, 1)
        segmentation = self.loss(source, batch["target"])
        looks_like_source = source_target(on_target, source=True)
        adversarial = self.adversarial_weight * looks_like_source

        # the critic: the mean of L_D(source, 1) and L_D(target, 0)
        share = self.share_of_mean(judged.sum())
        of_source = share * source_target(on_source, source=True)
        of_target = source_target(on_target, source=False)
        discriminator = (of_source + of_target) / 2

        self.note_gradient_ratio("adversarial_gradient_ratio", adversarial, segmentation)
        with self.simultaneous():
            self.update("network", segmentation=segmentation, adversarial=adversarial)
            self.update("critic", discriminator=discriminator)

        balance = discriminator_balance(on_source, on_target)
        self.note(discriminator_balance=balance)
