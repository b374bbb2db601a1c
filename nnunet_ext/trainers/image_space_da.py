"""Image-space adversarial adaptation: images rebuilt from features must hide their domain."""

from collections.abc import Callable, Mapping
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
    """Extractor f and classifier c segment, generator g rebuilds images, critic d judges patches.

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
    # of eq. 6: sum over patches, or mean
    adversarial_reduction: Literal["paper_sum", "mean"] = "paper_sum"
    order: Literal["simultaneous", "alternating"] = "simultaneous"
    generator_levels: Literal["1-3", "2-4", "3-5"] = "3-5"  # table 3; level l has stride 2^(l-1)
    # the planned U-Net, or the four convolutions of section 3.2
    extractor: Literal["plans", "paper"] = "plans"
    # adam: the paper's, for f and c, without clipping
    optimizer_kind: Literal["nnunet", "adam"] = "nnunet"
    auxiliary_lr: Weight = 1e-4  # Adam of generator and critic
    auxiliary_beta1: Fraction = 0.7
    critic_width: Count = 32
    generator_width: Count = 16

    # what a mean over a domain's judged samples weighs: processes may have unequal numbers of them
    _shares: Mapping[Domain, float | torch.Tensor] = MappingProxyType(dict.fromkeys(DOMAINS, 1.0))

    @staticmethod
    def build_network_architecture(
        plans_manager: PlansManager,
        configuration_manager: ConfigurationManager,
        num_input_channels: int,
        num_output_channels: int,
        enable_deep_supervision: bool = True,
    ) -> nn.Module:
        """Build f and c: the plans' U-Net, which also returns its features, or the paper's."""
        extractor = ImageSpaceDATrainer.hyperparameters_in(plans_manager)["extractor"]
        network = FourConvolutionUNet if extractor == "paper" else FeatureUNet
        return network.from_plans(
            configuration_manager, num_input_channels, num_output_channels, enable_deep_supervision
        )

    def configure(self) -> None:
        """Configure as every trainer does.

        The paper's network has one output, so there is nothing to supervise below it.
        """
        super().configure()
        if self.extractor == "paper":
            self.enable_deep_supervision = False

    def build_auxiliary_networks(self) -> dict[str, nn.Module]:
        """Build g and d; neither where the training is on the source alone.

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
        """Return nnU-Net's optimizer or the paper's Adam for f and c, Adam for g and d.

        All have nnU-Net's or the paper's schedule.
        """
        as_nnunet = self.optimizer_kind == "nnunet"
        if player == "network" and as_nnunet:
            return super().configure_optimizer(player, module)

        schedule = step_decay(every=10_000, factor=0.8)
        if as_nnunet:
            schedule = polynomial(self.total_iterations)
        weights = module.parameters()
        if player == "network":
            return torch.optim.Adam(weights, self.initial_lr), schedule
        betas = (self.auxiliary_beta1, 0.999)
        return torch.optim.Adam(weights, self.auxiliary_lr, betas), schedule

    def max_gradient_norm(self, player: str) -> float | None:
        """Return nnU-Net's limit for its optimizer; the paper has none."""
        if self.optimizer_kind != "nnunet":
            return None
        return super().max_gradient_norm(player)

    def roles_in_use(self) -> list[str]:
        """Return no target images where the training is on the source alone."""
        if not self.adversarial_weight:
            return []
        return super().roles_in_use()

    def training_step(self, batch: dict[str, Any]) -> None:
        """Update each player once, all at once or in turn."""
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
        read = self._levels()
        levels: LevelsByDomain = {
            "source": [source.features[level][judged] for level in read],
            "target": [target.features[level] for level in read],
        }

        step = self._step_at_once if self.order == "simultaneous" else self._step_in_turn
        rebuilt = step(images, levels, segmentation)
        self.draw(**{domain: (images[domain], rebuilt[domain]) for domain in DOMAINS})

    def _step_at_once(
        self, images: ByDomain, levels: LevelsByDomain, segmentation: torch.Tensor
    ) -> ByDomain:
        """Compute all losses on one graph, before anybody moves."""
        rebuilt = self._rebuild(images, levels)  # g(f(x))
        real = self._judge(images)  # d(x)
        fake = self._judge(rebuilt)  # d(g(f(x)))
        with self.simultaneous():
            self._update_critic(real, fake)  # eq. 5
            self.update("generator", **self.generator_losses(images, rebuilt, fake))  # eq. 4
            self._update_network(segmentation, self.cross_domain_loss(images, fake))  # eq. 6
        return rebuilt

    def _step_in_turn(
        self, images: ByDomain, levels: LevelsByDomain, segmentation: torch.Tensor
    ) -> ByDomain:
        """Update critic, generator and network; each sees what the others have become."""
        detached: LevelsByDomain = {}
        for domain, maps in levels.items():
            detached[domain] = [level.detach() for level in maps]
        rebuilt = self._rebuild(images, detached)
        without_graph = {domain: image.detach() for domain, image in rebuilt.items()}

        self._update_critic(self._judge(images), self._judge(without_graph))  # eq. 5
        losses = self.generator_losses(images, rebuilt, self._judge(rebuilt))
        self.update("generator", **losses)  # eq. 4

        rebuilt = self._rebuild(images, levels)
        adversarial = self.cross_domain_loss(images, self._judge(rebuilt))
        self._update_network(segmentation, adversarial)  # eq. 6
        return rebuilt

    def _update_critic(self, real: ByDomain, fake: ByDomain) -> None:
        self.update("critic", discriminator=self.discriminator_loss(real, fake))
        balance = discriminator_balance(_realness(real), _realness(fake))
        self.note(discriminator_balance=balance)

    def _update_network(self, segmentation: torch.Tensor, adversarial: torch.Tensor) -> None:
        self.note_gradient_ratio("adversarial_gradient_ratio", adversarial, segmentation)
        self.update("network", segmentation=segmentation, adversarial=adversarial)

    # --- the losses

    def discriminator_loss(self, real: ByDomain, fake: ByDomain) -> torch.Tensor:
        """Return eq. 5: each patch of images and rebuilt images belongs in its own class.

        Both arguments are the critic's logits, by domain.
        """
        on_real = self._by_domain(lambda domain: four_way(real[domain], domain, True))
        on_fake = self._by_domain(lambda domain: four_way(fake[domain], domain, False))
        return torch.stack(on_real + on_fake).sum()

    def generator_losses(
        self, images: ByDomain, rebuilt: ByDomain, fake: ByDomain
    ) -> dict[str, torch.Tensor]:
        """Return eq. 4: the rebuilt image equals the image and looks real in its own domain.

        The sums are divided by the number of pixels.
        """
        distances = self._by_domain(lambda domain: (rebuilt[domain] - images[domain]).abs().mean())
        within_domain = self._by_domain(lambda domain: four_way(fake[domain], domain, True))
        realism = patches_per_pixel(images, fake) * torch.stack(within_domain).sum()
        return {"reconstruction": torch.stack(distances).sum(), "realism": realism}

    def cross_domain_loss(self, images: ByDomain, fake: ByDomain) -> torch.Tensor:
        """Return the second term of eq. 6: the rebuilt image looks real in the other domain."""
        swapped = self._by_domain(lambda domain: four_way(fake[domain], OTHER_DOMAIN[domain], True))
        weight = self.adversarial_weight  # alpha
        if self.adversarial_reduction == "paper_sum":
            weight *= patches_per_pixel(images, fake)
        return weight * torch.stack(swapped).sum()

    def _by_domain(self, loss: Callable[[Domain], torch.Tensor]) -> list[torch.Tensor]:
        """Return the loss of each domain, weighted by its share of the samples."""
        return [self._shares[domain] * loss(domain) for domain in DOMAINS]

    # --- the players

    def _levels(self) -> list[int]:
        """Return the indices of the encoder's maps that the generator reads, finest first."""
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
    """Return what a sum over patches weighs beside a sum over pixels, once both are means."""
    patches = logits["target"][0, 0].numel()
    pixels = images["target"][0, 0].numel()
    return patches / pixels


def _realness(logits: ByDomain) -> torch.Tensor:
    """Return what is above 0 where the critic takes a patch for real, whatever its domain."""
    every = torch.cat(list(logits.values()))
    real, fake = every[:, 0::2], every[:, 1::2]
    return real.logsumexp(1) - fake.logsumexp(1)
