"""Pack a trained model into a zip that nnU-Net installs."""

from __future__ import annotations

import json
import sys
import time
import zipfile
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager
from tqdm import tqdm

from nnunet_ext.errors import InputError
from nnunet_ext.files.whole_file import whole_file
from nnunet_ext.hospital.model import ModelFolder
from nnunet_ext.own_trainers import find_trainer
from nnunet_ext.package import DISTRIBUTION
from nnunet_ext.sharing.card import Needs, SharedModel, model_card
from nnunet_ext.sharing.contents import (
    TrainedFold,
    read_fold,
    shared_checkpoint,
    shared_dataset_json,
    shared_plans,
)
from nnunet_ext.sharing.scores import read_scores
from nnunet_ext.sharing.stock_network import STOCK_TRAINER, is_nnunets, why_more_than_nnunet
from nnunet_ext.sharing.training_data import training_data
from nnunet_ext.stock.files import read_dataset_json, read_plans

CARD = "MODEL_CARD.md"
NOT_A_MODEL = "give the data set, trainer, plans and configuration of a trained model"


def pack_model(
    folder: Path, file: Path, folds: Sequence[str] | None, checkpoint: str, note: str
) -> SharedModel:
    """Write a trained model as a zip.

    Args:
        folder: ``Trainer__Plans__Configuration`` of nnU-Net's results.
        file: the zip.
        folds: to pack; None: all that are trained.
        checkpoint: file name in each fold.
        note: of the sender, for the card; empty: none.

    Returns:
        What the card tells.

    Raises:
        InputError: the model is not complete, is damaged, or holds more than nnU-Net writes.
    """
    plans = read_plans(folder / "plans.json", NOT_A_MODEL)
    dataset_json = read_dataset_json(folder / "dataset.json", NOT_A_MODEL)
    files = ModelFolder(folder, dataset_json, plans).checkpoints(folds, checkpoint)
    trained = [read_fold(path) for path in files.values()]
    _require_one_training(trained)

    model = _described(folder, plans, dataset_json, trained, note)
    _write(model, file)
    return model


def _require_one_training(folds: Sequence[TrainedFold]) -> None:
    first = folds[0]
    for fold in folds[1:]:
        if (fold.trainer, fold.configuration) != (first.trainer, first.configuration):
            raise InputError(
                f"{fold.file}: was trained by {fold.trainer} in {fold.configuration}, but "
                f"{first.file} by {first.trainer} in {first.configuration}; choose folds of one "
                "training with -f"
            )


def _described(
    folder: Path,
    plans: dict[str, Any],
    dataset_json: dict[str, Any],
    folds: Sequence[TrainedFold],
    note: str,
) -> SharedModel:
    first = folds[0]
    trainer = find_trainer(first.trainer)
    manager = PlansManager(plans)
    if first.configuration not in manager.available_configurations:
        raise InputError(
            f"{folder / 'plans.json'}: has no configuration {first.configuration}, which "
            f"{first.file} names; {NOT_A_MODEL}"
        )

    weights = {fold.file: fold.weights for fold in folds}
    why = why_more_than_nnunet(trainer, manager, first.configuration, dataset_json, weights)
    notes = [note] if note else []
    if not getattr(trainer, "segments_labelled_data", True):
        notes.append("It is the first stage of a method and does not segment the labelled data.")
    return SharedModel(
        dataset=folder.parent.name,
        folder=folder.name,
        plans=shared_plans(plans),
        settings=manager.get_configuration(first.configuration).configuration,
        dataset_json=shared_dataset_json(dataset_json),
        folds=folds,
        checkpoint=first.file.name,
        needs=_needs(trainer, why),
        data=training_data(plans, dataset_json),
        scores=read_scores({fold.name: fold.file.parent for fold in folds}),
        notes=notes,
    )


def _needs(trainer: type, why: str) -> Needs:
    """Return what a receiver installs."""
    nnunet = f"nnunetv2=={metadata.version('nnunetv2')}"
    if not why:
        name = trainer.__name__ if is_nnunets(trainer) else STOCK_TRAINER
        return Needs(name, [nnunet])

    package = trainer.__module__.partition(".")[0]
    providing = metadata.packages_distributions().get(package, [])
    if package == "nnunet_ext":
        providing = [DISTRIBUTION]  # an editable install names no package
    packages = [f"{name}=={metadata.version(name)}" for name in providing]
    if not packages:
        why += f"; and {trainer.__name__} is in no package, the sender passes on its file"
    return Needs(trainer.__name__, [nnunet, *packages], why)


def _write(model: SharedModel, file: Path) -> None:
    """Write the zip whole; it lies below the data set's name, as nnU-Net's own do."""
    inside = f"{model.dataset}/{model.folder}"
    with whole_file(file) as unfinished, zipfile.ZipFile(unfinished, "w") as archive:
        texts = {
            "dataset.json": _as_json(model.dataset_json),
            "plans.json": _as_json(model.plans),
            CARD: model_card(model),
        }
        for name, text in texts.items():
            archive.writestr(f"{inside}/{name}", text, zipfile.ZIP_DEFLATED)

        for fold in tqdm(model.folds, desc="packing", unit="fold", file=sys.stderr, disable=None):
            content = shared_checkpoint(fold, model.needs.trainer)
            name = f"{inside}/fold_{fold.name}/{model.checkpoint}"
            entry = zipfile.ZipInfo(name, time.localtime()[:6])
            with archive.open(entry, "w", force_zip64=True) as stream:
                torch.save(content, stream)


def _as_json(content: Mapping[str, Any]) -> str:
    return json.dumps(content, indent=4) + "\n"
