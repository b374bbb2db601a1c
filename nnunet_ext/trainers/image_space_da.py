"""Image-space adversarial adaptation: images rebuilt from features must hide their domain."""

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
    # of the adversarial term of eq. 6: sum over patches, or mean
    adversarial_reduction: Literal["paper_sum", "mean"] = "paper_sum"
    order: Literal["simultaneous", "alternating"] = (
        "simultaneous"  # of the updates of d, g, f and c
    )
    generator_levels: Literal["1-3", "2-4", "3-5"] = "3-5"  # table 3; level l has stride 2^(l-1)
    # f and c: the planned U-Net, or the four convolutions of section 3.2
    extractor: Literal["plans", "paper"] = "plans"
    # of f and c; adam: the paper's, without clipping
    optimizer_kind: Literal["nnunet", "adam"] = "nnunet"
    auxiliary_lr: Weight = 1e-4  # Adam of g and d
    auxiliary_beta1: Fraction = 0.7
    critic_width: Count = 32  # of d
    generator_width: Count = 16  # of g

    # factors of the means over each domain's judged samples: processes may have different numbers
    _shares: Mapping[Domain, float | torch.Tensor] = MappingProxyType(dict.fromkeys(DOMAINS, 1.0))

    @staticmethod
    def build_network_architecture(
        plans_manager: PlansManager,
        configuration_manager: ConfigurationManager,
        num_input_channels: int,
        num_output_channels: int,
        enable_deep_supervision: bool = True,
    ) -> nn.Module:
        """Build f and c: the plans' U-Net or the paper's; both can also return their features."""
        settings = ImageSpaceDATrainer.hyperparameters_in(plans_manager)
        is_of_paper = settings["extractor"] == "paper"
        network = FourConvolutionUNet if is_of_paper else FeatureUNet
        return network.from_plans(
            configuration_manager,
            num_input_channels,
            num_output_channels,
            enable_deep_supervision,
        )

    def configure(self) -> None:
        """Configure as every trainer does.

        The paper's network has one output only, so there is no deep supervision.
        """
        super().configure()
        if self.extractor == "paper":
            self.enable_deep_supervision = False

    def build_auxiliary_networks(self) -> dict[str, nn.Module]:
        """Build g and d, unless the training is on the source alone.

        Raises:
            InputError: the network lacks a level that the generator reads.
        """
        if not self.adversarial_weight:
            return {}

        encoder = self.encoder
        patch_size = self.configuration_manager.patch_size
        strides = cumulative_strides(encoder.strides, len(patch_size))
        levels = self._levels()
        generator = ImageGenerator(
            self.convolution,
            level_channels=[encoder.output_channels[level] for level in levels],
            level_strides=[strides[level] for level in levels],
            image_channels=self.num_input_channels,
            width=self.generator_width,
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

        All follow nnU-Net's or the paper's schedule.
        """
        as_nnunet = self.optimizer_kind == "nnunet"
        if player == "network" and as_nnunet:
            return super().configure_optimizer(player, module)

        schedule = step_decay(every=10_000, factor=0.8)
        if as_nnunet:
            schedule = polynomial(self.total_iterations)

        weights = module.parameters()
        if player == "network":
            optimizer = torch.optim.Adam(weights, self.initial_lr)
        else:
            betas = (self.auxiliary_beta1, 0.999)
            optimizer = torch.optim.Adam(weights, self.auxiliary_lr, betas)
        return optimizer, schedule

    def max_gradient_norm(self, player: str) -> float | None:
        """Return nnU-Net's limit for its optimizer; the paper does not clip."""
        if self.optimizer_kind != "nnunet":
            return None
        return super().max_gradient_norm(player)

    def roles_in_use(self) -> list[str]:
        """Leave out target images if the training is on the source alone."""
        if not self.adversarial_weight:
            return []
        return super().roles_in_use()

    def training_step(self, batch: dict[str, Any]) -> None:
        """Update each player once, all at once or in turn."""
        if not self.adversarial_weight:
            super().training_step(batch)
            return

        # f(x) of both domains, c(f(x)) of the source
        source_images = batch["data"]
        target_images = batch["target_domain"]["data"]
        source: Any = self.network(source_images, with_features=True)
        target: Any = self.network(target_images, with_features=True, segment=False)
        segmentation = self.loss(source.segmentation, batch["target"])  # eq. 6, first term

        # the samples to rebuild and to judge
        judged = ~batch["forced"]
        self._shares = {"source": self.share_of_mean(judged.sum()), "target": 1.0}
        images: ByDomain = {"source": source_images[judged], "target": target_images}
        read = self._levels()
        levels: LevelsByDomain = {
            "source": [source.features[level][judged] for level in read],
            "target": [target.features[level] for level in read],
        }

        if self.order == "simultaneous":
            rebuilt = self._step_at_once(images, levels, segmentation)
        else:
            rebuilt = self._step_in_turn(images, levels, segmentation)
        self.draw(
            source=(images["source"], rebuilt["source"]),
            target=(images["target"], rebuilt["target"]),
        )

    def _step_at_once(
        self, images: ByDomain, levels: LevelsByDomain, segmentation: torch.Tensor
    ) -> ByDomain:
        """Compute all losses on one graph, before any weights change."""
        rebuilt = self._rebuild(images, levels)  # g(f(x))
        real = self._judge(images)  # d(x)
        fake = self._judge(rebuilt)  # d(g(f(x)))
        with self.simultaneous():
            self._update_critic(real, fake)  # eq. 5

            of_generator = self.generator_losses(images, rebuilt, fake)
            self.update("generator", **of_generator)  # eq. 4

            adversarial = self.cross_domain_loss(images, fake)
            self._update_network(segmentation, adversarial)  # eq. 6
        return rebuilt

    def _step_in_turn(
        self, images: ByDomain, levels: LevelsByDomain, segmentation: torch.Tensor
    ) -> ByDomain:
        """Update critic, generator and network in turn; each sees the others' new weights."""
        detached: LevelsByDomain = {}
        for domain, maps in levels.items():
            detached[domain] = [level.detach() for level in maps]
        rebuilt = self._rebuild(images, detached)
        without_graph = {domain: image.detach() for domain, image in rebuilt.items()}

        # d, eq. 5
        real = self._judge(images)
        fake = self._judge(without_graph)
        self._update_critic(real, fake)

        # g, eq. 4
        fake = self._judge(rebuilt)
        of_generator = self.generator_losses(images, rebuilt, fake)
        self.update("generator", **of_generator)

        # f and c, eq. 6
        rebuilt = self._rebuild(images, levels)
        fake = self._judge(rebuilt)
        adversarial = self.cross_domain_loss(images, fake)
        self._update_network(segmentation, adversarial)
        return rebuilt

    def _update_critic(self, real: ByDomain, fake: ByDomain) -> None:
        discriminator = self.discriminator_loss(real, fake)
        self.update("critic", discriminator=discriminator)

        realness_of_real = _realness(real)
        realness_of_fake = _realness(fake)
        balance = discriminator_balance(realness_of_real, realness_of_fake)
        self.note(discriminator_balance=balance)

    def _update_network(self, segmentation: torch.Tensor, adversarial: torch.Tensor) -> None:
        self.note_gradient_ratio("adversarial_gradient_ratio", adversarial, segmentation)
        self.update("network", segmentation=segmentation, adversarial=adversarial)

    # --- the losses

    def discriminator_loss(self, real: ByDomain, fake: ByDomain) -> torch.Tensor:
        """Return eq. 5: each patch of images and rebuilt images belongs in its own class.

        Both arguments are the critic's logits, by domain.
        """
        terms = []
        for domain in DOMAINS:
            own_class = four_way(real[domain], domain, real=True)
            terms.append(self._shares[domain] * own_class)
        for domain in DOMAINS:
            own_class = four_way(fake[domain], domain, real=False)
            terms.append(self._shares[domain] * own_class)
        return torch.stack(terms).sum()

    def generator_losses(
        self, images: ByDomain, rebuilt: ByDomain, fake: ByDomain
    ) -> dict[str, torch.Tensor]:
        """Return eq. 4: the rebuilt image equals the image and looks real in its own domain.

        The sums are divided by the number of pixels.
        """
        distances = []
        for domain in DOMAINS:
            difference = rebuilt[domain] - images[domain]
            distances.append(self._shares[domain] * difference.abs().mean())

        within_domain = []
        for domain in DOMAINS:
            real_in_own_domain = four_way(fake[domain], domain, real=True)
            within_domain.append(self._shares[domain] * real_in_own_domain)

        realism = patches_per_pixel(images, fake) * torch.stack(within_domain).sum()
        reconstruction = torch.stack(distances).sum()
        return {"reconstruction": reconstruction, "realism": realism}

    def cross_domain_loss(self, images: ByDomain, fake: ByDomain) -> torch.Tensor:
        """Return the second term of eq. 6: the rebuilt image looks real in the other domain."""
        cross_domain = []
        for domain in DOMAINS:
            real_in_other_domain = four_way(fake[domain], OTHER_DOMAIN[domain], real=True)
            cross_domain.append(self._shares[domain] * real_in_other_domain)

        weight = self.adversarial_weight  # alpha
        if self.adversarial_reduction == "paper_sum":
            weight *= patches_per_pixel(images, fake)
        return weight * torch.stack(cross_domain).sum()

    # --- the players

    def _levels(self) -> list[int]:
        """Return the indices of the encoder's maps that the generator reads, finest first."""
        first, last = map(int, self.generator_levels.split("-"))
        strides = self.encoder.strides
        levels = []
        try:
            for level in range(first, last + 1):
                stride = 2 ** (level - 1)
                levels.append(level_at_stride(strides, stride))
            return levels
        except InputError as error:
            raise InputError(
                f"generator_levels={self.generator_levels}: {error}; choose finer levels "
                "(nnUNetv2_ext_configure --set generator_levels=1-3|2-4) or plan a larger patch"
            ) from error

    def _rebuild(self, images: ByDomain, levels: LevelsByDomain) -> ByDomain:
        """Return g of the levels, by domain."""
        generator = self.auxiliary_networks["generator"]
        rebuilt: ByDomain = {}
        for domain in DOMAINS:
            image_size = images[domain].shape[2:]
            rebuilt[domain] = generator(levels[domain], image_size)
        return rebuilt

    def _judge(self, images: ByDomain) -> ByDomain:
        """Return d of images, by domain."""
        critic = self.auxiliary_networks["critic"]
        return {domain: critic(images[domain]) for domain in DOMAINS}


def patches_per_pixel(images: ByDomain, logits: ByDomain) -> float:
    """Return the factor that a sum over patches keeps when sums over pixels become means."""
    one_map = logits["target"][0, 0]
    one_image = images["target"][0, 0]
    return one_map.numel() / one_image.numel()


def _realness(logits: ByDomain) -> torch.Tensor:
    """Return a score above 0 where the critic takes a patch for real, whatever its domain."""
    both_domains = torch.cat(list(logits.values()))
    real = both_domains[:, 0::2]
    fake = both_domains[:, 1::2]
    return real.logsumexp(1) - fake.logsumexp(1)
