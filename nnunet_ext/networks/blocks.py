"""Building blocks that critics and generators share."""

from typing import Any

import torch
from dynamic_network_architectures.building_blocks.helper import get_matching_instancenorm
from torch import nn
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

# torch's Conv2d or Conv3d, as the plans name it; their common base hides their arguments
ConvOp = type[Any]
INITIAL_SD = 0.02


class ResidualBlock(nn.Module):
    """x + dropout(activation(InstanceNorm(conv3(x)))), with one convolution as in LSD-seg.

    Args:
        conv_op: convolution of the plans, 2d or 3d.
        channels: of input and output.
        activation: may be shared, since it has no weights; must not work in place.
        dropout: probability; 0 for none.

    Reference: Sankaranarayanan et al. 2018, "Learning from Synthetic Data".
    """

    def __init__(
        self, conv_op: ConvOp, channels: int, activation: nn.Module, dropout: float = 0.0
    ) -> None:
        super().__init__()
        norm_op = get_matching_instancenorm(conv_op)
        self.residual = nn.Sequential(
            conv_op(channels, channels, kernel_size=3, stride=1, padding=1, bias=False),
            norm_op(channels),
            activation,
            nn.Dropout(dropout),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.residual(x)


def initialize_normal(module: nn.Module) -> None:
    """Draw a convolution's weights from N(0, 0.02²) and set its bias to 0.

    Call it as ``network.apply(initialize_normal)``.

    Reference: Radford et al. 2016 (DCGAN), which the patch critics follow.
    """
    if not isinstance(module, (_ConvNd, _ConvTransposeNd)):
        return
    nn.init.normal_(module.weight, mean=0.0, std=INITIAL_SD)
    if module.bias is not None:
        nn.init.zeros_(module.bias)
