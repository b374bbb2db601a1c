"""One round of self-training from names: a checked model and target in, a new data set out."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np

from dataset_conversion.writing.overlaps import shared_images
from dataset_conversion.writing.units import different_units
from nnunet_ext.errors import InputError
from nnunet_ext.pseudo_labels.domains import labelled_source, target_cases
from nnunet_ext.pseudo_labels.figures import pseudo_labels_figure
from nnunet_ext.pseudo_labels.labelling import (
    FIGURE,
    Criteria,
    Round,
    TargetCase,
    picture_of,
    write_round,
)
from nnunet_ext.pseudo_labels.new_data_sets import NewDataSets
from nnunet_ext.pseudo_labels.prediction import TrainedModel, predict_cases
from nnunet_ext.stock.folders import environment_folder
from nnunet_ext.training.streams.raw_cases import RawCase

PICTURES = 5


def fitting_target(
    model: TrainedModel, target: str, *, forbid_overlap: bool
) -> tuple[list[RawCase], list[str]]:
    """Return the cases to predict, and notes on anything unusual about them.

    Args:
        model: which predicts them.
        target: name of a raw data set.
        forbid_overlap: refuse a target that shares images with the model's data set.

    Raises:
        InputError: there are no cases, or they do not fit the model.
    """
    raw = environment_folder("nnUNet_raw")
    own = model.model.dataset
    cases, notes = target_cases(raw / target, model.dataset_json, own)

    units = different_units(raw / own, raw / target)
    if units:
        raise InputError(f"{units}; convert both to one unit (--window)")

    shared = shared_images(raw / own, raw / target) if own != target else None
    if shared and forbid_overlap:
        raise InputError(f"{shared}; leave it out, or leave out --forbid-overlap")
    if shared:
        notes.append(shared)
    return cases, notes


def write_pseudo_labels(
    model: TrainedModel,
    cases: list[RawCase],
    criteria: Criteria,
    name: str,
    *,
    pseudo_only: bool = False,
) -> list[str]:
    """Predict the cases and write the confident ones, with the model's labelled cases, as ``name``.

    Args:
        model: which predicts them.
        cases: of the target.
        criteria: what is confident enough.
        name: of the new raw data set, ``Dataset150_Name``.
        pseudo_only: leave the model's labelled cases out.

    Returns:
        What became of the cases, a line each; nothing where a killed run had written all.

    Raises:
        InputError: the number is in use, or nothing is confident enough.
    """
    raw = environment_folder("nnUNet_raw")
    preprocessed = environment_folder("nnUNet_preprocessed")
    own = model.model.dataset
    source = None if pseudo_only else labelled_source(raw / own, preprocessed / own)

    lines: list[str] = []
    new = NewDataSets(raw, (name,))
    with new.reserved():
        if not new.whole:
            predicted = predict_cases(model, cases, new.work / "predicted")
            plan = Round(model, predicted, criteria, source)
            (folder,) = new.begin()
            lines = _write(plan, folder)
        new.publish()
    return lines


def _write(plan: Round, folder: Path) -> list[str]:
    cases, thresholds = write_round(plan, folder)
    kept = [case for case in cases if case.kept]
    _draw(plan, kept, folder)

    outcomes = Counter(case.outcome for case in cases)
    counts = ", ".join(f"{count} {outcome}" for outcome, count in outcomes.items())
    lowest = ", ".join(f"{name} {value:.3f}" for name, value in thresholds.items())
    lines = [
        f"{len(cases)} target cases: {counts}",
        f"lowest confidence of a kept voxel: {lowest}",
    ]
    if plan.source is not None:
        labelled = len(plan.source.cases)
        own = plan.model.model.dataset
        lines.append(f"{labelled} labelled cases of {own}; only these validate")
    return lines


def _draw(plan: Round, kept: list[TargetCase], folder: Path) -> None:
    """Draw cases from the most to the least confident."""
    ordered = sorted(kept, key=lambda case: -np.nan_to_num(case.confidence))
    count = min(PICTURES, len(ordered))
    places = np.linspace(0, len(ordered) - 1, count).round().astype(int)
    pictures = [picture_of(plan, ordered[place], folder) for place in places]

    foreground = {name: value for name, value in plan.model.classes.items() if value}
    title = "Kept cases, most confident first"
    pseudo_labels_figure(pictures, foreground, plan.ignore, folder / FIGURE, title)
