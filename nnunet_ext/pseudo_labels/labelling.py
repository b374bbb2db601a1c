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

PREFIX = "pseudo_"  # of the new names, so that they differ from those of the labelled cases
FIGURE = "pseudo_labels.png"
KEPT = "kept"


@dataclass(frozen=True)
class Criteria:
    """Which predictions are confident enough to become labels.

    ``keep_cases`` is the share of the cases with foreground to keep; ``keep_empty`` adds all cases
    without foreground. ``keep_voxels`` is the share of the voxels to keep of each foreground class;
    ``background`` is the least probability of a background voxel.
    """

    keep_cases: float
    keep_voxels: float
    background: float
    keep_empty: bool = False

    @property
    def keeps_all_voxels(self) -> bool:
        """Return whether every voxel gets a label."""
        return self.keep_voxels == 1 and self.background == 0


@dataclass
class TargetCase:
    """A target case and its outcome."""

    predicted: PredictedCase
    confidence: float  # mean of its foreground classes' mean confidences; NaN without foreground
    outcome: str = KEPT  # or why it is left out
    kept_shares: dict[str, float] = field(default_factory=dict)  # of the voxels of each class

    @property
    def name(self) -> str:
        """Return its name in the new data set."""
        original = self.predicted.case.name
        return f"{PREFIX}{original}"

    @property
    def kept(self) -> bool:
        """Return whether it is in the new data set."""
        return self.outcome == KEPT


@dataclass(frozen=True)
class Round:
    """A model with its predictions on the target, and which of them to keep."""

    model: TrainedModel
    predicted: Sequence[PredictedCase]
    criteria: Criteria
    source: LabelledSource | None  # None: the new data set has pseudo-labels only

    @cached_property
    def reader(self) -> Any:
        """Return nnU-Net's reader and writer of the model's files."""
        from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

        file = self.model.folder / "plans.json"
        plans = PlansManager(str(file))
        return plans.image_reader_writer_class()

    @property
    def ignore(self) -> int:
        """Return the label of voxels without a label: the model's, or the next free number."""
        labels = self.model.dataset_json["labels"]
        own = labels.get("ignore")
        if own is not None:
            return int(own)
        highest = max(self.model.classes.values())
        return highest + 1  # as nnU-Net requires

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
        The outcome of each target case, and the lowest kept confidence of each class.

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

    pseudo_labelled = [case.name for case in cases if case.kept]
    if not pseudo_labelled:
        raise InputError(
            "no target case has a voxel that is confident enough; keep more, or train a better "
            "model"
        )

    labelled_count = _write_source(plan, folder, pseudo_labelled)
    count = len(pseudo_labelled) + labelled_count
    classes = plan.model.classes
    lowest_confidence = {}
    for name, value in classes.items():
        lowest_confidence[name] = float(thresholds[value] / STEPS)

    _write_dataset_json(plan, folder, count, lowest_confidence)
    write_provenance(cases, list(classes), folder / PROVENANCE)
    return cases, lowest_confidence


def _target_cases(plan: Round) -> list[TargetCase]:
    """Rank the cases with foreground by confidence, and leave out the worst.

    All cases without foreground are kept, or none.
    """
    cases = []
    ranked = {}
    for predicted in plan.predicted:
        confidence = _confidence_of_foreground(plan, predicted)
        case = TargetCase(predicted, confidence)
        cases.append(case)
        if not math.isnan(confidence):
            ranked[case.name] = confidence

    best = []
    if ranked:
        best = best_share(ranked, plan.criteria.keep_cases)
    for case in cases:
        if case.name not in ranked:
            case.outcome = KEPT if plan.criteria.keep_empty else "no foreground"
        elif case.name not in best:
            case.outcome = "not among the most confident"
    return cases


def _confidence_of_foreground(plan: Round, predicted: PredictedCase) -> float:
    """Return the mean of the foreground classes' mean confidences; NaN without foreground."""
    labels, _ = predicted.labels(plan.reader)
    classes = len(plan.model.classes)
    _, *foreground = class_means(labels, predicted.confidence, classes)
    is_empty = bool(np.isnan(foreground).all())
    return math.nan if is_empty else float(np.nanmean(foreground))


def _thresholds(plan: Round, cases: Sequence[TargetCase]) -> npt.NDArray[np.int64]:
    """Return each class's threshold over all voxels of the kept cases."""
    classes = len(plan.model.classes)
    counts = np.zeros((classes, STEPS + 1), np.int64)
    for case in cases:
        if not case.kept:
            continue
        labels, _ = case.predicted.labels(plan.reader)
        counts += confidence_counts(labels, case.predicted.confidence, classes)

    criteria = plan.criteria
    return class_thresholds(counts, criteria.keep_voxels, criteria.background)


def _write_case(
    plan: Round, case: TargetCase, thresholds: npt.NDArray[np.int64], folder: Path
) -> None:
    """Write images and pseudo-label of a case; change its outcome if no voxel is kept."""
    predicted = case.predicted
    labels, properties = predicted.labels(plan.reader)
    kept = kept_voxels(labels, predicted.confidence, thresholds)
    if not kept.any():
        case.outcome = "no voxel is confident enough"
        return

    case.kept_shares = _kept_shares(labels, kept, plan.model.classes)
    ending = plan.model.dataset_json["file_ending"]
    images = folder / "imagesTr"
    link_images(predicted.case.images, images, case.name, ending)

    pseudo_label = np.where(kept, labels, plan.ignore)
    file = folder / "labelsTr" / f"{case.name}{ending}"
    plan.reader.write_seg(pseudo_label.astype(np.uint8), str(file), properties)


def _kept_shares(
    labels: Labels, kept: npt.NDArray[np.bool_], classes: Mapping[str, int]
) -> dict[str, float]:
    """Return the share of kept voxels of each class; NaN for a class without voxels."""
    shares = {}
    for name, value in classes.items():
        is_of_class = labels == value
        shares[name] = math.nan
        if is_of_class.any():
            kept_of_class = kept[is_of_class]
            shares[name] = float(kept_of_class.mean())
    return shares


def _write_source(plan: Round, folder: Path, pseudo: Sequence[str]) -> int:
    """Add the truly labelled cases and the folds; return the number of cases."""
    if plan.source is None:
        return 0

    images = folder / "imagesTr"
    labels = folder / "labelsTr"
    ending = plan.model.dataset_json["file_ending"]
    for case in plan.source.cases:
        if case.name in pseudo:
            raise InputError(f"{case.label}: has the name of a pseudo-labelled case; rename it")
        link_images(case.images, images, case.name, ending)
        label = labels / f"{case.name}{ending}"
        link_files([str(case.label)], [label])

    if plan.source.folds:
        folds = folds_with(plan.source.folds, pseudo)
        write_json(folds, folder / SPLITS)
    return len(plan.source.cases)


def _write_dataset_json(
    plan: Round, folder: Path, cases: int, thresholds: Mapping[str, float]
) -> None:
    model = plan.model
    content = dict(model.dataset_json)
    content.pop("dataset", None)
    content |= {
        "name": folder.name,
        "labels": plan.labels,
        "numTraining": cases,
    }
    content["pseudo_labels"] = {
        "model": f"{model.model.dataset}/{model.folder.name}",
        "folds": list(model.folds),
        "checkpoint": model.checkpoint,
        "criteria": vars(plan.criteria),
        "lowest_confidence": dict(thresholds),
    }
    write_json(content, folder / "dataset.json")


def write_provenance(cases: Sequence[TargetCase], classes: Sequence[str], path: Path) -> None:
    """Write a line per target case: name, image, outcome and confidence."""
    import pandas as pd

    lines = []
    for case in cases:
        first_image = case.predicted.case.images[0]
        line: dict[str, Any] = {
            "case": case.name,
            "image": below_raw(first_image),
            "outcome": case.outcome,
            "confidence": case.confidence,
            "entropy": case.predicted.entropy,
        }
        for name in classes:
            line[f"kept_{name}"] = case.kept_shares.get(name, math.nan)
        lines.append(line)

    table = plain_table(pd.DataFrame(lines))
    with whole_file(path) as unfinished:
        table.to_csv(unfinished, index=False, float_format="%.5f")


def below_raw(image: str) -> str:
    """Return data set, folder and file name, without the path on this machine."""
    parts = Path(image).parts
    below = Path(*parts[-3:])
    return below.as_posix()


def picture_of(plan: Round, case: TargetCase, folder: Path) -> PseudoLabelPicture:
    """Return the slice of a written case that has the most foreground."""
    predicted = case.predicted
    labels, _ = predicted.labels(plan.reader)
    ending = plan.model.dataset_json["file_ending"]
    file = folder / "labelsTr" / f"{case.name}{ending}"
    written, _ = plan.reader.read_seg(str(file))
    image, _ = plan.reader.read_images(predicted.case.images)

    z = largest_lesion_slice(labels > 0)
    confidence = predicted.confidence[z]
    return PseudoLabelPicture(
        name=case.name,
        image=image[0, z],
        confidence=confidence / STEPS,
        label=written[0, z],
    )
