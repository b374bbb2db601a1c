"""Slices sorted into series and acquisitions, each accepted as a stack or rejected with a
reason.
"""

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

ORIENTATION_TOLERANCE = 1e-3  # per component; scanners round each slice's vectors on their own
PIXEL_TOLERANCE = 1e-3  # of the pixel spacing: some programs write three digits of it
AXIAL_COSINE = 0.7  # between the normal and the body's axis
CLASS_OF_MODALITY = {"CT": CT_STORAGE, "MR": MR_STORAGE}


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

    A series is what shares patient, study, series and frame of reference, where a slice names them.
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
    """Slices by patient, study, series and frame of reference, in the order in which series first
    appear.

    A slice that lacks some of these joins the one series of its SeriesInstanceUID that says nothing
    else.
    """
    series: dict[tuple[str, ...], list[Slice]] = defaultdict(list)
    for item in slices:
        series[
            item.series_uid, item.patient_id, item.study_uid, item.frame_of_reference_uid
        ].append(item)
    by_uid: dict[str, list[tuple[str, ...]]] = defaultdict(list)
    for key in series:
        by_uid[key[0]].append(key)

    for uid, keys in by_uid.items():
        for key in (
            sorted(keys, key=lambda key: sum(map(bool, key))) if uid and len(keys) > 1 else ()
        ):
            fuller = [other for other in keys if other in series and _completes(other, key)]
            if len(fuller) == 1:
                series[fuller[0]] += series.pop(key)
    return list(series.values())


def _completes(other: tuple[str, ...], key: tuple[str, ...]) -> bool:
    """Whether another key says all that a key says, and more."""
    return other != key and all(
        not mine or mine == theirs for mine, theirs in zip(key, other, strict=True)
    )


def _of_one_series(
    members: Sequence[Slice], rules: Rules
) -> tuple[list[Acquisition], list[Rejected]]:
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
            parts = divide(alike, rules)
        except NoVolume as error:
            rejected.append(Rejected(tuple(alike), str(error)))
            continue
        except InputError as error:
            rejected.append(Rejected(tuple(alike), str(error), defect=True))
            continue
        for part, remarks in parts:
            if len(part) < rules.minimum_slices:
                few = f"has {len(part)} slices, needs {rules.minimum_slices}"
                rejected.append(Rejected(tuple(part), f"{few}; {LONE}" if LONE in remarks else few))
                continue
            try:
                accepted.append(_acquisition(part, remarks, len(accepted) + 1))
            except InputError as error:
                rejected.append(Rejected(tuple(part), str(error), defect=True))
    return accepted, rejected


def other_kind(item: Slice, rules: Rules) -> str:
    """What an image is that is no part of a scan, in words that hold nothing of the patient; empty
    where it may be.
    """
    if item.sop_class and not any(
        is_kind_of(item.sop_class, CLASS_OF_MODALITY[name]) for name in rules.modalities
    ):
        return f"is {sop_class_name(item.sop_class)}, not {' or '.join(rules.modalities)}"
    if item.modality not in rules.modalities:
        return f"has modality {item.modality or 'unknown'}, not {' or '.join(rules.modalities)}"
    kinds = item.image_type.split("\\")
    if "LOCALIZER" in kinds:
        return "is a localizer"
    if not rules.derived and kinds[:2] == ["DERIVED", "SECONDARY"]:
        return "is computed from another series (ImageType DERIVED, SECONDARY)"
    if item.samples != 1 or item.photometric not in GREY:
        return "is a colour picture"
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
    """Groups of equal size, and of orientation and pixel spacing that are equal but for
    rounding.
    """
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
    if (item.orientation, item.spacing_mm) == (
        first.orientation,
        first.spacing_mm,
    ):  # nearly always, and fast
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
    """Refuse a stack in which some slices state how their values become Hounsfield units, and
    others do not.
    """
    stated = Counter(item.rescaling for item in items)
    if len(stated) > 1:
        counts = ", ".join(
            f"{count} state {names or 'none'}" for names, count in stated.most_common()
        )
        raise InputError(
            f"its slices contradict each other about the rescaling ({counts}); values would be off"
        )
