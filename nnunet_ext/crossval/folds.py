"""The folds of the models that are compared, and how far each has come."""

import re
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from nnunet_ext.errors import InputError
from nnunet_ext.files.json_files import read_object
from nnunet_ext.stock.training import TRAINING_LOCK, Model, Training


@dataclass(frozen=True)
class Fold(Training):
    """One training of a model."""

    soft_maps: bool

    @property
    def lock(self) -> Path:
        """Held by the process that trains the fold."""
        return self.folder / TRAINING_LOCK

    @property
    def finished(self) -> bool:
        """Trained and validated, with soft maps where they are wanted."""
        return self.trained and self._validated

    @property
    def _validated(self) -> bool:
        validation = self.folder / "validation"
        try:
            summary = read_object(validation / "summary.json", "", {"metric_per_case": list})
        except InputError:  # none, or cut short by a kill
            return False
        if not self.soft_maps:
            return True

        # A validation that was repeated for its soft maps and killed left some of them, and the
        # summary of the first.
        maps = [path for path in validation.glob("*.npz") if zipfile.is_zipfile(path)]
        return len(maps) >= len(summary["metric_per_case"])

    def arguments(self, device: str) -> list[str]:
        """Return the stock command that finishes the fold from where it is."""
        arguments = super().arguments(device)
        if self.soft_maps:
            arguments.append("--npz")
        return arguments


def models_of(
    dataset: str, trainers: Sequence[str], plans: Sequence[str], configuration: str
) -> list[Model]:
    """Return every trainer with every plans.

    Raises:
        InputError: an impossible name, or one that is given twice.
    """
    for name in (*trainers, *plans, configuration):
        if "__" in name or Path(name).name != name:
            raise InputError(f"{name}: is not the name of a trainer, plans or configuration")

    models = []
    for trainer in trainers:
        for identifier in plans:
            models.append(Model(dataset, trainer, identifier, configuration))
    if len(set(models)) < len(models):
        raise InputError("-tr, -p: a trainer or plans are named twice")
    return models


def folds_of(
    models: Sequence[Model], numbers: Sequence[str], results: Path, soft_maps: bool
) -> list[Fold]:
    """Return the folds of all models.

    Args:
        models: to compare.
        numbers: of the folds.
        results: nnU-Net's folder of results.
        soft_maps: whether the validation must keep probabilities.

    Raises:
        InputError: a number that no fold can have, or one that is given twice.
    """
    for number in numbers:
        if not re.fullmatch("0|[1-9][0-9]*", number):
            raise InputError(
                f"-f {number}: is not the number of a fold; 'all' has no held-out cases to compare"
            )
    if len(set(numbers)) < len(numbers):
        raise InputError("-f: a fold is named twice")

    folds = []
    for model in models:
        folder = model.folder(results)
        for number in numbers:
            folds.append(Fold(model, number, folder / f"fold_{number}", soft_maps))
    return folds
