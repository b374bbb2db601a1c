"""What methods share whose network quantises its features and rebuilds the image from the codes."""

from typing import Any, ClassVar, Literal, TypeVar

import torch
from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager
from torch import nn
from torch.nn import functional

from nnunet_ext.losses.quantization import codebook_loss, commitment_loss
from nnunet_ext.networks.codebook import Codebook, rows_by_image
from nnunet_ext.networks.feature_levels import cumulative_strides
from nnunet_ext.networks.planned_unet import planned_unet
from nnunet_ext.networks.vq_unet import ReconstructionDecoder, VQBranch, VQOutput, VQUNet
from nnunet_ext.training.engine.codebooks import maintain_codebook, start_codebook
from nnunet_ext.training.engine.diagnostics import codebook_use
from nnunet_ext.training.engine.schedules import Schedule, per_epoch, polynomial
from nnunet_ext.training.multi_stream_trainer import MultiStreamTrainer
from nnunet_ext.training.settings.hyperparameters import Count, Fraction, Weight

Level = TypeVar("Level")


class VectorQuantizedTrainer(MultiStreamTrainer):
    """Abstract: codes of two encoder levels join the segmentation and rebuild the image.

    A step calls :meth:`start_codebooks` first, then :meth:`run_network` and :meth:`vq_losses`, and
    :meth:`maintain_codebooks` after its updates. One backward pass serves ``network`` and
    ``reconstruction``.

    Reference: Jin et al. 2022, "An efficient deep neural network framework for COVID-19 lung
    infection segmentation", section 3.2; Razavi et al. 2019, "Generating Diverse High-Fidelity
    Images with VQ-VAE-2".
    """

    loss_terms: ClassVar[tuple[str, ...]] = (
        "segmentation",
        "reconstruction",
        "codebook",
        "commitment",
    )
    diagnostics: ClassVar[tuple[str, ...]] = ("codebook_use", "restarted_codes")

    use_vq: bool = True
    bottom_stride: Count = 8  # of the encoder's level that is quantised for details
    top_stride: Count = 16  # and for shape
    codebook_size: Count = 512
    code_channels: Count = 64
    codebooks: Literal["shared", "separate"] = "shared"  # one for both levels, or one each
    codebook_kind: Literal["gradient", "ema"] = "gradient"
    codebook_decay: Fraction = 0.99  # of the moving averages of codes and their use
    # a code with less than this part of an equal share is restarted; 0: none is
    restart_below: Fraction = 0.1
    vq_weight: Weight = 1.0  # of L_vq, eq. 2
    commitment_weight: Weight = 0.25  # beta, eq. 2
    vq_on_unlabeled: bool = True  # in phase 2, labelled and unlabelled images alike
    reconstruction_width: Count = 32
    reconstruction_lr: Weight = 1e-3  # Adam, of reconstruction decoder and learnt codebooks
    optimizer_kind: Literal["nnunet", "sgd"] = "nnunet"  # sgd: momentum 0.9, as the paper

    @staticmethod
    def network_with(
        settings: dict[str, Any],
        configuration: ConfigurationManager,
        input_channels: int,
        output_channels: int,
        deep_supervision: bool,
    ) -> nn.Module:
        """Build the plans' U-Net, with the quantised branch unless ``use_vq`` is off."""
        if not settings["use_vq"]:
            return planned_unet(configuration, input_channels, output_channels, deep_supervision)
        branch = VQBranch(
            settings["bottom_stride"],
            settings["top_stride"],
            settings["codebook_size"],
            settings["code_channels"],
            shared=settings["codebooks"] == "shared",
            learnt=settings["codebook_kind"] == "gradient",
        )
        return VQUNet.from_plans(
            configuration, input_channels, output_channels, deep_supervision, branch
        )

    def build_auxiliary_networks(self) -> dict[str, nn.Module]:
        """Build the decoder that rebuilds the image."""
        if not self.use_vq:
            return {}

        patch_size = self.configuration_manager.patch_size
        stride = cumulative_strides(self.encoder.strides, len(patch_size))[self.vq_network.bottom]
        decoder = ReconstructionDecoder(
            self.convolution,
            2 * self.code_channels,
            stride,
            self.num_input_channels,
            self.reconstruction_width,
        )
        return {"reconstruction": decoder}

    def configure_optimizer(
        self, player: str, module: nn.Module
    ) -> tuple[torch.optim.Optimizer | None, Schedule | None]:
        """Return SGD for the network; Adam without weight decay for decoder and learnt codes.

        Eq. 2 as a mean gives a code 1 / (N D) of the gradient of its distance; only Adam's steps do
        not depend on that.
        """
        schedule = polynomial(self.total_iterations)
        codes: list[nn.Parameter] = []
        for codebook in self.all_codebooks:
            codes += codebook.parameters()

        if player == "network":
            optimizer = self._network_optimizer(module, codes)
            return optimizer, per_epoch(schedule, self.num_iterations_per_epoch)
        groups = [{"params": list(module.parameters())}, {"params": codes}]
        return torch.optim.Adam(groups, self.reconstruction_lr), schedule

    def _network_optimizer(
        self, module: nn.Module, codes: list[nn.Parameter]
    ) -> torch.optim.Optimizer:
        elsewhere = set(map(id, codes))
        own = [parameter for parameter in module.parameters() if id(parameter) not in elsewhere]
        as_nnunet = self.optimizer_kind == "nnunet"
        momentum = 0.99 if as_nnunet else 0.9
        return torch.optim.SGD(
            own, self.initial_lr, momentum, weight_decay=self.weight_decay, nesterov=as_nnunet
        )

    def run_network(self, images: torch.Tensor) -> VQOutput:
        """Segment, with the codes where there are any."""
        if self.use_vq:
            return self.network(images, with_codes=True)
        return VQOutput(self.network(images), None, ())

    @property
    def segmenting_players(self) -> tuple[str, ...]:
        """Whom the segmentation's backward pass serves."""
        return ("network", "reconstruction") if self.use_vq else ("network",)

    def vq_losses(self, outputs: list[tuple[torch.Tensor, VQOutput]]) -> dict[str, torch.Tensor]:
        """Return the terms of eq. 2, L_vq; none without the branch.

        Each is a mean over the given images, and a sum over both levels.

        Args:
            outputs: images ``[B, channels, *spatial]``, and what the network made of them.
        """
        if not self.use_vq:
            return {}

        # ‖x - D(e)‖²
        decoder = self.auxiliary_networks["reconstruction"]
        rebuilt = [decoder(output.codes, images.shape[2:]).float() for images, output in outputs]
        distances = []
        for (images, _), image_again in zip(outputs, rebuilt, strict=True):
            distances.append(functional.mse_loss(image_again, images))
        self.draw(reconstruction=(outputs[-1][0], rebuilt[-1]))

        # ‖sg[e] - E(x)‖², weighted by beta
        levels = [level for _, output in outputs for level in output.levels]
        to_codes = [commitment_loss(level.features, level.codes) for level in levels]
        commitment = torch.stack(to_codes).sum()
        losses = {
            "reconstruction": self.vq_weight * torch.stack(distances).mean(),
            "commitment": self.vq_weight * self.commitment_weight * commitment / len(outputs),
        }

        # ‖sg[E(x)] - e‖²
        if self.codebook_kind == "gradient":
            to_features = [codebook_loss(level.features, level.codes) for level in levels]
            drawn = torch.stack(to_features).sum()
            losses["codebook"] = self.vq_weight * drawn / len(outputs)
        return losses

    # --- the codebooks

    @property
    def vq_network(self) -> VQUNet:
        """The segmentation network, where it has a quantised branch."""
        return self.module_of("network")  # type: ignore[return-value]

    @property
    def all_codebooks(self) -> list[Codebook]:
        """One for both levels, one each, or none."""
        return list(self.vq_network.codebooks) if self.use_vq else []  # type: ignore[arg-type]

    @torch.no_grad()
    def start_codebooks(self, images: torch.Tensor) -> None:
        """Set every code to a feature of the first batch."""
        if not self.use_vq:
            return

        levels = self.vq_network.project(self.vq_network.encoder(images))
        generator = self.shared_generator()
        for number, codebook in enumerate(self.all_codebooks):
            maps = [level.float() for level in self._of_codebook(number, levels)]
            start_codebook(codebook, rows_by_image(maps), generator)

    @torch.no_grad()
    def maintain_codebooks(self, outputs: list[VQOutput]) -> None:
        """After the step: moving averages and restarts, from labelled and unlabelled images."""
        generator = self.shared_generator()
        for number, codebook in enumerate(self.all_codebooks):
            features, chosen = [], []
            for output in outputs:
                for level in self._of_codebook(number, output.levels):
                    features.append(level.features.float())
                    chosen.append(level.indices[:, None])

            rows = rows_by_image(features)
            indices = rows_by_image(chosen)[:, 0]
            restarted = maintain_codebook(
                codebook, rows, indices, self.codebook_decay, self.restart_below, generator
            )
            self.note(codebook_use=codebook_use(indices, len(codebook)), restarted_codes=restarted)

    def _of_codebook(self, number: int, bottom_and_top: tuple[Level, ...]) -> tuple[Level, ...]:
        """Return the levels that use a codebook: both use the shared one."""
        if self.codebooks == "shared":
            return bottom_and_top
        return (bottom_and_top[number],)
