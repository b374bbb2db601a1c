"""Slices sorted into series and acquisitions, each accepted as a stack or rejected with a reason."""

from __future__ import annotations

import hashlib
import itertools
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from nnunet_ext.dicom.geometry import ALONG_TOLERANCE, SAME_POSITION_MM, Stack, directions_of, stack_of
from nnunet_ext.dicom.headers import CT_STORAGE, Slice, is_kind_of, sop_class_name
from nnunet_ext.dicom.pixels import read_pixels
from nnunet_ext.errors import InputError

ORIENTATION_TOLERANCE = 1e-3  # per component; scanners round each slice's vectors on their own
PIXEL_TOLERANCE = 1e-4  # of the pixel spacing
AXIAL_COSINE = 0.7  # between the normal and the body's axis
SHARED_RANGE = 0.5  # of the shorter of two runs must lie beside the other, or they are halves of one stack

MR_STORAGE = "1.2.840.10008.5.1.4.1.1.4"
CLASS_OF_MODALITY = {"CT": CT_STORAGE, "MR": MR_STORAGE}
PART_TAGS: tuple[Callable[[Slice], object], ...] = (
    lambda item: item.temporal_position,
    lambda item: item.acquisition_number,
    lambda item: item.image_type,
    lambda item: item.acquisition_time,
)

INTERLEAVING_TAGS = PART_TAGS[:3]  # the time differs from slice to slice anyway


@dataclass(frozen=True)
class Rules:
    """Which series are accepted; known modalities are CT and MR.

    ``repeats`` says what happens where several different slices share a position and no field tells acquisitions apart:
    ``reject`` the series, or keep the ``first`` by InstanceNumber and say so.
    """

    modalities: tuple[str, ...] = ("CT",)
    minimum_slices: int = 3
    derived: bool = False
    axial_only: bool = False
    repeats: Literal["reject", "first"] = "reject"


@dataclass(frozen=True)
class Acquisition:
    """One stack of a series: slices sorted along their normal, and where they lie.

    ``index`` counts the acquisitions of a series from 1; ``remarks`` say what is unusual.
    """

    slices: tuple[Slice, ...]
    stack: Stack
    index: int = 1
    remarks: tuple[str, ...] = ()


@dataclass(frozen=True)
class Rejected:
    """Slices of a series that form no stack, and why, in words that hold nothing of the patient.

    ``defect`` tells a scan that cannot be used from what never was one (a scout, a report, a secondary capture).
    """

    slices: tuple[Slice, ...]
    reason: str
    defect: bool = False


def acquisitions_of(slices: Iterable[Slice], rules: Rules | None = None) -> tuple[list[Acquisition], list[Rejected]]:
    """Sort slices into acquisitions, whatever folders they came from.

    A series is what shares patient, study, series and frame of reference. Within it, slices of one size, pixel spacing
    and orientation form a stack; where positions repeat it is divided (:func:`_divide`). Pixels are read only of slices
    that share a position, to find copies.

    Returns:
        Acquisitions and rejects, in the order in which their series first appear.
    """
    rules = rules or Rules()
    series: dict[tuple, list[Slice]] = defaultdict(list)
    for item in slices:
        series[item.patient_id, item.study_uid, item.series_uid, item.frame_of_reference_uid].append(item)
    accepted: list[Acquisition] = []
    rejected: list[Rejected] = []
    for members in series.values():
        found, refused = _of_one_series(members, rules)
        accepted += found
        rejected += refused
    return accepted, rejected


def _of_one_series(members: Sequence[Slice], rules: Rules) -> tuple[list[Acquisition], list[Rejected]]:
    unfit: dict[tuple[str, bool], list[Slice]] = defaultdict(list)
    usable: list[Slice] = []
    for item in members:
        kind, defect = other_kind(item, rules), _defect(item)
        if kind or defect:
            unfit[kind or defect, not kind].append(item)
        else:
            usable.append(item)
    rejected = [Rejected(tuple(items), reason, defect) for (reason, defect), items in unfit.items()]
    accepted: list[Acquisition] = []
    for alike in _alike(usable):
        try:
            parts = _divide(alike, rules)
        except InputError as error:
            rejected.append(Rejected(tuple(alike), str(error), defect=True))
            continue
        for part, remarks in parts:
            if len(part) < rules.minimum_slices:
                rejected.append(Rejected(tuple(part), f"has {len(part)} slices, needs {rules.minimum_slices}"))
                continue
            try:
                accepted.append(_acquisition(part, remarks, len(accepted) + 1))
            except InputError as error:
                rejected.append(Rejected(tuple(part), str(error), defect=True))
    return accepted, rejected


def other_kind(item: Slice, rules: Rules) -> str:
    """What an image is that is no part of a scan, in words that hold nothing of the patient; empty where it may be."""
    if item.sop_class and not any(is_kind_of(item.sop_class, CLASS_OF_MODALITY[name]) for name in rules.modalities):
        return f"is {sop_class_name(item.sop_class)}, not {' or '.join(rules.modalities)}"
    if item.modality not in rules.modalities:
        return f"has modality {item.modality or 'unknown'}, not {' or '.join(rules.modalities)}"
    kinds = item.image_type.split("\\")
    if "LOCALIZER" in kinds:
        return "is a localizer"
    if not rules.derived and kinds[:2] == ["DERIVED", "SECONDARY"]:
        return "is computed from another series (ImageType DERIVED, SECONDARY)"
    if item.samples != 1:
        return "is a colour picture"
    if rules.axial_only and item.orientation:
        normal = np.cross(item.orientation[:3], item.orientation[3:])
        return "is not axial" if abs(normal[2]) < AXIAL_COSINE else ""
    return ""


def _defect(item: Slice) -> str:
    """Why the place of a slice is not known; empty where it is."""
    if not item.rows or not item.columns:
        return "has no pixels"
    if not (item.position_mm and item.orientation and item.spacing_mm):
        return "has no position, orientation or pixel spacing"
    try:
        directions_of(item.orientation)
    except InputError as error:
        return str(error)
    return ""


def _alike(items: Sequence[Slice]) -> list[list[Slice]]:
    """Groups of equal size, and of orientation and pixel spacing that are equal but for rounding."""
    groups: list[list[Slice]] = []
    for item in items:
        for group in groups:
            if _is_like(item, group[0]):
                group.append(item)
                break
        else:
            groups.append([item])
    return groups


def _is_like(item: Slice, first: Slice) -> bool:
    if (item.rows, item.columns) != (first.rows, first.columns):
        return False
    if (item.orientation, item.spacing_mm) == (first.orientation, first.spacing_mm):  # nearly always, and fast
        return True
    same_orientation = np.allclose(item.orientation, first.orientation, rtol=0, atol=ORIENTATION_TOLERANCE)
    return same_orientation and np.allclose(item.spacing_mm, first.spacing_mm, rtol=PIXEL_TOLERANCE, atol=0)


def _acquisition(items: Sequence[Slice], remarks: tuple[str, ...], index: int) -> Acquisition:
    first = items[0]
    directions = directions_of(first.orientation)
    positions_mm = np.array([item.position_mm for item in items])
    stack = stack_of(
        positions_mm,
        directions,
        (first.spacing_mm[1], first.spacing_mm[0]),
        first.columns,
        first.rows,
        first.thickness_mm,
    )
    return Acquisition(tuple(items), stack, index, (*remarks, *stack.describe()))


def _divide(items: Sequence[Slice], rules: Rules) -> list[tuple[list[Slice], tuple[str, ...]]]:
    """Stacks without repeated positions, each sorted along the normal, with remarks.

    Where positions repeat, a header field that divides the series into whole stacks decides. Otherwise exact copies go
    (their pixels are read), and the field is tried again; then runs of InstanceNumber that lie beside each other. What
    remains is rejected or, as ``rules`` say, thinned to the lowest InstanceNumber.

    Raises:
        InputError: nothing tells the slices at one position apart.
    """
    items = _sorted(items)
    layers = _layers(items)
    if max(map(len, layers)) == 1:
        parts = _interleaved(items, rules)
        return _numbered(parts, ()) if parts else [(items, ())]
    if parts := _first_whole([_by_field(items, field) for field in PART_TAGS], max(map(len, layers)), rules):
        return _numbered(parts, ())
    kept = [item for layer in layers for item in _without_copies(layer)]
    copies = len(items) - len(kept)
    remarks = (f"{copies} exact copies left out",) if copies else ()
    layers = _layers(kept)
    if max(map(len, layers)) == 1:
        return [(kept, remarks)]
    ways = [*(_by_field(kept, field) for field in PART_TAGS), _by_runs(kept)]
    if parts := _first_whole(ways, max(map(len, layers)), rules):
        return _numbered(parts, remarks)
    repeated = sum(len(layer) > 1 for layer in layers)
    if rules.repeats == "reject":
        raise InputError(f"holds several different slices at {repeated} positions, and no field tells them apart")
    first = [min(layer, key=lambda item: (item.instance_number or 0, item.path)) for layer in layers]
    return [(first, (*remarks, f"several slices at {repeated} positions, the lowest InstanceNumber kept"))]


def _interleaved(items: Sequence[Slice], rules: Rules) -> list[list[Slice]]:
    """Regular stacks between each other's slices, as a field tells them apart; empty where there are none.

    A second pass that begins half a step further repeats no position.
    """
    for field in INTERLEAVING_TAGS:
        parts = _by_field(items, field)
        if not 1 < len(parts) <= len(items) / 3 or not all(_is_stack(part, rules) for part in parts):
            continue
        ends_mm = [(along.min(), along.max()) for along in map(_along_mm, parts)]
        beside = all(_beside(*pair) for pair in itertools.pairwise(sorted(ends_mm)))
        if beside and all(_is_regular(part) for part in parts):
            return parts
    return []


def _is_regular(items: Sequence[Slice]) -> bool:
    steps_mm = np.diff(np.sort(_along_mm(items)))
    return bool(np.ptp(steps_mm) <= ALONG_TOLERANCE * steps_mm.min())


def _beside(first_mm: tuple[float, float], second_mm: tuple[float, float]) -> bool:
    """Whether two runs, each from its begin to its end, share a good part of their range."""
    shared_mm = min(first_mm[1], second_mm[1]) - max(first_mm[0], second_mm[0])
    return shared_mm >= SHARED_RANGE * min(first_mm[1] - first_mm[0], second_mm[1] - second_mm[0])


def _first_whole(ways: Sequence[list[list[Slice]]], count: int, rules: Rules) -> list[list[Slice]]:
    """The first way of dividing a series into ``count`` stacks; empty where there is none.

    As many as slices share a position: more parts would be pieces, such as the rotations of a step-and-shoot scan.
    """
    for parts in ways:
        if len(parts) == count and all(_is_stack(part, rules) for part in parts):
            return parts
    return []


def _numbered(parts: list[list[Slice]], remarks: tuple[str, ...]) -> list[tuple[list[Slice], tuple[str, ...]]]:
    total = len(parts)
    return [
        (_sorted(part), (*remarks, f"acquisition {number} of {total} in one series"))
        for number, part in enumerate(parts, start=1)
    ]


def _sorted(items: Sequence[Slice]) -> list[Slice]:
    """Along the normal; slices at one position in the order of InstanceNumber and path."""
    ordered = sorted(items, key=lambda item: (item.instance_number or 0, item.path, item.frame or 0))
    directions = directions_of(ordered[0].orientation)
    places = np.array([item.position_mm for item in ordered]) @ directions[2]
    return [ordered[index] for index in np.argsort(np.round(places / SAME_POSITION_MM), kind="stable")]


def _along_mm(items: Sequence[Slice]) -> np.ndarray:
    normal = directions_of(items[0].orientation)[2]
    return np.array([item.position_mm for item in items]) @ normal


def _layers(items: Sequence[Slice]) -> list[list[Slice]]:
    """Sorted slices, those at one position together."""
    layers = [[items[0]]]
    for item, step_mm in zip(items[1:], np.diff(_along_mm(items)), strict=True):
        if step_mm <= SAME_POSITION_MM:
            layers[-1].append(item)
        else:
            layers.append([item])
    return layers


def _without_copies(layer: Sequence[Slice]) -> list[Slice]:
    """Slices at one position without those that hold the same values at the same place as an earlier one."""
    if len(layer) == 1:
        return list(layer)
    first_with: dict[tuple, Slice] = {}
    for item in layer:
        values = read_pixels(item).values
        digest = hashlib.sha256(np.ascontiguousarray(values, dtype=np.float64).tobytes()).hexdigest()
        first_with.setdefault((digest, *np.round(item.position_mm, 2)), item)
    return list(first_with.values())


def _by_field(items: Sequence[Slice], field: Callable[[Slice], object]) -> list[list[Slice]]:
    parts: dict[object, list[Slice]] = defaultdict(list)
    for item in items:
        parts[field(item)].append(item)
    return sorted(parts.values(), key=lambda part: min(item.instance_number or 0 for item in part))


def _by_runs(items: Sequence[Slice]) -> list[list[Slice]]:
    """Runs of InstanceNumber along which the position moves one way; none where they do not lie beside each other."""
    numbers = Counter(item.instance_number for item in items)
    if None in numbers or max(numbers.values()) > 1:
        return []
    ordered = sorted(items, key=lambda item: item.instance_number or 0)
    along_mm = _along_mm(ordered)
    runs = [[0]]
    for index in range(1, len(ordered)):
        step_mm = along_mm[index] - along_mm[index - 1]
        run = runs[-1]
        turns = len(run) > 1 and step_mm * (along_mm[run[1]] - along_mm[run[0]]) < 0
        if abs(step_mm) <= SAME_POSITION_MM or turns:
            runs.append([index])
        else:
            run.append(index)
    ranges = [(along_mm[run].min(), along_mm[run].max()) for run in runs]
    if not all(_beside(*pair) for pair in itertools.pairwise(ranges)):
        return []
    return [[ordered[index] for index in run] for run in runs]


def _is_stack(items: Sequence[Slice], rules: Rules) -> bool:
    return len(items) >= max(2, rules.minimum_slices) and max(map(len, _layers(_sorted(items)))) == 1
