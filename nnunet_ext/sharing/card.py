"""The model card that travels with a shared model, in Markdown."""

from __future__ import annotations

import datetime
import importlib.metadata
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from nnunet_ext.evaluation.report.texts import escaped, markdown_table
from nnunet_ext.package import made_by
from nnunet_ext.printable import counted, printable
from nnunet_ext.sharing.contents import TrainedFold
from nnunet_ext.sharing.scores import FoldScores, label_names, mean_over_folds
from nnunet_ext.sharing.training_data import UNKNOWN, TrainingData

TARGET_ROLE = "target_domain"


@dataclass(frozen=True)
class Needs:
    """What a receiver installs, and the trainer whose name the checkpoints carry."""

    trainer: str
    packages: list[str]  # requirements for pip, nnU-Net first
    why: str = ""  # nnU-Net alone is not enough; empty: it is


@dataclass(frozen=True)
class SharedModel:
    """Everything that a card tells."""

    dataset: str
    folder: str  # Trainer__Plans__Configuration
    plans: Mapping[str, Any]  # of the whole model
    settings: Mapping[str, Any]  # of the configuration, with what it inherits
    dataset_json: Mapping[str, Any]
    folds: Sequence[TrainedFold]
    checkpoint: str
    needs: Needs
    data: Sequence[TrainingData]
    scores: Sequence[FoldScores]
    notes: Sequence[str] = field(default_factory=list)  # of the sender, and of the trainer

    @property
    def trainer(self) -> str:
        """Return the trainer that trained it."""
        return self.folds[0].trainer

    @property
    def configuration(self) -> str:
        """Return nnU-Net's configuration."""
        return self.folds[0].configuration


def model_card(model: SharedModel) -> str:
    """Return the card: use, inputs, data sets, overlaps, settings, scores and limits.

    It holds counts and means of cases, and nothing that names one.
    """
    title = f"# {_text(model.dataset)}: {_text(model.trainer)}, {_text(model.configuration)}"
    sections = (
        [title, "", _origin(model)],
        ["## Use", "", *_use(model)],
        ["## Input and output", "", *_input(model)],
        ["## Data sets", "", *_data(model)],
        ["## Do not test on", "", *_overlaps(model.data)],
        ["## Settings", "", *_settings(model)],
        ["## Scores", "", *_scores(model)],
        ["## Limits", "", *_limits(model)],
    )
    return "\n\n".join("\n".join(section) for section in sections) + "\n"


def install_commands(needs: Needs) -> list[str]:
    """Return what a receiver types before anything else."""
    quoted = [f'"{package}"' for package in needs.packages]
    return [f"pip install {' '.join(quoted)}"]


def _text(value: object) -> str:
    """Return text from files as one line that Markdown does not obey."""
    return escaped(printable(" ".join(str(value).split())))


def _origin(model: SharedModel) -> str:
    nnunet = importlib.metadata.version("nnunetv2")
    today = datetime.date.today().isoformat()
    return f"Packed by {made_by()} with nnunetv2 {nnunet} on {today}."


def _use(model: SharedModel) -> list[str]:
    folds = " ".join(fold.name for fold in model.folds)
    plans = model.folder.split("__")[1]
    predict = (
        f"nnUNetv2_predict -i IMAGES -o PREDICTIONS -d {model.dataset} -c {model.configuration} "
        f"-tr {model.trainer} -p {plans} -f {folds} -chk {model.checkpoint}"
    )
    if model.needs.why:
        needs = (
            f"It needs more than nnU-Net: {_text(model.needs.why)}. If pip does not find the "
            "package, ask the sender for it. `nnUNetv2_ext_doctor -m ZIP` says what is missing."
        )
    else:
        needs = "nnU-Net alone predicts with it."
    return [
        needs,
        "",
        "```bash",
        *install_commands(model.needs),
        "nnUNetv2_install_pretrained_model_from_zip ZIP",
        predict,
        "```",
        "",
        "Install only models from people you trust: nnU-Net reads checkpoints as Python objects. "
        "This one holds tensors, numbers and plain Python alone.",
    ]


def _input(model: SharedModel) -> list[str]:
    channels = model.dataset_json.get("channel_names") or model.dataset_json.get("modality") or {}
    rows = [[_text(number), _text(name)] for number, name in channels.items()]
    labels = model.dataset_json.get("labels", {})
    named = [f"{_text(name)} ({_text(value)})" for name, value in labels.items()]
    ending = _text(model.dataset_json.get("file_ending", ""))
    return [
        f"Images end in `_0000{ending}`, `_0001{ending}` and so on, one file per channel:",
        "",
        *markdown_table(["channel", "content"], rows),
        "",
        f"Labels of the prediction: {', '.join(named)}.",
    ]


def _data(model: SharedModel) -> list[str]:
    rows = []
    for data in model.data:
        rows.append([_text(data.name), data.role, _text(data.licence), _text(data.reference)])
    cases = model.dataset_json.get("numTraining")
    count = [f"The labelled data set has {cases} cases.", ""] if isinstance(cases, int) else []
    return [
        *count,
        *markdown_table(["data set", "role", "licence", "reference"], rows),
        "",
        "A model may fall under the licences of its data. Weights that the training started from "
        "(`-pretrained_weights`) are not recorded; the sender names them and their licence under "
        "Limits.",
    ]


def _overlaps(data: Sequence[TrainingData]) -> list[str]:
    lines = ["- the data sets above"]
    for one in data:
        lines += [f"- {_text(line)}" for line in one.overlaps]
    unknown = [_text(one.name) for one in data if one.collection is None]
    if unknown:
        lines.append(
            f"- whatever shares images with {', '.join(unknown)}: not checked, because "
            "nnUNetv2_ext_convert did not make it here"
        )
    return list(dict.fromkeys(lines))


def _settings(model: SharedModel) -> list[str]:
    keys = ("spacing", "patch_size", "batch_size", "normalization_schemes")
    rows = [[key, _text(model.settings.get(key, UNKNOWN))] for key in keys]
    network = model.settings.get("architecture", {})
    rows.append(["network", _text(network.get("network_class_name", UNKNOWN))])
    epochs = [UNKNOWN if fold.epochs is None else str(fold.epochs) for fold in model.folds]
    rows.append(["epochs per fold", ", ".join(epochs)])
    for name, value in model.folds[0].hyperparameters.items():
        rows.append([_text(name), _text(value)])
    return markdown_table(["setting", "value"], rows)


def _scores(model: SharedModel) -> list[str]:
    if not model.scores:
        return ["nnU-Net has not validated it."]

    names = label_names(model.dataset_json.get("labels", {}))
    labels = list(model.scores[0].dice)
    header = ["fold", "cases", *(_text(names.get(label, label)) for label in labels)]
    rows = []
    for fold in model.scores:
        dice = [_number(fold.dice.get(label, math.nan)) for label in labels]
        rows.append([fold.fold, str(fold.cases), *dice])
    if len(rows) > 1:
        together = [_number(mean_over_folds(model.scores, label)) for label in labels]
        rows.append(["all", str(sum(fold.cases for fold in model.scores)), *together])
    return ["Mean Dice of the cases that each fold held out:", "", *markdown_table(header, rows)]


def _number(value: float) -> str:
    return f"{value:.3f}" if math.isfinite(value) else "-"


def _limits(model: SharedModel) -> list[str]:
    lines = ["For research, not for clinical use.", *map(_text, model.notes)]
    held_out = sum(fold.cases for fold in model.scores if fold.fold != "all")
    if held_out:
        lines.append(
            f"The scores are of {counted(held_out, 'case')} of the training's own data set. Other "
            "scanners, sites and diseases may score lower."
        )
    else:
        lines.append("No score of held-out cases is known.")
    if any(fold.name == "all" for fold in model.folds):
        lines.append("Fold all has trained on every case, so its scores say nothing of new ones.")

    targets = [_text(data.name) for data in model.data if data.role == TARGET_ROLE]
    if targets:
        lines.append(f"It was adapted to images like those of {', '.join(targets)}.")
    if "CT" in map(str, dict(model.dataset_json.get("channel_names") or {}).values()):
        lines.append("Channels called CT are in Hounsfield units.")
    return [f"- {line}" for line in lines]
