"""Stage 1 of AMD-DAS: MR slices become CT slices that keep their lesions."""

import inspect
import math
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple

import torch
from batchgeneratorsv2.transforms.base.basic_transform import BasicTransform
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager, PlansManager
from torch import nn

from nnunet_ext.errors import InputError
from nnunet_ext.losses.adversarial import Kind, real_fake, source_target
from nnunet_ext.losses.synthesis import contrast_loss, cycle_loss, identity_loss, lesion_loss
from nnunet_ext.networks.blocks import initialize_normal
from nnunet_ext.networks.critics import Normalization, PatchCritic, TranslationCritic
from nnunet_ext.networks.segmentation import Segmentation
from nnunet_ext.networks.translation import (
    WIDEST,
    DenseFusion,
    SegmentationThroughSynthesis,
    TranslationDecoder,
    TranslationEncoder,
    Translator,
    Upsampling,
    with_dark_background,
)
from nnunet_ext.networks.vgg_fcn import Segmenter, segmenter_from_plans
from nnunet_ext.synthesis.matched_keys import similar_targets
from nnunet_ext.synthesis.matches import NO_MATCHES, digest_of_matches, read_matches
from nnunet_ext.training.engine import cpu
from nnunet_ext.training.engine.diagnostics import discriminator_balance
from nnunet_ext.training.engine.image_pool import ImagePool
from nnunet_ext.training.engine.schedules import Schedule, linear_decay, per_epoch, polynomial
from nnunet_ext.training.multi_stream_trainer import LABELLED, MultiStreamTrainer
from nnunet_ext.training.settings.hyperparameters import Count, Fraction, Seed, Weight
from nnunet_ext.training.settings.miniature import Miniature
from nnunet_ext.training.settings.plans_entry import PlansEntry

TARGET = "target_domain"
CONTRAST_SHARE = 0.25  # of the training, over which the weight of the contrast loss falls to 0
SEGMENTERS = ("network", "source_segmenter")  # players: S_ori, S_rec


class Translations(NamedTuple):
    """The translations of both domains there and back, with their graph."""

    source: torch.Tensor  # [B, channels, H, W], real, with a dark background
    target: torch.Tensor
    synthetic: torch.Tensor  # the source, translated to the target domain
    source_again: torch.Tensor
    synthetic_source: torch.Tensor  # the target, translated to the source domain
    target_again: torch.Tensor
    source_features: torch.Tensor  # [B, C, h, w], fused
    target_features: torch.Tensor  # fused; no gradient reaches the target's encoder
    on_synthetic: Segmentation  # of S_ori


class PseudoCTSynthesisTrainer(MultiStreamTrainer):
    """Two translators, critics of both domains and of the features, and two segmenters.

    The translators share their fusion module. They minimise cycle, adversarial, lesion,
    feature-domain and identity loss; every critic and segmenter minimises its own loss. All losses
    are computed on one graph before any weights change. nnU-Net validates and predicts with the
    segmentation through the pseudo-CT: its Dice shows how much of the lesions survives.

    Reference: Dong et al., "An unsupervised domain adaptation brain CT segmentation method across
    image modalities and diseases", section 3.1, eq. 1-7. Readings: docs/amd_das.md.
    """

    use_when: ClassVar[str] = (
        "you train AMDDASTrainer: its first stage makes pseudo-CT of labelled MR"
    )
    configurations: ClassVar[tuple[str, ...]] = ("2d",)
    required_streams: ClassVar[tuple[str, ...]] = (TARGET,)
    without_spatial_augmentation: ClassVar[tuple[str, ...]] = (LABELLED, TARGET)
    # the network would translate target images as if they were of the source
    scores_without_labels: ClassVar[bool] = False
    loss_terms: ClassVar[tuple[str, ...]] = (
        "segmentation",
        "reconstructed_segmentation",
        "adversarial",
        "cycle",
        "lesion",
        "feature_domain",
        "identity",
        "contrast",
        "feature_discriminator",
        "target_discriminator",
        "source_discriminator",
    )
    diagnostics: ClassVar[tuple[str, ...]] = (
        "discriminator_balance",
        "feature_discriminator_balance",
    )
    changeable: ClassVar[tuple[str, ...]] = (*MultiStreamTrainer.changeable, "matches_file")
    file_settings: ClassVar[dict[str, tuple[str, ...]]] = {"matches_file": (NO_MATCHES,)}
    _printed: ClassVar[dict[str, Any]] = {
        "num_epochs": 2074,  # of 250 iterations: 200 times the 5184 matched slices in pairs
        "segmentation_loss": "ce",
        "enable_deep_supervision": False,
        "segmenter": "vgg_fcn",
        "optimizer_kind": "sgd",
        "initial_lr": 0.1,
    }
    presets: ClassVar[dict[str, dict[str, Any]]] = {
        "recommended": {
            "upsampling": "repeated",
            "critic_normalization": "spectral",
            "image_pool": 50,
            "contrast_weight": 50.0,
            "average_weights": 0.999,
        },
        "paper": {
            **_printed,
            "cycle_weight": 5.0,
            "identity_weight": 0.0,
            "gan_loss": "bce",
            "critic_layers": 4,
            "critic_normalization": "batch",
            "translation_beta2": 0.99,
            "feature_critic_lr": 2e-4,
            "feature_critic_beta1": 0.5,
        },
        "code": _printed,
    }
    miniature: ClassVar[Miniature] = Miniature(settings={"generator_width": 2, "critic_width": 2})

    # lambda_cyc, eq. 1; 5 in the paper, 5 times an inherited 10 in its code
    cycle_weight: Weight = 50.0
    lesion_weight: Weight = 50.0  # lambda_les; 0: CycleGAN without the lesion loss
    feature_weight: Weight = 15.0  # lambda_fda; 0: no alignment of the fused features
    identity_weight: Weight = 5.0  # only in the code; 0: none
    # of the contrast loss at the start, against inverted translations; 0 after a quarter of the
    # training
    contrast_weight: Weight = 0.0
    shared_fusion: bool = True  # False: two independent translators, as in CycleGAN
    gan_loss: Kind = "lsgan"  # of L_adv and L_fda
    # of nnUNetv2_ext_match, for pairs of similar slices; none: any pairs
    matches_file: str = NO_MATCHES
    intensity_augmentation: bool = False  # nnU-Net's, of both domains
    segmenter: Segmenter = "plans"  # S_ori and S_rec: the planned U-Net, or the paper's network
    vgg_width: Count = 64  # channels of the first block of vgg_fcn
    # of the segmenters; sgd: momentum 0.7, as in the paper
    optimizer_kind: Literal["nnunet", "sgd"] = "nnunet"

    generator_width: Count = 64  # channels of the encoders' first convolution
    # of the decoders; repeated pixels avoid checkerboard patterns
    upsampling: Upsampling = "transposed"
    critic_width: Count = 64
    critic_layers: Count = 3  # of stride 2, in the critics of images; fewer on small patches
    critic_normalization: Normalization = "instance"
    image_pool: Seed = 0  # size of the pool that also gives older images to the critics; 0: none
    # Adam of translators and critics of images, linear decay in the second half
    translation_lr: Weight = 2e-4
    translation_beta1: Fraction = 0.5
    translation_beta2: Fraction = 0.999
    feature_critic_lr: Weight = 1e-3
    feature_critic_beta1: Fraction = 0.9
    feature_critic_beta2: Fraction = 0.99

    # --- networks and optimizers

    @staticmethod
    def build_network_architecture(
        plans_manager: PlansManager,
        configuration_manager: ConfigurationManager,
        num_input_channels: int,
        num_output_channels: int,
        enable_deep_supervision: bool = True,
    ) -> nn.Module:
        """Build the translator to the target domain, G_MRI, and the segmenter S_ori."""
        settings = PseudoCTSynthesisTrainer.hyperparameters_in(plans_manager)
        width = settings["generator_width"]
        entry = PlansEntry.from_plans(plans_manager.plans)
        encoder = TranslationEncoder(num_input_channels, width)
        fusion = DenseFusion(WIDEST * width)
        decoder = TranslationDecoder(
            num_input_channels,
            width,
            bounded=TARGET in entry.normalizations,
            upsampling=settings["upsampling"],
        )
        translator = Translator(encoder, fusion, decoder)
        segmenter = segmenter_from_plans(
            settings["segmenter"],
            configuration_manager,
            num_input_channels,
            num_output_channels,
            enable_deep_supervision,
            vgg_width=settings["vgg_width"],
        )
        translator.apply(initialize_normal)
        return SegmentationThroughSynthesis(translator, segmenter)

    def build_auxiliary_networks(self) -> dict[str, nn.Module]:
        """Build the translator back, G_CT, the segmenter S_rec, and three critics."""
        back = self._translator_back()

        segmenter = segmenter_from_plans(
            self.segmenter,
            self.configuration_manager,
            self.num_input_channels,
            self.label_manager.num_segmentation_heads,
            self.enable_deep_supervision,
            self.vgg_width,
        )
        if self.device.type == "cpu":
            cpu.activate_out_of_place(segmenter)

        patch_size = self.configuration_manager.patch_size
        fused_size = [math.ceil(length / 4) for length in patch_size]
        feature_critic = PatchCritic(
            self.convolution,
            input_channels=WIDEST * self.generator_width,
            map_size=fused_size,
            width=self.critic_width,
        )
        return {
            "translators": back,  # this player also owns the translator of the network
            "source_segmenter": segmenter,
            "feature_critic": feature_critic.apply(initialize_normal),
            "target_critic": self._critic_of_images(),
            "source_critic": self._critic_of_images(),
        }

    def _translator_back(self) -> Translator:
        """Build the translator from the target to the source domain."""
        channels = self.num_input_channels
        width = self.generator_width
        fusion = DenseFusion(WIDEST * width)  # built in any case: it uses random numbers
        fusion.apply(initialize_normal)
        if self.shared_fusion:
            network: Any = self.module_of("network")
            fusion = network.translator.fusion

        encoder = TranslationEncoder(channels, width)
        encoder.apply(initialize_normal)
        decoder = TranslationDecoder(
            channels,
            width,
            bounded=False,
            upsampling=self.upsampling,
        )
        decoder.apply(initialize_normal)
        return Translator(encoder, fusion, decoder)

    def _critic_of_images(self) -> nn.Module:
        return TranslationCritic(
            self.convolution,
            self.num_input_channels,
            self.configuration_manager.patch_size,
            self.critic_width,
            self.critic_layers,
            self.critic_normalization,
        )

    def configure_optimizer(
        self, player: str, module: nn.Module
    ) -> tuple[torch.optim.Optimizer | None, Schedule | None]:
        """Return SGD for the segmenters, Adam for translators and critics."""
        if player in SEGMENTERS:
            segmenter = module.segmenter if player == "network" else module
            return self._segmenters_optimizer(segmenter)

        parameters = list(module.parameters())
        if player == "translators":
            parameters = self._parameters_of_translators()

        rate = self.translation_lr
        betas = (self.translation_beta1, self.translation_beta2)
        if player == "feature_critic":
            rate = self.feature_critic_lr
            betas = (self.feature_critic_beta1, self.feature_critic_beta2)
        optimizer = torch.optim.Adam(parameters, rate, betas)

        second_half = self.total_iterations // 2
        schedule = linear_decay(second_half, self.total_iterations)
        return optimizer, schedule

    def _segmenters_optimizer(
        self, segmenter: Any
    ) -> tuple[torch.optim.Optimizer, Schedule | None]:
        weights = segmenter.parameters()
        if self.optimizer_kind == "sgd":
            return torch.optim.SGD(weights, self.initial_lr, momentum=0.7), None

        optimizer = torch.optim.SGD(
            weights,
            self.initial_lr,
            momentum=0.99,
            nesterov=True,
            weight_decay=self.weight_decay,
        )
        per_iteration = polynomial(self.total_iterations)
        schedule = per_epoch(per_iteration, self.num_iterations_per_epoch)
        return optimizer, schedule

    def _translators(self) -> tuple[Any, Any]:
        """Return the translator from source to target, and the translator back."""
        network: Any = self.module_of("network")
        back = self.auxiliary_networks["translators"]
        return network.translator, back

    def _parameters_of_translators(self) -> list[nn.Parameter]:
        """Return the parameters of both translators; those of a shared fusion module once."""
        both = nn.ModuleList(self._translators())
        return list(both.parameters())

    def max_gradient_norm(self, player: str) -> float | None:
        """Return nnU-Net's limit for its optimizer, none for the others.

        The translators' gradients are a hundred times as large.
        """
        as_nnunet = player in SEGMENTERS and self.optimizer_kind == "nnunet"
        if not as_nnunet:
            return None
        return super().max_gradient_norm(player)

    # --- data

    def configure(self) -> None:
        """Configure as every trainer does; warn if Hounsfield units are not possible."""
        super().configure()
        if TARGET not in self.plans_entry.normalizations:
            self.print_to_log_file(
                "Warning: the target has no window, so synthetic images cannot be exported in "
                f"Hounsfield units; run nnUNetv2_ext_configure -d "
                f'{self.plans_manager.dataset_name} --normalize "{TARGET}=window(0,80)"'
            )

        self._pools: dict[str, ImagePool] = {}
        if self.image_pool:
            for domain in ("source", "target"):
                self._pools[domain] = ImagePool(self.image_pool)

    def matches(self, role: str) -> dict[str, list[str]]:
        """Return the similar target slices of each source slice; one is drawn for each sample.

        Raises:
            InputError: the matches belong to other data sets.
        """
        if self.matches_file == NO_MATCHES:
            return {}

        found = read_matches(Path(self.matches_file))
        labelled = self.plans_manager.dataset_name
        if found.source != labelled:
            raise InputError(
                f"{self.matches_file}: matches of {found.source}, not of {labelled}; match again"
            )
        keys = self.stream_keys(role)
        return similar_targets(found, keys)

    def identity(self) -> dict[str, Any]:
        """Return the identity of every trainer, with the content of the matches."""
        identity = super().identity()
        if self.matches_file != NO_MATCHES:
            identity["matches"] = digest_of_matches(self.matches_file)
        return identity

    def get_training_transforms(self, *arguments: Any, **named: Any) -> BasicTransform:
        """Return every trainer's, or none at all, because intensities of both domains matter."""
        if self.intensity_augmentation:
            return super().get_training_transforms(*arguments, **named)

        # the validation's transforms, which take some of the same arguments
        training = inspect.signature(nnUNetTrainer.get_training_transforms)
        validation = inspect.signature(nnUNetTrainer.get_validation_transforms)
        bound = training.bind(*arguments, **named)
        kept = {}
        for name, value in bound.arguments.items():
            if name in validation.parameters:
                kept[name] = value
        return self.get_validation_transforms(**kept)

    # --- the step

    def training_step(self, batch: dict[str, Any]) -> None:
        """Update translators, three critics and segmenters on one graph, all at once."""
        images = self.translate(batch["data"], batch[TARGET]["data"])
        networks = self.auxiliary_networks

        # the segmenters
        on_synthetic = self.loss(images.on_synthetic, batch["target"])  # S_ori
        segment_again = networks["source_segmenter"]  # S_rec
        segmented_again = segment_again(images.source_again)
        on_reconstructed = self.loss(segmented_again, batch["target"])

        # the critics' judgements
        judge_target = networks["target_critic"]
        judge_source = networks["source_critic"]
        judge_features = networks["feature_critic"]
        judged = {
            "target": judge_target(images.synthetic),
            "source": judge_source(images.synthetic_source),
        }
        on_target_features = judge_features(images.target_features)

        # the translators, eq. 1: L_adv, L_cyc, L_les, L_fda
        translators = self.translation_losses(images, judged)
        lesion = lesion_loss(on_synthetic, on_reconstructed)
        translators["lesion"] = self.lesion_weight * lesion  # eq. 5
        feature_domain = real_fake(on_target_features, True, self.gan_loss)
        translators["feature_domain"] = self.feature_weight * feature_domain  # eq. 6

        with self.simultaneous():
            self.update("translators", **translators)
            of_features = self.feature_critic_loss(images, on_target_features)
            self.update("feature_critic", feature_discriminator=of_features)
            of_target = self.critic_loss("target", images, judged)
            self.update("target_critic", target_discriminator=of_target)
            of_source = self.critic_loss("source", images, judged)
            self.update("source_critic", source_discriminator=of_source)
            self.update(
                *SEGMENTERS,
                segmentation=on_synthetic,
                reconstructed_segmentation=on_reconstructed,
            )

        self.draw(
            source=(images.source, images.synthetic, images.source_again),
            target=(images.target, images.synthetic_source, images.target_again),
        )

    def translate(self, source: torch.Tensor, target: torch.Tensor) -> Translations:
        """Translate ``[B, channels, H, W]`` images of both domains there and back."""
        source = with_dark_background(source)
        there, back = self._translators()
        network = self.module_of("network")
        output: Any = network(source, with_synthetic=True)

        encoded_target = back.encoder(target)
        fused_target = back.fusion(encoded_target)
        synthetic_source = back.decode(fused_target, target)
        return Translations(
            source=source,
            target=target,
            synthetic=output.synthetic,
            source_again=back(output.synthetic),
            synthetic_source=synthetic_source,
            target_again=there(synthetic_source),
            source_features=output.features,
            target_features=back.fusion(encoded_target.detach()),
            on_synthetic=output.segmentation,
        )

    # --- the losses

    def translation_losses(
        self, images: Translations, judged: dict[str, torch.Tensor]
    ) -> dict[str, torch.Tensor]:
        """Return the translators' losses on the images: eq. 2, eq. 4, identity and contrast loss.

        Args:
            images: the translations.
            judged: logits of the critics for the translated images, by domain.
        """
        looks_real = [real_fake(logits, True, self.gan_loss) for logits in judged.values()]
        cycle = cycle_loss(
            images.source,
            images.source_again,
            images.target,
            images.target_again,
        )
        losses = {
            "adversarial": torch.stack(looks_real).sum(),  # L_adv, eq. 2
            "cycle": self.cycle_weight * cycle,  # L_cyc, eq. 4
        }
        if self.identity_weight:
            there, back = self._translators()
            identity = identity_loss(
                images.source,
                back(images.source),
                images.target,
                there(images.target),
            )
            losses["identity"] = self.identity_weight * identity

        if self.contrast_weight:
            contrast = contrast_loss(
                images.source,
                images.synthetic,
                images.target,
                images.synthetic_source,
            )
            losses["contrast"] = self._contrast_weight_now() * contrast
        return losses

    def _contrast_weight_now(self) -> float:
        """Return the weight of the contrast loss at this iteration, which falls linearly to 0."""
        falls_until = round(CONTRAST_SHARE * self.total_iterations)
        fading = linear_decay(0, max(1, falls_until))
        return self.contrast_weight * fading(self.iteration)

    def critic_loss(
        self,
        domain: Literal["source", "target"],
        images: Translations,
        judged: dict[str, torch.Tensor],
    ) -> torch.Tensor:
        """Return half of eq. 3: real images are real, translated ones are not."""
        critic = self.auxiliary_networks[f"{domain}_critic"]
        real = images.source
        fake = images.synthetic_source
        if domain == "target":
            real = images.target
            fake = images.synthetic

        on_real = critic(real)
        on_fake = judged[domain]
        if self._pools:
            pool = self._pools[domain]
            on_fake = critic(pool.exchange(fake))

        if domain == "target":
            decision = 0.5 if self.gan_loss == "lsgan" else 0.0
            balance = discriminator_balance(on_real - decision, on_fake - decision)
            self.note(discriminator_balance=balance)

        distance_of_real = real_fake(on_real, True, self.gan_loss)
        distance_of_fake = real_fake(on_fake, False, self.gan_loss)
        return (distance_of_real + distance_of_fake) / 2

    def feature_critic_loss(self, images: Translations, on_target: torch.Tensor) -> torch.Tensor:
        """Return eq. 7: features of source images are "source", those of target images are not."""
        critic = self.auxiliary_networks["feature_critic"]
        on_source = critic(images.source_features)
        balance = discriminator_balance(on_source, on_target)
        self.note(feature_discriminator_balance=balance)

        source_is_source = source_target(on_source, source=True)
        target_is_target = source_target(on_target, source=False)
        return source_is_source + target_is_target

    # --- the state

    def auxiliary_state(self) -> dict[str, Any]:
        """Return the pools of translated images."""
        return {name: pool.state() for name, pool in self._pools.items()}

    def load_auxiliary_state(self, state: dict[str, Any]) -> None:
        """Restore the pools."""
        for name, pool in self._pools.items():
            images = state[name]
            pool.load_state(images, self.device)
