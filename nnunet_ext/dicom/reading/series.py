"""Sort slices into series and acquisitions; accept each as a stack or reject it with a reason."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from nnunet_ext.dicom.reading.division import LONE, NoVolume, divide, rounding_mm
from nnunet_ext.dicom.reading.geometry import Stack, directions_of, stack_of
from nnunet_ext.dicom.reading.headers import (
    CT_STORAGE,
    MR_STORAGE,
    Slice,
    is_kind_of,
    sop_class_name,
)
from nnunet_ext.dicom.reading.pixels import GREY
from nnunet_ext.dicom.reading.rules import Rules
from nnunet_ext.errors import InputError
from nnunet_ext.printable import counted

ORIENTATION_TOLERANCE = 1e-3  # per component; scanners round each slice's vectors on their own
PIXEL_TOLERANCE = 1e-3  # of the pixel spacing: some programs write three digits of it
CLASS_OF_MODALITY = {"CT": CT_STORAGE, "MR": MR_STORAGE}

SeriesKey = tuple[str, str, str, str]  # series, patient, study, frame of reference


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
    """Slices of a series that form no stack, and why, in words without any text of the patient.

    ``defect`` tells a scan that cannot be used from what never was one (a scout, a report, a
    secondary capture).
    """

    slices: tuple[Slice, ...]
    reason: str
    defect: bool = False


def acquisitions_of(
    slices: Iterable[Slice], rules: Rules | None = None
) -> tuple[list[Acquisition], list[Rejected]]:
    """Sort slices into acquisitions, whatever folders they came from.

    Slices of one series share patient, study, series and frame of reference, where they name them.
    Within it, slices of one size, pixel spacing and orientation form a stack, or several
    (:func:`nnunet_ext.dicom.reading.division.divide`). Pixels are read only of slices that share a
    position, to find copies.

    Returns:
        Acquisitions and rejects, in the order in which their series first appear.
    """
    rules = rules or Rules()
    accepted: list[Acquisition] = []
    rejected: list[Rejected] = []
    for members in series_of(slices):
        found, refused = _of_one_series(members, rules)
        accepted += found
        rejected += refused
    return accepted, rejected


def series_of(slices: Iterable[Slice]) -> list[list[Slice]]:
    """Return slices by patient, study, series and frame of reference, in order of appearance.

    A slice that lacks some of these joins the one series of its SeriesInstanceUID that says nothing
    else.
    """
    series: dict[SeriesKey, list[Slice]] = defaultdict(list)
    for item in slices:
        key = (item.series_uid, item.patient_id, item.study_uid, item.frame_of_reference_uid)
        series[key].append(item)

    keys_of: dict[str, list[SeriesKey]] = defaultdict(list)
    for key in series:
        keys_of[key[0]].append(key)

    for uid, keys in keys_of.items():
        if uid and len(keys) > 1:
            _join_incomplete(series, keys)
    return list(series.values())


def _join_incomplete(series: dict[SeriesKey, list[Slice]], keys: Sequence[SeriesKey]) -> None:
    """Move slices to the one series that says all that theirs says; the emptiest key first."""
    for key in sorted(keys, key=_said):
        fuller = []
        for other in keys:
            if other in series and _completes(other, key):
                fuller.append(other)
        if len(fuller) == 1:
            slices = series.pop(key)
            series[fuller[0]] += slices


def _said(key: SeriesKey) -> int:
    """Return how many parts of a key are not empty."""
    parts = [part for part in key if part]
    return len(parts)


def _completes(other: SeriesKey, key: SeriesKey) -> bool:
    """Return whether another key says all that a key says, and more."""
    if other == key:
        return False
    parts = zip(key, other, strict=True)
    return all(mine in ("", theirs) for mine, theirs in parts)


def _of_one_series(
    members: Sequence[Slice], rules: Rules
) -> tuple[list[Acquisition], list[Rejected]]:
    """Return the acquisitions of a series, and its slices that form none."""
    usable, rejected = _usable(members, rules)
    accepted: list[Acquisition] = []

    for alike in _alike(usable):
        try:
            parts = divide(alike, rules)
        except NoVolume as error:
            rejected.append(Rejected(tuple(alike), str(error)))
            continue
        except InputError as error:
            rejected.append(Rejected(tuple(alike), str(error), defect=True))
            continue

        for part, remarks in parts:
            if len(part) < rules.minimum_slices:
                rejected.append(Rejected(tuple(part), _too_few(part, remarks, rules)))
                continue
            try:
                accepted.append(_acquisition(part, remarks, len(accepted) + 1))
            except InputError as error:
                rejected.append(Rejected(tuple(part), str(error), defect=True))

    return accepted, rejected


def _usable(members: Sequence[Slice], rules: Rules) -> tuple[list[Slice], list[Rejected]]:
    """Return the slices whose place in a scan is known, and the others by the reason."""
    unfit: dict[tuple[str, bool], list[Slice]] = defaultdict(list)
    usable: list[Slice] = []
    for item in members:
        kind = other_kind(item, rules)
        defect = _defect(item)
        if kind or defect:
            unfit[kind or defect, not kind].append(item)
        else:
            usable.append(item)

    rejected = []
    for (reason, is_defect), items in unfit.items():
        rejected.append(Rejected(tuple(items), reason, is_defect))
    return usable, rejected


def _too_few(part: Sequence[Slice], remarks: tuple[str, ...], rules: Rules) -> str:
    slices = counted(len(part), "slice")
    reason = f"has only {slices}, at least {rules.minimum_slices} needed"
    if LONE in remarks:
        reason += f"; {LONE}"
    return reason


def other_kind(item: Slice, rules: Rules) -> str:
    """Return what an image is that does not belong to a scan; empty where it may belong to one.

    The words hold no text of the patient.
    """
    modalities = " or ".join(rules.modalities)
    if item.sop_class and not _has_accepted_class(item, rules):
        return f"is {sop_class_name(item.sop_class)}, not {modalities}"
    if item.modality not in rules.modalities:
        return f"has modality {item.modality or 'unknown'}, not {modalities}"

    kinds = item.image_type.split("\\")
    if "LOCALIZER" in kinds:
        return "is a localizer"
    if not rules.derived and kinds[:2] == ["DERIVED", "SECONDARY"]:
        return "is computed from another series (ImageType DERIVED, SECONDARY)"
    if item.samples != 1 or item.photometric not in GREY:
        return "is a colour picture"
    return ""


def _has_accepted_class(item: Slice, rules: Rules) -> bool:
    for modality in rules.modalities:
        if is_kind_of(item.sop_class, CLASS_OF_MODALITY[modality]):
            return True
    return False


def _defect(item: Slice) -> str:
    """Return why the place of a slice is not known; empty where it is."""
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
    """Return groups of equal size, orientation and pixel spacing, these two but for rounding."""
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
    # nearly always, and fast
    if item.orientation == first.orientation and item.spacing_mm == first.spacing_mm:
        return True

    same_orientation = np.allclose(
        item.orientation, first.orientation, rtol=0, atol=ORIENTATION_TOLERANCE
    )
    return same_orientation and np.allclose(
        item.spacing_mm, first.spacing_mm, rtol=PIXEL_TOLERANCE, atol=0
    )


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
        rounding_mm(items),
    )
    _require_one_rescaling(items)
    return Acquisition(tuple(items), stack, index, (*remarks, *stack.describe()))


def _require_one_rescaling(items: Sequence[Slice]) -> None:
    """Refuse a stack in which only some slices state how they become Hounsfield units."""
    stated = Counter(item.rescaling for item in items)
    if len(stated) == 1:
        return

    counts = [f"{count} state {names or 'none'}" for names, count in stated.most_common()]
    raise InputError(
        f"its slices contradict each other about the rescaling ({', '.join(counts)}); values "
        "would be off"
    )
