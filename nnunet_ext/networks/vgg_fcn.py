"""The segmentation network of the AMD-DAS paper: VGG-16 with skips that are added.

Slices may have any size; the authors' code needs multiples of 32.

Reference: Long et al. 2015, "Fully Convolutional Networks for Semantic Segmentation"; Simonyan &
Zisserman 2015 (VGG); layers from the AMD-DAS authors' code.
"""

from __future__ import annotations

from typing import Literal

import torch
from dynamic_network_architectures.initialization.weight_init import InitWeights_He
from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager
from torch import nn
from torch.nn import functional

from nnunet_ext.errors import InputError
from nnunet_ext.networks.feature_unet import FeatureUNet
from nnunet_ext.networks.segmentation import Segmentation

Segmenter = Literal["plans", "vgg_fcn"]
CONVOLUTIONS = (2, 2, 3, 3, 3)  # of VGG-16, per block
MULTIPLES = (1, 2, 4, 8, 8)  # of the width
SMALLEST = 32  # five poolings


class VGGEncoder(nn.Module):
    """VGG-16 without batch normalisation and without its classifier, with random weights.

    Args:
        input_channels: of the image.
        width: channels of the first block; VGG has 64.
    """

    def __init__(self, input_channels: int, width: int = 64) -> None:
        super().__init__()
        widths = [width * multiple for multiple in MULTIPLES]
        poolings = [[2, 2]] * len(MULTIPLES)  # each block ends in a pooling
        self.output_channels = [input_channels, *widths]
        self.strides = [[1, 1], *poolings]

        self.blocks = nn.ModuleList()
        inputs = input_channels
        for outputs, count in zip(widths, CONVOLUTIONS, strict=True):
            block = _block(inputs, outputs, count)
            self.blocks.append(block)
            inputs = outputs

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        """Return the image, for its size, and the five pooled maps of strides 2 to 32."""
        maps = [x]
        for block in self.blocks:
            x = block(x)
            maps.append(x)
        return maps


class AdditionDecoder(nn.Module):
    """Five transposed 4-convolutions, each with ReLU and batch normalisation.

    The encoder's map of the same size is added to the result of each.

    Args:
        encoder: whose maps it reads.
        classes: logits per pixel.
        deep_supervision: True returns the logits in a list of one; the paper supervises the full
            size only.
    """

    def __init__(self, encoder: VGGEncoder, classes: int, deep_supervision: bool = False) -> None:
        super().__init__()
        self.deep_supervision = deep_supervision
        coarsest, *finer = encoder.output_channels[:0:-1]
        hidden = max(1, finer[-1] // 2)  # 32 of VGG's 64

        self.upsamplings = nn.ModuleList()
        inputs = coarsest
        for outputs in (*finer, hidden):
            upsampling = _upsampling(inputs, outputs)
            self.upsamplings.append(upsampling)
            inputs = outputs

        head = nn.Conv2d(hidden, classes, kernel_size=1)
        self.seg_layers = nn.ModuleList([head])

    def full_size_map(self, features: list[torch.Tensor]) -> torch.Tensor:
        """Return the hidden map ``[B, C, *spatial]`` of the input's size that the head reads."""
        *upsamplings, last = self.upsamplings
        image, *skips, x = features
        skips.reverse()  # coarsest first
        for upsampling, skip in zip(upsamplings, skips, strict=True):
            upsampled = upsampling(x)
            fitted = _fit(upsampled, skip.shape[2:])
            x = fitted + skip

        full_size = last(x)
        return _fit(full_size, image.shape[2:])

    def classify(self, hidden: torch.Tensor) -> Segmentation:
        """Return the logits, in a list of one under deep supervision."""
        head = self.seg_layers[0]
        logits = head(hidden)
        if self.deep_supervision:
            return [logits]
        return logits

    def forward(self, features: list[torch.Tensor]) -> Segmentation:
        return self.classify(self.full_size_map(features))


class VGGFCN(FeatureUNet):
    """The paper's segmentation network with the interface of :class:`FeatureUNet`.

    ``features`` are the image and the five pooled maps, ``decoder_map`` is the hidden map before
    the last convolution.

    Args:
        encoder: VGG-16.
        decoder: of the added skips.
    """

    decoder: AdditionDecoder

    @classmethod
    def from_plans(
        cls,
        configuration: ConfigurationManager,
        input_channels: int,
        output_channels: int,
        deep_supervision: bool,
        width: int = 64,
    ) -> VGGFCN:
        """Build the network; the plans only give the patch.

        Raises:
            InputError: plans in 3d, or an axis of their patch that is too short for five poolings.
        """
        patch_size = list(configuration.patch_size)
        if len(patch_size) != 2 or min(patch_size) < SMALLEST:
            size = " x ".join(map(str, patch_size))
            raise InputError(
                f"VGG-FCN needs 2d patches of {SMALLEST} pixels or more on each axis; the plans' "
                f"patch is {size}; use the plans' network (segmenter=plans)"
            )

        encoder = VGGEncoder(input_channels, width)
        decoder = AdditionDecoder(encoder, output_channels, deep_supervision)
        network = cls(encoder, decoder)
        network.apply(InitWeights_He(1e-2))
        return network

    def decode(self, features: list[torch.Tensor]) -> tuple[Segmentation, torch.Tensor]:
        """Return the logits and the hidden map of the input's size."""
        hidden = self.decoder.full_size_map(features)
        segmentation = self.decoder.classify(hidden)
        return segmentation, hidden


def segmenter_from_plans(
    kind: Segmenter,
    configuration: ConfigurationManager,
    input_channels: int,
    output_channels: int,
    deep_supervision: bool,
    vgg_width: int = 64,
) -> FeatureUNet:
    """Build the plans' U-Net (``plans``) or the paper's network (``vgg_fcn`` of ``vgg_width``).

    Raises:
        InputError: the plans do not fit the network.
    """
    if kind == "vgg_fcn":
        return VGGFCN.from_plans(
            configuration, input_channels, output_channels, deep_supervision, vgg_width
        )
    return FeatureUNet.from_plans(configuration, input_channels, output_channels, deep_supervision)


def _block(inputs: int, outputs: int, count: int) -> nn.Sequential:
    layers = nn.Sequential()
    for _ in range(count):
        convolution = nn.Conv2d(inputs, outputs, kernel_size=3, padding=1)
        layers.append(convolution)
        layers.append(nn.ReLU())
        inputs = outputs
    layers.append(nn.MaxPool2d(2))
    return layers


def _upsampling(inputs: int, outputs: int) -> nn.Sequential:
    doubling = nn.ConvTranspose2d(
        inputs,
        outputs,
        kernel_size=4,
        stride=2,
        padding=1,
    )
    norm = nn.BatchNorm2d(outputs)
    return nn.Sequential(doubling, nn.ReLU(), norm)


def _fit(x: torch.Tensor, size: torch.Size) -> torch.Tensor:
    """Resample where a pooling rounded an odd size."""
    if x.shape[2:] == size:
        return x
    return functional.interpolate(
        x,
        size=size,
        mode="bilinear",
        align_corners=False,
    )
