"""The generator of image-space adaptation, which rebuilds the image from the encoder's levels."""

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

    Each finer level is concatenated on the way.

    A stage is a transposed 3-convolution, InstanceNorm, ReLU and two residual blocks with dropout.
    It doubles the axes whose size differs from the next level: the slice axis of anisotropic 3d
    plans is doubled only where the encoder halved it. With levels of strides 4, 8 and 16 there are
    the paper's four stages, of 256, 256, 128 and 64 channels. There is no output activation,
    because nnU-Net's images are z-scores.

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
        dimension = convert_conv_op_to_dim(conv_op)
        legs = upsampling_legs(level_strides, dimension)
        remaining = sum(map(len, legs))  # stages still to come
        coarsest_first = reversed(level_channels)

        self.legs = nn.ModuleList()
        carried = 0  # channels that the leg before hands on
        for channels, factors in zip(coarsest_first, legs, strict=True):
            leg = nn.Sequential()
            inputs = carried + channels
            for factor in factors:
                remaining -= 1
                outputs = width * min(WIDEST, 2**remaining)
                stage = _stage(conv_op, inputs, outputs, factor)
                leg.append(stage)
                inputs = outputs
            self.legs.append(leg)
            carried = inputs

        self.image = conv_op(
            carried,
            image_channels,
            kernel_size=3,
            stride=1,
            padding=1,
        )

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
            upsampled = leg(joined)
            upsampled = _fit(upsampled, finer.shape[2:])
            joined = torch.cat((upsampled, finer), dim=1)

        full_size = last(joined)
        full_size = _fit(full_size, image_size)
        return self.image(full_size)


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
    coarsest_first = reversed(level_strides)
    path = [*coarsest_first, full_size]

    legs = []
    for coarse, fine in itertools.pairwise(path):
        factors = _doublings(coarse, fine)
        legs.append(factors)

    if not legs[-1]:
        legs[-1] = [full_size]
    return legs


def _doublings(coarse: tuple[int, ...], fine: tuple[int, ...]) -> list[tuple[int, ...]]:
    """Return the factors of the stages that lead from one stride to a finer one.

    Each stage doubles the axes that still differ.
    """
    missing = []
    for long, short in zip(coarse, fine, strict=True):
        doublings = math.log2(long / short)
        missing.append(math.ceil(doublings))

    factors = []
    for step in range(max(missing)):
        factor = tuple(2 if step < doublings else 1 for doublings in missing)
        factors.append(factor)
    return factors


def _stage(conv_op: ConvOp, inputs: int, outputs: int, factor: tuple[int, ...]) -> nn.Sequential:
    """Build a transposed convolution and two residual blocks.

    The convolution multiplies every axis by exactly its factor.
    """
    activation = nn.ReLU()
    norm_op = get_matching_instancenorm(conv_op)
    upsampling_op = get_matching_convtransp(conv_op)
    output_padding = tuple(step - 1 for step in factor)

    upsampling = upsampling_op(
        inputs,
        outputs,
        kernel_size=3,
        stride=factor,
        padding=1,
        output_padding=output_padding,
        bias=False,
    )
    return nn.Sequential(
        upsampling,
        norm_op(outputs),
        activation,
        ResidualBlock(conv_op, outputs, activation, DROPOUT),
        ResidualBlock(conv_op, outputs, activation, DROPOUT),
    )


def _fit(x: torch.Tensor, size: Sequence[int]) -> torch.Tensor:
    """Resample where the encoder rounded an odd size.

    Planned patches divide evenly and are returned as they are.
    """
    wanted = tuple(size)
    found = tuple(x.shape[2:])
    if found == wanted:
        return x
    return functional.interpolate(x, size=wanted, mode="nearest")
