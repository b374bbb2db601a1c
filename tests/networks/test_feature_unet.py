"""The feature U-Net against nnU-Net's own network: keys, numbers, gradients, compilation."""

import copy
from typing import Any

import pytest
import torch
from nnunetv2.utilities.get_network_from_plans import get_network_from_plans
from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager, PlansManager

from nnunet_ext.errors import InputError
from nnunet_ext.networks.feature_unet import FeatureOutput, FeatureUNet
from tests.miniature_plans import plans


class Headless(torch.nn.Module):
    """A network without encoder and decoder, as transformers are."""

    def __init__(self, **_: object) -> None:
        super().__init__()


def configuration(dimension: int = 2, residual: bool = False) -> ConfigurationManager:
    manager = PlansManager(plans(dimension, residual=residual))
    (name,) = manager.available_configurations
    return manager.get_configuration(name)


def ours_and_stock(
    dimension: int = 2, residual: bool = False, deep_supervision: bool = True, seed: int = 0
) -> tuple[FeatureUNet, Any]:
    planned = configuration(dimension, residual)
    torch.manual_seed(seed)
    ours = FeatureUNet.from_plans(planned, 1, 2, deep_supervision)
    torch.manual_seed(seed)
    stock = get_network_from_plans(
        planned.network_arch_class_name,
        planned.network_arch_init_kwargs,
        planned.network_arch_init_kwargs_req_import,
        1,
        2,
        allow_init=True,
        deep_supervision=deep_supervision,
    )
    return ours, stock


def as_list(segmentation: torch.Tensor | list[torch.Tensor]) -> list[torch.Tensor]:
    return segmentation if isinstance(segmentation, list) else [segmentation]


@pytest.mark.parametrize("dimension", [2, 3])
@pytest.mark.parametrize("residual", [False, True])
def test_weights_are_those_of_stock_nnunet_under_the_same_keys(
    dimension: int, residual: bool
) -> None:
    ours, stock = ours_and_stock(dimension, residual)
    assert list(ours.state_dict()) == list(stock.state_dict())
    assert all(
        torch.equal(a, b)
        for a, b in zip(ours.state_dict().values(), stock.state_dict().values(), strict=True)
    )
    assert [name for name, _ in ours.named_parameters()] == [
        name for name, _ in stock.named_parameters()
    ]


@pytest.mark.parametrize("dimension", [2, 3])
@pytest.mark.parametrize("residual", [False, True])
@pytest.mark.parametrize("deep_supervision", [False, True])
@pytest.mark.parametrize("with_features", [False, True])
def test_outputs_and_gradients_equal_stock_nnunet_bit_for_bit(
    dimension: int, residual: bool, deep_supervision: bool, with_features: bool
) -> None:
    ours, stock = ours_and_stock(dimension, residual, deep_supervision)
    x = torch.randn(2, 1, *(16,) * dimension)
    output = ours(x, with_features=with_features)
    segmentation = output.segmentation if with_features else output
    expected = stock(x)

    assert isinstance(segmentation, list) == deep_supervision
    assert all(
        torch.equal(a, b) for a, b in zip(as_list(segmentation), as_list(expected), strict=True)
    )

    sum(level.square().sum() for level in as_list(segmentation)).backward()
    sum(level.square().sum() for level in as_list(expected)).backward()
    for mine, theirs in zip(ours.parameters(), stock.parameters(), strict=True):
        assert (mine.grad is None) == (theirs.grad is None)  # coarse heads without deep supervision
        assert mine.grad is None or torch.equal(mine.grad, theirs.grad)


@pytest.mark.parametrize("dimension", [2, 3])
def test_features_are_the_encoders_maps_and_the_input_of_the_head(dimension: int) -> None:
    network, _ = ours_and_stock(dimension)
    x = torch.randn(2, 1, *(16,) * dimension)
    output = network(x, with_features=True)
    assert isinstance(output, FeatureOutput)
    assert all(torch.equal(a, b) for a, b in zip(output.features, network.encoder(x), strict=True))
    assert [tuple(level.shape[1:]) for level in output.features] == [
        (4, *(16,) * dimension),
        (8, *(8,) * dimension),
        (16, *(4,) * dimension),
    ]
    assert torch.equal(network.decoder.seg_layers[-1](output.decoder_map), output.segmentation[0])


def test_encoding_alone_spares_the_decoder() -> None:
    network, _ = ours_and_stock()
    x = torch.randn(1, 1, 16, 16)
    output = network(x, with_features=True, segment=False)
    assert output.segmentation is None and output.decoder_map is None
    assert all(
        torch.equal(a, b)
        for a, b in zip(output.features, network(x, with_features=True).features, strict=True)
    )

    sum(level.sum() for level in output.features).backward()
    assert all(parameter.grad is not None for parameter in network.encoder.parameters())
    heads_and_upsampling = [
        network.decoder.stages,
        network.decoder.transpconvs,
        network.decoder.seg_layers,
    ]
    assert all(
        parameter.grad is None for part in heads_and_upsampling for parameter in part.parameters()
    )


def test_features_serve_two_losses_on_one_graph() -> None:
    """nnU-Net activates in place; the maps that we hand out must not be overwritten by what
    follows.
    """
    network, _ = ours_and_stock(residual=True, deep_supervision=False)
    output = network(torch.randn(2, 1, 16, 16), with_features=True)
    before = [level.clone() for level in output.features]
    sum(level.square().sum() for level in output.features).backward(retain_graph=True)
    output.decoder_map.square().sum().backward(retain_graph=True)
    output.segmentation.sum().backward()
    assert all(torch.equal(a, b) for a, b in zip(output.features, before, strict=True))


def test_compiled_network_equals_eager() -> None:
    network, _ = ours_and_stock()
    compiled = torch.compile(copy.deepcopy(network), backend="aot_eager", fullgraph=True)
    x = torch.randn(2, 1, 16, 16)
    torch.testing.assert_close(compiled(x), network(x))
    mine, expected = compiled(x, with_features=True), network(x, with_features=True)
    torch.testing.assert_close(mine.segmentation, expected.segmentation)
    torch.testing.assert_close(mine.features, expected.features)
    torch.testing.assert_close(mine.decoder_map, expected.decoder_map)

    sum(level.sum() for level in mine.segmentation).backward()
    sum(level.sum() for level in expected.segmentation).backward()
    torch.testing.assert_close(
        compiled.encoder.stages[0][0].convs[0].conv.weight.grad,
        network.encoder.stages[0][0].convs[0].conv.weight.grad,
    )


def test_levels_go_by_their_stride() -> None:
    network, _ = ours_and_stock()
    assert [network.level(stride) for stride in (1, 2, 4)] == [0, 1, 2]
    with pytest.raises(InputError, match="no level of stride 16"):
        network.level(16)


def test_other_architectures_are_refused_with_advice() -> None:
    other = plans()
    other["configurations"]["2d"]["architecture"] = {
        "network_class_name": f"{__name__}.Headless",
        "arch_kwargs": {},
        "_kw_requires_import": [],
    }
    with pytest.raises(InputError, match="PlainConvUNet or ResidualEncoderUNet"):
        FeatureUNet.from_plans(PlansManager(other).get_configuration("2d"), 1, 2, True)
