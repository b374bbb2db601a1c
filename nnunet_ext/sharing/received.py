"""A zip from others: which models are in it, and what they need here."""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path, PurePosixPath

from packaging.version import InvalidVersion, Version

from nnunet_ext.errors import InputError
from nnunet_ext.files.archives import opened_archive
from nnunet_ext.files.json_files import read_object
from nnunet_ext.hospital.model import is_plans
from nnunet_ext.own_trainers import find_trainer
from nnunet_ext.package import DISTRIBUTION
from nnunet_ext.sharing.contents import read_fold
from nnunet_ext.sharing.stock_network import is_nnunets
from nnunet_ext.training.settings.plans_entry import MADE_BY, PLANS_KEY

ADVICE = "give a zip of nnUNetv2_ext_share or nnUNetv2_export_model_to_zip"


@dataclass(frozen=True)
class ReceivedModel:
    """One model of a zip, by what its files say."""

    place: str  # DatasetXXX_Name/Trainer__Plans__Configuration
    trainer: str  # with whose name nnU-Net builds the network
    made_by: str  # package and version, such as nnunetv2-ext 0.2.0; empty: nothing says so


def read_received(archive: Path, temporary: Path) -> list[ReceivedModel]:
    """Return the models of a zip. Nothing in it is executed.

    Args:
        archive: the zip.
        temporary: an existing folder, which the caller removes.

    Raises:
        InputError: no such zip, a hostile or damaged one, or one without a model.
    """
    if not archive.is_file():
        raise InputError(f"{archive}: no such file; {ADVICE}")

    with opened_archive(archive, ADVICE) as (file, names):
        places = [str(PurePosixPath(name).parent) for name in names if is_plans(name)]
        if not places:
            raise InputError(f"{archive}: holds no model of nnU-Net; {ADVICE}")
        return [_model(file, names, place, archive, temporary) for place in places]


def _model(
    file: zipfile.ZipFile, names: Sequence[str], place: str, archive: Path, temporary: Path
) -> ReceivedModel:
    checkpoints = [
        name for name in names if name.startswith(f"{place}/fold_") and name.endswith(".pth")
    ]
    if not checkpoints:
        raise InputError(f"{archive}: {place} has no checkpoint; {ADVICE}")

    plans = read_object(Path(file.extract(f"{place}/plans.json", temporary)), ADVICE)
    fold = read_fold(Path(file.extract(min(checkpoints), temporary)))
    entry = plans.get(PLANS_KEY)
    made_by = entry.get(MADE_BY) if isinstance(entry, dict) else None
    return ReceivedModel(place, fold.trainer, str(made_by or ""))


def predicts_with_nnunet_alone(model: ReceivedModel) -> bool:
    """Return whether the checkpoints carry the name of a trainer that is nnU-Net's own."""
    try:
        return is_nnunets(find_trainer(model.trainer))
    except InputError:
        return False


def missing_for(model: ReceivedModel) -> tuple[str, str] | None:
    """Return what a model lacks in this environment and what fixes it; None: nothing.

    Only this package is ever named as what to install: a zip may name any.
    """
    package, _, version = model.made_by.partition(" ")
    is_ours = package == DISTRIBUTION and _is_version(version)
    install = f'pip install "{package}=={version}"'
    try:
        find_trainer(model.trainer)
    except InputError:
        what = f"{model.place} needs {model.trainer}, which nnU-Net does not find"
        return what, install if is_ours else "ask its sender where the trainer comes from"

    here = metadata.version(DISTRIBUTION)
    is_newer = is_ours and Version(version) > Version(here)
    if is_newer and not predicts_with_nnunet_alone(model):
        return f"{model.place} was made by {model.made_by}, newer than {here} here", install
    return None


def _is_version(text: str) -> bool:
    try:
        Version(text)
    except InvalidVersion:
        return False
    return True
