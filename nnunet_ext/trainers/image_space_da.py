"""Image-space adversarial adaptation: images rebuilt from features must not give their domain
away.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, ClassVar, Literal

import torch
from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager, PlansManager
from torch import nn

from nnunet_ext.errors import InputError
from nnunet_ext.losses.adversarial import DOMAINS, OTHER_DOMAIN, Domain, four_way
from nnunet_ext.networks.blocks import initialize_normal
from nnunet_ext.networks.critics import ImagePatchCritic
from nnunet_ext.networks.feature_levels import cumulative_strides, level_at_stride
from nnunet_ext.networks.feature_unet import FeatureUNet
from nnunet_ext.networks.four_convolution_unet import FourConvolutionUNet
from nnunet_ext.networks.image_generator import ImageGenerator
from nnunet_ext.training.engine.diagnostics import discriminator_balance
from nnunet_ext.training.engine.schedules import Schedule, polynomial, step_decay
from nnunet_ext.training.multi_stream_trainer import MultiStreamTrainer
from nnunet_ext.training.settings.hyperparameters import Count, Fraction, Weight
from nnunet_ext.training.settings.miniature import Miniature

ByDomain = dict[Domain, torch.Tensor]
LevelsByDomain = dict[Domain, list[torch.Tensor]]


class ImageSpaceDATrainer(MultiStreamTrainer):
    """Extractor f and classifier c segment; generator g rebuilds the image from f's maps; critic d
    judges patches.

    θ_d learns to tell source from target and real from rebuilt (eq. 5). θ_g learns to rebuild
    images that look real in their own domain (eq. 4). θ_f learns features whose rebuilt images look
    real in the other domain, and with θ_c the segmentation (eq. 6).

    Reference: Chen et al., "Unsupervised domain adaptation based COVID-19 CT infection segmentation
    network", eq. 3-6 and table 3. Readings: docs/image_space_da.md.
    """

    use_when: ClassVar[str] = (
        "labels are from another site or synthetic, and your own images have none"
    )
    required_streams: ClassVar[tuple[str, ...]] = ("target_domain",)
    judges_unforced_samples: ClassVar[bool] = True
    loss_terms: ClassVar[tuple[str, ...]] = (
        "segmentation",
        "adversarial",
        "reconstruction",
        "realism",
        "discriminator",
    )
    diagnostics: ClassVar[tuple[str, ...]] = ("discriminator_balance", "adversarial_gradient_ratio")
    presets: ClassVar[dict[str, dict[str, Any]]] = {
        "recommended": {"augmentation": "strong", "average_weights": 0.999},
        "paper": {
            "num_epochs": 400,  # of 250 iterations: 100 000
            "segmentation_loss": "ce",
            "enable_deep_supervision": False,
            "optimizer_kind": "adam",
            "initial_lr": 1e-5,
            "auxiliary_lr": 1e-5,
            "auxiliary_beta1": 0.9,
            "order": "alternating",
            "critic_width": 128,
            "generator_width": 64,
        },
    }
    miniature: ClassVar[Miniature] = Miniature(
        edge=32,
        features=(4, 4, 8, 8),
        settings={"critic_width": 4, "generator_width": 4, "generator_levels": "2-4"},
    )

    adversarial_weight: Weight = 0.1  # alpha, eq. 6; 0 trains on the source alone
    adversarial_reduction: Literal["paper_sum", "mean"] = (
        "paper_sum"  # of eq. 6: sum over patches, or mean
    )
    order: Literal["simultaneous", "alternating"] = "simultaneous"
    generator_levels: Literal["1-3", "2-4", "3-5"] = "3-5"  # table 3; level l has stride 2^(l-1)
    extractor: Literal["plans", "paper"] = (
        "plans"  # the planned U-Net, or the four convolutions of section 3.2
    )
    optimizer_kind: Literal["nnunet", "adam"] = (
        "nnunet"  # adam: the paper's, for f and c, without clipping
    )
    auxiliary_lr: Weight = 1e-4  # Adam of generator and critic
    auxiliary_beta1: Fraction = 0.7
    critic_width: Count = 32
    generator_width: Count = 16

    # what a mean over a domain's judged samples weighs, where several processes have unequal
    # numbers of them
    _shares: Mapping[Domain, float | torch.Tensor] = MappingProxyType(
        {"source": 1.0, "target": 1.0}
    )

    @staticmethod
    def build_network_architecture(
        plans_manager: PlansManager,
        configuration_manager: ConfigurationManager,
        num_input_channels: int,
        num_output_channels: int,
        enable_deep_supervision: bool = True,
    ) -> nn.Module:
        """f and c: the plans' U-Net, which also returns its features, or the paper's network."""
        extractor = ImageSpaceDATrainer.hyperparameters_in(plans_manager)["extractor"]
        network = FourConvolutionUNet if extractor == "paper" else FeatureUNet
        return network.from_plans(
            configuration_manager, num_input_channels, num_output_channels, enable_deep_supervision
        )

    def configure(self) -> None:
        """As every trainer; the paper's network has one output, so nothing to supervise below
        it.
        """
        super().configure()
        if self.extractor == "paper":
            self.enable_deep_supervision = False

    def build_auxiliary_networks(self) -> dict[str, nn.Module]:
        """g and d; neither where the training is on the source alone.

        Raises:
            InputError: the network lacks a level that the generator reads.
        """
        if not self.adversarial_weight:
            return {}
        encoder = self.encoder
        strides = cumulative_strides(encoder.strides, len(self.configuration_manager.patch_size))
        levels = self._levels()
        generator = ImageGenerator(
            self.convolution,
            [encoder.output_channels[level] for level in levels],
            [strides[level] for level in levels],
            self.num_input_channels,
            self.generator_width,
        )
        critic = ImagePatchCritic(self.convolution, self.num_input_channels, self.critic_width)
        return {
            "generator": generator.apply(initialize_normal),
            "critic": critic.apply(initialize_normal),
        }

    def configure_optimizer(
        self, player: str, module: nn.Module
    ) -> tuple[torch.optim.Optimizer | None, Schedule | None]:
        """For f and c nnU-Net's or the paper's Adam, for g and d Adam; all with nnU-Net's or the
        paper's schedule.
        """
        as_nnunet = self.optimizer_kind == "nnunet"
        if player == "network" and as_nnunet:
            return super().configure_optimizer(player, module)

        schedule = (
            polynomial(self.total_iterations) if as_nnunet else step_decay(every=10_000, factor=0.8)
        )
        if player == "network":
            return torch.optim.Adam(module.parameters(), self.initial_lr), schedule
        return torch.optim.Adam(
            module.parameters(), self.auxiliary_lr, (self.auxiliary_beta1, 0.999)
        ), schedule

    def max_gradient_norm(self, player: str) -> float | None:
        """nnU-Net's limit for its optimizer; the paper has none."""
        return super().max_gradient_norm(player) if self.optimizer_kind == "nnunet" else None

    def roles_in_use(self) -> list[str]:
        """No target images where the training is on the source alone."""
        return super().roles_in_use() if self.adversarial_weight else []

    def training_step(self, batch: dict[str, Any]) -> None:
        """One update of each player, all at once or in turn."""
        if not self.adversarial_weight:
            super().training_step(batch)
            return
        source: Any = self.network(batch["data"], with_features=True)
        target: Any = self.network(
            batch["target_domain"]["data"], with_features=True, segment=False
        )
        segmentation = self.loss(source.segmentation, batch["target"])

        judged = ~batch["forced"]
        self._shares = {"source": self.share_of_mean(judged.sum()), "target": 1.0}
        images: ByDomain = {
            "source": batch["data"][judged],
            "target": batch["target_domain"]["data"],
        }
        levels: LevelsByDomain = {
            "source": [source.features[level][judged] for level in self._levels()],
            "target": [target.features[level] for level in self._levels()],
        }
        step = self._step_at_once if self.order == "simultaneous" else self._step_in_turn
        rebuilt = step(images, levels, segmentation)
        self.draw(**{domain: (images[domain], rebuilt[domain]) for domain in DOMAINS})

    def _step_at_once(
        self, images: ByDomain, levels: LevelsByDomain, segmentation: torch.Tensor
    ) -> ByDomain:
        """All losses on one graph, before anybody moves."""
        rebuilt = self._rebuild(images, levels)
        real, fake = self._judge(images), self._judge(rebuilt)
        with self.simultaneous():
            self._update_critic(real, fake)
            self.update("generator", **self.generator_losses(images, rebuilt, fake))
            self._update_network(segmentation, self.cross_domain_loss(images, fake))
        return rebuilt

    def _step_in_turn(
        self, images: ByDomain, levels: LevelsByDomain, segmentation: torch.Tensor
    ) -> ByDomain:
        """Critic, generator, network; each sees what the others have become."""
        detached = {domain: [level.detach() for level in maps] for domain, maps in levels.items()}
        rebuilt = self._rebuild(images, detached)
        without_graph = {domain: image.detach() for domain, image in rebuilt.items()}
        self._update_critic(self._judge(images), self._judge(without_graph))
        self.update("generator", **self.generator_losses(images, rebuilt, self._judge(rebuilt)))

        rebuilt = self._rebuild(images, levels)
        self._update_network(segmentation, self.cross_domain_loss(images, self._judge(rebuilt)))
        return rebuilt

    def _update_critic(self, real: ByDomain, fake: ByDomain) -> None:
        self.update("critic", discriminator=self.discriminator_loss(real, fake))
        self.note(discriminator_balance=discriminator_balance(_realness(real), _realness(fake)))

    def _update_network(self, segmentation: torch.Tensor, adversarial: torch.Tensor) -> None:
        self.note_gradient_ratio("adversarial_gradient_ratio", adversarial, segmentation)
        self.update("network", segmentation=segmentation, adversarial=adversarial)

    # --- the losses

    def discriminator_loss(self, real: ByDomain, fake: ByDomain) -> torch.Tensor:
        """Eq. 5 from the critic's logits of images and rebuilt images: each patch in its own
        class.
        """
        on_real = [
            self._shares[domain] * four_way(real[domain], domain, True) for domain in DOMAINS
        ]
        on_fake = [
            self._shares[domain] * four_way(fake[domain], domain, False) for domain in DOMAINS
        ]
        return torch.stack(on_real + on_fake).sum()

    def generator_losses(
        self, images: ByDomain, rebuilt: ByDomain, fake: ByDomain
    ) -> dict[str, torch.Tensor]:
        """Eq. 4: the rebuilt image equals the image and looks real in its own domain; sums, divided
        by the pixels.
        """
        distances = [
            self._shares[domain] * (rebuilt[domain] - images[domain]).abs().mean()
            for domain in DOMAINS
        ]
        within_domain = [
            self._shares[domain] * four_way(fake[domain], domain, True) for domain in DOMAINS
        ]
        realism = patches_per_pixel(images, fake) * torch.stack(within_domain).sum()
        return {"reconstruction": torch.stack(distances).sum(), "realism": realism}

    def cross_domain_loss(self, images: ByDomain, fake: ByDomain) -> torch.Tensor:
        """Eq. 6, second term: the rebuilt image looks real in the other domain."""
        swapped = [
            self._shares[domain] * four_way(fake[domain], OTHER_DOMAIN[domain], True)
            for domain in DOMAINS
        ]
        weight = self.adversarial_weight
        if self.adversarial_reduction == "paper_sum":
            weight *= patches_per_pixel(images, fake)
        return weight * torch.stack(swapped).sum()

    # --- the players

    def _levels(self) -> list[int]:
        """Indices of the encoder's maps that the generator reads, finest first."""
        first, last = map(int, self.generator_levels.split("-"))
        strides = [2 ** (level - 1) for level in range(first, last + 1)]
        try:
            return [level_at_stride(self.encoder.strides, stride) for stride in strides]
        except InputError as error:
            raise InputError(
                f"generator_levels={self.generator_levels}: {error}; choose finer levels "
                "(nnUNetv2_ext_configure --set generator_levels=1-3|2-4) or plan a larger patch"
            ) from error

    def _rebuild(self, images: ByDomain, levels: LevelsByDomain) -> ByDomain:
        generator = self.auxiliary_networks["generator"]
        return {domain: generator(levels[domain], images[domain].shape[2:]) for domain in DOMAINS}

    def _judge(self, images: ByDomain) -> ByDomain:
        critic = self.auxiliary_networks["critic"]
        return {domain: critic(images[domain]) for domain in DOMAINS}


def patches_per_pixel(images: ByDomain, logits: ByDomain) -> float:
    """What a sum over patches weighs beside a sum over pixels, once both are means."""
    return logits["target"][0, 0].numel() / images["target"][0, 0].numel()


def _realness(logits: ByDomain) -> torch.Tensor:
    """Above 0 where the critic takes a patch for real, whatever its domain."""
    every = torch.cat(list(logits.values()))
    real, fake = every[:, 0::2], every[:, 1::2]
    return real.logsumexp(1) - fake.logsumexp(1)
