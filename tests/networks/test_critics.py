"""Critics: maps and depths for 2d and 3d, small and odd sizes, locality, reuse of one graph,
learning.
"""

import itertools
import math

import pytest
import torch
from torch import nn

from nnunet_ext.losses.adversarial import four_way, source_target
from nnunet_ext.networks.blocks import initialize_normal
from nnunet_ext.networks.critics import (
    ImagePatchCritic,
    PatchCritic,
    TranslationCritic,
    halving_strides,
)


def test_512_pixels_give_the_papers_64_by_64_label_map() -> None:
    with torch.no_grad():
        assert ImagePatchCritic(nn.Conv2d, 1, width=4)(torch.zeros(1, 1, 512, 512)).shape == (
            1,
            4,
            64,
            64,
        )


@pytest.mark.parametrize("size", [(16, 16), (40, 64), (67, 129), (8, 32, 48), (16, 20, 35)])
def test_image_critic_has_one_answer_per_eight_pixels(size: tuple[int, ...]) -> None:
    critic = ImagePatchCritic(nn.Conv2d if len(size) == 2 else nn.Conv3d, 2, width=4)
    expected = tuple(max(n // 8, 2) for n in size)
    assert critic(torch.randn(2, 2, *size)).shape == (2, 4, *expected)


@pytest.mark.parametrize("size", [(4, 4), (5, 7), (4, 16, 16), (4, 5, 6)])
def test_image_critic_on_the_smallest_images(size: tuple[int, ...]) -> None:
    """InstanceNorm refuses a map of one position, so short axes are not pooled."""
    critic = ImagePatchCritic(nn.Conv2d if len(size) == 2 else nn.Conv3d, 1, width=4)
    answer = critic(torch.randn(1, 1, *size))
    assert answer.isfinite().all() and min(answer.shape[2:]) == 2


def test_image_critic_has_the_layout_of_lsd_seg() -> None:
    """One 4-convolution, nine 3-convolutions in the residual blocks, a 3-convolution with bias to
    four classes.
    """
    width, channels = 8, 3
    critic = ImagePatchCritic(nn.Conv2d, channels, width)
    expected = 4 * 4 * channels * width + 9 * (3 * 3 * width * width) + (3 * 3 * width + 1) * 4
    assert sum(parameter.numel() for parameter in critic.parameters()) == expected


@pytest.mark.parametrize(
    ("size", "layers"),
    [((4, 4), 2), ((8, 8), 2), ((16, 16), 3), ((60, 60), 4), ((512, 512), 5), ((2, 64, 64), 5)],
)
def test_depth_follows_the_size_of_the_map(size: tuple[int, ...], layers: int) -> None:
    assert len(halving_strides(size)) == layers
    critic = PatchCritic(nn.Conv2d if len(size) == 2 else nn.Conv3d, 3, size, width=2)
    assert sum(isinstance(module, (nn.Conv2d, nn.Conv3d)) for module in critic.modules()) == layers


@pytest.mark.parametrize(
    ("size", "patches"),
    [
        ((1, 1), (1, 1)),
        ((2, 3), (2, 3)),
        ((4, 4), (2, 2)),
        ((5, 7), (2, 3)),
        ((16, 16), (2, 2)),
        ((60, 60), (3, 3)),  # 60, 30, 15, 7, 3
        ((240, 240), (7, 7)),  # as AMD-DAS's critic of hidden maps
        ((2, 12, 64), (2, 3, 2)),
        ((3, 32, 32), (3, 2, 2)),
    ],
)
def test_patch_critic_judges_maps_of_every_size(
    size: tuple[int, ...], patches: tuple[int, ...]
) -> None:
    critic = PatchCritic(nn.Conv2d if len(size) == 2 else nn.Conv3d, 3, size, width=2)
    assert critic(torch.randn(2, 3, *size)).shape == (2, 1, *patches)


def test_on_a_large_map_it_is_advents_discriminator() -> None:
    """Kernels of 4, widths 64, 128, 256, 512 and 1, biases everywhere."""
    critic = PatchCritic(nn.Conv2d, 2, (256, 256))
    widths = [2, 64, 128, 256, 512, 1]
    expected = sum((16 * inputs + 1) * outputs for inputs, outputs in itertools.pairwise(widths))
    assert sum(parameter.numel() for parameter in critic.parameters()) == expected


def test_an_answer_depends_on_its_patch_only() -> None:
    """The receptive field of n layers with kernel 4 and stride 2 is 3 · 2ⁿ - 2 pixels."""
    critic = PatchCritic(nn.Conv2d, 1, (64, 64), width=2)
    images = torch.randn(1, 1, 64, 64, requires_grad=True)
    critic(images)[0, 0, 0, 0].backward()
    assert images.grad is not None
    rows = images.grad.abs().sum(dim=(0, 1, 3)).nonzero()
    layers = len(halving_strides((64, 64)))
    padding = 2**layers - 1  # one pixel of padding per layer, 1 + 2 + 4 + ...
    assert rows.max().item() + 1 == min(3 * 2**layers - 2 - padding, 64)


@pytest.mark.parametrize(
    "critic", [ImagePatchCritic(nn.Conv2d, 1, 4), PatchCritic(nn.Conv2d, 1, (32, 32), 4, 4)]
)
def test_opponents_differentiate_through_one_graph_twice(critic: nn.Module) -> None:
    """In-place activations would destroy what the second pass needs; a step of the critic comes
    after both.
    """
    images = torch.randn(2, 1, 32, 32, requires_grad=True)
    logits = critic(images)
    four_way(logits, "source", real=True).backward(retain_graph=True)
    first = images.grad.clone()
    four_way(logits, "source", real=True).backward()
    torch.testing.assert_close(images.grad, 2 * first)
    assert not any(getattr(module, "inplace", False) for module in critic.modules())


def test_frozen_critic_passes_gradients_and_takes_none() -> None:
    critic = ImagePatchCritic(nn.Conv2d, 1, width=4).requires_grad_(False)
    images = torch.randn(1, 1, 16, 16, requires_grad=True)
    four_way(critic(images), "target", real=True).backward()
    assert images.grad.abs().sum() > 0
    assert all(parameter.grad is None for parameter in critic.parameters())


def test_image_critic_learns_to_tell_smooth_from_noisy() -> None:
    torch.manual_seed(0)
    critic = ImagePatchCritic(nn.Conv2d, 1, width=8)
    critic.apply(initialize_normal)
    optimizer = torch.optim.Adam(critic.parameters(), lr=1e-3)
    for _ in range(20):
        noisy, smooth = (
            torch.randn(4, 1, 32, 32),
            torch.randn(4, 1, 1, 1) + torch.linspace(-1, 1, 32),
        )
        smooth = smooth.expand(4, 1, 32, 32)
        loss = four_way(critic(noisy), "source", True) + four_way(critic(smooth), "target", True)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss.item() < 2 * math.log(4) / 4  # a quarter of not knowing


def test_patch_critic_learns_on_a_bottleneck() -> None:
    torch.manual_seed(0)
    critic = PatchCritic(nn.Conv2d, 16, (4, 4), width=16)
    optimizer = torch.optim.Adam(critic.parameters(), lr=3e-3)
    for _ in range(60):
        source, target = torch.randn(8, 16, 4, 4), torch.randn(8, 16, 4, 4).abs()
        loss = source_target(critic(source), True) + source_target(critic(target), False)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss.item() < 2 * math.log(2) / 4  # a quarter of not knowing


# --- the critic of translated images


def test_240_pixels_give_the_papers_28_by_28_patches() -> None:
    with torch.no_grad():
        assert TranslationCritic(nn.Conv2d, 1, (240, 240), width=2)(
            torch.zeros(1, 1, 240, 240)
        ).shape == (1, 1, 28, 28)
        four = TranslationCritic(nn.Conv2d, 1, (240, 240), 2, layers=4, normalization="batch")
        assert four(torch.zeros(2, 1, 240, 240)).shape == (2, 1, 13, 13)


@pytest.mark.parametrize(
    ("size", "convolutions"),
    [((4, 4), 2), ((8, 20), 3), ((16, 16), 4), ((32, 32), 5), ((64, 64), 5), ((16, 8, 8), 3)],
)
@pytest.mark.parametrize("normalization", ["instance", "batch", "spectral"])
def test_a_small_image_gets_fewer_layers(
    size: tuple[int, ...], convolutions: int, normalization: str
) -> None:
    conv_op = nn.Conv2d if len(size) == 2 else nn.Conv3d
    critic = TranslationCritic(conv_op, 1, size, width=2, normalization=normalization)  # type: ignore[arg-type]
    assert sum(isinstance(module, conv_op) for module in critic.modules()) == convolutions
    answer = critic(torch.randn(2, 1, *size))
    assert answer.shape[:2] == (2, 1) and min(answer.shape[2:]) >= 2 and answer.isfinite().all()


def test_a_patch_is_70_pixels_wide() -> None:
    """The gradient of one answer, without the normalisation that joins all places."""
    critic = TranslationCritic(nn.Conv2d, 1, (120, 120), width=1, normalization="spectral").eval()
    image = torch.randn(1, 1, 120, 120, requires_grad=True)
    critic(image)[0, 0, 6, 6].backward()
    seen = image.grad[0, 0].abs().sum(0).nonzero()
    assert (seen.max() - seen.min() + 1).item() == 70


def test_spectral_normalisation_bounds_every_layer() -> None:
    critic = TranslationCritic(nn.Conv2d, 1, (32, 32), width=4, normalization="spectral")
    for _ in range(30):  # of its power iteration
        critic(torch.zeros(1, 1, 32, 32))
    for module in critic.layers:
        if isinstance(module, nn.Conv2d):
            assert torch.linalg.matrix_norm(module.weight.flatten(1), 2).item() == pytest.approx(
                1, abs=0.02
            )


def test_an_unknown_normalisation_is_refused() -> None:
    with pytest.raises(ValueError, match="one of instance, batch, spectral, not 'layer'"):
        TranslationCritic(nn.Conv2d, 1, (16, 16), normalization="layer")  # type: ignore[arg-type]


@pytest.mark.parametrize(("layers", "cells"), [(3, 16), (5, 4)])
def test_fewer_layers_judge_smaller_cells(layers: int, cells: int) -> None:
    critic = PatchCritic(nn.Conv2d, 3, (128, 128), width=2, layers=layers)
    assert critic(torch.zeros(1, 3, 128, 128)).shape == (1, 1, cells, cells)
