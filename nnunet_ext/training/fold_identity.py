"""The settings with which a fold was trained, from its checkpoint."""

from __future__ import annotations

from collections.abc import Container, Mapping
from pathlib import Path
from typing import Any

from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

from nnunet_ext.errors import InputError
from nnunet_ext.training.configured_trainer import ConfiguredTrainer, plans_identity
from nnunet_ext.training.settings.plans_entry import PLANS_KEY, PlansEntry
from nnunet_ext.training.weights.checkpoint_files import read_content

TRAIN_AGAIN = "delete the fold and train it again"


def saved_identity(checkpoint: Path) -> dict[str, Any]:
    """Return the settings of a training; for nnU-Net's own trainers those that its plans contain.

    Raises:
        InputError: the checkpoint cannot be read, or does not record them.
    """
    content = read_content(checkpoint, TRAIN_AGAIN, mapped=True)
    try:
        if PLANS_KEY in content:
            return dict(content[PLANS_KEY]["identity"])
        started = content["init_args"]
        plans = PlansManager(started["plans"])
        configuration = plans.get_configuration(started["configuration"])
        return {
            "trainer": content["trainer_name"],
            "dataset": plans.dataset_name,
            "labels": started["dataset_json"]["labels"],
            "plans": plans_identity(plans, configuration),
        }
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(
            f"{checkpoint}: does not record the settings of its training; {TRAIN_AGAIN}"
        ) from error


def identity_now(
    trainer: type,
    saved: dict[str, Any],
    plans: dict[str, Any],
    configuration: str,
    labels: dict[str, Any],
) -> dict[str, Any]:
    """Return the settings that a training of ``trainer`` would have now.

    Only the settings that plans and data set contain are looked up.

    Args:
        trainer: as nnU-Net finds it.
        saved: settings of an earlier training, whose entries are looked up.
        plans: content of the plans file.
        configuration: such as ``2d``.
        labels: of the data set.
    """
    manager = PlansManager(plans)
    entry = PlansEntry.from_plans(plans)
    manager_of_configuration = manager.get_configuration(configuration)
    now = dict(saved)  # its other entries can only be compared with other folds
    now["trainer"] = trainer.__name__
    now["dataset"] = manager.dataset_name
    now["labels"] = labels
    now["plans"] = plans_identity(manager, manager_of_configuration)

    if "streams" in saved:
        required = getattr(trainer, "required_streams", ())
        optional = getattr(trainer, "optional_streams", ())
        used = {*saved["streams"], *required, *optional}
        now["streams"] = _entries(entry.streams, used)
        now["normalizations"] = _entries(entry.normalizations, now["streams"])
    if "hyperparameters" in saved and issubclass(trainer, ConfiguredTrainer):
        now["hyperparameters"] = trainer.hyperparameters_in(manager)
    return now


def _entries(recorded: Mapping[str, Any], roles: Container[str]) -> dict[str, Any]:
    """Return the recorded entries of some roles."""
    return {role: value for role, value in recorded.items() if role in roles}


def compared(identity: dict[str, Any], trainer: type) -> dict[str, Any]:
    """Return the part of an identity in which folds of one comparison must agree.

    Settings that are newer than the training have their defaults.
    """
    identity = {"normalizations": {}, **identity}
    if "hyperparameters" not in identity or not issubclass(trainer, ConfiguredTrainer):
        return identity

    fixed = trainer.unchangeable(identity["hyperparameters"])
    identity["hyperparameters"] = fixed
    return identity
