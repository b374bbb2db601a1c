"""The base of methods whose network quantises features and rebuilds the image from codes."""

from typing import Any, ClassVar, Literal, TypeVar

import torch
from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager
from torch import nn
from torch.nn import functional

from nnunet_ext.losses.quantization import codebook_loss, commitment_loss
from nnunet_ext.networks.codebook import Codebook, Quantized, rows_by_image
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
    :meth:`maintain_codebooks` after its updates. ``network`` and ``reconstruction`` share one
    backward pass.

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
    top_stride: Count = 16  # of the level that is quantised for the global shape
    codebook_size: Count = 512  # K
    code_channels: Count = 64  # D
    codebooks: Literal["shared", "separate"] = "shared"  # one for both levels, or one each
    codebook_kind: Literal["gradient", "ema"] = "gradient"
    codebook_decay: Fraction = 0.99  # of the moving averages of codes and their use
    # a code with less than this fraction of an equal share is restarted; 0: none is
    restart_below: Fraction = 0.1
    vq_weight: Weight = 1.0  # of L_vq, eq. 2
    commitment_weight: Weight = 0.25  # beta, eq. 2
    vq_on_unlabeled: bool = True  # in phase 2, on unlabelled images as well as on labelled ones
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
            bottom_stride=settings["bottom_stride"],
            top_stride=settings["top_stride"],
            codebook_size=settings["codebook_size"],
            code_channels=settings["code_channels"],
            shared=settings["codebooks"] == "shared",
            learnt=settings["codebook_kind"] == "gradient",
        )
        return VQUNet.from_plans(
            configuration,
            input_channels,
            output_channels,
            deep_supervision,
            branch,
        )

    def build_auxiliary_networks(self) -> dict[str, nn.Module]:
        """Build the decoder that rebuilds the image."""
        if not self.use_vq:
            return {}

        patch_size = self.configuration_manager.patch_size
        strides = cumulative_strides(self.encoder.strides, len(patch_size))
        bottom = self.vq_network.bottom
        decoder = ReconstructionDecoder(
            self.convolution,
            code_channels=2 * self.code_channels,  # of both levels
            stride=strides[bottom],
            image_channels=self.num_input_channels,
            width=self.reconstruction_width,
        )
        return {"reconstruction": decoder}

    def configure_optimizer(
        self, player: str, module: nn.Module
    ) -> tuple[torch.optim.Optimizer | None, Schedule | None]:
        """Return SGD for the network; Adam without weight decay for decoder and learnt codes.

        Eq. 2 as a mean gives a code only 1 / (N D) of the gradient of its distance; Adam's steps
        do not depend on such a factor.
        """
        schedule = polynomial(self.total_iterations)
        codes: list[nn.Parameter] = []
        for codebook in self.all_codebooks:
            codes += codebook.parameters()

        if player == "network":
            optimizer = self._network_optimizer(module, codes)
            schedule_of_network = per_epoch(schedule, self.num_iterations_per_epoch)
            return optimizer, schedule_of_network

        weights = list(module.parameters())
        groups = [{"params": weights}, {"params": codes}]
        return torch.optim.Adam(groups, self.reconstruction_lr), schedule

    def _network_optimizer(
        self, module: nn.Module, codes: list[nn.Parameter]
    ) -> torch.optim.Optimizer:
        elsewhere = set(map(id, codes))
        own = []
        for parameter in module.parameters():
            if id(parameter) not in elsewhere:
                own.append(parameter)

        as_nnunet = self.optimizer_kind == "nnunet"
        return torch.optim.SGD(
            own,
            self.initial_lr,
            momentum=0.99 if as_nnunet else 0.9,
            weight_decay=self.weight_decay,
            nesterov=as_nnunet,
        )

    def run_network(self, images: torch.Tensor) -> VQOutput:
        """Segment images; the output has codes if there is a quantised branch."""
        if self.use_vq:
            return self.network(images, with_codes=True)
        segmentation = self.network(images)
        return VQOutput(segmentation, None, ())

    @property
    def segmenting_players(self) -> tuple[str, ...]:
        """The players that share the segmentation's backward pass."""
        if not self.use_vq:
            return ("network",)
        return ("network", "reconstruction")

    def vq_losses(self, outputs: list[tuple[torch.Tensor, VQOutput]]) -> dict[str, torch.Tensor]:
        """Return the terms of eq. 2, L_vq; none without the branch.

        Each is a mean over the given images, and a sum over both levels.

        Args:
            outputs: images ``[B, channels, *spatial]``, and the network's output for them.
        """
        if not self.use_vq:
            return {}

        levels: list[Quantized] = []
        for _, output in outputs:
            levels += output.levels
        count = len(outputs)

        # ‖x - D(e)‖²
        reconstruction = self._reconstruction_loss(outputs)

        # ‖sg[e] - E(x)‖², weighted by beta
        to_codes = [commitment_loss(level.features, level.codes) for level in levels]
        commitment = torch.stack(to_codes).sum()
        losses = {
            "reconstruction": self.vq_weight * reconstruction,
            "commitment": self.vq_weight * self.commitment_weight * commitment / count,
        }

        # ‖sg[E(x)] - e‖²
        if self.codebook_kind == "gradient":
            to_features = [codebook_loss(level.features, level.codes) for level in levels]
            codebook = torch.stack(to_features).sum()
            losses["codebook"] = self.vq_weight * codebook / count
        return losses

    def _reconstruction_loss(self, outputs: list[tuple[torch.Tensor, VQOutput]]) -> torch.Tensor:
        """Return the mean squared difference of the images and what the decoder makes of them."""
        decoder = self.auxiliary_networks["reconstruction"]
        rebuilt = []
        for images, output in outputs:
            image_again = decoder(output.codes, images.shape[2:])
            rebuilt.append(image_again.float())

        distances = []
        for (images, _), image_again in zip(outputs, rebuilt, strict=True):
            distance = functional.mse_loss(image_again, images)
            distances.append(distance)

        self.draw(reconstruction=(images, image_again))
        return torch.stack(distances).mean()

    # --- the codebooks

    @property
    def vq_network(self) -> VQUNet:
        """The segmentation network, if it has a quantised branch."""
        return self.module_of("network")  # type: ignore[return-value]

    @property
    def all_codebooks(self) -> list[Codebook]:
        """One for both levels, one each, or none."""
        if not self.use_vq:
            return []
        return list(self.vq_network.codebooks)  # type: ignore[arg-type]

    @torch.no_grad()
    def start_codebooks(self, images: torch.Tensor) -> None:
        """Set every code to a feature of the first batch."""
        if not self.use_vq:
            return

        network = self.vq_network
        # autocast of older PyTorch would go on using weights that were cast here, without gradient
        with self._autocast(enabled=False):
            encoded = network.encoder(images)
            levels = network.project(encoded)

        generator = self.shared_generator()
        for number, codebook in enumerate(self.all_codebooks):
            own_levels = self._of_codebook(number, levels)
            maps = [level.float() for level in own_levels]
            rows = rows_by_image(maps)
            start_codebook(codebook, rows, generator)

    @torch.no_grad()
    def maintain_codebooks(self, outputs: list[VQOutput]) -> None:
        """Update moving averages and restart codes after the step, from all images of the step."""
        generator = self.shared_generator()
        for number, codebook in enumerate(self.all_codebooks):
            features = []
            chosen = []
            for output in outputs:
                for level in self._of_codebook(number, output.levels):
                    features.append(level.features.float())
                    chosen.append(level.indices[:, None])

            rows = rows_by_image(features)
            indices = rows_by_image(chosen)[:, 0]
            restarted = maintain_codebook(
                codebook,
                rows,
                indices,
                self.codebook_decay,
                self.restart_below,
                generator,
            )
            use = codebook_use(indices, len(codebook))
            self.note(codebook_use=use, restarted_codes=restarted)

    def _of_codebook(self, number: int, bottom_and_top: tuple[Level, ...]) -> tuple[Level, ...]:
        """Return the levels that use a codebook; both use a shared one."""
        if self.codebooks == "shared":
            return bottom_and_top
        return (bottom_and_top[number],)
