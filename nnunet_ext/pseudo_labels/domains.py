"""The two sides of self-training: labelled source cases of a model, and target cases to label."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from batchgenerators.utilities.file_and_folder_operations import load_json

from nnunet_ext.errors import InputError
from nnunet_ext.training.streams.raw_cases import (
    RawCase,
    ignores_labels,
    labelled_cases,
    unlabelled_cases,
)

PROVENANCE = "pseudo_labels.csv"
SPLITS = "splits_final.json"

Fold = dict[str, list[str]]  # "train" and "val"


@dataclass(frozen=True)
class LabelledSource:
    """Truly labelled cases, and nnU-Net's folds of them."""

    cases: list[RawCase]
    folds: list[Fold]


def target_cases(
    raw_folder: Path, model_json: dict[str, Any], trained_on: str
) -> tuple[list[RawCase], list[str]]:
    """Return the cases of imagesUn, or else of imagesTr, and notes for the user.

    Labels of imagesTr are not read.

    Args:
        raw_folder: of the target data set.
        model_json: dataset.json of the model.
        trained_on: name of the model's own data set, whose imagesUn may be predicted, but not its
            imagesTr.

    Raises:
        InputError: no images, or images that the model cannot read.
    """
    file = raw_folder / "dataset.json"
    if not file.is_file():
        raise InputError(
            f"{file}: no such file; convert the data set first (nnUNetv2_ext_convert --list)"
        )
    content = load_json(str(file))
    notes = _require_readable(file, content, model_json, trained_on)

    labels_ignored = ignores_labels("target_domain", raw_folder)
    if labels_ignored and raw_folder.name == trained_on:
        raise InputError(
            f"{raw_folder}: is the labelled data set itself and has no imagesUn; name a target "
            "data set"
        )
    if labels_ignored:
        notes.append(
            f"{raw_folder.name} has no imagesUn: its imagesTr are used, its labels are ignored"
        )

    cases = unlabelled_cases(raw_folder, content, labels_ignored)
    _require_channels(cases, len(content["channel_names"]), raw_folder)
    return cases, notes


def _require_readable(
    file: Path, content: dict[str, Any], model: dict[str, Any], trained_on: str
) -> list[str]:
    """Refuse images that the model cannot read; returns notes on the names of channels."""
    if content["file_ending"] != model["file_ending"]:
        raise InputError(
            f"{file}: its files end in {content['file_ending']}, those of {trained_on} in "
            f"{model['file_ending']}; convert both to the same format"
        )

    names = list(content["channel_names"].values())
    wanted = list(model["channel_names"].values())
    if len(names) != len(wanted):
        raise InputError(
            f"{file}: {len(names)} channels ({', '.join(names)}), but {trained_on} has "
            f"{len(wanted)} ({', '.join(wanted)}); convert it with the matching --channel"
        )

    if names == wanted:
        return []
    return [
        f"{file.parent.name} calls its channels {', '.join(names)}, {trained_on} "
        f"{', '.join(wanted)}"
    ]


def _require_channels(cases: Sequence[RawCase], channels: int, folder: Path) -> None:
    for case in cases:
        if len(case.images) != channels:
            raise InputError(
                f"{case.images[0]}: case has {len(case.images)} channels, dataset.json names "
                f"{channels}"
            )


def labelled_source(raw_folder: Path, preprocessed_folder: Path) -> LabelledSource:
    """Return the model's labelled cases, and the folds it was trained on.

    Pseudo-labels of an earlier round are left out.

    Raises:
        InputError: the raw data set is gone or has no labelled cases.
    """
    file = raw_folder / "dataset.json"
    if not file.is_file():
        raise InputError(
            f"{file}: no such file; bring the model's raw data set back, or take --pseudo-only"
        )

    earlier = _pseudo_labelled(raw_folder)
    labelled = labelled_cases(raw_folder, load_json(str(file)))
    cases = [case for case in labelled if case.name not in earlier]
    if not cases:
        raise InputError(
            f"{raw_folder}: has only pseudo-labels; give the model of the first round, or "
            "--pseudo-only"
        )

    names = [case.name for case in cases]
    return LabelledSource(cases, _folds(names, preprocessed_folder, raw_folder))


def _pseudo_labelled(raw_folder: Path) -> set[str]:
    table = raw_folder / PROVENANCE
    if not table.is_file():
        return set()
    with table.open(encoding="utf-8", newline="") as stream:
        return {row["case"] for row in csv.DictReader(stream)}


def _folds(names: list[str], preprocessed_folder: Path, raw_folder: Path) -> list[Fold]:
    """Return the folds in force, restricted to these cases.

    They are nnU-Net's own where no file says otherwise.
    """
    for folder in (preprocessed_folder, raw_folder):
        if (folder / SPLITS).is_file():
            return _folds_in(folder / SPLITS, names)

    ordered = sorted(names)
    if len(ordered) < 2:
        return []
    from nnunetv2.utilities.crossval_split import generate_crossval_split

    return generate_crossval_split(ordered, n_splits=min(5, len(ordered)))


def _folds_in(file: Path, names: list[str]) -> list[Fold]:
    """Return the folds of a file, restricted to these cases."""
    folds: list[Fold] = []
    try:
        for fold in json.loads(file.read_text(encoding="utf-8")):
            train = [case for case in fold["train"] if case in names]
            val = [case for case in fold["val"] if case in names]
            folds.append({"train": train, "val": val})
    except (ValueError, TypeError, KeyError) as error:
        raise InputError(
            f"{file}: no readable list of folds; restore it, or plan the data set again"
        ) from error
    return folds


def folds_with(folds: Sequence[Fold], pseudo: Sequence[str]) -> list[Fold]:
    """Return folds that also train on the pseudo-labelled cases.

    They validate on truly labelled ones only.
    """
    extended: list[Fold] = []
    for fold in folds:
        train = [*map(str, fold["train"]), *pseudo]
        val = [*map(str, fold["val"])]
        extended.append({"train": train, "val": val})
    return extended
