"""From folders to voxel counts: pair the cases, compare each once, count per label."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from nnunet_ext.errors import InputError
from nnunet_ext.evaluation.cases.label_files import (
    LabelMap,
    find_label_files,
    grid_difference,
    header_shape,
    read_label_file,
)
from nnunet_ext.evaluation.cases.labels import LabelSet
from nnunet_ext.evaluation.metrics.metric import ConfusionCounts
from nnunet_ext.evaluation.profiles import Profile
from nnunet_ext.stock.files import MOST_LABELS

ValuePairs = dict[tuple[int, int], int]
"""Number of voxels by (value in the reference, value in the prediction)."""

Measures = dict[tuple[str, str, int], dict[str, float]]
"""Metrics by method, label and unit (the slice's index, or 0)."""


class Measurement(Protocol):
    """Measures a case from its arrays."""

    @property
    def profile(self) -> Profile:
        """Whose metrics it measures."""

    def __call__(
        self, case: str, method: str, reference: LabelMap, prediction: LabelMap
    ) -> Measures:
        """Metrics of one method on one case."""


_VOXELS_PER_CHUNK = 1 << 22  # bounds memory; a chest CT has about 1 << 26
_FEW_VALUES = 16  # whose pairs fit into 8 bits
_LISTED = 5


@dataclass(frozen=True)
class Case:
    """One reference file and the prediction of each method for it."""

    name: str
    reference: Path
    predictions: dict[str, Path]


@dataclass
class Comparison:
    """Voxel counts of one case for each method, or the problems that prevented them.

    ``pairs`` has one entry per slice, or one of the whole case. ``measures`` are, by profile, the
    metrics that do not follow from counts. ``voxel_ml`` is the volume of a voxel, NaN for pictures
    and for formats without spacing. ``files`` are the case itself, or what `pooled` merged to a
    patient.
    """

    case: Case
    pairs: dict[str, list[ValuePairs]] = field(default_factory=dict)
    measures: dict[str, Measures] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    voxel_ml: float = float("nan")
    is_picture: bool = False
    has_spacing: bool = False
    files: list[Case] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.files = self.files or [self.case]

    def units(self, method: str, per_slice: bool) -> list[ValuePairs]:
        """Counts of each slice, or those of the whole case."""
        return self.pairs[method] if per_slice else [_total(self.pairs[method])]


def pair_cases(
    reference: Path, methods: Mapping[str, Path], *, allow_missing: bool = False
) -> tuple[list[Case], list[str]]:
    """Join references and predictions by case name; the second result is notes for the user.

    Args:
        reference: folder of label files.
        methods: folder of predicted label files by method name.
        allow_missing: accept references that no method has predicted (a cross-validation fold
            against all labels).

    Raises:
        InputError: a prediction has no reference, a reference no prediction, or the methods
            predicted different cases.
    """
    references, unknown = find_label_files(reference)
    notes = [f"{reference}: ignored {_listed(unknown)}"] if unknown else []
    predictions: dict[str, dict[str, Path]] = {}
    for method, folder in methods.items():
        predictions[method], unknown = find_label_files(folder)
        notes += [f"{folder}: ignored {_listed(unknown)}"] if unknown else []
    wanted = set().union(*predictions.values()) if allow_missing else set(references)
    for method, folder in methods.items():
        found = set(predictions[method])
        if extra := sorted(found - set(references)):
            raise InputError(f"{folder}: no reference in {reference} for {_listed(extra)}")
        if missing := sorted(wanted - found):
            advice = "" if allow_missing else "; --chill evaluates only what was predicted"
            raise InputError(f"{folder}: no prediction of {_listed(missing)}{advice}")
    if left_out := len(references) - len(wanted):
        notes.append(
            f"{left_out} of {len(references)} references have no prediction and are left out "
            f"(--chill)"
        )
    cases = [
        Case(n, references[n], {m: predictions[m][n] for m in methods}) for n in sorted(wanted)
    ]
    return cases, notes


def compare_case(
    case: Case, per_slice: bool = False, measurements: Sequence[Measurement] = ()
) -> Comparison:
    """Read the files of one case, count value pairs and measure; problems are collected, so that
    one run names all.
    """
    comparison = Comparison(case)
    for path in case.predictions.values():
        if difference := _shape_difference(case.reference, path):
            comparison.problems.append(difference)
    if comparison.problems:
        return comparison  # without reading what cannot be compared

    try:
        reference = read_label_file(case.reference)
    except InputError as error:
        comparison.problems.append(str(error))
        return comparison
    comparison.is_picture, comparison.has_spacing = (
        reference.array.ndim == 2,
        reference.geometry is not None,
    )
    if comparison.has_spacing and not comparison.is_picture:
        comparison.voxel_ml = math.prod(reference.spacing) / 1000
    for method, path in case.predictions.items():
        try:
            prediction = read_label_file(path)
            comparison.pairs[method] = _count_on_one_grid(
                reference, prediction, case, path, per_slice
            )
            for measurement in measurements:
                measures = measurement(case.name, method, reference, prediction)
                comparison.measures.setdefault(measurement.profile.name, {}).update(measures)
        except InputError as error:
            comparison.problems.append(str(error))
    return comparison


def require_no_problems(comparisons: Sequence[Comparison], labels: LabelSet | None = None) -> None:
    """Raise one InputError that names the files that could not be compared or hold values outside
    ``labels``.
    """
    problems = [p for c in comparisons for p in c.problems]
    if labels:
        known = sorted(labels.known)
        for path, values in _values_by_file(comparisons, labels.ignore).items():
            if outside := sorted(values - labels.known):
                problems.append(f"{path}: value {_listed(outside)} is not among the labels {known}")
    if problems:
        raise InputError(_listed(problems, "; "))


def values_found(comparisons: Sequence[Comparison]) -> set[int]:
    """All values, for a label set without declaration.

    Raises:
        InputError: references and a method's predictions share no foreground value, as with masks
            of 255 and of 1.
    """
    reference = {
        g for c in comparisons for units in c.pairs.values() for pairs in units for g, _ in pairs
    }
    found = set(reference)
    for method in comparisons[0].pairs:
        predicted = {p for c in comparisons for pairs in c.pairs[method] for _, p in pairs}
        found |= predicted
        if len(reference - {0}) and len(predicted - {0}) and not reference & predicted - {0}:
            raise InputError(
                f"{method}: predictions hold the values {sorted(predicted)}, references "
                f"{sorted(reference)}: "
                "bring both to the same labels"
            )
    return found


def counts_of_label(
    pairs: ValuePairs, values: Sequence[int], ignore: int | None = None
) -> ConfusionCounts:
    """Confusion counts of one label or region; voxels whose reference is ``ignore`` do not
    count.
    """
    tp = fp = fn = tn = 0
    for (g, p), voxels in pairs.items():
        if g == ignore:
            continue
        if p in values:
            tp, fp = (tp + voxels, fp) if g in values else (tp, fp + voxels)
        else:
            fn, tn = (fn + voxels, tn) if g in values else (fn, tn + voxels)
    return ConfusionCounts(tp, fp, fn, tn)


def count_value_pairs(reference: npt.NDArray[Any], prediction: npt.NDArray[Any]) -> ValuePairs:
    """Joint histogram of two equally shaped arrays of integers >= 0, from which the counts of every
    label follow.

    Raises:
        InputError: as many values as only an image has.
    """
    reference, prediction = reference.ravel(), prediction.ravel()
    pairs: ValuePairs = {}
    for start in range(0, reference.size, _VOXELS_PER_CHUNK):
        chunks = [array[start : start + _VOXELS_PER_CHUNK] for array in (reference, prediction)]
        if all(chunk.max() < _FEW_VALUES for chunk in chunks):  # the usual case, three times faster
            g_index, p_index = (chunk.astype(np.uint8) for chunk in chunks)
            g = p = np.arange(_FEW_VALUES)
        else:
            (g, g_index), (p, p_index) = map(_compact, chunks)
            if max(len(g), len(p)) > MOST_LABELS:
                raise InputError(
                    f"holds more than {MOST_LABELS} different values, as images do; give label "
                    f"files"
                )
        joint = g_index * g_index.dtype.type(len(p)) + p_index
        counts = np.bincount(joint, minlength=len(g) * len(p)).reshape(len(g), len(p))
        for i, j in zip(*np.nonzero(counts), strict=True):
            key = int(g[i]), int(p[j])
            pairs[key] = pairs.get(key, 0) + int(counts[i, j])
    return pairs


def _total(units: list[ValuePairs]) -> ValuePairs:
    total: Counter[tuple[int, int]] = Counter()
    for pairs in units:
        total.update(pairs)
    return dict(total)


def _compact(values: npt.NDArray[Any]) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    if values.max() < 1 << 16:  # a lookup table, ten times faster than sorting
        present = np.flatnonzero(np.bincount(values))
        table = np.zeros(int(present[-1]) + 1, dtype=np.int64)
        table[present] = np.arange(len(present))
        return present, table[values]
    return np.unique(values, return_inverse=True)


def _shape_difference(reference: Path, prediction: Path) -> str | None:
    """What differs between the shapes in two headers; None also where one cannot be read, as its
    reader will say.
    """
    try:
        expected, found = header_shape(reference), header_shape(prediction)
    except InputError:
        return None
    if found == expected or len(found) not in (2, 3):
        return None
    return (
        f"{prediction}: shape {found}, reference {expected} ({reference}); resample it to the "
        f"reference"
    )


def _count_on_one_grid(
    reference: LabelMap, prediction: LabelMap, case: Case, path: Path, per_slice: bool
) -> list[ValuePairs]:
    if difference := grid_difference(reference, prediction):
        raise InputError(f"{path}: {difference} ({case.reference}); resample it to the reference")
    try:
        if per_slice and reference.array.ndim == 3:
            return [
                count_value_pairs(*slices)
                for slices in zip(reference.array, prediction.array, strict=True)
            ]
        return [count_value_pairs(reference.array, prediction.array)]
    except InputError as error:
        raise InputError(f"{path} or its reference {case.reference}: {error}") from error


def _values_by_file(comparisons: Sequence[Comparison], ignore: int | None) -> dict[Path, set[int]]:
    found: dict[Path, set[int]] = {}
    for comparison in comparisons:
        for method, units in comparison.pairs.items():
            found[comparison.case.reference] = {g for pairs in units for g, _ in pairs} - {ignore}
            found[comparison.case.predictions[method]] = {p for pairs in units for _, p in pairs}
    return found


def _listed(items: Sequence[object], separator: str = ", ") -> str:
    shown = separator.join(str(item) for item in items[:_LISTED])
    return shown if len(items) <= _LISTED else f"{shown}{separator}and {len(items) - _LISTED} more"
