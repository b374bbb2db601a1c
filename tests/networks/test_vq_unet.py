"""The quantised branch of the planned U-Net and the decoder of its codes."""

from typing import Any

import pytest
import torch
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager
from torch import nn

from nnunet_ext.errors import InputError
from nnunet_ext.networks.planned_unet import planned_unet
from nnunet_ext.networks.vq_unet import ReconstructionDecoder, VQBranch, VQOutput, VQUNet
from tests.miniature_plans import plans

SMALL = VQBranch(bottom_stride=2, top_stride=4, codebook_size=8, code_channels=4)


def configuration(dimension: int = 2, **options: Any) -> Any:
    content = plans(dimension, **options)
    (name,) = content["configurations"]
    return PlansManager(content).get_configuration(name)


def vq_unet(
    branch: VQBranch = SMALL, dimension: int = 2, deep_supervision: bool = False, **options: Any
) -> VQUNet:
    torch.manual_seed(0)
    return VQUNet.from_plans(configuration(dimension, **options), 1, 2, deep_supervision, branch)


def images(dimension: int = 2, size: int = 16) -> torch.Tensor:
    return torch.randn(2, 1, *(size,) * dimension, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("residual", [False, True])
@pytest.mark.parametrize("dimension", [2, 3])
def test_starts_as_the_planned_network(dimension: int, residual: bool) -> None:
    network = vq_unet(dimension=dimension, deep_supervision=True, residual=residual)
    torch.manual_seed(0)
    planned = planned_unet(configuration(dimension, residual=residual), 1, 2, True)
    for ours, theirs in zip(network(images(dimension)), planned(images(dimension)), strict=True):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("dimension", [2, 3])
def test_codes_of_both_levels_reach_the_segmentation(dimension: int) -> None:
    network = vq_unet(dimension=dimension)
    torch.nn.init.normal_(network.mix.weight, std=0.3)
    x = images(dimension)
    output = network(x, with_codes=True)
    assert isinstance(output, VQOutput)
    bottom, top = output.levels
    assert bottom.codes.shape == (2, 4, *(8,) * dimension) and top.codes.shape == (
        2,
        4,
        *(4,) * dimension,
    )
    torch.testing.assert_close(output.codes[:, 4:], bottom.codes)
    enlarged = top.codes
    for axis in range(2, 2 + dimension):
        enlarged = enlarged.repeat_interleave(2, axis)
    torch.testing.assert_close(output.codes[:, :4], enlarged)

    before = network(x)
    torch.testing.assert_close(before, output.segmentation)
    with torch.no_grad():
        network.codebooks[0].codes.add_(1)
    assert not torch.allclose(network(x), before)


def test_two_codebooks() -> None:
    network = vq_unet(VQBranch(2, 4, 8, 4, shared=False))
    bottom, top = network(images(), with_codes=True).levels
    for quantized, codebook in zip((bottom, top), network.codebooks, strict=True):
        expected = codebook.codes[quantized.indices].movedim(-1, 1)
        assert torch.equal(quantized.codes, expected)


def test_the_segmentation_reaches_encoder_and_projections_but_no_code() -> None:
    network = vq_unet()
    torch.nn.init.normal_(network.mix.weight, std=0.3)
    network(images()).square().sum().backward()
    assert network.codebooks[0].codes.grad is None
    assert all(projection.weight.grad.any() for projection in network.projections)
    assert all(parameter.grad is not None for parameter in network.encoder.parameters())


def test_levels_of_anisotropic_plans() -> None:
    """Strides (1, 2, 2) and (2, 4, 4): the top level is enlarged along three axes."""
    content = plans(3, patch_size=(8, 16, 16))
    content["configurations"]["3d_fullres"]["architecture"]["arch_kwargs"]["strides"][1] = [1, 2, 2]
    planned = PlansManager(content).get_configuration("3d_fullres")
    network = VQUNet.from_plans(planned, 1, 2, False, SMALL)
    output = network(torch.randn(1, 1, 8, 16, 16), with_codes=True)
    assert output.codes.shape == (1, 8, 8, 8, 8) and output.levels[1].codes.shape == (1, 4, 4, 4, 4)


def test_strides_that_the_network_lacks_are_refused_with_advice() -> None:
    with pytest.raises(
        InputError, match=r"no level of stride 8; .* 1, 2, 4; choose two of them with bottom_stride"
    ):
        vq_unet(VQBranch())
    with pytest.raises(InputError, match="top_stride=2 must be larger than bottom_stride=4"):
        vq_unet(VQBranch(bottom_stride=4, top_stride=2))


@pytest.mark.parametrize(
    ("stride", "codes_size", "image_size"),
    [
        ((8, 8), (2, 3), (16, 24)),
        ((2, 4), (3, 2), (5, 8)),
        ((1, 1), (4, 4), (4, 4)),
        ((1, 2, 2), (2, 3, 3), (2, 6, 6)),
    ],
)
def test_the_decoder_gives_the_images_size(
    stride: tuple[int, ...], codes_size: tuple[int, ...], image_size: tuple[int, ...]
) -> None:
    conv_op = nn.Conv2d if len(stride) == 2 else nn.Conv3d
    decoder = ReconstructionDecoder(conv_op, 6, stride, 3, width=2)
    image = decoder(torch.randn(2, 6, *codes_size), torch.Size(image_size))
    assert image.shape == (2, 3, *image_size)


def test_the_decoder_learns_to_rebuild_an_image() -> None:
    """Codes that hold the image, 4 x 4 pixels each: they can be laid out again."""
    torch.manual_seed(0)
    decoder = ReconstructionDecoder(nn.Conv2d, 16, (4, 4), 1, width=8)
    optimizer = torch.optim.Adam(decoder.parameters(), 3e-3)
    losses = []
    for _ in range(150):
        x = torch.randn(4, 1, 16, 16)
        loss = (decoder(nn.functional.pixel_unshuffle(x, 4), x.shape[2:]) - x).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]
