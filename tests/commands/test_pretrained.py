"""``nnUNetv2_ext_pretrained`` on hand-written plans."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import timm
import torch
from nnunetv2.run.load_pretrained_weights import load_pretrained_weights
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager
from safetensors.torch import save_file

from nnunet_ext.commands.pretrained import pretrained_entry
from nnunet_ext.discovery import SEARCH_VARIABLE, TRAINER_FOLDER
from nnunet_ext.trainers.ncovsegnet import NCoVSegNetTrainer
from nnunet_ext.trainers.relation_driven import RelationDrivenTrainer
from nnunet_ext.training.weights.checkpoint_files import read_weights
from nnunet_ext.training.weights.transfer import build_network
from tests.miniature_plans import DATASET_JSON, plans

TIMM_ALONE = "--timm takes only -o and --overwrite"
THREE_CHANNELS = {**DATASET_JSON, "channel_names": {str(c): "CT" for c in range(3)}}


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A planned data set 999, and ``source.pth`` of plain nnU-Net with three input channels."""
    for variable in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
        (tmp_path / variable).mkdir()
        monkeypatch.setenv(variable, str(tmp_path / variable))
    monkeypatch.setenv(SEARCH_VARIABLE, TRAINER_FOLDER)
    folder = tmp_path / "nnUNet_preprocessed" / "Dataset999_Miniature"
    folder.mkdir()
    (folder / "nnUNetPlans.json").write_text(json.dumps(plans()))
    (folder / "dataset.json").write_text(json.dumps(DATASET_JSON))
    torch.save({"network_weights": source_network().state_dict()}, tmp_path / "source.pth")
    return tmp_path


def source_network() -> torch.nn.Module:
    content = plans()
    content["configurations"]["2d"]["normalization_schemes"] *= 3
    return build_network(nnUNetTrainer, PlansManager(content), "2d", THREE_CHANNELS)


def pretrained(place: Path, *arguments: str) -> int:
    given = dict(zip(arguments[::2], arguments[1::2], strict=False))
    defaults = {
        "-i": "source.pth",
        "-d": "999",
        "-c": "2d",
        "-tr": "RelationDrivenTrainer",
        "-o": "start.pth",
    }
    merged = {**defaults, **given}
    for option in ("-i", "-o"):
        merged[option] = str(place / merged[option])
    with pytest.raises(SystemExit) as stop:
        pretrained_entry(
            [word for option, value in merged.items() for word in (option, value) if word]
        )
    return stop.value.code


def files(place: Path) -> dict[str, bytes]:
    return {str(file): file.read_bytes() for file in place.rglob("*") if file.is_file()}


def test_table_file_and_nnunets_loader(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert pretrained(place) == 0
    printed = capsys.readouterr().out
    # miniature encoder: 3x3 convolutions 1-4-4, 4-8-8, 8-16-16, each with bias and two numbers per
    # norm channel
    weights = 9 * (1 * 4 + 4 * 4 + 4 * 8 + 8 * 8 + 8 * 16 + 16 * 16)
    encoder, first = weights + 3 * 2 * (4 + 8 + 16), 9 * 4
    for part in ("encoder_general", "encoder"):
        assert f"| {part} | 23 ({encoder - first:,}) | 1 ({first}) | - |" in printed
    # 2x2 upsampling 16-8 and 8-4, convolutions 16-8-8 and 8-4-4
    upsampling = 4 * 16 * 8
    decoder = 8 + (4 * 8 * 4 + 4) + 9 * (16 * 8 + 8 * 8 + 8 * 4 + 4 * 4) + 3 * 2 * (8 + 4)
    assert f"| decoder | 19 ({decoder:,}) | 1 ({2 * upsampling:,}) | - |" in printed
    assert f"| heads | 4 ({8 * 2 + 2 + 4 * 2 + 2}) | - | - |" in printed
    assert (
        "adapted: encoder.stages.0.0.convs.0.conv.weight: 3 input channels summed to 1" in printed
    )
    assert (
        "adapted: decoder.transpconvs.0.weight: the half of encoder copied, that of the other "
        "encoder zero" in printed
    )
    assert "-tr RelationDrivenTrainer -p nnUNetPlans -pretrained_weights" in printed
    assert "nnUNetv2_ext_configure -d 999 -p nnUNetPlans --set general_checkpoint=random" in printed

    written = torch.load(place / "start.pth", weights_only=True)  # tensors and plain Python only
    origin = written["nnunet_ext_pretrained"]
    assert origin["file"] == "source.pth" and len(origin["sha256"]) == 64
    assert str(place) not in json.dumps(origin)
    network = build_network(RelationDrivenTrainer, PlansManager(plans()), "2d", DATASET_JSON)
    load_pretrained_weights(network, str(place / "start.pth"))
    for name, value in source_network().encoder.state_dict().items():
        expected = value.sum(1, keepdim=True) if value.shape == (4, 3, 3, 3) else value
        assert torch.equal(network.encoder_general.state_dict()[name], expected)


def test_plain_nnunet_needs_no_advice_on_general_encoders(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert pretrained(place, "-tr", "nnUNetTrainer") == 0
    assert "general" not in capsys.readouterr().out


def test_what_is_said_about_heads(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Those of nCoVSegNet are not called ``seg_layers``, so nnU-Net takes them over."""
    at_random = "Heads: -pretrained_weights always starts them at random."
    assert pretrained(place, "-tr", "nnUNetTrainer") == 0
    assert at_random in capsys.readouterr().out

    content = plans(settings={"width": 1 / 16})
    file = place / "nnUNet_preprocessed" / "Dataset999_Miniature" / "nnUNetPlans.json"
    file.write_text(json.dumps(content))
    network = build_network(NCoVSegNetTrainer, PlansManager(content), "2d", DATASET_JSON)
    torch.save({"network_weights": network.state_dict()}, place / "nodules.pth")
    arguments = ("-tr", "NCoVSegNetTrainer", "-i", "nodules.pth", "-o", "whole.pth")
    assert pretrained(place, *arguments) == 0
    printed = capsys.readouterr().out
    assert "| outputs | 8 (" in printed and at_random not in printed


def test_a_configuration_that_the_trainer_refuses_is_refused(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = place / "nnUNet_preprocessed" / "Dataset999_Miniature" / "nnUNetPlans.json"
    file.write_text(json.dumps(plans(3)))
    assert pretrained(place, "-tr", "NCoVSegNetTrainer", "-c", "3d_fullres") == 1
    assert "NCoVSegNetTrainer trains 2d, not 3d_fullres" in capsys.readouterr().err


def test_an_encoder_alone_is_said_to_leave_the_decoder(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.save(source_network().encoder.state_dict(), place / "encoder.pth")
    assert pretrained(place, "-i", "encoder.pth") == 0
    printed = capsys.readouterr().out
    assert "| decoder | - | - | 20 (" in printed and "| heads | - | - | 4 (" in printed
    assert [line for line in printed.splitlines() if line.startswith("random: ")] == [
        "random: decoder: the checkpoint has nothing for it"
    ]


def test_an_existing_file_is_kept_unless_told(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (place / "start.pth").write_bytes(b"mine")
    before = files(place)
    assert pretrained(place) == 1
    assert "start.pth: exists; give another -o, or --overwrite" in capsys.readouterr().err
    assert pretrained(place, "-o", "source.pth", "--overwrite", "") == 1
    assert "source.pth: is the checkpoint to read" in capsys.readouterr().err
    assert files(place) == before
    assert pretrained(place, "--overwrite", "") == 0
    first = (place / "start.pth").read_bytes()
    assert pretrained(place, "--overwrite", "") == 0
    assert (place / "start.pth").read_bytes() == first  # the same input gives the same file


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["-i", "none.pth"], "none.pth: no such checkpoint"),
        (["-o", "none/start.pth"], "none: no such folder; make it"),
        (["-o", "nnUNet_raw"], "nnUNet_raw: is a folder"),
        (["-d", "123"], "data set 123 is in none of nnUNet_raw, nnUNet_preprocessed"),
        (
            ["-p", "other"],
            "other.json: no such file; run nnUNetv2_plan_and_preprocess -d 999 first",
        ),
        (["-c", "3d_fullres"], "has no configuration 3d_fullres; it has 2d"),
        (["-tr", "NobodysTrainer"], "-tr NobodysTrainer: no such trainer; there are AMDDASTrainer"),
        (["-tr", "nnUNetTrainerMRCT"], "no such trainer"),
    ],
)
def test_wrong_input_is_one_line_and_writes_nothing(
    place: Path, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    before = files(place)
    assert pretrained(place, *arguments) == 1
    error = capsys.readouterr().err
    assert (
        message in error
        and error.startswith("nnUNetv2_ext_pretrained: error: ")
        and error.count("\n") == 1
    )
    assert files(place) == before


def test_a_full_disk_leaves_nothing(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(content: object, stream: object) -> None:
        stream.write(b"half")
        raise OSError(28, "No space left on device")

    before = files(place)
    monkeypatch.setattr(torch, "save", full)
    assert pretrained(place) == 1
    assert "start.pth: cannot be written (No space left on device)" in capsys.readouterr().err
    assert files(place) == before


def test_as_a_command_in_a_fresh_process(place: Path) -> None:
    code = "from nnunet_ext.commands.pretrained import pretrained_entry; pretrained_entry()"
    words = ["-i", "source.pth", "-d", "999", "-c", "2d", "-tr", "PlainTrainer", "-o", "start.pth"]
    run = subprocess.run(
        [sys.executable, "-c", code, *words], cwd=place, capture_output=True, text=True, check=True
    )
    assert run.stdout.startswith("| part | copied | adapted | random |\n")
    assert run.stdout.endswith("-tr PlainTrainer -p nnUNetPlans -pretrained_weights start.pth\n")
    again = subprocess.run(
        [sys.executable, "-c", code, *words], cwd=place, capture_output=True, text=True, check=False
    )
    assert again.returncode == 1 and again.stderr.startswith(
        "nnUNetv2_ext_pretrained: error: start.pth: exists"
    )


# --- weights of timm's models
# -----------------------------------------------------------------------------------------

MODEL = "resnet10t.c3_in1k"  # timm's smallest ResNet with weights


def fetch(place: Path, *arguments: object, model: str = MODEL) -> subprocess.CompletedProcess[str]:
    """The command in a process whose hub is offline and whose cache lies in ``place``."""
    code = "from nnunet_ext.commands.pretrained import pretrained_entry; pretrained_entry()"
    command = [sys.executable, "-W", "ignore", "-c", code, "--timm", model, *map(str, arguments)]
    offline = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(place / "hub")}
    return subprocess.run(
        command, cwd=place, env=offline, capture_output=True, text=True, check=False
    )


def test_timm_without_internet_is_one_line(tmp_path: Path) -> None:
    run = fetch(tmp_path, "-o", "backbone.pth")
    assert run.returncode == 1 and run.stdout == "" and run.stderr.count("\n") == 1
    assert run.stderr.startswith(
        f"nnUNetv2_ext_pretrained: error: --timm {MODEL}: cannot be fetched ("
    )
    assert "connect to the internet, or fetch it on another machine and copy the file" in run.stderr
    assert not (tmp_path / "backbone.pth").exists()


def test_timm_writes_what_its_cache_holds(tmp_path: Path) -> None:
    """The cache as the hub leaves it: a reference to a commit, and the commit's files."""
    torch.manual_seed(0)
    weights = timm.create_model("resnet10t").state_dict()
    cache = tmp_path / "hub" / "hub" / f"models--timm--{MODEL}"
    snapshot = cache / "snapshots" / ("0" * 40)
    snapshot.mkdir(parents=True)
    (cache / "refs").mkdir()
    (cache / "refs" / "main").write_text("0" * 40)
    save_file(weights, snapshot / "model.safetensors")

    run = fetch(tmp_path, "-o", "backbone.pth")
    assert run.returncode == 0, run.stderr
    assert run.stdout == f"wrote backbone.pth, {len(weights)} tensors of {MODEL}\n"
    written = read_weights(tmp_path / "backbone.pth", "")
    assert set(written) == set(weights)
    assert all(torch.equal(written[name], weights[name]) for name in weights)
    again = fetch(tmp_path, "-o", "backbone.pth")
    assert (
        again.returncode == 1
        and "backbone.pth: exists; give another -o, or --overwrite" in again.stderr
    )


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (
            ["--timm", "resnet50.nobodys", "-o", "x.pth"],
            1,
            "has no such weights; it has for instance resnet50.",
        ),
        (
            ["--timm", "nonsense", "-o", "x.pth"],
            1,
            "has no such weights; it has for instance resnet50.",
        ),
        (["--timm", MODEL, "-d", "999", "-o", "x.pth"], 2, TIMM_ALONE),
        (["--timm", MODEL, "-p", "nnUNetPlans", "-o", "x.pth"], 2, TIMM_ALONE),
        (["--timm", MODEL, "--adapt", "-o", "x.pth"], 2, TIMM_ALONE),
        (
            ["-i", "source.pth", "-o", "x.pth"],
            2,
            "the following arguments are required: -d, -c, -tr",
        ),
    ],
)
def test_timm_and_conversion_need_their_own_options(
    arguments: list[str], code: int, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        pretrained_entry(arguments)
    assert stop.value.code == code
    assert message in capsys.readouterr().err
