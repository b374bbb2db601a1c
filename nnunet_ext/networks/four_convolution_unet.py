"""The segmentation network of the image-space adaptation paper, as printed.

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
        widths = [width, 2 * width, 4 * width, 8 * width]
        self.convolutions = nn.ModuleList()
        inputs = input_channels
        for outputs in widths:
            convolution = _convolution(conv_op, inputs, outputs)
            self.convolutions.append(convolution)
            inputs = outputs

        pool_op = get_matching_pool_op(conv_op, pool_type="max")
        self.pool = pool_op(kernel_size=2)

        dimension = convert_conv_op_to_dim(conv_op)
        poolings = [[2] * dimension] * len(widths)
        self.output_channels = [*widths, widths[-1]]
        self.strides = [[1] * dimension, *poolings]

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        maps = []
        for convolution in self.convolutions:
            activation = convolution(x)
            maps.append(activation)
            x = self.pool(activation)
        return [*maps, x]


class ThreeUpsamplingDecoder(nn.Module):
    """The classifier c: three times an upsampling, the cropped encoder map and a convolution.

    The paper has four poolings but three upsamplings. A linear interpolation makes up for the
    remaining factor of 2.

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
        self.deep_supervision = deep_supervision
        is_3d = convert_conv_op_to_dim(conv_op) == 3
        self.interpolation = "trilinear" if is_3d else "bilinear"

        widths = encoder.output_channels[3:0:-1]  # of strides 8, 4, 2
        upsampling_op = get_matching_convtransp(conv_op)
        self.transpconvs = nn.ModuleList()
        inputs = encoder.output_channels[-1]
        for width in widths:
            upsampling = upsampling_op(inputs, width, kernel_size=2, stride=2)
            self.transpconvs.append(upsampling)
            inputs = width

        self.stages = nn.ModuleList()
        for width in widths:
            convolution = _convolution(conv_op, 2 * width, width)
            self.stages.append(convolution)

        head = conv_op(inputs, classes, kernel_size=1)
        self.seg_layers = nn.ModuleList([head])

    def full_size_map(self, features: list[torch.Tensor]) -> torch.Tensor:
        """Return the map ``[B, C, *spatial]`` of the input's size that the head reads."""
        full_size, *skips, x = features
        skips.reverse()  # coarsest first
        levels = zip(
            self.transpconvs,
            skips,
            self.stages,
            strict=True,
        )
        for upsample, skip, stage in levels:
            upsampled = upsample(x)
            cropped = _crop(skip, upsampled.shape[2:])
            joined = torch.cat((upsampled, cropped), dim=1)
            x = stage(joined)

        return functional.interpolate(
            x,
            size=full_size.shape[2:],
            mode=self.interpolation,
            align_corners=False,
        )

    def classify(self, full_size_map: torch.Tensor) -> Segmentation:
        """Return the logits, in a list of one under deep supervision."""
        head = self.seg_layers[0]
        logits = head(full_size_map)
        if self.deep_supervision:
            return [logits]
        return logits

    def forward(self, features: list[torch.Tensor]) -> Segmentation:
        return self.classify(self.full_size_map(features))


def _crop(x: torch.Tensor, size: torch.Size) -> torch.Tensor:
    """Cut off the last rows, which the pooling of an odd size dropped."""
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
            size = " x ".join(map(str, patch_size))
            raise InputError(
                f"the paper's network halves every axis four times and needs {SMALLEST} pixels; "
                f"the plans' patch is {size}; use the plans' network (extractor=plans)"
            )

        conv_op = nn.Conv3d if len(patch_size) == 3 else nn.Conv2d
        encoder = FourConvolutionEncoder(conv_op, input_channels, width)
        decoder = ThreeUpsamplingDecoder(conv_op, encoder, output_channels, deep_supervision)
        network = cls(encoder, decoder)
        network.apply(InitWeights_He(1e-2))
        return network

    def decode(self, features: list[torch.Tensor]) -> tuple[Segmentation, torch.Tensor]:
        full_size_map = self.decoder.full_size_map(features)
        segmentation = self.decoder.classify(full_size_map)
        return segmentation, full_size_map
