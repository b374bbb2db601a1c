"""Vector-quantised regularisation, class proportions and semi-supervised adversarial learning."""

from typing import Any, ClassVar, Literal, NamedTuple

import torch
from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager, PlansManager
from torch import nn
from torch.nn import functional

from nnunet_ext.errors import InputError
from nnunet_ext.losses.adversarial import real_fake
from nnunet_ext.losses.consistency import class_balanced_pseudo_label_loss, pseudo_label_loss
from nnunet_ext.losses.one_hot import one_hot_maps
from nnunet_ext.losses.proportion import proportion_loss
from nnunet_ext.losses.quantization import straight_through
from nnunet_ext.networks.blocks import initialize_normal
from nnunet_ext.networks.critics import PatchCritic
from nnunet_ext.networks.segmentation import Segmentation, finest
from nnunet_ext.networks.vq_unet import VQOutput
from nnunet_ext.training.engine.diagnostics import discriminator_balance
from nnunet_ext.training.engine.schedules import Schedule, polynomial
from nnunet_ext.training.settings.hyperparameters import Count, Fraction, Seed, Weight
from nnunet_ext.training.settings.miniature import Miniature
from nnunet_ext.training.vector_quantized import VectorQuantizedTrainer

# a retained fraction this close to 0 or 1 for so many epochs raises a warning
STUCK_EPOCHS = 2
STUCK_MARGIN = 0.01


class PseudoLabels(NamedTuple):
    """The labels from which unlabelled images are learnt."""

    labels: torch.Tensor  # [B, *spatial] integer
    kept: torch.Tensor  # [B, *spatial] boolean
    confidence: torch.Tensor  # [B, 1, *spatial] in [0, 1], of the discriminator
    probabilities: torch.Tensor  # [B, classes, *spatial]; the labels are their argmax


class VQSemiSupervisedTrainer(VectorQuantizedTrainer):
    """Codes regularise and join the segmentation; later, a critic picks pseudo-labels.

    Phase 1 minimises L_comp and L_vq on labelled images. Phase 2 adds unlabelled images: L_adv on
    both, and L_semi on the pixels where the discriminator takes a pseudo-label for a true one.

    Reference: Jin, Liu, Chen: "An efficient deep neural network framework for COVID-19 lung
    infection segmentation", Information Sciences 612, 2022, eq. 1-14. Readings:
    docs/vq_semi_supervised.md.
    """

    use_when: ClassVar[str] = "you have few labels, and many images without labels"
    required_streams: ClassVar[tuple[str, ...]] = ("unlabeled",)
    loss_terms: ClassVar[tuple[str, ...]] = (
        *VectorQuantizedTrainer.loss_terms,
        "adversarial",
        "pseudo_labels",
        "pseudo_proportion",
        "discriminator",
    )
    diagnostics: ClassVar[tuple[str, ...]] = (
        *VectorQuantizedTrainer.diagnostics,
        "retained_fraction",
        "retained_lesion_fraction",
        "discriminator_balance",
    )
    presets: ClassVar[dict[str, dict[str, Any]]] = {
        "recommended": {"average_weights": 0.999, "pseudo_labels_from": "average"},
        "paper": {
            "segmentation_loss": "ce",
            "enable_deep_supervision": False,
            "optimizer_kind": "sgd",
            "weight_decay": 1e-4,
            "proportion_on_pseudo_labels": True,
        },
        "code": {
            "segmentation_loss": "ce",
            "enable_deep_supervision": False,
            "optimizer_kind": "sgd",
            "weight_decay": 1e-4,
            "proportion_norm": "l1",
            "codebooks": "separate",
            "codebook_kind": "ema",
            "discriminator_weight": 0.5,
            "discriminator_sees_unlabeled": True,
        },
    }
    miniature: ClassVar[Miniature] = Miniature(
        settings={
            "bottom_stride": 2,
            "top_stride": 4,
            "codebook_size": 8,
            "code_channels": 4,
            "reconstruction_width": 4,
            "discriminator_width": 4,
            "semi_start": 1,
            "proportion_on_pseudo_labels": True,
        }
    )

    proportion_weight: Weight = 0.5  # lambda, eq. 11
    proportion_on_pseudo_labels: bool = False

    semi_supervised: bool = True
    semi_start: Seed = 1000  # iteration at which phase 2 begins
    adversarial_weight: Weight = 0.01  # of L_adv, eq. 12, for labelled and unlabelled images each
    pseudo_label_weight: Weight = 0.1  # of L_semi, eq. 13
    confidence_threshold: Fraction = 0.2  # T, eq. 13
    pseudo_labels_from: Literal["network", "average"] = "network"
    pseudo_label_mean: Literal["pixels", "classes"] = "pixels"  # over what eq. 13 is a mean
    unlabeled_view: bool = False  # the network sees another view than the pseudo-labels' network
    # predictions as the discriminator sees them: softmax, or the one-hot label of each pixel
    judged_maps: Literal["probabilities", "labels"] = "probabilities"
    discriminator_weight: Weight = 1.0  # of L_D, eq. 14
    discriminator_sees_unlabeled: bool = False  # predictions on unlabelled images are fakes, too
    discriminator_lr: Weight = 1e-4  # Adam
    discriminator_width: Count = 64
    discriminator_layers: Count = 5  # it judges cells of 2^layers pixels

    @staticmethod
    def build_network_architecture(
        plans_manager: PlansManager,
        configuration_manager: ConfigurationManager,
        num_input_channels: int,
        num_output_channels: int,
        enable_deep_supervision: bool = True,
    ) -> nn.Module:
        """Build the plans' U-Net, with the quantised branch unless ``use_vq`` is off."""
        settings = VQSemiSupervisedTrainer.hyperparameters_in(plans_manager)
        return VectorQuantizedTrainer.network_with(
            settings,
            configuration_manager,
            num_input_channels,
            num_output_channels,
            enable_deep_supervision,
        )

    def configure(self) -> None:
        """Configure as every trainer does.

        Raises:
            InputError: pseudo-labels from an averaged network that does not exist, or see the base.
        """
        super().configure()
        needs_average = self.semi_supervised and self.pseudo_labels_from == "average"
        if needs_average and not self.average_weights:
            raise InputError(
                "pseudo_labels_from=average needs an averaged network: set average_weights, e.g. "
                "to 0.999, or pseudo_labels_from=network"
            )

    def build_auxiliary_networks(self) -> dict[str, nn.Module]:
        """Build the reconstruction decoder and the discriminator, if the settings need them."""
        networks = super().build_auxiliary_networks()
        if not self.semi_supervised:
            return networks

        discriminator = PatchCritic(
            self.convolution,
            input_channels=self.class_count,
            map_size=self.configuration_manager.patch_size,
            width=self.discriminator_width,
            layers=self.discriminator_layers,
        )
        discriminator.apply(initialize_normal)
        networks["discriminator"] = discriminator
        return networks

    def configure_optimizer(
        self, player: str, module: nn.Module
    ) -> tuple[torch.optim.Optimizer | None, Schedule | None]:
        """Return Adam for the discriminator, as in AdvSemiSeg; for the others see the base."""
        if player != "discriminator":
            return super().configure_optimizer(player, module)

        parameters = module.parameters()
        optimizer = torch.optim.Adam(parameters, self.discriminator_lr, (0.9, 0.99))
        schedule = polynomial(self.total_iterations)
        return optimizer, schedule

    def roles_in_use(self) -> list[str]:
        """Leave out unlabelled images if nothing is learnt from them."""
        if not self.semi_supervised:
            return []
        return super().roles_in_use()

    # --- the step

    @property
    def in_second_phase(self) -> bool:
        """True from iteration ``semi_start`` on, also in a resumed run."""
        return self.semi_supervised and self.iteration >= self.semi_start

    def training_step(self, batch: dict[str, Any]) -> None:
        """Minimise L_comp + L_vq; in phase 2 also L_adv + L_semi, and L_D on the same graph."""
        if self.iteration == 0:
            self.start_codebooks(batch["data"])
        if self.semi_supervised and self.iteration == self.semi_start:
            self.print_to_log_file(f"Iteration {self.iteration}: semi-supervised learning begins")

        # phase 1
        labelled_images = batch["data"]
        labelled = self.run_network(labelled_images)
        outputs = [(labelled_images, labelled)]
        losses = {"segmentation": self.loss(labelled.segmentation, batch["target"])}  # L_comp

        # phase 2
        of_discriminator: dict[str, torch.Tensor] = {}
        if self.in_second_phase:
            images = batch["unlabeled"]["data"]
            seen, flipped = self._seen_view(images)
            unlabelled = self.run_network(seen)
            if self.vq_on_unlabeled:
                outputs.append((seen, unlabelled))
            semi_supervised, of_discriminator = self.semi_supervised_losses(
                labelled,
                batch["target"],
                finest(unlabelled.segmentation).flip(flipped),
                images,
            )
            losses |= semi_supervised

        losses |= self.vq_losses(outputs)  # L_vq
        with self.simultaneous():
            self.update(*self.segmenting_players, **losses)
            if of_discriminator:
                self.update("discriminator", **of_discriminator)

        quantised = [output for _, output in outputs]
        self.maintain_codebooks(quantised)

    def _seen_view(self, images: torch.Tensor) -> tuple[torch.Tensor, list[int]]:
        """Return the unlabelled images as the network sees them, and the flipped dimensions."""
        if not self.unlabeled_view:
            return images, []
        return self.random_view(images)

    # --- the losses

    def semi_supervised_losses(
        self,
        labelled: VQOutput,
        target: Segmentation,
        unlabelled: torch.Tensor,
        images: torch.Tensor,
    ) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
        """Return the terms of phase 2: the network's (eq. 12, 13), the discriminator's (eq. 14).

        Args:
            labelled: the network's output for labelled images.
            target: their labels.
            unlabelled: its finest logits for the unlabelled images.
            images: these.
        """
        logits = self.class_logits(unlabelled).float()
        of_labelled = self.probabilities(labelled.segmentation)
        of_unlabelled = logits.softmax(1)
        shown_labelled = self.as_judged(of_labelled)
        shown_unlabelled = self.as_judged(of_unlabelled)
        truth = self.true_maps(finest(target), shown_labelled.detach())
        on_labelled = self.judge(shown_labelled)
        on_unlabelled = self.judge(shown_unlabelled)
        on_truth = self.judge(truth)

        # eq. 12, L_adv: predictions look like labels
        labelled_looks_true = real_fake(on_labelled, real=True)
        unlabelled_looks_true = real_fake(on_unlabelled, real=True)
        adversarial = labelled_looks_true + unlabelled_looks_true

        # eq. 13, L_semi: pseudo-labels where the discriminator trusts them
        pseudo = self.pseudo_labels(images, of_unlabelled, on_unlabelled)
        if self.pseudo_label_mean == "classes":
            agreement = class_balanced_pseudo_label_loss(logits, pseudo.labels, pseudo.kept)
        else:
            share = self.share_of_mean(pseudo.kept.sum())
            agreement = share * pseudo_label_loss(logits, pseudo.labels, pseudo.kept)
        losses = {
            "adversarial": self.adversarial_weight * adversarial,
            "pseudo_labels": self.pseudo_label_weight * agreement,
        }

        # eq. 11 on the pseudo-labels
        if self.proportion_on_pseudo_labels:
            proportion = proportion_loss(logits, pseudo.labels, self.proportion_norm, pseudo.kept)
            losses["pseudo_proportion"] = self.proportion_weight * proportion

        # eq. 14, L_D: labels are true, predictions are not
        fakes = on_labelled
        if self.discriminator_sees_unlabeled:
            fakes = torch.cat((on_labelled, on_unlabelled))
        truth_is_true = real_fake(on_truth, real=True)
        fakes_are_fake = real_fake(fakes, real=False)
        discriminator = truth_is_true + fakes_are_fake

        self.note(discriminator_balance=discriminator_balance(on_truth, fakes))
        self._report_pseudo_labels(images, pseudo)
        return losses, {"discriminator": self.discriminator_weight * discriminator}

    def _report_pseudo_labels(self, images: torch.Tensor, pseudo: PseudoLabels) -> None:
        """Log which fractions are kept; draw where the discriminator trusts the labels."""
        kept = pseudo.kept.float()
        is_lesion = pseudo.labels > 0
        kept_lesion = (pseudo.kept & is_lesion).sum()
        self.note(
            retained_fraction=kept.mean(),
            retained_lesion_fraction=kept_lesion / is_lesion.sum().clamp_min(1),
        )

        background = pseudo.probabilities[:, :1]
        self.draw(confidence=(images, 1 - background, pseudo.confidence, kept[:, None]))

    @torch.no_grad()
    def pseudo_labels(
        self, images: torch.Tensor, own: torch.Tensor, on_own: torch.Tensor
    ) -> PseudoLabels:
        """Return the likeliest class, kept where the discriminator's confidence exceeds T (eq. 13).

        Args:
            images: ``[B, channels, *spatial]`` without labels.
            own: the network's probabilities for them, ``[B, classes, *spatial]``.
            on_own: the discriminator's logits for these, ``[B, 1, *spatial]``.
        """
        probabilities = own.detach()
        judgement = on_own.detach()
        if self.pseudo_labels_from == "average":
            assert self.averaged_network is not None  # see configure
            segmentation = self.averaged_network(images)
            probabilities = self.probabilities(segmentation)
            shown = self.as_judged(probabilities)
            judgement = self.judge(shown)

        labels = probabilities.argmax(1)
        confidence = judgement.sigmoid()
        kept = confidence[:, 0] > self.confidence_threshold
        return PseudoLabels(labels, kept, confidence, probabilities)

    def probabilities(self, segmentation: Segmentation) -> torch.Tensor:
        """Return the softmax ``[B, classes, *spatial]`` of the finest output, float32."""
        logits = self.class_logits(finest(segmentation))
        return logits.float().softmax(1)

    def as_judged(self, probabilities: torch.Tensor) -> torch.Tensor:
        """Return a prediction ``[B, classes, *spatial]`` as the discriminator sees it.

        True labels are one-hot, so a discriminator of softmax maps needs to learn only that lesions
        are predicted softly. One-hot labels leave it their shape; the gradient goes straight
        through to the softmax.
        """
        if self.judged_maps == "probabilities":
            return probabilities
        labels = probabilities.argmax(1)
        one_hot = one_hot_maps(labels, probabilities.shape[1])
        return straight_through(probabilities, one_hot.to(probabilities.dtype))

    def judge(self, maps: torch.Tensor) -> torch.Tensor:
        """Return the discriminator's logits ``[B, 1, *spatial]``, at the size of the maps."""
        discriminator = self.auxiliary_networks["discriminator"]
        logits = discriminator(maps)
        mode = "bilinear" if maps.ndim == 4 else "trilinear"
        return functional.interpolate(
            logits.float(),
            size=maps.shape[2:],
            mode=mode,
            align_corners=False,
        )

    def true_maps(self, target: torch.Tensor, predicted: torch.Tensor) -> torch.Tensor:
        """Return the one-hot labels; at ignored pixels, the prediction itself.

        Args:
            target: ``[B, 1, *spatial]`` integers, or ``[B, R, *spatial]`` regions, with one more
                channel for ignored pixels if there is an ignore label.
            predicted: ``[B, classes, *spatial]``, as the discriminator sees it.
        """
        manager = self.label_manager
        if manager.has_regions:
            regions = target[:, : manager.num_segmentation_heads]
            labels = regions.amax(1).long()
        else:
            labels = target[:, 0].long()

        is_ignored = torch.zeros_like(labels, dtype=torch.bool)
        if manager.has_ignore_label and manager.has_regions:
            is_ignored = target[:, -1].bool()
        elif manager.has_ignore_label:
            is_ignored = torch.eq(labels, manager.ignore_label)

        known = labels.masked_fill(is_ignored, 0)
        one_hot = one_hot_maps(known, predicted.shape[1])
        return torch.where(is_ignored[:, None], predicted, one_hot.to(predicted.dtype))

    # --- the log

    def on_train_epoch_end(self, train_outputs: list[dict]) -> None:
        """Log the terms; warn if the discriminator keeps all pseudo-labels, or none."""
        super().on_train_epoch_end(train_outputs)
        fractions = self.logger.get_value("retained_fraction", step=None)
        latest = fractions[-STUCK_EPOCHS:]
        if len(latest) < STUCK_EPOCHS:
            return

        if max(latest) < STUCK_MARGIN:
            self.print_to_log_file(
                "Warning: the discriminator rejects all pseudo-labels, so nothing is learnt from "
                "unlabelled images. Lower confidence_threshold or discriminator_lr"
            )
        if min(latest) > 1 - STUCK_MARGIN:
            self.print_to_log_file(
                "Warning: the discriminator rejects no pseudo-label, so it does not filter. Raise "
                "confidence_threshold or discriminator_lr"
            )
