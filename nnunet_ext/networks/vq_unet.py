"""The planned U-Net with a quantised branch whose codes join the segmentation path."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from dynamic_network_architectures.building_blocks.helper import (
    convert_conv_op_to_dim,
    get_matching_convtransp,
)
from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager
from torch import nn
from torch.nn import functional

from nnunet_ext.errors import InputError
from nnunet_ext.losses.quantization import straight_through
from nnunet_ext.networks.blocks import ConvOp
from nnunet_ext.networks.codebook import Codebook, Quantized
from nnunet_ext.networks.feature_levels import level_at_stride
from nnunet_ext.networks.image_generator import upsampling_legs
from nnunet_ext.networks.planned_unet import planned_unet
from nnunet_ext.networks.segmentation import Segmentation

WIDEST = 4  # multiples of the reconstruction decoder's width


@dataclass(frozen=True)
class VQBranch:
    """The design of the quantised branch.

    Args:
        bottom_stride: of the finer quantised level of the encoder, along the most reduced axis.
        top_stride: of the coarser one.
        codebook_size: codes per codebook, K.
        code_channels: channels of a code, D.
        shared: both levels use one codebook.
        learnt: codebooks learn by gradient; otherwise they follow by moving averages.
    """

    bottom_stride: int = 8
    top_stride: int = 16
    codebook_size: int = 512
    code_channels: int = 64
    shared: bool = True
    learnt: bool = True


class VQOutput(NamedTuple):
    """The output of the training forward pass."""

    segmentation: Segmentation  # as in inference
    # [B, 2 D, *spatial] at the bottom level, gradient straight through to the encoder
    codes: torch.Tensor | None
    levels: tuple[Quantized, ...]  # bottom (local details), top (global shape)


class VQUNet(nn.Module):
    """A U-Net with two quantised encoder levels, whose codes join the skip of the bottom level.

    A 1x1 convolution brings the concatenation back to the skip's width. At first it passes the skip
    and ignores the codes, so the network starts as the planned U-Net.

    Args:
        encoder: of the planned U-Net.
        decoder: of the planned U-Net.
        branch: design of the quantised branch.

    Raises:
        InputError: the encoder has no level of these strides, or top is not coarser than bottom.

    Reference: Jin et al. 2022, "An efficient deep neural network framework for COVID-19 lung
    infection segmentation", section 3.2; Razavi et al. 2019, "Generating Diverse High-Fidelity
    Images with VQ-VAE-2".
    """

    encoder: Any
    decoder: Any

    def __init__(self, encoder: nn.Module, decoder: nn.Module, branch: VQBranch) -> None:
        super().__init__()
        self.encoder = encoder
        self.decoder = decoder
        self.bottom, self.top = _quantised_levels(self.encoder.strides, branch)
        conv_op = self.encoder.conv_op
        widths = self.encoder.output_channels
        channels = branch.code_channels

        self.projections = nn.ModuleList()
        for level in (self.bottom, self.top):
            projection = conv_op(widths[level], channels, kernel_size=1)
            self.projections.append(projection)

        codebook_count = 1 if branch.shared else 2
        self.codebooks = nn.ModuleList()
        for _ in range(codebook_count):
            codebook = Codebook(branch.codebook_size, channels, branch.learnt)
            self.codebooks.append(codebook)

        skip = widths[self.bottom]
        both_codes = 2 * channels
        self.mix = conv_op(skip + both_codes, skip, kernel_size=1)

    @classmethod
    def from_plans(
        cls,
        configuration: ConfigurationManager,
        input_channels: int,
        output_channels: int,
        deep_supervision: bool,
        branch: VQBranch,
    ) -> VQUNet:
        """Build the plans' U-Net (plain or residual encoder) with the quantised branch.

        Raises:
            InputError: the plans' architecture is not a U-Net of nnU-Net's encoder and decoder, or
                lacks a level.
        """
        unet = planned_unet(
            configuration,
            input_channels,
            output_channels,
            deep_supervision,
        )
        network = cls(unet.encoder, unet.decoder, branch)
        network.projections.apply(unet.initialize)

        # the mix passes the skip and ignores the codes
        nn.init.dirac_(network.mix.weight)
        nn.init.zeros_(network.mix.bias)
        return network

    def forward(self, x: torch.Tensor, with_codes: bool = False) -> Segmentation | VQOutput:
        """Segment ``x``; on request, also return what was quantised.

        Args:
            x: ``[B, channels, *spatial]``.
            with_codes: return a :class:`VQOutput`.

        Returns:
            Logits ``[B, classes, *spatial]``, or a list of them, finest first, when
            ``decoder.deep_supervision``; a :class:`VQOutput` with ``with_codes``.
        """
        maps = self.encoder(x)
        bottom, top = self._quantize(maps)

        # the codes of both levels, at the size of the bottom one
        details = straight_through(bottom.features, bottom.codes)
        shape = straight_through(top.features, top.codes)
        size = details.shape[2:]
        upsampled = functional.interpolate(shape, size=size, mode="nearest")
        codes = torch.cat((upsampled, details), dim=1)

        # they join the skip of the bottom level
        skip = maps[self.bottom]
        joined = torch.cat((skip, codes), dim=1)
        mixed = list(maps)
        mixed[self.bottom] = self.mix(joined)

        segmentation = self.decoder(mixed)
        if not with_codes:
            return segmentation
        return VQOutput(segmentation, codes, (bottom, top))

    def project(self, maps: list[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the features to quantise, bottom and top, each ``[B, D, *spatial]``."""
        project_bottom, project_top = self.projections
        bottom = project_bottom(maps[self.bottom])
        top = project_top(maps[self.top])
        return bottom, top

    def _quantize(self, maps: list[torch.Tensor]) -> tuple[Quantized, Quantized]:
        bottom_codebook = self.codebooks[0]
        top_codebook = self.codebooks[-1]  # the same one where they share it

        bottom, top = self.project(maps)
        quantized_bottom = bottom_codebook(bottom)
        quantized_top = top_codebook(top)
        return quantized_bottom, quantized_top


def _quantised_levels(strides: Any, branch: VQBranch) -> tuple[int, int]:
    try:
        bottom = level_at_stride(strides, branch.bottom_stride)
        top = level_at_stride(strides, branch.top_stride)
    except InputError as error:
        raise InputError(
            f"{error}; choose two of them with bottom_stride and top_stride"
        ) from error
    if top <= bottom:
        raise InputError(
            f"top_stride={branch.top_stride} must be larger than "
            f"bottom_stride={branch.bottom_stride}: the top level encodes the global shape, the "
            "bottom level local details"
        )
    return bottom, top


class ReconstructionDecoder(nn.Module):
    """Rebuilds the image from the codes: a 3-convolution, two residual blocks, and doublings.

    There is one doubling per halving of the encoder. There is no normalisation, which would lose
    the intensities, and no output activation, because nnU-Net's images are z-scores.

    Args:
        conv_op: convolution of the plans, 2d or 3d.
        code_channels: of the codes, both levels together.
        stride: of the codes, per axis.
        image_channels: of the image.
        width: channels before the last doubling. They double towards the codes, up to 4 times.

    Reference: Razavi et al. 2019, "Generating Diverse High-Fidelity Images with VQ-VAE-2", the
    decoder.
    """

    def __init__(
        self,
        conv_op: ConvOp,
        code_channels: int,
        stride: tuple[int, ...],
        image_channels: int,
        width: int = 32,
    ) -> None:
        super().__init__()
        dimension = convert_conv_op_to_dim(conv_op)
        (factors,) = upsampling_legs([stride], dimension)
        widths = []  # before each doubling, the coarsest first
        for left in reversed(range(len(factors))):
            multiple = min(WIDEST, 2**left)
            widths.append(width * multiple)

        widest, *narrower = widths
        first = conv_op(code_channels, widest, kernel_size=3, padding=1)
        self.layers = nn.Sequential(first)
        for _ in range(2):
            block = _PlainResidualBlock(conv_op, widest)
            self.layers.append(block)

        inputs = widest
        for factor, outputs in zip(factors, [*narrower, image_channels], strict=True):
            doubling = _enlarging(conv_op, inputs, outputs, factor)
            self.layers.append(nn.ReLU())
            self.layers.append(doubling)
            inputs = outputs

    def forward(self, codes: torch.Tensor, image_size: torch.Size) -> torch.Tensor:
        """Return the image ``[B, image_channels, *image_size]``.

        The codes are ``[B, code_channels, *spatial]``.
        """
        image = self.layers(codes)
        if image.shape[2:] == image_size:
            return image

        # the encoder rounds odd sizes up
        return functional.interpolate(image, size=image_size, mode="nearest")


class _PlainResidualBlock(nn.Module):
    """x + conv1(relu(conv3(relu(x)))), as in VQ-VAE-2."""

    def __init__(self, conv_op: ConvOp, channels: int) -> None:
        super().__init__()
        half = max(1, channels // 2)
        self.residual = nn.Sequential(
            nn.ReLU(),
            conv_op(channels, half, kernel_size=3, padding=1),
            nn.ReLU(),
            conv_op(half, channels, kernel_size=1),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.residual(x)


def _enlarging(conv_op: ConvOp, inputs: int, outputs: int, factor: tuple[int, ...]) -> nn.Module:
    """Build a transposed convolution that multiplies every axis by exactly its factor, 1 or 2."""
    kernel = tuple(4 if step == 2 else 3 for step in factor)
    upsampling_op = get_matching_convtransp(conv_op)
    return upsampling_op(
        inputs,
        outputs,
        kernel_size=kernel,
        stride=factor,
        padding=1,
    )
