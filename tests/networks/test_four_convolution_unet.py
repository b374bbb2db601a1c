"""The paper's own segmentation network: levels, sizes, parameters, the contract of FeatureUNet."""

import pytest
import torch
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

from nnunet_ext.errors import InputError
from nnunet_ext.networks.feature_unet import FeatureOutput
from nnunet_ext.networks.four_convolution_unet import FourConvolutionUNet
from tests.miniature_plans import plans


def network(
    dimension: int = 2, patch: int = 32, width: int = 4, deep_supervision: bool = False
) -> FourConvolutionUNet:
    manager = PlansManager(plans(dimension, patch_size=(patch,) * dimension))
    (name,) = manager.available_configurations
    return FourConvolutionUNet.from_plans(
        manager.get_configuration(name), 1, 4, deep_supervision, width
    )


@pytest.mark.parametrize("dimension", [2, 3])
def test_levels_are_those_of_table_3(dimension: int) -> None:
    """Levels 1 to 5: the image's size, then 1/2, 1/4, 1/8 and 1/16 of it."""
    made = network(dimension)
    output = made(torch.randn(1, 1, *(32,) * dimension), with_features=True)
    assert [tuple(level.shape[1:]) for level in output.features] == [
        (4, *(32,) * dimension),
        (8, *(16,) * dimension),
        (16, *(8,) * dimension),
        (32, *(4,) * dimension),
        (32, *(2,) * dimension),
    ]
    assert [made.level(2**index) for index in range(5)] == [0, 1, 2, 3, 4]
    assert made.encoder.output_channels == [level.shape[1] for level in output.features]


@pytest.mark.parametrize("size", [(16, 16), (32, 48), (17, 31), (50, 19), (16, 17, 20)])
def test_output_has_the_size_of_any_input(size: tuple[int, ...]) -> None:
    made = network(len(size))
    output = made(torch.randn(1, 1, *size), with_features=True)
    assert output.segmentation.shape == (1, 4, *size)
    assert output.decoder_map.shape == (1, 8, *size)


def test_there_are_four_convolutions_and_three_upsamplings() -> None:
    made = network(width=8)
    encoder = sum(isinstance(module, torch.nn.Conv2d) for module in made.encoder.modules())
    upsampling = sum(
        isinstance(module, torch.nn.ConvTranspose2d) for module in made.decoder.modules()
    )
    assert (encoder, upsampling) == (4, 3)


def test_features_and_logits_are_those_of_inference() -> None:
    made = network()
    x = torch.randn(2, 1, 32, 32)
    output = made(x, with_features=True)
    assert isinstance(output, FeatureOutput)
    assert torch.equal(output.segmentation, made(x))
    assert torch.equal(output.segmentation, made.decoder.seg_layers[0](output.decoder_map))
    assert made(x, with_features=True, segment=False).segmentation is None


def test_nnunet_may_switch_deep_supervision() -> None:
    """It writes decoder.deep_supervision around its validation; the list then holds the full size
    only.
    """
    made = network(deep_supervision=True)
    x = torch.randn(1, 1, 32, 32)
    (only,) = made(x)
    made.decoder.deep_supervision = False
    assert torch.equal(only, made(x))


def test_logits_read_the_last_pooled_map_and_three_skips() -> None:
    """Three concatenations, of strides 8, 4 and 2; of the full-size map only the size matters."""
    made = network()
    features = [
        level.detach().requires_grad_() for level in made.encoder(torch.randn(1, 1, 32, 32))
    ]
    made.decoder(features).square().sum().backward()
    full_size, *read = features
    assert full_size.grad is None
    assert all(level.grad is not None and level.grad.abs().sum() > 0 for level in read)


def test_every_weight_learns() -> None:
    made = network()
    made(torch.randn(1, 1, 32, 32)).square().sum().backward()
    assert all(
        parameter.grad is not None and parameter.grad.isfinite().all()
        for parameter in made.parameters()
    )


def test_compiled_network_equals_eager() -> None:
    made = network()
    compiled = torch.compile(made, backend="aot_eager", fullgraph=True)
    x = torch.randn(2, 1, 32, 32)
    torch.testing.assert_close(compiled(x), made(x))
    torch.testing.assert_close(
        compiled(x, with_features=True).features, made(x, with_features=True).features
    )


def test_a_patch_too_short_for_four_poolings_is_refused() -> None:
    with pytest.raises(InputError, match="needs 16 pixels; the plans' patch is 8 x 8"):
        network(patch=8)
