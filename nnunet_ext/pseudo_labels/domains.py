"""The two sides of self-training: labelled source cases of a model, and target cases to label."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nnunet_ext.errors import InputError
from nnunet_ext.stock.files import read_dataset_json, read_folds
from nnunet_ext.training.streams.raw_cases import (
    RawCase,
    ignores_labels,
    labelled_cases,
    unlabelled_cases,
)

PROVENANCE = "pseudo_labels.csv"
SPLITS = "splits_final.json"
CONVERT_AGAIN = "convert the data set again"
RESTORE_FOLDS = "restore it, or plan the data set again"

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

    The labels of imagesTr are not read.

    Args:
        raw_folder: of the target data set.
        model_json: dataset.json of the model.
        trained_on: name of the model's own data set: its imagesUn may be predicted, its imagesTr
            may not.

    Raises:
        InputError: an unreadable dataset.json, no images, or images that the model cannot read.
    """
    file = raw_folder / "dataset.json"
    if not file.is_file():
        raise InputError(
            f"{file}: no such file; convert the data set first (nnUNetv2_ext_convert --list)"
        )
    content = read_dataset_json(file, CONVERT_AGAIN)
    notes = _require_readable(file, content, model_json, trained_on)

    labels_ignored = ignores_labels("target_domain", raw_folder)
    if labels_ignored and raw_folder.name == trained_on:
        raise InputError(
            f"{raw_folder}: is the labelled data set itself and has no imagesUn; give a target "
            "data set"
        )
    if labels_ignored:
        notes.append(
            f"{raw_folder.name} has no imagesUn: its imagesTr are used, its labels are ignored"
        )

    cases = unlabelled_cases(raw_folder, content, labels_ignored)
    channels = len(content["channel_names"])
    _require_channels(cases, channels)
    return cases, notes


def _require_readable(
    file: Path, content: dict[str, Any], model: dict[str, Any], trained_on: str
) -> list[str]:
    """Refuse images that the model cannot read; return notes on the names of channels."""
    ending = content["file_ending"]
    model_ending = model["file_ending"]
    if ending != model_ending:
        raise InputError(
            f"{file}: its files end in {ending}, those of {trained_on} in {model_ending}; convert "
            "both to the same format"
        )

    channels = list(content["channel_names"].values())
    model_channels = list(model["channel_names"].values())
    names = ", ".join(channels)
    model_names = ", ".join(model_channels)
    if len(channels) != len(model_channels):
        raise InputError(
            f"{file}: {len(channels)} channels ({names}), but {trained_on} has "
            f"{len(model_channels)} ({model_names}); convert it with the matching --channel"
        )

    if channels == model_channels:
        return []
    return [f"{file.parent.name} calls its channels {names}, {trained_on} {model_names}"]


def _require_channels(cases: Sequence[RawCase], channels: int) -> None:
    for case in cases:
        found = len(case.images)
        if found != channels:
            raise InputError(
                f"{case.images[0]}: case has {found} channels, dataset.json names {channels}"
            )


def labelled_source(raw_folder: Path, preprocessed_folder: Path) -> LabelledSource:
    """Return the model's labelled cases, and the folds it was trained on.

    Pseudo-labels of an earlier round are left out.

    Raises:
        InputError: the raw data set is missing or unreadable, or has no labelled cases.
    """
    file = raw_folder / "dataset.json"
    if not file.is_file():
        raise InputError(
            f"{file}: no such file; restore the model's raw data set, or use --pseudo-only"
        )

    content = read_dataset_json(file, CONVERT_AGAIN)
    earlier = _pseudo_labelled(raw_folder)
    labelled = labelled_cases(raw_folder, content)
    cases = [case for case in labelled if case.name not in earlier]
    if not cases:
        raise InputError(
            f"{raw_folder}: has only pseudo-labels; give the model of the first round, or "
            "--pseudo-only"
        )

    names = [case.name for case in cases]
    folds = _folds(names, preprocessed_folder, raw_folder)
    return LabelledSource(cases, folds)


def _pseudo_labelled(raw_folder: Path) -> set[str]:
    """Return the cases whose labels an earlier round made."""
    table = raw_folder / PROVENANCE
    if not table.is_file():
        return set()
    with table.open(encoding="utf-8", newline="") as stream:
        rows = csv.DictReader(stream)
        return {row["case"] for row in rows}


def _folds(names: list[str], preprocessed_folder: Path, raw_folder: Path) -> list[Fold]:
    """Return the folds in use, restricted to these cases; nnU-Net's own if no file lists any."""
    for folder in (preprocessed_folder, raw_folder):
        file = folder / SPLITS
        if file.is_file():
            return _folds_in(file, names)

    ordered = sorted(names)
    if len(ordered) < 2:
        return []
    from nnunetv2.utilities.crossval_split import generate_crossval_split

    folds = min(5, len(ordered))
    return generate_crossval_split(ordered, n_splits=folds)


def _folds_in(file: Path, names: list[str]) -> list[Fold]:
    """Return the folds of a file, restricted to these cases."""
    folds: list[Fold] = []
    for fold in read_folds(file, RESTORE_FOLDS):
        train = [case for case in fold["train"] if case in names]
        val = [case for case in fold["val"] if case in names]
        folds.append({"train": train, "val": val})
    return folds


def folds_with(folds: Sequence[Fold], pseudo: Sequence[str]) -> list[Fold]:
    """Return folds that also train on the pseudo-labelled cases.

    They still validate only on truly labelled ones.
    """
    extended: list[Fold] = []
    for fold in folds:
        train = list(map(str, fold["train"]))
        val = list(map(str, fold["val"]))
        train += pseudo
        extended.append({"train": train, "val": val})
    return extended
