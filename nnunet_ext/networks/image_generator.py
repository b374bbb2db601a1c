"""The generator of image-space adaptation, which rebuilds the image from encoder levels."""

import itertools
import math
from collections.abc import Sequence

import torch
from dynamic_network_architectures.building_blocks.helper import (
    convert_conv_op_to_dim,
    get_matching_convtransp,
    get_matching_instancenorm,
)
from torch import nn
from torch.nn import functional

from nnunet_ext.networks.blocks import ConvOp, ResidualBlock

DROPOUT = 0.5
WIDEST = 4  # multiples of the last stage's width


class ImageGenerator(nn.Module):
    """The generator g: upsampling stages from the coarsest level to the image.

    Each finer level is concatenated.

    A stage is a transposed 3-convolution, InstanceNorm, ReLU and two residual blocks with dropout.
    It doubles the axes that differ in size from the next level: anisotropic 3d plans keep their
    slice axis where the encoder does. Levels of strides 4, 8 and 16 make the paper's four stages,
    of 256, 256, 128 and 64 channels. There is no output activation, because nnU-Net's images are
    z-scores.

    Args:
        conv_op: convolution of the plans, 2d or 3d.
        level_channels: channels of the encoder's maps, finest first.
        level_strides: their cumulative strides per axis, finest first (:func:`cumulative_strides`).
        image_channels: of the image.
        width: channels of the last stage.

    Reference: Chen et al., "Unsupervised domain adaptation based COVID-19 CT infection segmentation
    network", eq. 3; widths and order of layers from Sankaranarayanan et al. 2018, "Learning from
    Synthetic Data".
    """

    def __init__(
        self,
        conv_op: ConvOp,
        level_channels: Sequence[int],
        level_strides: Sequence[tuple[int, ...]],
        image_channels: int,
        width: int = 64,
    ) -> None:
        super().__init__()
        legs = upsampling_legs(level_strides, convert_conv_op_to_dim(conv_op))
        remaining = sum(len(leg) for leg in legs)

        self.legs = nn.ModuleList()
        carried = 0  # channels that the leg before hands on
        for channels, factors in zip(reversed(level_channels), legs, strict=True):
            stages = []
            inputs = carried + channels
            for factor in factors:
                remaining -= 1
                outputs = width * min(WIDEST, 2**remaining)
                stages.append(_stage(conv_op, inputs, outputs, factor))
                inputs = outputs
            carried = inputs
            self.legs.append(nn.Sequential(*stages))
        self.image = conv_op(carried, image_channels, kernel_size=3, stride=1, padding=1)

    def forward(self, levels: Sequence[torch.Tensor], image_size: Sequence[int]) -> torch.Tensor:
        """Rebuild the image.

        Args:
            levels: maps ``[B, C, *spatial]`` of the chosen levels, finest first.
            image_size: spatial size of the image, ``images.shape[2:]``.

        Returns:
            ``[B, image_channels, *image_size]``.
        """
        *legs, last = self.legs
        joined, *others = reversed(levels)  # coarsest first
        for leg, finer in zip(legs, others, strict=True):
            upsampled = _fit(leg(joined), finer.shape[2:])
            joined = torch.cat((upsampled, finer), dim=1)
        return self.image(_fit(last(joined), image_size))


def upsampling_legs(
    level_strides: Sequence[tuple[int, ...]], dimension: int
) -> list[list[tuple[int, ...]]]:
    """Return the upsampling factors from every level to the next finer one.

    The coarsest level comes first, the image last.

    Args:
        level_strides: cumulative strides per axis, finest first.
        dimension: number of spatial axes.

    Returns:
        For every level the factors (1 or 2 per axis) of its stages. The last leg has a stage even
        where the finest level has the image's size, since the concatenated map needs one.

    >>> upsampling_legs([(4, 4), (8, 8), (16, 16)], dimension=2)
    [[(2, 2)], [(2, 2)], [(2, 2), (2, 2)]]
    """
    full_size = (1,) * dimension
    path = [*reversed(level_strides), full_size]
    legs = [_doublings(coarse, fine) for coarse, fine in itertools.pairwise(path)]
    legs[-1] = legs[-1] or [full_size]
    return legs


def _doublings(coarse: tuple[int, ...], fine: tuple[int, ...]) -> list[tuple[int, ...]]:
    """Return the factors of the stages that lead from one stride to a finer one.

    Each stage doubles the axes that still differ.
    """
    ratios = [long / short for long, short in zip(coarse, fine, strict=True)]
    missing = [math.ceil(math.log2(ratio)) for ratio in ratios]
    factors = []
    for step in range(max(missing)):
        factors.append(tuple(2 if step < doublings else 1 for doublings in missing))
    return factors


def _stage(conv_op: ConvOp, inputs: int, outputs: int, factor: tuple[int, ...]) -> nn.Sequential:
    """Build a transposed convolution and two residual blocks.

    The convolution multiplies every axis by its factor exactly.
    """
    activation = nn.ReLU()
    upsampling = get_matching_convtransp(conv_op)(
        inputs,
        outputs,
        kernel_size=3,
        stride=factor,
        padding=1,
        output_padding=tuple(step - 1 for step in factor),
        bias=False,
    )
    return nn.Sequential(
        upsampling,
        get_matching_instancenorm(conv_op)(outputs),
        activation,
        ResidualBlock(conv_op, outputs, activation, DROPOUT),
        ResidualBlock(conv_op, outputs, activation, DROPOUT),
    )


def _fit(x: torch.Tensor, size: Sequence[int]) -> torch.Tensor:
    """Resample where the encoder rounded an odd size.

    Planned patches divide evenly and pass untouched.
    """
    if tuple(x.shape[2:]) == tuple(size):
        return x
    return functional.interpolate(x, size=tuple(size), mode="nearest")
