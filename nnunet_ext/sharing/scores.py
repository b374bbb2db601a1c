"""Scores of a trained model from nnU-Net's own summaries, without the names of cases."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nnunet_ext.errors import InputError
from nnunet_ext.files.json_files import read_object

SUMMARY = "summary.json"
DICE = "Dice"


@dataclass(frozen=True)
class FoldScores:
    """Mean Dice of the held-out cases of one fold."""

    fold: str
    cases: int
    dice: dict[str, float]  # by nnU-Net's name of the label, such as 1 or (1, 2); NaN: undefined


def read_scores(folders: Mapping[str, Path]) -> list[FoldScores]:
    """Return the scores of each fold that nnU-Net has validated.

    Args:
        folders: of the folds, by the fold's name.

    Raises:
        InputError: a summary that is not one of nnU-Net.
    """
    found = []
    for fold, folder in folders.items():
        file = folder / "validation" / SUMMARY
        if file.is_file():
            found.append(_scores(fold, file))
    return found


def _scores(fold: str, file: Path) -> FoldScores:
    advice = "validate again (nnUNetv2_train ... --val), or remove it"
    shape = {"mean": dict, "metric_per_case": list}
    content = read_object(file, advice, shape)
    dice = {}
    for label, metrics in content["mean"].items():
        value = metrics.get(DICE) if isinstance(metrics, dict) else None
        if not isinstance(value, int | float):
            raise InputError(f"{file}: has no Dice of label {label}; {advice}")
        dice[label] = float(value)
    return FoldScores(fold, len(content["metric_per_case"]), dice)


def label_names(labels: Mapping[str, Any]) -> dict[str, str]:
    """Return the name of each label by the key that nnU-Net gives it in a summary.

    >>> label_names({"background": 0, "lesion": [1, 2], "core": 2})
    {'0': 'background', '(1, 2)': 'lesion', '2': 'core'}
    """
    return {
        str(tuple(value) if isinstance(value, list) else value): name
        for name, value in labels.items()
    }


def mean_over_folds(scores: Sequence[FoldScores], label: str) -> float:
    """Return the mean Dice of a label over all cases of the folds; NaN if it is undefined.

    nnU-Net gives the mean of a fold, so each fold counts by its number of cases.
    """
    defined = [fold for fold in scores if math.isfinite(fold.dice.get(label, math.nan))]
    cases = sum(fold.cases for fold in defined)
    if not cases:
        return math.nan
    return sum(fold.dice[label] * fold.cases for fold in defined) / cases
