"""The generator: the paper's stages, levels and sizes of 2d and anisotropic 3d plans, gradients,
learning.
"""

from collections.abc import Sequence

import pytest
import torch
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager
from torch import nn

from nnunet_ext.networks.blocks import ResidualBlock, initialize_normal
from nnunet_ext.networks.feature_levels import cumulative_strides, level_size
from nnunet_ext.networks.feature_unet import FeatureUNet
from nnunet_ext.networks.image_generator import ImageGenerator, upsampling_legs
from tests.miniature_plans import plans

CHANNELS = [3, 5, 7]


def generator(strides: Sequence[tuple[int, ...]], width: int = 4) -> ImageGenerator:
    conv_op = nn.Conv2d if len(strides[0]) == 2 else nn.Conv3d
    return ImageGenerator(conv_op, CHANNELS[: len(strides)], strides, image_channels=2, width=width)


def levels(strides: Sequence[tuple[int, ...]], size: Sequence[int]) -> list[torch.Tensor]:
    channels = CHANNELS[: len(strides)]
    return [
        torch.randn(2, c, *level_size(size, stride))
        for c, stride in zip(channels, strides, strict=True)
    ]


def test_strides_4_8_16_make_the_papers_four_stages() -> None:
    """Transposed 3-convolutions to 256, 256, 128 and 64 channels, each with two residual blocks."""
    made = generator([(4, 4), (8, 8), (16, 16)], width=64)
    upsampling = [module for module in made.modules() if isinstance(module, nn.ConvTranspose2d)]
    assert [module.out_channels for module in upsampling] == [256, 256, 128, 64]
    assert [module.in_channels for module in upsampling] == [7, 256 + 5, 256 + 3, 128]
    assert all(module.kernel_size == (3, 3) and module.stride == (2, 2) for module in upsampling)
    assert sum(isinstance(module, ResidualBlock) for module in made.modules()) == 2 * 4


def test_legs_of_table_3() -> None:
    double = (2, 2)
    assert upsampling_legs([(4, 4), (8, 8), (16, 16)], 2) == [[double], [double], [double, double]]
    assert upsampling_legs([(2, 2), (4, 4), (8, 8)], 2) == [[double], [double], [double]]
    assert upsampling_legs([(1, 1), (2, 2), (4, 4)], 2) == [[double], [double], [(1, 1)]]


def test_legs_double_the_axes_that_differ() -> None:
    assert upsampling_legs([(1, 2, 2), (2, 8, 8)], 3) == [[(2, 2, 2), (1, 2, 2)], [(1, 2, 2)]]


@pytest.mark.parametrize("strides", [[4, 8, 16], [2, 4, 8], [1, 2, 4], [1, 8, 16], [8]])
@pytest.mark.parametrize("size", [(32, 32), (16, 48), (50, 37)])
def test_image_has_the_size_asked_for(strides: list[int], size: tuple[int, ...]) -> None:
    chosen = [(stride, stride) for stride in strides]
    assert generator(chosen)(levels(chosen, size), size).shape == (2, 2, *size)


@pytest.mark.parametrize("size", [(8, 32, 32), (16, 32, 48), (9, 33, 40)])
def test_anisotropic_levels(size: tuple[int, ...]) -> None:
    every = cumulative_strides([[1, 1, 1], [1, 2, 2], [1, 2, 2], [2, 2, 2], [2, 2, 2]], 3)
    chosen = every[2:]
    assert chosen == [(1, 4, 4), (2, 8, 8), (4, 16, 16)]
    assert generator(chosen)(levels(chosen, size), size).shape == (2, 2, *size)


def test_the_smallest_map_is_a_single_position() -> None:
    strides = [(4, 4), (8, 8), (16, 16)]
    assert levels(strides, (16, 16))[-1].shape[2:] == (1, 1)
    assert generator(strides)(levels(strides, (16, 16)), (16, 16)).isfinite().all()


@pytest.mark.parametrize("dimension", [2, 3])
@pytest.mark.parametrize("residual", [False, True])
def test_it_fits_a_planned_network(dimension: int, residual: bool) -> None:
    manager = PlansManager(plans(dimension, residual=residual))
    (name,) = manager.available_configurations
    network = FeatureUNet.from_plans(manager.get_configuration(name), 1, 2, deep_supervision=False)
    encoder = network.encoder
    strides = cumulative_strides(encoder.strides, dimension)
    made = ImageGenerator(
        encoder.conv_op, encoder.output_channels, strides, image_channels=1, width=4
    )
    x = torch.randn(2, 1, *(16,) * dimension)
    assert (
        made(network(x, with_features=True, segment=False).features, x.shape[2:]).shape == x.shape
    )


def test_every_level_reaches_the_image_and_gets_a_gradient() -> None:
    strides, size = [(4, 4), (8, 8), (16, 16)], (32, 32)
    maps = [level.requires_grad_() for level in levels(strides, size)]
    generator(strides)(maps, size).square().sum().backward()
    assert all(level.grad is not None and level.grad.abs().sum() > 0 for level in maps)


def test_one_graph_serves_two_losses() -> None:
    strides, size = [(4, 4), (8, 8), (16, 16)], (32, 32)
    made = generator(strides)
    image = made(levels(strides, size), size)
    image.abs().mean().backward(retain_graph=True)
    first = made.image.weight.grad.clone()
    image.abs().mean().backward()
    torch.testing.assert_close(made.image.weight.grad, 2 * first)
    assert not any(getattr(module, "inplace", False) for module in made.modules())


def test_output_is_not_bounded() -> None:
    """Images are z-scores. A power of two scales the last layer without rounding."""
    strides, size = [(4, 4), (8, 8)], (16, 16)
    made, maps = generator(strides).eval(), levels(strides, size)
    image = made(maps, size)
    with torch.no_grad():
        made.image.weight.mul_(1024)
        made.image.bias.mul_(1024)
    assert torch.equal(made(maps, size), 1024 * image)


def test_it_learns_to_rebuild_an_image() -> None:
    torch.manual_seed(0)
    strides, size = [(2, 2), (4, 4), (8, 8)], (16, 16)
    made, maps = generator(strides, width=8), levels(strides, size)
    made.apply(initialize_normal)
    image = torch.linspace(-2, 2, 16).expand(2, 2, 16, 16) + torch.linspace(-1, 1, 16)[:, None]
    optimizer = torch.optim.Adam(made.parameters(), lr=1e-2)
    errors = []
    for _ in range(30):
        error = (made(maps, size) - image).abs().mean()
        optimizer.zero_grad()
        error.backward()
        optimizer.step()
        errors.append(error.item())
    assert errors[-1] < errors[0] / 2
