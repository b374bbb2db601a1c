"""The paper's segmentation network of VGG-16: layers, any size, the contract of FeatureUNet."""

import pytest
import torch
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager
from torch import nn

from nnunet_ext.errors import InputError
from nnunet_ext.networks.vgg_fcn import VGGFCN
from tests.miniature_plans import plans


def network(
    width: int = 2,
    deep_supervision: bool = False,
    dimension: int = 2,
    patch: int = 32,
    input_channels: int = 1,
) -> VGGFCN:
    torch.manual_seed(0)
    manager = PlansManager(plans(dimension, patch_size=(patch,) * dimension))
    (name,) = manager.available_configurations
    return VGGFCN.from_plans(
        manager.get_configuration(name), input_channels, 3, deep_supervision, width
    )


@pytest.mark.parametrize("size", [(32, 32), (40, 67), (100, 33)])
def test_output_has_the_size_of_any_input(size: tuple[int, int]) -> None:
    output = network()(torch.randn(2, 1, *size), with_features=True)
    assert output.segmentation.shape == (2, 3, *size) and output.decoder_map.shape == (2, 1, *size)


def test_features_have_the_declared_channels_and_strides() -> None:
    made = network(input_channels=2)
    output = made(torch.randn(2, 2, 64, 64), with_features=True)
    assert (
        [level.shape[1] for level in output.features]
        == made.encoder.output_channels
        == [2, 2, 4, 8, 16, 16]
    )
    assert [level.shape[2] for level in output.features] == [64, 32, 16, 8, 4, 2]
    assert made.level(32) == 5


def test_layers_are_those_of_vgg_16_and_the_hidden_map_has_32_channels() -> None:
    made = network(width=64)
    convolutions = [module for module in made.encoder.modules() if isinstance(module, nn.Conv2d)]
    widths = [64] * 2 + [128] * 2 + [256] * 3 + [512] * 6
    assert [one.out_channels for one in convolutions] == widths
    upsamplings = [
        module for module in made.decoder.modules() if isinstance(module, nn.ConvTranspose2d)
    ]
    assert [one.out_channels for one in upsamplings] == [512, 256, 128, 64, 32]
    assert made.decoder.seg_layers[-1].in_channels == 32


def test_the_finer_map_is_added() -> None:
    """Where the upsampled map is nothing, the next one upsampled is the encoder's."""
    made = network().eval()
    for upsampling in made.decoder.upsamplings[:-1]:
        nn.init.zeros_(upsampling[-1].weight)  # of batch normalisation
    features = made.encoder(torch.randn(1, 1, 64, 64))
    expected = made.decoder.upsamplings[-1](features[1])
    torch.testing.assert_close(made.decoder.full_size_map(features), expected)


def test_features_and_logits_are_those_of_inference() -> None:
    made = network().eval()
    x = torch.randn(2, 1, 32, 32)
    output = made(x, with_features=True)
    assert torch.equal(output.segmentation, made(x))
    assert torch.equal(output.segmentation, made.decoder.seg_layers[0](output.decoder_map))
    made.decoder.deep_supervision = True
    assert isinstance(made(x), list)


@pytest.mark.parametrize(("dimension", "patch"), [(2, 16), (3, 32)])
def test_small_patches_and_volumes_are_refused(dimension: int, patch: int) -> None:
    with pytest.raises(InputError, match="needs 2d patches of 32 pixels or more"):
        network(dimension=dimension, patch=patch)
