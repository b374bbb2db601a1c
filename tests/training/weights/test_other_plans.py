"""Checkpoints of networks that were planned otherwise: kernels, depth, and layouts of others."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager
from torch import nn
from torch.nn.functional import conv3d

from nnunet_ext.commands.pretrained import pretrained_entry
from nnunet_ext.discovery import SEARCH_VARIABLE, TRAINER_FOLDER
from nnunet_ext.errors import InputError
from nnunet_ext.trainers.relation_driven import RelationDrivenTrainer
from nnunet_ext.training.weights.other_plans import adapted_kernel
from nnunet_ext.training.weights.transfer import build_network, fill_network
from tests.miniature_plans import DATASET_JSON, plans

FLAT_FIRST = [[1, 3, 3], [3, 3, 3], [3, 3, 3]]


def planned(
    features: tuple[int, ...] = (4, 8, 16),
    channels: int = 1,
    residual: bool = True,
    dimension: int = 3,
    **architecture: Any,
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return plans and dataset.json of a miniature network with these numbers."""
    content = plans(dimension, features=features, residual=residual)
    (name,) = content["configurations"]
    configuration = content["configurations"][name]
    configuration["normalization_schemes"] *= channels
    configuration["architecture"]["arch_kwargs"] |= architecture
    names = {str(channel): "MR" for channel in range(channels)}
    return content, {**DATASET_JSON, "channel_names": names}


def network_of(cls: type = nnUNetTrainer, seed: int | None = None, **numbers: Any) -> nn.Module:
    """Build the miniature network, with other weights for each seed."""
    content, dataset_json = planned(**numbers)
    (name,) = content["configurations"]
    network = build_network(cls, PlansManager(content), name, dataset_json)
    if seed is not None:
        torch.manual_seed(seed)
        for parameter in network.parameters():
            nn.init.normal_(parameter, std=0.2)
    return network.eval()


def saved(network: nn.Module, path: Path) -> Path:
    torch.save({"network_weights": network.state_dict()}, path)
    return path


def image(seed: int = 2, channels: int = 1) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(1, channels, 16, 16, 16, generator=generator)


# --- kernels


@given(
    given=st.tuples(*[st.sampled_from([1, 3, 5])] * 3),
    wanted=st.tuples(*[st.sampled_from([1, 3, 5])] * 3),
)
@settings(max_examples=40)
def test_kernels_axis_by_axis(given: tuple[int, ...], wanted: tuple[int, ...]) -> None:
    weight = torch.randn(2, 3, *given, generator=torch.Generator().manual_seed(0))
    found = adapted_kernel(weight, wanted)
    impossible = [old > new > 1 for old, new in zip(given, wanted, strict=True)]
    if any(impossible):
        assert found is None
        return

    assert found is not None and found.shape == (2, 3, *wanted)
    expected = weight.double()
    for axis, (old, new) in enumerate(zip(given, wanted, strict=True), start=2):
        if new == 1 and old > 1:
            slices = [expected.select(axis, index) for index in range(old)]
            expected = (sum(slices) / old).unsqueeze(axis)  # type: ignore[union-attr]
    # a kernel in the middle of zeros computes the same
    images = torch.randn(1, 3, 7, 7, 7, generator=torch.Generator().manual_seed(1)).double()
    before = conv3d(images, expected, padding=[size // 2 for size in expected.shape[2:]])
    after = conv3d(images, found.double(), padding=[size // 2 for size in wanted])
    torch.testing.assert_close(after, before, rtol=1e-5, atol=1e-5)


def test_flat_kernels_in_larger_ones_compute_the_same(tmp_path: Path) -> None:
    source, start = network_of(seed=1, kernel_sizes=FLAT_FIRST), network_of()
    origins = fill_network(start, saved(source, tmp_path / "source.pth"), adapt=True)
    changes = {origin.adaptation for origin in origins} - {""}
    assert changes == {"kernel 1x3x3 in the middle of 3x3x3"}
    torch.testing.assert_close(start(image()), source(image()), rtol=1e-5, atol=1e-5)


def test_kernels_are_averaged_and_the_decoder_comes_along(tmp_path: Path) -> None:
    source, start = network_of(seed=1), network_of(kernel_sizes=FLAT_FIRST)
    fill_network(start, saved(source, tmp_path / "source.pth"), adapt=True)
    theirs, ours = source.state_dict(), start.state_dict()
    for name in ("encoder.stem.convs.0.conv.weight", "decoder.stages.1.convs.0.conv.weight"):
        torch.testing.assert_close(ours[name], theirs[name].sum(2, keepdim=True) / 3)
    assert torch.equal(ours["decoder.transpconvs.0.weight"], theirs["decoder.transpconvs.0.weight"])


# --- depth


@pytest.mark.parametrize("cls", [nnUNetTrainer, RelationDrivenTrainer])
def test_a_deeper_source_is_cut(cls: type, tmp_path: Path) -> None:
    source, start = network_of(seed=1, features=(4, 8, 16, 16)), network_of(cls)
    before = start.decoder.stages.state_dict()
    before = {name: value.clone() for name, value in before.items()}
    origins = fill_network(start, saved(source, tmp_path / "source.pth"), adapt=True)
    for encoder in (start.encoder, getattr(start, "encoder_general", start.encoder)):
        maps = zip(encoder(image()), source.encoder(image()), strict=False)
        assert all(torch.equal(ours, theirs) for ours, theirs in maps)
    for name, value in start.decoder.stages.state_dict().items():
        assert torch.equal(value, before[name])
    assert {o.how for o in origins if o.part in ("decoder", "heads")} == {"random"}


def test_a_shallower_source_leaves_the_deepest_stage_at_random(tmp_path: Path) -> None:
    source, start = network_of(seed=1, features=(4, 8)), network_of()
    origins = fill_network(start, saved(source, tmp_path / "source.pth"), adapt=True)
    maps = zip(start.encoder(image())[:2], source.encoder(image()), strict=True)
    assert all(torch.equal(ours, theirs) for ours, theirs in maps)
    random = {o.name for o in origins if o.how == "random" and o.part == "encoder"}
    assert random and all(name.startswith("encoder.stages.2.") for name in random)


# --- what still cannot match


@pytest.mark.parametrize(
    ("numbers", "reason"),
    [
        ({"features": (4, 8, 32)}, r"features_per_stage\), first encoder\.stages\.2"),
        ({"dimension": 2}, "2d against 3d"),
        ({"residual": False}, "weights of the encoder"),
        ({"kernel_sizes": [[5, 3, 3]] * 3}, "kernel_sizes"),
        ({"n_blocks_per_stage": [1, 1, 2]}, "weights more than this network"),
    ],
)
def test_other_networks_are_refused(numbers: dict[str, Any], reason: str, tmp_path: Path) -> None:
    source, start = network_of(seed=1, **numbers), network_of()
    before = {name: value.clone() for name, value in start.state_dict().items()}
    with pytest.raises(InputError, match=reason):
        fill_network(start, saved(source, tmp_path / "source.pth"), adapt=True)
    assert all(torch.equal(value, before[name]) for name, value in start.state_dict().items())


# --- layouts of other programs, through the command


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for variable in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
        (tmp_path / variable).mkdir()
        monkeypatch.setenv(variable, str(tmp_path / variable))
    monkeypatch.setenv(SEARCH_VARIABLE, TRAINER_FOLDER)
    return tmp_path


def pretrained(place: Path, trainer: str, source: Path, *options: str, **numbers: Any) -> int:
    """Run the command for data set 999, planned with these numbers."""
    content, dataset_json = planned(**numbers)
    folder = place / "nnUNet_preprocessed" / "Dataset999_Miniature"
    folder.mkdir(exist_ok=True)
    (folder / "nnUNetPlans.json").write_text(json.dumps(content))
    (folder / "dataset.json").write_text(json.dumps(dataset_json))
    words = ["-i", str(source), "-d", "999", "-c", "3d_fullres", "-tr", trainer]
    with pytest.raises(SystemExit) as stop:
        pretrained_entry([*words, "-o", str(place / "start.pth"), *options])
    return int(stop.value.code or 0)


@pytest.mark.parametrize("trainer", ["nnUNetTrainer", "ImageSpaceDATrainer"])
def test_a_checkpoint_of_nnssl(
    place: Path, trainer: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Self-supervised: one channel in and out, deeper, with a plan of its own beside the weights.

    Its keys are those that nnU-Net's documentation of its fine-tuning names.
    """
    source = network_of(seed=1, features=(4, 8, 16, 16))
    content = {
        "network_weights": source.state_dict(),
        "nnssl_adaptation_plan": {
            "architecture_plans": {"arch_class_name": "ResEncL"},
            "pretrain_patch_size": [160, 160, 160],
            "key_to_encoder": "encoder.stages",
            "key_to_stem": "encoder.stem",
            "keys_to_in_proj": ["encoder.stem.convs.0.conv"],
        },
        "citations": [{"type": "method", "name": "MAE"}],
    }
    torch.save(content, place / "nnssl.pth")
    numbers = {"channels": 2, "kernel_sizes": FLAT_FIRST}

    assert pretrained(place, trainer, place / "nnssl.pth", **numbers) == 1
    error = capsys.readouterr().err
    assert error.endswith("takes over its plans; or --adapt takes over what fits\n")
    assert not (place / "start.pth").exists()

    assert pretrained(place, trainer, place / "nnssl.pth", "--adapt", **numbers) == 0
    printed = capsys.readouterr().out
    stem = "encoder.stem.convs.0.conv.weight"
    assert (
        f"adapted: {stem}: kernel 3x3x3 averaged to 1x3x3; 1 input channels repeated and "
        "rescaled to 2" in printed
    )
    assert "random: decoder: the checkpoint has nothing for it" in printed
    written = torch.load(place / "start.pth", weights_only=True)["network_weights"]
    expected = source.state_dict()[stem].mean(2, keepdim=True) / 2
    torch.testing.assert_close(written[stem], expected.expand(-1, 2, -1, -1, -1))


@pytest.mark.parametrize("trainer", ["PlainTrainer", "RelationDrivenTrainer"])
def test_a_checkpoint_of_totalsegmentator(
    place: Path, trainer: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Supervised by an earlier nnU-Net v2: its whole state, on its device, with NumPy numbers."""
    content, dataset_json = planned((4, 8, 16, 16), residual=False)
    dataset_json["labels"] = {"background": 0} | {f"organ {i}": i for i in range(1, 25)}
    manager = PlansManager(content)
    source = build_network(nnUNetTrainer, manager, "3d_fullres", dataset_json)
    optimizer = torch.optim.SGD(source.parameters(), 0.01, momentum=0.99)
    torch.save(
        {
            "network_weights": source.state_dict(),
            "optimizer_state": optimizer.state_dict(),
            "grad_scaler_state": {"scale": 65536.0},
            "logging": {"mean_fg_dice": [np.float64(0.9)], "train_losses": [np.float32(-0.8)]},
            "_best_ema": np.float64(0.9),
            "current_epoch": 4000,
            "init_args": {
                "plans": content,
                "configuration": "3d_fullres",
                "fold": 0,
                "dataset_json": dataset_json,
                "unpack_dataset": True,
                "device": torch.device("cuda:0"),
            },
            "trainer_name": "nnUNetTrainerNoMirroring",
            "inference_allowed_mirroring_axes": None,
        },
        place / "checkpoint_final.pth",
    )
    source_file = place / "checkpoint_final.pth"
    assert pretrained(place, trainer, source_file, "--adapt", residual=False) == 0
    printed = capsys.readouterr().out
    assert "random: decoder: the checkpoint has nothing for it" in printed
    written = torch.load(place / "start.pth", weights_only=True)["network_weights"]
    name = "encoder.stages.2.0.convs.0.conv.weight"
    assert torch.equal(written[name], source.state_dict()[name])
