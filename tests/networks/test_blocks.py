"""Shared blocks: the residual formula and the normal initialisation."""

import pytest
import torch
from torch import nn
from torch.nn import functional

from nnunet_ext.networks.blocks import ResidualBlock, initialize_normal


@pytest.mark.parametrize("conv_op", [nn.Conv2d, nn.Conv3d])
def test_residual_block_is_its_formula(conv_op: type) -> None:
    block = ResidualBlock(conv_op, 3, nn.LeakyReLU(0.2), dropout=0.5).eval()
    x = torch.randn(2, 3, *(5,) * (2 if conv_op is nn.Conv2d else 3))
    convolve = functional.conv2d if conv_op is nn.Conv2d else functional.conv3d
    response = convolve(x, block.residual[0].weight, padding=1)
    axes = tuple(range(2, x.ndim))
    mean, variance = (
        response.mean(axes, keepdim=True),
        response.var(axes, keepdim=True, unbiased=False),
    )
    normalised = (response - mean) / (variance + 1e-5).sqrt()
    expected = x + torch.where(normalised > 0, normalised, 0.2 * normalised)
    torch.testing.assert_close(block(x), expected, rtol=1e-4, atol=1e-5)


def test_dropout_acts_in_training_only() -> None:
    torch.manual_seed(0)
    block = ResidualBlock(nn.Conv2d, 4, nn.ReLU(), dropout=0.5)
    x = torch.randn(1, 4, 8, 8)
    assert not torch.equal(block(x), block(x))
    block.eval()
    assert torch.equal(block(x), block(x))


def test_normal_initialisation_has_its_moments() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(64, 64, 3), nn.ConvTranspose3d(32, 32, 3), nn.InstanceNorm2d(4, affine=True)
    )
    network.apply(initialize_normal)
    for convolution in network[:2]:
        n = convolution.weight.numel()
        assert abs(convolution.weight.mean().item()) < 4 * 0.02 / n**0.5
        assert convolution.weight.std().item() == pytest.approx(0.02, rel=4 / (2 * n) ** 0.5)
        assert convolution.bias.eq(0).all()
    assert network[2].weight.eq(1).all()  # not a convolution
