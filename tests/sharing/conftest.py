"""Trained miniatures in nnU-Net's result folder, with everything private that a training notes."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from nnunet_ext.commands.share import share_entry
from nnunet_ext.discovery import SEARCH_VARIABLE, TRAINER_FOLDER
from nnunet_ext.package import made_by
from tests.miniature_models import write_model

DATASET = "Dataset999_Miniature"
PATIENT = "DOE-JANE-19700101"  # must not leave


@pytest.fixture(autouse=True)
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
        (tmp_path / variable).mkdir()
        monkeypatch.setenv(variable, str(tmp_path / variable))
    monkeypatch.setenv(SEARCH_VARIABLE, TRAINER_FOLDER)


def train(root: Path, trainer: str, folds: tuple[int, ...] = (0,)) -> Path:
    """Write a model as a training leaves it, whose files name a patient and this machine."""
    folder = write_model(root / "nnUNet_results", trainer=trainer, folds=folds)
    private = f"/home/{PATIENT}/lesions.pth"

    dataset_json = json.loads((folder / "dataset.json").read_text())
    dataset_json |= {"description": PATIENT, "licence": "CC-BY 4.0", "reference": "a | paper"}
    dataset_json["dataset"] = {"a": {"images": [private], "label": private}}
    (folder / "dataset.json").write_text(json.dumps(dataset_json))

    plans = json.loads((folder / "plans.json").read_text())
    plans["nnunet_ext"] = {"made_by": made_by(), "settings": {"backbone_weights": private}}
    (folder / "plans.json").write_text(json.dumps(plans))

    for fold in folds:
        of_fold = folder / f"fold_{fold}"
        (of_fold / "debug.json").write_text(json.dumps({"output_folder": private}))
        case = {"prediction_file": private, "metrics": {"1": {"Dice": 0.5}}}
        summary = {"mean": {"1": {"Dice": 0.5 + fold / 10}}, "metric_per_case": [case] * (1 + fold)}
        (of_fold / "validation").mkdir()
        (of_fold / "validation" / "summary.json").write_text(json.dumps(summary))
        checkpoint = torch.load(of_fold / "checkpoint_final.pth", weights_only=True)
        checkpoint["init_args"] |= {"plans": plans, "dataset_json": dataset_json, "fold": fold}
        checkpoint["current_epoch"] = 7
        checkpoint["optimizer_state"] = {"state": {0: torch.zeros(100)}}
        state = {"identity": {"hyperparameters": {"seed": 3, "backbone_weights": private}}}
        checkpoint["nnunet_ext"] = state
        torch.save(checkpoint, of_fold / "checkpoint_final.pth")
    return folder


@pytest.fixture
def share(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Callable[..., str]:
    """Run the command on data set 999; returns what it printed, or its error line."""

    def run(trainer: str, *options: str, code: int = 0) -> str:
        words = ["-d", "999", "-tr", trainer, "-o", str(tmp_path / "model.zip"), *options]
        with pytest.raises(SystemExit) as stop:
            share_entry(words)
        printed = capsys.readouterr()
        assert stop.value.code == code, printed
        return printed.err if code else printed.out

    return run
