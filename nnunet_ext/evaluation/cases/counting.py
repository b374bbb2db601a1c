"""Pair the cases of folders, compare each once, and count its voxels by label."""

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
    """Measure a case from its arrays."""

    @property
    def profile(self) -> Profile:
        """The profile whose metrics it measures."""

    def __call__(
        self, case: str, method: str, reference: LabelMap, prediction: LabelMap
    ) -> Measures:
        """Return the metrics of one method on one case."""


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

    Args:
        case: its files.
        pairs: by method, one entry per slice, or one of the whole case.
        measures: by profile, the metrics that do not follow from counts.
        problems: why it could not be compared, for the user.
        voxel_ml: volume of a voxel, NaN for pictures and for formats without spacing.
        is_picture: whether the reference is two-dimensional.
        has_spacing: whether the reference's format stores spacing.
        files: the case itself, or what `pooled` merged to a patient.
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
        """Return the counts of each slice, or those of the whole case."""
        of_slices = self.pairs[method]
        if per_slice:
            return of_slices
        return [_total(of_slices)]


def pair_cases(
    reference: Path, methods: Mapping[str, Path], *, allow_missing: bool = False
) -> tuple[list[Case], list[str]]:
    """Match references and predictions by case name, and return notes for the user, too.

    Args:
        reference: folder of label files.
        methods: folder of predicted label files by method name.
        allow_missing: accept references that no method has predicted (a cross-validation fold
            against all labels).

    Raises:
        InputError: a prediction has no reference, a reference no prediction, or the methods
            predicted different cases.
    """
    notes: list[str] = []
    references = _label_files(reference, notes)
    predictions = {method: _label_files(folder, notes) for method, folder in methods.items()}

    wanted = set(references)
    if allow_missing:
        wanted = set().union(*predictions.values())
    for method, folder in methods.items():
        found = set(predictions[method])
        extra = sorted(found - set(references))
        if extra:
            raise InputError(f"{folder}: no reference in {reference} for {_listed(extra)}")
        missing = sorted(wanted - found)
        if missing:
            advice = "" if allow_missing else "; --chill evaluates only what was predicted"
            raise InputError(f"{folder}: no prediction of {_listed(missing)}{advice}")

    left_out = len(references) - len(wanted)
    if left_out:
        notes.append(
            f"{left_out} of {len(references)} references have no prediction and are left out "
            f"(--chill)"
        )
    cases = []
    for name in sorted(wanted):
        of_case = {method: predictions[method][name] for method in methods}
        cases.append(Case(name, references[name], of_case))
    return cases, notes


def _label_files(folder: Path, notes: list[str]) -> dict[str, Path]:
    files, unknown = find_label_files(folder)
    if unknown:
        notes.append(f"{folder}: ignored {_listed(unknown)}")
    return files


def compare_case(
    case: Case, per_slice: bool = False, measurements: Sequence[Measurement] = ()
) -> Comparison:
    """Read the files of one case, count value pairs and measure.

    Problems are collected, so that one run names all.
    """
    comparison = Comparison(case)
    for path in case.predictions.values():
        difference = _shape_difference(case.reference, path)
        if difference:
            comparison.problems.append(difference)
    if comparison.problems:
        return comparison  # without reading what cannot be compared

    try:
        reference = read_label_file(case.reference)
    except InputError as error:
        comparison.problems.append(str(error))
        return comparison

    comparison.is_picture = reference.array.ndim == 2
    comparison.has_spacing = reference.geometry is not None
    if comparison.has_spacing and not comparison.is_picture:
        comparison.voxel_ml = math.prod(reference.spacing) / 1000
    for method in case.predictions:
        try:
            _compare_method(comparison, method, reference, per_slice, measurements)
        except InputError as error:
            comparison.problems.append(str(error))
    return comparison


def _compare_method(
    comparison: Comparison,
    method: str,
    reference: LabelMap,
    per_slice: bool,
    measurements: Sequence[Measurement],
) -> None:
    case = comparison.case
    path = case.predictions[method]
    prediction = read_label_file(path)
    comparison.pairs[method] = _count_on_one_grid(reference, prediction, case, path, per_slice)
    for measurement in measurements:
        measures = comparison.measures.setdefault(measurement.profile.name, {})
        measures.update(measurement(case.name, method, reference, prediction))


def require_no_problems(comparisons: Sequence[Comparison], labels: LabelSet | None = None) -> None:
    """Check that all files could be compared and hold only values of ``labels``.

    Raises:
        InputError: names the files that are not so, the first few of many.
    """
    problems: list[str] = []
    for comparison in comparisons:
        problems += comparison.problems
    if labels:
        known = sorted(labels.known)
        for path, values in _values_by_file(comparisons, labels.ignore).items():
            outside = sorted(values - labels.known)
            if outside:
                problems.append(f"{path}: value {_listed(outside)} is not among the labels {known}")
    if problems:
        raise InputError(_listed(problems, "; "))


def values_found(comparisons: Sequence[Comparison]) -> set[int]:
    """Return all values, for a label set without declaration.

    Raises:
        InputError: references and a method's predictions share no foreground value, as with masks
            of 255 and of 1.
    """
    reference: set[int] = set()
    predicted: dict[str, set[int]] = {method: set() for method in comparisons[0].pairs}
    for comparison in comparisons:
        for method, units in comparison.pairs.items():
            reference |= _reference_values(units)
            predicted[method] |= _predicted_values(units)

    for method, values in predicted.items():
        expected = reference - {0}
        found = values - {0}
        if expected and found and not expected & found:
            raise InputError(
                f"{method}: predictions hold the values {sorted(values)}, references "
                f"{sorted(reference)}: bring both to the same labels"
            )
    return reference.union(*predicted.values())


def _reference_values(units: Sequence[ValuePairs]) -> set[int]:
    values: set[int] = set()
    for pairs in units:
        values.update(in_reference for in_reference, _ in pairs)
    return values


def _predicted_values(units: Sequence[ValuePairs]) -> set[int]:
    values: set[int] = set()
    for pairs in units:
        values.update(in_prediction for _, in_prediction in pairs)
    return values


def counts_of_label(
    pairs: ValuePairs, values: Sequence[int], ignore: int | None = None
) -> ConfusionCounts:
    """Return the confusion counts of one label or region.

    Voxels whose reference is ``ignore`` do not count.
    """
    tp = fp = fn = tn = 0
    for (in_reference, in_prediction), voxels in pairs.items():
        if in_reference == ignore:
            continue
        is_true = in_reference in values
        if in_prediction in values:
            tp += voxels if is_true else 0
            fp += 0 if is_true else voxels
        else:
            fn += voxels if is_true else 0
            tn += 0 if is_true else voxels
    return ConfusionCounts(tp, fp, fn, tn)


def count_value_pairs(reference: npt.NDArray[Any], prediction: npt.NDArray[Any]) -> ValuePairs:
    """Return the joint histogram of two equally shaped arrays of integers >= 0.

    The counts of every label follow from it.

    Raises:
        InputError: as many values as only an image has.
    """
    reference = reference.ravel()
    prediction = prediction.ravel()
    pairs: Counter[tuple[int, int]] = Counter()
    for start in range(0, reference.size, _VOXELS_PER_CHUNK):
        chunk = slice(start, start + _VOXELS_PER_CHUNK)
        of_chunk = _pairs_of_chunk(reference[chunk], prediction[chunk])
        pairs.update(of_chunk)
    return dict(pairs)


def _pairs_of_chunk(reference: npt.NDArray[Any], prediction: npt.NDArray[Any]) -> ValuePairs:
    highest = max(reference.max(), prediction.max())
    if highest < _FEW_VALUES:  # the usual case, three times faster
        g = p = np.arange(_FEW_VALUES)
        g_index = reference.astype(np.uint8)
        p_index = prediction.astype(np.uint8)
    else:
        g, g_index = _compact(reference)
        p, p_index = _compact(prediction)
        if max(len(g), len(p)) > MOST_LABELS:
            raise InputError(
                f"holds more than {MOST_LABELS} different values, as images do; give label files"
            )

    columns = g_index.dtype.type(len(p))
    joint = g_index * columns + p_index
    counts = np.bincount(joint, minlength=len(g) * len(p))
    counts = counts.reshape(len(g), len(p))

    pairs = {}
    for i, j in zip(*np.nonzero(counts), strict=True):
        values = (int(g[i]), int(p[j]))
        pairs[values] = int(counts[i, j])
    return pairs


def _total(units: list[ValuePairs]) -> ValuePairs:
    total: Counter[tuple[int, int]] = Counter()
    for pairs in units:
        total.update(pairs)
    return dict(total)


def _compact(values: npt.NDArray[Any]) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    """Return the values present, and the index of each voxel's among them."""
    if values.max() < 1 << 16:  # a lookup table, ten times faster than sorting
        present = np.flatnonzero(np.bincount(values))
        highest = int(present[-1])
        table = np.zeros(highest + 1, dtype=np.int64)
        table[present] = np.arange(len(present))
        return present, table[values]
    return np.unique(values, return_inverse=True)


def _shape_difference(reference: Path, prediction: Path) -> str | None:
    """Return what differs between the shapes in two headers.

    None also where one cannot be read, as its reader will say.
    """
    try:
        expected = header_shape(reference)
        found = header_shape(prediction)
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
    difference = grid_difference(reference, prediction)
    if difference:
        raise InputError(f"{path}: {difference} ({case.reference}); resample it to the reference")

    units = [(reference.array, prediction.array)]
    if per_slice and reference.array.ndim == 3:
        units = list(zip(reference.array, prediction.array, strict=True))
    try:
        return [count_value_pairs(truth, predicted) for truth, predicted in units]
    except InputError as error:
        raise InputError(f"{path} or its reference {case.reference}: {error}") from error


def _values_by_file(comparisons: Sequence[Comparison], ignore: int | None) -> dict[Path, set[int]]:
    found: dict[Path, set[int]] = {}
    for comparison in comparisons:
        for method, units in comparison.pairs.items():
            case = comparison.case
            found[case.reference] = _reference_values(units)
            if ignore is not None:
                found[case.reference].discard(ignore)
            found[case.predictions[method]] = _predicted_values(units)
    return found


def _listed(items: Sequence[object], separator: str = ", ") -> str:
    shown = [str(item) for item in items[:_LISTED]]
    left_out = len(items) - len(shown)
    if left_out:
        shown.append(f"and {left_out} more")
    return separator.join(shown)
