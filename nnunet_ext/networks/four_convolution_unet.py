"""The segmentation network of the image-space adaptation paper, as it is printed.

Reference: Chen et al., "Unsupervised domain adaptation based COVID-19 CT infection segmentation
network", 3.2.
"""

from __future__ import annotations

import torch
from dynamic_network_architectures.building_blocks.helper import (
    convert_conv_op_to_dim,
    get_matching_convtransp,
    get_matching_instancenorm,
    get_matching_pool_op,
)
from dynamic_network_architectures.building_blocks.simple_conv_blocks import StackedConvBlocks
from dynamic_network_architectures.initialization.weight_init import InitWeights_He
from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager
from torch import nn
from torch.nn import functional

from nnunet_ext.errors import InputError
from nnunet_ext.networks.blocks import ConvOp
from nnunet_ext.networks.feature_unet import FeatureUNet
from nnunet_ext.networks.segmentation import Segmentation

SMALLEST = 16  # four poolings


def _convolution(conv_op: ConvOp, inputs: int, outputs: int) -> StackedConvBlocks:
    return StackedConvBlocks(
        num_convs=1,
        conv_op=conv_op,
        input_channels=inputs,
        output_channels=outputs,
        kernel_size=3,
        initial_stride=1,
        conv_bias=True,
        norm_op=get_matching_instancenorm(conv_op),
        norm_op_kwargs={"affine": True},
        nonlin=nn.LeakyReLU,
    )


class FourConvolutionEncoder(nn.Module):
    """The feature extractor f: four 3-convolutions, each followed by a max pooling of 2.

    Its maps are the four activations before pooling (strides 1, 2, 4, 8) and the last pooled one
    (stride 16): levels 1 to 5 of the paper's Table 3. The paper gives no widths.

    Args:
        conv_op: convolution of the plans, 2d or 3d.
        input_channels: of the image.
        width: channels of the first convolution; they double with every convolution.
    """

    def __init__(self, conv_op: ConvOp, input_channels: int, width: int = 64) -> None:
        super().__init__()
        dimension = convert_conv_op_to_dim(conv_op)
        widths = [width, 2 * width, 4 * width, 8 * width]
        inputs = [input_channels, *widths[:-1]]
        self.convolutions = nn.ModuleList(
            _convolution(conv_op, before, after)
            for before, after in zip(inputs, widths, strict=True)
        )
        self.pool = get_matching_pool_op(conv_op, pool_type="max")(kernel_size=2)
        self.output_channels = [*widths, widths[-1]]
        self.strides = [[1] * dimension] + [[2] * dimension] * 4

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        maps = []
        for convolution in self.convolutions:
            activation = convolution(x)
            maps.append(activation)
            x = self.pool(activation)
        return [*maps, x]


class ThreeUpsamplingDecoder(nn.Module):
    """The classifier c: three times upsampling, the cropped encoder map, and a convolution.

    The paper's four poolings but three upsamplings leave a factor of 2, which a linear
    interpolation closes.

    Args:
        conv_op: convolution of the plans, 2d or 3d.
        encoder: the extractor whose maps it reads.
        classes: logits per pixel.
        deep_supervision: True returns the logits in a list of one; the paper supervises the full
            size only.
    """

    def __init__(
        self,
        conv_op: ConvOp,
        encoder: FourConvolutionEncoder,
        classes: int,
        deep_supervision: bool = False,
    ) -> None:
        super().__init__()
        upsampling_op = get_matching_convtransp(conv_op)
        widths = encoder.output_channels[3:0:-1]  # of strides 8, 4, 2
        inputs = [encoder.output_channels[-1], *widths[:-1]]
        self.deep_supervision = deep_supervision
        self.interpolation = "trilinear" if convert_conv_op_to_dim(conv_op) == 3 else "bilinear"
        self.transpconvs = nn.ModuleList(
            upsampling_op(before, after, kernel_size=2, stride=2)
            for before, after in zip(inputs, widths, strict=True)
        )
        self.stages = nn.ModuleList(_convolution(conv_op, 2 * width, width) for width in widths)
        self.seg_layers = nn.ModuleList([conv_op(widths[-1], classes, kernel_size=1)])

    def full_size_map(self, features: list[torch.Tensor]) -> torch.Tensor:
        """Return the map ``[B, C, *spatial]`` of the input's size that the head reads."""
        x = features[-1]
        skips = features[3:0:-1]
        for upsample, skip, stage in zip(self.transpconvs, skips, self.stages, strict=True):
            upsampled = upsample(x)
            cropped = _crop(skip, upsampled.shape[2:])
            x = stage(torch.cat((upsampled, cropped), dim=1))
        return functional.interpolate(
            x, size=features[0].shape[2:], mode=self.interpolation, align_corners=False
        )

    def classify(self, full_size_map: torch.Tensor) -> Segmentation:
        """Return the logits, in a list of one under deep supervision."""
        logits = self.seg_layers[0](full_size_map)
        return [logits] if self.deep_supervision else logits

    def forward(self, features: list[torch.Tensor]) -> Segmentation:
        return self.classify(self.full_size_map(features))


def _crop(x: torch.Tensor, size: torch.Size) -> torch.Tensor:
    """Leave out the last rows that pooling left out."""
    for axis, length in enumerate(size, start=2):
        x = x.narrow(axis, 0, length)
    return x


class FourConvolutionUNet(FeatureUNet):
    """The paper's extractor and classifier with the interface of :class:`FeatureUNet`.

    Args:
        encoder: f.
        decoder: c.
    """

    decoder: ThreeUpsamplingDecoder

    @classmethod
    def from_plans(
        cls,
        configuration: ConfigurationManager,
        input_channels: int,
        output_channels: int,
        deep_supervision: bool,
        width: int = 64,
    ) -> FourConvolutionUNet:
        """Build the network with the plans' dimension; everything else is the paper's.

        Raises:
            InputError: an axis of the plans' patch is too short for four poolings.
        """
        patch_size = list(configuration.patch_size)
        if min(patch_size) < SMALLEST:
            raise InputError(
                f"the paper's network halves every axis four times and needs {SMALLEST} pixels; "
                f"the plans' patch is {' x '.join(map(str, patch_size))}; use the plans' network "
                "(extractor=plans)"
            )
        conv_op = nn.Conv3d if len(patch_size) == 3 else nn.Conv2d
        encoder = FourConvolutionEncoder(conv_op, input_channels, width)
        decoder = ThreeUpsamplingDecoder(conv_op, encoder, output_channels, deep_supervision)
        network = cls(encoder, decoder)
        network.apply(InitWeights_He(1e-2))
        return network

    def decode(self, features: list[torch.Tensor]) -> tuple[Segmentation, torch.Tensor]:
        full_size_map = self.decoder.full_size_map(features)
        return self.decoder.classify(full_size_map), full_size_map
