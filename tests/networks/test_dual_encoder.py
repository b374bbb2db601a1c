"""The two-encoder network: shapes, what feeds what, agreement with nnU-Net's own U-Net."""

import pytest
import torch
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

from nnunet_ext.errors import InputError
from nnunet_ext.networks.dual_encoder import DualEncoderOutput, DualEncoderUNet
from tests.miniature_plans import plans


class Headless(torch.nn.Module):
    """A network without encoder and decoder, as transformers are."""

    def __init__(self, **_: object) -> None:
        super().__init__()


def network(
    dimension: int = 2, residual: bool = False, deep_supervision: bool = True, seed: int = 0
) -> DualEncoderUNet:
    torch.manual_seed(seed)
    manager = PlansManager(plans(dimension, residual=residual))
    (name,) = manager.available_configurations
    return DualEncoderUNet.from_plans(manager.get_configuration(name), 1, 2, deep_supervision)


@pytest.mark.parametrize("dimension", [2, 3])
@pytest.mark.parametrize("residual", [False, True])
def test_inference_gives_one_tensor_and_training_a_pyramid(dimension: int, residual: bool) -> None:
    made = network(dimension, residual)
    x = torch.randn(2, 1, *(16,) * dimension)
    assert [tuple(level.shape) for level in made(x)] == [
        (2, 2, *(16,) * dimension),
        (2, 2, *(8,) * dimension),
    ]
    made.decoder.deep_supervision = False
    assert made(x).shape == (2, 2, *(16,) * dimension)


def test_features_are_the_bottlenecks_of_each_stream() -> None:
    made = network(deep_supervision=False).eval()
    x, general, unlabeled = (torch.randn(n, 1, 16, 16) for n in (2, 3, 1))
    output = made(x, general=general, unlabeled=unlabeled)
    assert isinstance(output, DualEncoderOutput)
    features = output.features
    torch.testing.assert_close(features.general_on_labelled, made.encoder_general(x)[-1])
    torch.testing.assert_close(features.general_on_general, made.encoder_general(general)[-1])
    torch.testing.assert_close(features.general_on_unlabeled, made.encoder_general(unlabeled)[-1])
    torch.testing.assert_close(features.target_on_labelled, made.encoder(x)[-1])
    torch.testing.assert_close(features.target_on_unlabeled, made.encoder(unlabeled)[-1])
    torch.testing.assert_close(output.segmentation, made(x))


def test_further_streams_do_not_change_the_segmentation() -> None:
    made = network(deep_supervision=False)
    x = torch.randn(2, 1, 16, 16)
    with_streams = made(
        x, general=torch.randn(2, 1, 16, 16), unlabeled=torch.randn(2, 1, 16, 16)
    ).segmentation
    torch.testing.assert_close(with_streams, made(x))


@pytest.mark.parametrize("deep_supervision", [False, True])
def test_the_general_map_is_what_the_finest_head_would_read(deep_supervision: bool) -> None:
    made = network(deep_supervision=deep_supervision)
    x, general = torch.randn(2, 1, 16, 16), torch.randn(3, 1, 16, 16)
    output = made(x, general=general, map_general=True)
    segmentation = made(general)
    of_general = segmentation[0] if deep_supervision else segmentation
    torch.testing.assert_close(made.decoder.seg_layers[-1](output.general_map), of_general)
    torch.testing.assert_close(output.segmentation, made(x))
    assert made(x, general=general).general_map is None


def test_one_joint_pass_equals_one_pass_per_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a GPU all streams share one pass of the general encoder."""
    made = network()
    streams = [torch.randn(2, 1, 16, 16), torch.randn(3, 1, 16, 16)]
    apart = made._encode_general(streams)
    passes: list[int] = []
    made.encoder_general.register_forward_hook(
        lambda module, inputs, output: passes.append(len(inputs[0]))
    )
    monkeypatch.setattr(torch.Tensor, "device", torch.device("cuda"))
    joint = made._encode_general(streams)
    monkeypatch.undo()
    assert passes == [5]
    torch.testing.assert_close(joint, apart)


def test_skips_come_from_the_target_encoder_only() -> None:
    """Segmentation reaches every target stage and no general one; the decoder takes both
    bottlenecks.
    """
    made = network(deep_supervision=False)
    made(torch.randn(1, 1, 16, 16)).sum().backward()
    assert all(parameter.grad is None for parameter in made.encoder_general.parameters())
    assert all(parameter.grad is not None for parameter in made.encoder.parameters())
    assert made.decoder.transpconvs[0].in_channels == 2 * made.encoder.output_channels[-1]


def test_encoders_have_equal_shape_and_different_weights() -> None:
    made = network()
    general, target = made.encoder_general.state_dict(), made.encoder.state_dict()
    assert {k: v.shape for k, v in general.items()} == {k: v.shape for k, v in target.items()}
    assert not torch.equal(
        general["stages.0.0.convs.0.conv.weight"], target["stages.0.0.convs.0.conv.weight"]
    )


def test_compiled_network_equals_eager() -> None:
    made = network(deep_supervision=False)
    compiled = torch.compile(
        made, backend="aot_eager"
    )  # graph capture is what may break; inductor needs a compiler
    x, general = torch.randn(2, 1, 16, 16), torch.randn(2, 1, 16, 16)
    torch.testing.assert_close(compiled(x), made(x))
    ours = compiled(x, general=general, map_general=True)
    theirs = made(x, general=general, map_general=True)
    torch.testing.assert_close(ours.general_map, theirs.general_map)
    torch.testing.assert_close(ours.segmentation, theirs.segmentation)
    torch.testing.assert_close(ours.features.general_on_general, theirs.features.general_on_general)


def test_other_architectures_are_refused_with_advice() -> None:
    other = plans()
    other["configurations"]["2d"]["architecture"] = {
        "network_class_name": f"{__name__}.Headless",
        "arch_kwargs": {},
        "_kw_requires_import": [],
    }
    with pytest.raises(InputError, match="PlainConvUNet or ResidualEncoderUNet"):
        DualEncoderUNet.from_plans(PlansManager(other).get_configuration("2d"), 1, 2, True)
