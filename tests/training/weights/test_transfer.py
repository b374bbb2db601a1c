"""Any checkpoint into any trainer's network: names, shapes, adaptations, and nnU-Net's own loader
as the judge.
"""

import copy
import re
from argparse import Namespace
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
from nnunetv2.run.load_pretrained_weights import load_pretrained_weights
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager
from torch import nn

from nnunet_ext.errors import InputError
from nnunet_ext.trainers.feature_space_da import FeatureSpaceDATrainer
from nnunet_ext.trainers.relation_driven import RelationDrivenTrainer
from nnunet_ext.training.weights.fitting_shapes import adapted_to_channels
from nnunet_ext.training.weights.transfer import (
    Origin,
    build_network,
    fill_network,
)
from tests.miniature_plans import DATASET_JSON, plans, trainer
from tests.trainers.test_relation_driven import Trap

# One trainer of each network with nnU-Net's encoder and decoder; the others train one of these.
EVERY_NETWORK = [nnUNetTrainer, RelationDrivenTrainer, FeatureSpaceDATrainer]
SEVERAL = {
    **DATASET_JSON,
    "channel_names": {"0": "CT", "1": "lung"},
    "labels": {"background": 0, "a": 1, "b": 2},
}
FIRST = "encoder.stages.0.0.convs.0.conv.weight"
FUSION = "decoder.transpconvs.0.weight"


def network_of(
    cls: type, dataset_json: dict[str, Any] = DATASET_JSON, seed: int | None = None, **kind: Any
) -> nn.Module:
    """The trainer's miniature network, with other weights for each seed."""
    content = plans(**kind)
    (name,) = content["configurations"]
    channels = len(dataset_json["channel_names"])
    content["configurations"][name]["normalization_schemes"] = ["ZScoreNormalization"] * channels
    network = build_network(cls, PlansManager(content), name, dataset_json)
    if seed is not None:
        torch.manual_seed(seed)
        for parameter in network.parameters():
            nn.init.normal_(parameter, std=0.2)
    return network.eval()


def saved(content: Any, path: Path) -> Path:
    torch.save(content, path)
    return path


def how(origins: list[Origin], part: str) -> set[str]:
    return {origin.how for origin in origins if origin.part == part}


@pytest.mark.parametrize(("dimension", "residual"), [(2, False), (3, True)])
@pytest.mark.parametrize(
    ("source", "target"), product(EVERY_NETWORK, repeat=2), ids=lambda cls: cls.__name__
)
def test_nnunet_accepts_every_networks_checkpoint_for_every_other(
    source: type, target: type, dimension: int, residual: bool, tmp_path: Path
) -> None:
    """Through other classes and channels; the trained network then holds exactly what was
    written.
    """
    other = network_of(source, SEVERAL, seed=1, dimension=dimension, residual=residual)
    start = network_of(target, dimension=dimension, residual=residual)
    origins = fill_network(
        start, saved({"network_weights": other.state_dict()}, tmp_path / "source.pth")
    )
    file = saved({"network_weights": start.state_dict()}, tmp_path / "start.pth")

    streams = {role: ["Dataset998_Other"] for role in getattr(target, "required_streams", ())}
    settings = {"general_checkpoint": "random", "judged_stride": 4}
    content = plans(dimension, residual=residual, streams=streams, settings=settings)
    made = trainer(target, tmp_path, content)
    load_pretrained_weights(made.network, str(file))
    written = start.state_dict()
    for name, value in made.network.state_dict().items():
        assert ".seg_layers." in name or torch.equal(value, written[name])

    assert how(origins, "heads") == {"random"}  # 3 classes, not 2
    assert how(origins, "encoder") == {"copied", "adapted"}
    assert "random" not in how(origins, "decoder")
    for origin in origins:
        theirs = other.state_dict().get(origin.name)
        if origin.how == "copied" and theirs is not None:
            assert torch.equal(written[origin.name], theirs)


def test_every_tensor_is_reported_once(tmp_path: Path) -> None:
    """Against PyTorch's own count of parameters, without the repeated names of the state dict."""
    source, start = network_of(nnUNetTrainer, seed=1), network_of(RelationDrivenTrainer)
    origins = fill_network(start, saved(source.state_dict(), tmp_path / "source.pth"))
    assert sum(origin.parameters for origin in origins) == sum(
        p.numel() for p in start.parameters()
    )
    assert len({origin.name for origin in origins}) == len(origins) == len(list(start.parameters()))
    assert [origin.name for origin in origins if origin.adaptation] == [FUSION]


@pytest.mark.parametrize(("dimension", "residual"), [(2, False), (3, True)])
def test_two_encoders_compute_at_first_what_the_one_computed(
    dimension: int, residual: bool, tmp_path: Path
) -> None:
    source = network_of(nnUNetTrainer, seed=1, dimension=dimension, residual=residual)
    start = network_of(RelationDrivenTrainer, dimension=dimension, residual=residual)
    origins = fill_network(
        start, saved({"network_weights": source.state_dict()}, tmp_path / "source.pth")
    )
    assert how(origins, "heads") == how(origins, "encoder_general") == {"copied"}
    x = torch.randn(2, 1, *(16,) * dimension, generator=torch.Generator().manual_seed(2))
    source, start, x = source.double(), start.double(), x.double()
    logits = source(x)
    assert logits.std() > 0.1  # far from constant
    torch.testing.assert_close(start(x), logits, rtol=0, atol=1e-12)
    torch.testing.assert_close(start.encoder_general(x)[-1], source.encoder(x)[-1], rtol=0, atol=0)


def test_two_encoders_become_one(tmp_path: Path) -> None:
    """The decoder keeps what it learned to do with the target encoder."""
    source, start = network_of(RelationDrivenTrainer, seed=1), network_of(nnUNetTrainer)
    fill_network(start, saved({"network_weights": source.state_dict()}, tmp_path / "source.pth"))
    width = start.decoder.transpconvs[0].in_channels
    assert torch.equal(start.state_dict()[FUSION], source.state_dict()[FUSION][width:])
    x = torch.randn(1, 1, 16, 16, generator=torch.Generator().manual_seed(2))
    skips = source.encoder(x)
    without_general = [*skips[:-1], torch.cat((torch.zeros_like(skips[-1]), skips[-1]), 1)]
    torch.testing.assert_close(start(x), source.decoder(without_general))


def test_two_general_encoders_stay_apart(tmp_path: Path) -> None:
    source, start = network_of(RelationDrivenTrainer, seed=1), network_of(RelationDrivenTrainer)
    fill_network(start, saved({"network_weights": source.state_dict()}, tmp_path / "source.pth"))
    for name, value in source.state_dict().items():
        assert torch.equal(start.state_dict()[name], value)
    assert not torch.equal(
        start.state_dict()[FIRST], start.state_dict()[FIRST.replace("encoder", "encoder_general")]
    )


# --- the first convolution


@pytest.mark.parametrize(
    ("given", "wanted"), [(3, 1), (5, 1), (1, 3), (2, 4), (3, 3), (3, 2), (2, 3)]
)
def test_channel_adaptation_against_loops(given: int, wanted: int) -> None:
    weight = torch.randn(4, given, 3, 3, generator=torch.Generator().manual_seed(0))
    expected = torch.zeros(4, wanted, 3, 3)
    if wanted == 1:
        for channel in range(given):
            expected[:, 0] += weight[:, channel]
    else:
        for channel in range(wanted):
            expected[:, channel] = weight[:, channel % given] * given / wanted
    torch.testing.assert_close(adapted_to_channels(weight, wanted), expected)


@pytest.mark.parametrize(
    "cls", [nnUNetTrainer, RelationDrivenTrainer], ids=lambda cls: cls.__name__
)
@pytest.mark.parametrize(("given", "wanted"), [(3, 1), (1, 3), (2, 4)])
@pytest.mark.parametrize("residual", [False, True])
def test_equal_channels_give_what_they_gave(
    cls: type, given: int, wanted: int, residual: bool, tmp_path: Path
) -> None:
    def channels(number: int) -> dict[str, Any]:
        return {**DATASET_JSON, "channel_names": {str(c): "CT" for c in range(number)}}

    source = network_of(cls, channels(given), seed=1, residual=residual)
    start = network_of(cls, channels(wanted), residual=residual)
    origins = fill_network(start, saved(source.state_dict(), tmp_path / "source.pth"))
    adapted = [origin for origin in origins if origin.adaptation]
    assert {origin.part for origin in adapted} == {origin.part for origin in origins} - {
        "decoder",
        "heads",
    }
    verb = "summed" if wanted == 1 else "repeated and rescaled"
    assert {origin.adaptation for origin in adapted} == {
        f"{given} input channels {verb} to {wanted}"
    }
    grey = torch.randn(1, 1, 16, 16, generator=torch.Generator().manual_seed(2))
    torch.testing.assert_close(
        start(grey.expand(-1, wanted, -1, -1)),
        source(grey.expand(-1, given, -1, -1)),
        rtol=1e-4,
        atol=1e-5,
    )


# --- names


@pytest.mark.parametrize(
    "container", [None, "network_weights", "state_dict", "model", "model_state_dict", "net"]
)
@pytest.mark.parametrize(
    "prefix", ["", "module.", "_orig_mod.", "module._orig_mod.", "model.", "a.backbone."]
)
def test_containers_and_prefixes(container: str | None, prefix: str, tmp_path: Path) -> None:
    source, start = network_of(nnUNetTrainer, seed=1), network_of(nnUNetTrainer)
    weights = {prefix + name: value for name, value in source.state_dict().items()}
    reversed_order = dict(reversed(weights.items()))
    content = (
        {container: reversed_order, "epoch": 3} if container else {**reversed_order, "epoch": 3}
    )
    origins = fill_network(start, saved(content, tmp_path / "foreign.pth"))
    assert {origin.how for origin in origins} == {"copied"}
    for name, value in start.state_dict().items():
        assert torch.equal(value, source.state_dict()[name])


@pytest.mark.parametrize(
    "cls", [nnUNetTrainer, RelationDrivenTrainer], ids=lambda cls: cls.__name__
)
@pytest.mark.parametrize(
    "prefix", ["", "encoder.", "backbone.", "backbone.encoder.", "my_encoder."]
)
def test_an_encoder_alone_leaves_the_decoder_at_random(
    cls: type, prefix: str, tmp_path: Path
) -> None:
    """Without the repeated names that nnU-Net's state dicts have, and beside a foreign head and
    decoder.
    """
    source, start = network_of(nnUNetTrainer, seed=1), network_of(cls)
    before = copy.deepcopy(start.decoder.stages.state_dict())
    weights = {prefix + name: value for name, value in source.encoder.named_parameters()}
    foreign = {"projection.weight": torch.zeros(3), "decoder.blocks.0.weight": torch.zeros(3)}
    origins = fill_network(
        start, saved({"state_dict": weights | foreign}, tmp_path / "foreign.pth")
    )
    assert how(origins, "encoder") == {"copied"} and how(origins, "decoder") == how(
        origins, "heads"
    ) == {"random"}
    for encoder in (
        start.encoder,
        getattr(start, "encoder_general", start.encoder),
        start.decoder.encoder,
    ):
        for name, value in encoder.state_dict().items():
            assert torch.equal(value, source.encoder.state_dict()[name])
    for name, value in start.decoder.stages.state_dict().items():
        assert torch.equal(value, before[name])


def test_two_equally_good_networks_are_not_guessed_from(tmp_path: Path) -> None:
    weights = network_of(nnUNetTrainer, seed=1).state_dict()
    both = {
        f"{who}.{name}": value for who in ("student", "teacher") for name, value in weights.items()
    }
    with pytest.raises(
        InputError, match=r"several networks that fit \(student\., teacher\.\); save only the one"
    ):
        fill_network(network_of(nnUNetTrainer), saved(both, tmp_path / "both.pth"))


def test_the_random_part_is_the_same_every_time() -> None:
    state = torch.random.get_rng_state()
    first, second = (network_of(RelationDrivenTrainer).state_dict() for _ in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert torch.equal(torch.random.get_rng_state(), state)


def test_half_precision_becomes_the_networks(tmp_path: Path) -> None:
    source, start = network_of(nnUNetTrainer, seed=1), network_of(nnUNetTrainer)
    half = {name: value.bfloat16() for name, value in source.state_dict().items()}
    fill_network(start, saved(half, tmp_path / "half.pth"))
    assert torch.equal(start.state_dict()[FIRST], half[FIRST].float())


# --- refusals


def other_kind(**kind: Any) -> dict[str, torch.Tensor]:
    return network_of(nnUNetTrainer, **kind).state_dict()


def other_architecture(**entries: Any) -> dict[str, torch.Tensor]:
    """The miniature 2d network with other numbers in its plans."""
    content = plans()
    content["configurations"]["2d"]["architecture"]["arch_kwargs"] |= entries
    return build_network(nnUNetTrainer, PlansManager(content), "2d", DATASET_JSON).state_dict()


def without(part: str) -> dict[str, torch.Tensor]:
    return {name: value for name, value in other_kind().items() if part not in name}


REFUSED = {
    "wider": (
        lambda: other_kind(features=(4, 8, 32)),
        r"\d+ of \d+ weights have another shape \(features_per_stage\), first "
        r"encoder_general\.stages\.2\.0\.convs\.0\.conv\.weight: \[32, 8, 3, 3\] in the file, "
        r"\[16, 8, 3, 3\] in",
    ),
    "wider everywhere": (
        lambda: other_kind(features=(8, 16, 32)),
        r"first .*\[8, 1, 3, 3\] in the file, \[4, 1, 3, 3\]",
    ),
    "3d": (
        lambda: other_kind(dimension=3),
        r"\(3d against 2d\), first .*\[4, 1, 3, 3, 3\] in the file",
    ),
    "kernels": (
        lambda: other_architecture(kernel_sizes=[[1, 3], [3, 3], [3, 3]]),
        r"another shape \(kernel_sizes\)",
    ),
    "strides": (
        lambda: other_architecture(strides=[[1, 1], [2, 2], [2, 1]]),
        r"another shape \(strides\), first decoder",
    ),
    "deeper": (
        lambda: other_kind(features=(4, 8, 16, 16)),
        r"another shape \(n_stages, 4 against 3\)",
    ),
    "shallower": (lambda: other_kind(features=(4, 8)), r"another shape \(n_stages, 2 against 3\)"),
    "more convolutions": (
        lambda: other_architecture(n_conv_per_stage=[2, 2, 3]),
        "weights more than this network",
    ),
    "fewer convolutions": (
        lambda: other_architecture(n_conv_per_stage=[2, 2, 1]),
        "lacks 4 of 24 weights of the enc",
    ),
    "a stage missing": (
        lambda: without("encoder.stages.1."),
        r"lacks 8 of 24 weights .* first encoder_general\.stages\.1",
    ),
    "residual": (
        lambda: other_kind(residual=True),
        r"lacks 24 of 24 weights of the encoder_general .*",
    ),
    "part of the decoder": (
        lambda: without("decoder.stages.1."),
        r"lacks 8 of \d+ weights of the decoder",
    ),
    "decoder only": (lambda: without("encoder."), "lacks 24 of 24 weights of the encoder_general"),
    "nothing alike": (
        lambda: {"fc.weight": torch.zeros(2)},
        r"none of its 1 weights .* for instance fc\.weight, this",
    ),
    "not finite": (
        lambda: other_kind() | {FIRST: torch.full((4, 1, 3, 3), torch.nan)},
        "is not finite",
    ),
    "no weights": (
        lambda: {"epoch": 3, "optimizer": {}},
        "no weights in it, .* only: epoch, optimizer; give",
    ),
    "a tensor": (lambda: torch.zeros(3), "no weights in it, .* only: nothing; give"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_match_is_refused_in_one_line(case: str, tmp_path: Path) -> None:
    content, message = REFUSED[case]
    start = network_of(RelationDrivenTrainer)
    before = copy.deepcopy(start.state_dict())
    with pytest.raises(InputError, match=message) as refusal:
        fill_network(start, saved(content(), tmp_path / "misfit.pth"))
    assert re.match(r"\S*misfit\.pth: [^\n]*; [^\n]*\Z", str(refusal.value))
    assert all(torch.equal(value, before[name]) for name, value in start.state_dict().items())


def test_torn_and_hostile_files_are_refused(tmp_path: Path) -> None:
    start = network_of(nnUNetTrainer)
    whole = saved({"network_weights": start.state_dict()}, tmp_path / "checkpoint.pth").read_bytes()
    torn = tmp_path / "torn.pth"
    for size in (0, 1, 100, len(whole) // 2, len(whole) - 1):
        torn.write_bytes(whole[:size])
        with pytest.raises(InputError, match=r"torn\.pth: not a readable checkpoint"):
            fill_network(start, torn)
    for content in (
        {"network_weights": Trap(tmp_path / "sprung")},
        {**start.state_dict(), "more": Trap(tmp_path / "sprung")},
    ):
        with pytest.raises(InputError, match=r"hostile\.pth: not a readable checkpoint"):
            fill_network(start, saved(content, tmp_path / "hostile.pth"))
    assert not (tmp_path / "sprung").exists()
    foreign = saved(
        {"state_dict": start.state_dict(), "args": Namespace(lr=1)}, tmp_path / "foreign.pth"
    )
    with pytest.raises(InputError, match=r"foreign\.pth: .*argparse\.Namespace") as refusal:
        fill_network(start, foreign)
    assert str(refusal.value).isprintable() and "\n" not in str(refusal.value)
    with pytest.raises(InputError, match="no such checkpoint"):
        fill_network(start, tmp_path / "none.pth")


def test_a_trainer_without_network_is_named() -> None:
    from nnunetv2.training.nnUNetTrainer.primus.primus_trainers import AbstractPrimus

    with pytest.raises(
        InputError,
        match=r"AbstractPrimus cannot build a network from configuration 2d of nnUNetPlans",
    ):
        network_of(AbstractPrimus)
