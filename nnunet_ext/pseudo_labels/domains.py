"""The two sides of self-training: the labelled source cases of a model, and the target cases to be
labelled.
"""

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
class Source:
    """Truly labelled cases, and nnU-Net's folds of them."""

    cases: list[RawCase]
    folds: list[Fold]


def target_cases(
    raw_folder: Path, model_json: dict[str, Any], trained_on: str
) -> tuple[list[RawCase], list[str]]:
    """Return the cases of imagesUn, or else of imagesTr, whose labels are not looked at, and notes
    for the user.

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
            f"data set"
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
    if content["file_ending"] != model["file_ending"]:
        raise InputError(
            f"{file}: its files end in {content['file_ending']}, those of {trained_on} in "
            f"{model['file_ending']}; "
            "convert both to the same format"
        )

    names, wanted = (list(one["channel_names"].values()) for one in (content, model))
    if len(names) != len(wanted):
        raise InputError(
            f"{file}: {len(names)} channels ({', '.join(names)}), but {trained_on} has "
            f"{len(wanted)} "
            f"({', '.join(wanted)}); convert it with the matching --channel"
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


def labelled_source(raw_folder: Path, preprocessed_folder: Path) -> Source:
    """Return the model's labelled cases without pseudo-labels of an earlier round, and the folds it
    was trained on.

    Raises:
        InputError: the raw data set is gone or has no labelled cases.
    """
    file = raw_folder / "dataset.json"
    if not file.is_file():
        raise InputError(
            f"{file}: no such file; bring the model's raw data set back, or take --pseudo-only"
        )

    earlier = _pseudo_labelled(raw_folder)
    cases = [
        case
        for case in labelled_cases(raw_folder, load_json(str(file)))
        if case.name not in earlier
    ]
    if not cases:
        raise InputError(
            f"{raw_folder}: has only pseudo-labels; give the model of the first round, or "
            f"--pseudo-only"
        )

    names = [case.name for case in cases]
    return Source(cases, _folds(names, preprocessed_folder, raw_folder))


def _pseudo_labelled(raw_folder: Path) -> set[str]:
    table = raw_folder / PROVENANCE
    if not table.is_file():
        return set()
    with table.open(encoding="utf-8", newline="") as stream:
        return {row["case"] for row in csv.DictReader(stream)}


def _folds(names: list[str], preprocessed_folder: Path, raw_folder: Path) -> list[Fold]:
    """The folds in force, restricted to these cases; nnU-Net's own where no file says otherwise."""
    files = [
        folder / SPLITS
        for folder in (preprocessed_folder, raw_folder)
        if (folder / SPLITS).is_file()
    ]
    if not files:
        from nnunetv2.utilities.crossval_split import generate_crossval_split

        ordered = sorted(names)
        return (
            generate_crossval_split(ordered, n_splits=min(5, len(ordered)))
            if len(ordered) > 1
            else []
        )

    try:
        folds: list[Fold] = json.loads(files[0].read_text(encoding="utf-8"))
        return [
            {part: [case for case in fold[part] if case in names] for part in ("train", "val")}
            for fold in folds
        ]
    except (ValueError, TypeError, KeyError) as error:
        raise InputError(
            f"{files[0]}: no readable list of folds; restore it, or plan the data set again"
        ) from error


def folds_with(folds: Sequence[Fold], pseudo: Sequence[str]) -> list[Fold]:
    """Return folds that train on the pseudo-labelled cases, too, and validate on truly labelled
    ones only.
    """
    return [
        {"train": [*map(str, fold["train"]), *pseudo], "val": [*map(str, fold["val"])]}
        for fold in folds
    ]
