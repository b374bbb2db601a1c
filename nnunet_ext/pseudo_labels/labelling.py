"""One round of self-training: confident predictions on target images become a labelled data set.

Reference: Zou et al. 2018 (CBST), see :mod:`~nnunet_ext.pseudo_labels.selection`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from nnunet_ext.errors import InputError
from nnunet_ext.evaluation.report.figures import largest_lesion_slice
from nnunet_ext.files.atomic_json import write_json
from nnunet_ext.files.csv_cells import plain_table
from nnunet_ext.files.whole_file import whole_file
from nnunet_ext.pseudo_labels.domains import PROVENANCE, SPLITS, LabelledSource, folds_with
from nnunet_ext.pseudo_labels.figures import PseudoLabelPicture
from nnunet_ext.pseudo_labels.new_data_sets import link_files, link_images
from nnunet_ext.pseudo_labels.prediction import PredictedCase, TrainedModel
from nnunet_ext.pseudo_labels.selection import (
    STEPS,
    Labels,
    best_share,
    class_means,
    class_thresholds,
    confidence_counts,
    kept_voxels,
)

PREFIX = "pseudo_"  # of the new names, so that they never meet those of the labelled cases
FIGURE = "pseudo_labels.png"
KEPT = "kept"


@dataclass(frozen=True)
class Criteria:
    """What is confident enough to become a label.

    ``keep_cases`` is the share of the cases with foreground; ``keep_empty`` adds all cases without.
    ``keep_voxels`` is the share of the voxels of each foreground class; ``background`` is the least
    probability of a background voxel.
    """

    keep_cases: float
    keep_voxels: float
    background: float
    keep_empty: bool = False

    @property
    def keeps_all_voxels(self) -> bool:
        """Return whether no voxel can be left without a label."""
        return self.keep_voxels == 1 and self.background == 0


@dataclass
class TargetCase:
    """A target case and what becomes of it."""

    predicted: PredictedCase
    confidence: float  # mean of its foreground classes' mean confidences; NaN without foreground
    outcome: str = KEPT  # or why it is left out
    kept_shares: dict[str, float] = field(default_factory=dict)  # of the voxels of each class

    @property
    def name(self) -> str:
        """Return its name in the new data set."""
        return f"{PREFIX}{self.predicted.case.name}"

    @property
    def kept(self) -> bool:
        """Return whether it is in the new data set."""
        return self.outcome == KEPT


@dataclass(frozen=True)
class Round:
    """A model with its predictions on the target, and what to keep of them."""

    model: TrainedModel
    predicted: Sequence[PredictedCase]
    criteria: Criteria
    source: LabelledSource | None  # None: the new data set holds pseudo-labels only

    @cached_property
    def reader(self) -> Any:
        """Return nnU-Net's reader and writer of the model's files."""
        from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

        return PlansManager(str(self.model.folder / "plans.json")).image_reader_writer_class()

    @property
    def ignore(self) -> int:
        """Return the label of voxels without a label.

        It is the model's own, or the next free one, as nnU-Net demands.
        """
        own = self.model.dataset_json["labels"].get("ignore")
        if own is None:
            return max(self.model.classes.values()) + 1
        return int(own)

    @property
    def labels(self) -> dict[str, Any]:
        """Return the labels of the new data set."""
        labels = dict(self.model.dataset_json["labels"])
        if not self.criteria.keeps_all_voxels:
            labels["ignore"] = self.ignore
        return labels


def write_round(plan: Round, folder: Path) -> tuple[list[TargetCase], dict[str, float]]:
    """Write the new data set into an empty folder.

    Returns:
        What became of each target case, and the lowest kept confidence of each class.

    Raises:
        InputError: nothing is confident enough, or names collide.
    """
    cases = _target_cases(plan)
    thresholds = _thresholds(plan, cases)
    (folder / "imagesTr").mkdir()
    (folder / "labelsTr").mkdir()
    for case in cases:
        if case.kept:
            _write_case(plan, case, thresholds, folder)

    pseudo = [case.name for case in cases if case.kept]
    if not pseudo:
        raise InputError(
            "no target case has a voxel that is confident enough; keep more, or train a better "
            "model"
        )

    true = _write_source(plan, folder, pseudo)
    named = {name: float(thresholds[value] / STEPS) for name, value in plan.model.classes.items()}
    _write_dataset_json(plan, folder, len(pseudo) + true, named)
    write_provenance(cases, list(plan.model.classes), folder / PROVENANCE)
    return cases, named


def _target_cases(plan: Round) -> list[TargetCase]:
    """Rank the cases with foreground by confidence and leave the worst out.

    One criterion decides about all cases without foreground.
    """
    classes = len(plan.model.classes)
    cases = []
    ranked = {}
    for predicted in plan.predicted:
        labels, _ = predicted.labels(plan.reader)
        means = class_means(labels, predicted.confidence, classes)[1:]
        is_empty = bool(np.isnan(means).all())
        case = TargetCase(predicted, math.nan if is_empty else float(np.nanmean(means)))
        cases.append(case)
        if not is_empty:
            ranked[case.name] = case.confidence

    best = set(best_share(ranked, plan.criteria.keep_cases)) if ranked else set()
    for case in cases:
        if case.name not in ranked:
            case.outcome = KEPT if plan.criteria.keep_empty else "no foreground"
        elif case.name not in best:
            case.outcome = "not among the most confident"
    return cases


def _thresholds(plan: Round, cases: Sequence[TargetCase]) -> npt.NDArray[np.int64]:
    """Return each class's threshold over all voxels of the kept cases."""
    classes = len(plan.model.classes)
    counts = np.zeros((classes, STEPS + 1), np.int64)
    for case in cases:
        if case.kept:
            labels, _ = case.predicted.labels(plan.reader)
            counts += confidence_counts(labels, case.predicted.confidence, classes)
    return class_thresholds(counts, plan.criteria.keep_voxels, plan.criteria.background)


def _write_case(
    plan: Round, case: TargetCase, thresholds: npt.NDArray[np.int64], folder: Path
) -> None:
    labels, properties = case.predicted.labels(plan.reader)
    kept = kept_voxels(labels, case.predicted.confidence, thresholds)
    if not kept.any():
        case.outcome = "no voxel is confident enough"
        return

    case.kept_shares = _kept_shares(labels, kept, plan.model.classes)
    ending = plan.model.dataset_json["file_ending"]
    link_images(case.predicted.case.images, folder / "imagesTr", case.name, ending)
    file = folder / "labelsTr" / f"{case.name}{ending}"
    pseudo = np.where(kept, labels, plan.ignore).astype(np.uint8)
    plan.reader.write_seg(pseudo, str(file), properties)


def _kept_shares(
    labels: Labels, kept: npt.NDArray[np.bool_], classes: Mapping[str, int]
) -> dict[str, float]:
    shares = {}
    for name, value in classes.items():
        of_class = labels == value
        shares[name] = float(kept[of_class].mean()) if of_class.any() else math.nan
    return shares


def _write_source(plan: Round, folder: Path, pseudo: Sequence[str]) -> int:
    """Add the truly labelled cases and the folds; returns their number."""
    if plan.source is None:
        return 0
    ending = plan.model.dataset_json["file_ending"]
    for case in plan.source.cases:
        if case.name in pseudo:
            raise InputError(f"{case.label}: is called as a pseudo-labelled case; rename it")
        link_images(case.images, folder / "imagesTr", case.name, ending)
        link_files([str(case.label)], [folder / "labelsTr" / f"{case.name}{ending}"])

    if plan.source.folds:
        write_json(folds_with(plan.source.folds, pseudo), folder / SPLITS)
    return len(plan.source.cases)


def _write_dataset_json(
    plan: Round, folder: Path, cases: int, thresholds: Mapping[str, float]
) -> None:
    content = {key: value for key, value in plan.model.dataset_json.items() if key != "dataset"}
    content |= {"name": folder.name, "labels": plan.labels, "numTraining": cases}
    content["pseudo_labels"] = {
        "model": f"{plan.model.model.dataset}/{plan.model.folder.name}",
        "folds": list(plan.model.folds),
        "checkpoint": plan.model.checkpoint,
        "criteria": vars(plan.criteria),
        "lowest_confidence": dict(thresholds),
    }
    write_json(content, folder / "dataset.json")


def write_provenance(cases: Sequence[TargetCase], classes: Sequence[str], path: Path) -> None:
    """Write a line per target case: name, image, what became of it, and how confident it is."""
    import pandas as pd

    lines = []
    for case in cases:
        line: dict[str, Any] = {
            "case": case.name,
            "image": below_raw(case.predicted.case.images[0]),
            "outcome": case.outcome,
            "confidence": case.confidence,
            "entropy": case.predicted.entropy,
        }
        for name in classes:
            line[f"kept_{name}"] = case.kept_shares.get(name, math.nan)
        lines.append(line)

    with whole_file(path) as unfinished:
        plain_table(pd.DataFrame(lines)).to_csv(unfinished, index=False, float_format="%.5f")


def below_raw(image: str) -> str:
    """Return data set, folder and file name, without where they lie on this machine."""
    parts = Path(image).parts[-3:]
    return Path(*parts).as_posix()


def picture_of(plan: Round, case: TargetCase, folder: Path) -> PseudoLabelPicture:
    """Return the slice of a written case with most foreground."""
    predicted = case.predicted
    labels, _ = predicted.labels(plan.reader)
    ending = plan.model.dataset_json["file_ending"]
    file = folder / "labelsTr" / f"{case.name}{ending}"
    written, _ = plan.reader.read_seg(str(file))
    image, _ = plan.reader.read_images(predicted.case.images)

    z = largest_lesion_slice(labels > 0)
    confidence = predicted.confidence[z] / STEPS
    return PseudoLabelPicture(case.name, image[0, z], confidence, written[0, z])
