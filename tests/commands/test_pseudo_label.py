"""What ``nnUNetv2_ext_pseudo_label`` and ``nnUNetv2_ext_split_target`` refuse before anything is
predicted.
"""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from nnunet_ext.commands.pseudo_label import pseudo_label_entry
from nnunet_ext.commands.split_target import split_target_entry
from tests.miniature_plans import DATASET_JSON, plans
from tests.miniature_raw import write_raw

MODEL = ("-d", "999", "-c", "2d", "-tr", "PlainTrainer", "-device", "cpu")


@pytest.fixture
def raw(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A labelled data set 999 with a model, of which only the files' presence matters, and an
    unlabelled one 998.
    """
    for variable in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
        (tmp_path / variable).mkdir()
        monkeypatch.setenv(variable, str(tmp_path / variable))
    folder = tmp_path / "nnUNet_raw"
    write_raw(folder, "Dataset999_Miniature", 3)
    write_raw(folder, "Dataset998_Target", 3, labelled=False, seed=1)
    model = tmp_path / "nnUNet_results" / "Dataset999_Miniature" / "PlainTrainer__nnUNetPlans__2d"
    (model / "fold_0").mkdir(parents=True)
    (model / "fold_0" / "checkpoint_final.pth").touch()
    (model / "dataset.json").write_text(json.dumps(DATASET_JSON))
    (model / "plans.json").write_text(json.dumps(plans()))
    return folder


def refusal(entry: Callable[..., None], capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    with pytest.raises(SystemExit) as stop:
        entry([*MODEL, *arguments])
    assert stop.value.code == 1
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "error: " in line]
    return line


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("-tr", "AdvEntTrainer"), "no such model; train it first"),
        (("-f", "3"), "no such checkpoint; train the fold first"),
        (("-f", "0", "0"), "a fold is named twice"),
        (
            ("-chk", "../checkpoint_final.pth"),
            "not the name of a trainer, plans, configuration, fold or checkpoint",
        ),
        (("-i", "999"), "is the labelled data set itself"),
        (("-i", "97"), "data set 97 is in none of"),
        (("-o", "998"), "the number 998 is in use"),
        (("-o", "x"), "give an unused number"),
        (("--name", "a b"), "use letters, digits and -"),
    ],
)
def test_wrong_input_is_one_line_and_leaves_nothing(
    raw: Path, arguments: tuple[str, ...], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    before = sorted(raw.rglob("*"))
    assert message in refusal(pseudo_label_entry, capsys, "-i", "998", "-o", "150", *arguments)
    assert sorted(raw.rglob("*")) == before


def test_regions_are_refused(raw: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (model,) = (raw.parent / "nnUNet_results").glob("*/*/dataset.json")
    model.write_text(
        json.dumps({**DATASET_JSON, "labels": {"background": 0, "whole": [1, 2], "core": 2}})
    )
    assert "has regions, which overlap" in refusal(
        pseudo_label_entry, capsys, "-i", "998", "-o", "150"
    )


def test_shared_images_are_refused_on_request(
    raw: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = raw / "Dataset998_Target" / "imagesUn" / "case_00_0000.png"
    copy.write_bytes((raw / "Dataset999_Miniature" / "imagesTr" / "case_01_0000.png").read_bytes())
    line = refusal(pseudo_label_entry, capsys, "-i", "998", "-o", "150", "--forbid-overlap")
    assert (
        "Dataset998_Target has 1 images of Dataset999_Miniature, e.g. case_00_0000.png; leave it "
        "out" in line
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--hard", "150"), "need numbers of their own"),
        (("--hard", "999"), "the number 999 is in use"),
        (("--hard", "151", "--easy", "1"), "leaves no hard cases"),
    ],
)
def test_wrong_splits_are_refused(
    raw: Path, arguments: tuple[str, ...], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert message in refusal(split_target_entry, capsys, "-i", "998", "-o", "150", *arguments)
    assert not list(raw.glob("*150*"))
