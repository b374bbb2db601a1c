"""What of a training's files is passed on: what a prediction needs, without cases and paths."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from nnunet_ext.errors import InputError
from nnunet_ext.files.private_paths import without_folders
from nnunet_ext.package import made_by
from nnunet_ext.training.settings.plans_entry import PLANS_KEY
from nnunet_ext.training.weights.checkpoint_files import read_content

SHARED_KEY = "nnunet_ext_shared"  # in a checkpoint: who wrote it, and the trainer that trained it
# Of dataset.json; the others may list files or describe patients.
DATASET_KEYS = (
    "channel_names",
    "modality",
    "labels",
    "regions_class_order",
    "numTraining",
    "file_ending",
    "overwrite_image_reader_writer",
    "name",
    "reference",
    "release",
    "licence",
    "license",
)
NOT_SHARED = "share a model that nnU-Net trained, or train it again"


@dataclass(frozen=True)
class TrainedFold:
    """What the checkpoint of one fold says."""

    file: Path
    trainer: str
    configuration: str
    weights: Mapping[str, torch.Tensor]
    mirroring_axes: tuple[int, ...] | None  # that may be flipped in prediction
    epochs: int | None  # that were trained
    hyperparameters: dict[str, Any] = field(default_factory=dict)  # of trainers of this package

    @property
    def name(self) -> str:
        """Return the fold, ``0`` or ``all``."""
        return self.file.parent.name.removeprefix("fold_")


def read_fold(checkpoint: Path) -> TrainedFold:
    """Read the checkpoint of a fold, without executing code from it.

    Raises:
        InputError: unreadable, other objects in it, or not one of nnU-Net.
    """
    content = read_content(checkpoint, NOT_SHARED, mapped=True)
    if not isinstance(content, dict):
        raise InputError(f"{checkpoint}: is not a checkpoint of nnU-Net; {NOT_SHARED}")

    arguments = content.get("init_args")
    configuration = arguments.get("configuration") if isinstance(arguments, dict) else None
    trainer = content.get("trainer_name")
    weights = content.get("network_weights")
    is_named = isinstance(trainer, str) and isinstance(configuration, str)
    if not is_named or not isinstance(weights, dict) or not _are_weights(weights):
        raise InputError(
            f"{checkpoint}: lacks the trainer's name, its configuration or weights, so it is not a "
            f"checkpoint of nnU-Net; {NOT_SHARED}"
        )

    epochs = content.get("current_epoch")
    return TrainedFold(
        checkpoint,
        str(trainer),
        str(configuration),
        dict(weights),
        _axes(content.get("inference_allowed_mirroring_axes"), checkpoint),
        epochs if isinstance(epochs, int) else None,
        _hyperparameters(content.get(PLANS_KEY)),
    )


def _are_weights(values: dict[Any, Any]) -> bool:
    named = all(isinstance(name, str) for name in values)
    return bool(values) and named and all(isinstance(v, torch.Tensor) for v in values.values())


def _axes(value: Any, checkpoint: Path) -> tuple[int, ...] | None:
    if value is None:
        return None
    if isinstance(value, list | tuple) and all(axis in (0, 1, 2) for axis in value):
        return tuple(map(int, value))
    raise InputError(f"{checkpoint}: has impossible axes for mirroring; {NOT_SHARED}")


def _hyperparameters(state: Any) -> dict[str, Any]:
    identity = state.get("identity") if isinstance(state, dict) else None
    found = identity.get("hyperparameters") if isinstance(identity, dict) else None
    if not isinstance(found, dict):
        return {}
    return {str(name): without_folders(value) for name, value in found.items()}


def shared_checkpoint(fold: TrainedFold, trainer: str) -> dict[str, Any]:
    """Return the content of the checkpoint that is passed on.

    It has no state of the training, and names no file of the sender.

    Args:
        fold: the training's.
        trainer: the name with which nnU-Net builds the network.
    """
    return {
        "network_weights": dict(fold.weights),
        "trainer_name": trainer,
        "init_args": {"configuration": fold.configuration, "fold": fold.name},
        "inference_allowed_mirroring_axes": fold.mirroring_axes,
        "current_epoch": fold.epochs,
        SHARED_KEY: {"made_by": made_by(), "trainer": fold.trainer},
    }


def shared_dataset_json(content: Mapping[str, Any]) -> dict[str, Any]:
    """Return what of dataset.json a prediction and a reader need; it lists no files."""
    return {key: content[key] for key in DATASET_KEYS if key in content}


def shared_plans(plans: Mapping[str, Any]) -> dict[str, Any]:
    """Return a copy of the plans in which files of the sender have no folders."""
    entry = plans.get(PLANS_KEY)
    if not isinstance(entry, dict) or not isinstance(entry.get("settings"), dict):
        return dict(plans)

    settings = {name: without_folders(value) for name, value in entry["settings"].items()}
    return {**plans, PLANS_KEY: {**entry, "settings": settings}}
