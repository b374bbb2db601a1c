"""nCoVSegNet: the paper's modules rebuilt from their equations, shapes, parameters, ablations."""

import math
from dataclasses import fields, replace

import pytest
import timm
import torch
from torch.nn import functional

from nnunet_ext.networks.ncovsegnet import (
    Design,
    DualAttentionFusion,
    GlobalContext,
    NCoVSegNet,
    PlainContext,
    PlainFusion,
    resnet50,
)

SMALL = Design(width=1 / 16)
SWITCHES = [field.name for field in fields(Design) if field.name.startswith("use_")]


def made(
    design: Design = SMALL, logits: int = 1, stacks_background: bool = True, channels: int = 1
) -> NCoVSegNet:
    torch.manual_seed(0)
    return NCoVSegNet(channels, logits, stacks_background, design)


def count(network: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def test_the_papers_network_has_168_million_parameters() -> None:
    with torch.device("meta"):
        network = NCoVSegNet(3, 1, True, Design())
    assert round(count(network) / 1e6, 1) == 168.2
    assert round(count(network.backbone) / 1e6, 1) == 23.5
    assert round(count(network.contexts[3]) / 1e6) == 72
    assert network.backbone.feature_info.channels() == [256, 512, 1024, 2048]


def test_features_have_strides_4_to_32() -> None:
    network = made()
    features = network.backbone(torch.randn(2, 1, 64, 96))
    assert [tuple(feature.shape) for feature in features] == [
        (2, 16, 16, 24),
        (2, 32, 8, 12),
        (2, 64, 4, 6),
        (2, 128, 2, 3),
    ]
    assert [tuple(c(f).shape[1:]) for c, f in zip(network.contexts, features, strict=True)] == [
        (8, 16, 24),
        (16, 8, 12),
        (32, 4, 6),
        (64, 2, 3),
    ]


@pytest.mark.parametrize("size", [(64, 64), (40, 72), (33, 95)])
def test_outputs_have_the_images_size(size: tuple[int, int]) -> None:
    network = made(logits=3)
    images = torch.randn(2, 1, *size)
    outputs = network.train()(images)
    assert [tuple(output.shape) for output in outputs] == [(2, 4, *size)] * 4
    segmentation = network.eval()(images)
    assert segmentation.shape == (2, 4, *size)
    assert not segmentation[:, 0].any()


def test_the_background_is_stacked_for_classes_only() -> None:
    images = torch.randn(1, 1, 64, 64)
    classes, regions = made(logits=2).eval(), made(logits=2, stacks_background=False).eval()
    assert torch.equal(classes(images)[:, 1:], regions(images))
    both = made(logits=1).eval()(images)
    torch.testing.assert_close(both.softmax(1)[:, 1], both[:, 1].sigmoid())


@pytest.mark.parametrize("switch", [None, *SWITCHES])
def test_every_parameter_of_every_ablation_gets_a_gradient(switch: str | None) -> None:
    design = SMALL if switch is None else replace(SMALL, **{switch: False})
    network = made(design)
    outputs = network(torch.randn(1, 1, 64, 64))  # a batch of one
    assert len(outputs) == (1 if switch == "use_deep_supervision" else 4)
    sum(
        functional.binary_cross_entropy_with_logits(z[:, 1], torch.rand(1, 64, 64)) for z in outputs
    ).backward()
    dead = [
        name
        for name, weight in network.named_parameters()
        if weight.grad is None or not weight.grad.any()
    ]
    assert not dead


def test_ablations_change_the_modules_they_name() -> None:
    plain = made(replace(SMALL, **dict.fromkeys(SWITCHES, False)))
    assert {type(module) for module in plain.contexts} == {PlainContext}
    assert {type(module) for module in plain.fusions} == {PlainFusion}
    assert not [name for name in plain.state_dict() if ".se." in name] and len(plain.outputs) == 1
    assert {type(module) for module in made().contexts} == {GlobalContext}
    assert {type(module) for module in made().fusions} == {DualAttentionFusion}


def test_the_kernel_rule_of_the_channel_attention() -> None:
    for rule, expected in (("3", [3, 3, 3, 3]), ("adaptive", [5, 5, 5, 7])):
        with torch.device("meta"):
            backbone = resnet50(1, Design(eca_kernel=rule))
        state = backbone.state_dict()
        assert [
            state[f"layer{stage}.0.se.conv.weight"].shape[-1] for stage in (1, 2, 3, 4)
        ] == expected
        assert len([name for name in state if ".se." in name]) == 3 + 4 + 6 + 3


def test_without_attention_the_backbone_is_timms_resnet50() -> None:
    ours = resnet50(3, replace(SMALL, use_eca=False)).eval()
    theirs = timm.create_model("resnet50", channels=(4, 8, 16, 32), num_classes=0).eval()
    theirs.load_state_dict(ours.state_dict())
    images = torch.randn(1, 3, 64, 64)
    torch.testing.assert_close(ours(images)[-1], theirs.forward_features(images))


def test_the_attention_gates_the_last_map_of_a_block_before_the_residual_sum() -> None:
    block = resnet50(1, SMALL).layer1[1].eval()
    x = torch.randn(1, 16, 8, 8)
    branch = block.bn2(block.conv2(block.bn1(block.conv1(x)).relu())).relu()
    branch = block.bn3(block.conv3(branch))
    pooled = branch.mean((2, 3))
    gate = functional.conv1d(pooled[:, None], block.se.conv.weight, padding=1).sigmoid()
    torch.testing.assert_close(block(x), (branch * gate[0, 0, :, None, None] + x).relu())


def test_the_fusion_is_equation_2() -> None:
    torch.manual_seed(0)
    fusion = DualAttentionFusion(4).eval()
    high, low = torch.randn(2, 8, 3, 5), torch.randn(2, 4, 6, 10)
    channel_convolution, group_norm = fusion.channel_attention[1], fusion.channel_attention[2]
    pooled = high.mean((2, 3)) @ channel_convolution.weight[:, :, 0, 0].T
    spread = pooled.var(1, correction=0, keepdim=True).add(group_norm.eps).sqrt()
    channel = ((pooled - pooled.mean(1, keepdim=True)) / spread).sigmoid()[:, :, None, None]
    up = fusion.spatial_attention
    spatial = (
        functional.conv_transpose2d(high, up.weight, up.bias, stride=2, padding=1)
        .amax(1, keepdim=True)
        .sigmoid()
    )
    plain = functional.conv_transpose2d(
        high, fusion.upsampling[0].weight, stride=2, padding=1
    ) / math.sqrt(1 + 1e-5)
    detail = functional.conv2d(low, fusion.detail[0].weight, padding=1) / math.sqrt(1 + 1e-5)
    torch.testing.assert_close(fusion(high, low), (spatial * channel * detail + plain).relu())


def test_context_reaches_as_far_as_its_largest_kernel() -> None:
    """k = 7: rows 3 by 1x7 and 7x1, 7 more by the dilated 3x3, 1 by the merging 3x3."""
    context = GlobalContext(2, 1, (3, 5, 7)).eval()
    for module in context.modules():
        if isinstance(module, torch.nn.Conv2d):
            module.weight.data.fill_(1.0)
    impulse = torch.zeros(1, 2, 41, 41)
    impulse[..., 20, 20] = 1
    touched = context(impulse)[0, 0].nonzero()
    assert touched.min() == 20 - (3 + 7 + 1) and touched.max() == 20 + (3 + 7 + 1)


def test_training_starts_with_active_residual_branches() -> None:
    assert all(block.bn3.weight.all() for block in resnet50(1, SMALL).layer1)
