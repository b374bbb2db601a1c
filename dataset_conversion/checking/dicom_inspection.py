"""What the DICOM files of a folder hold, without anything of the patients."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from dataset_conversion.writing.line_kinds import LineKinds
from nnunet_ext.errors import InputError
from nnunet_ext.printable import counted

if TYPE_CHECKING:
    from nnunet_ext.dicom.reading.folder_scan import Scan
    from nnunet_ext.dicom.reading.headers import Slice
    from nnunet_ext.dicom.reading.series import Acquisition, Rejected

MODALITIES = ("CT", "MR")  # whose series are put together
MANY = 5  # values or oddities that are listed


@dataclass
class SeriesGroup:
    """The series of one modality.

    ``counts`` has a counter per property; ``oddities`` counts lines; ``range`` is that of the
    values of the ``read`` slices.
    """

    modality: str
    slices: list[Slice] = field(default_factory=list)
    accepted: list[Acquisition] = field(default_factory=list)
    rejected: list[Rejected] = field(default_factory=list)
    counts: dict[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    oddities: LineKinds = field(default_factory=LineKinds)
    range: tuple[float, float] | None = None
    read: int = 0


def series_groups(slices: Sequence[Slice], sample: int | None) -> list[SeriesGroup]:
    """Return the series by modality, the largest first.

    Args:
        slices: of the scan.
        sample: read the pixels of so many slices per group, evenly spread; None: of all.
    """
    from nnunet_ext.dicom.reading.series import Rules, acquisitions_of

    groups: dict[str, SeriesGroup] = {}
    for item in slices:
        groups.setdefault(item.modality, SeriesGroup(item.modality)).slices.append(item)

    accepted, rejected = acquisitions_of(slices, Rules(modalities=MODALITIES))
    for acquisition in accepted:
        groups[acquisition.slices[0].modality].accepted.append(acquisition)
    for reject in rejected:  # the slices of a reject share a reason, not always a modality
        groups[reject.slices[0].modality].rejected.append(reject)

    for group in groups.values():
        _describe(group)
        _read(group, sample)

    return sorted(groups.values(), key=lambda group: -len(group.slices))


def _describe(group: SeriesGroup) -> None:
    from nnunet_ext.dicom.reading.headers import uid_name

    syntaxes = group.counts["transfer syntax (images)"]
    for item in group.slices:
        syntaxes[uid_name(item.transfer_syntax) or "none given"] += 1

    frames = {item.path for item in group.slices if item.frame is not None}
    if frames:
        group.oddities.add("multi-frame files", len(frames))

    for acquisition in group.accepted:
        _describe_stack(group, acquisition)
        for remark in acquisition.remarks:
            group.oddities.add(f"series: {remark}")


def _describe_stack(group: SeriesGroup, acquisition: Acquisition) -> None:
    import nibabel

    from nnunet_ext.dicom.reading.geometry import grid_of

    stack = acquisition.stack
    shape = f"{stack.columns}x{stack.rows}x{len(acquisition.slices)}"
    group.counts["shape"][shape] += 1
    sizes_mm = (*stack.spacing_mm, stack.step_mm)
    voxel_size = "x".join(f"{size:.3g}" for size in sizes_mm)
    group.counts["voxel size (mm)"][voxel_size] += 1

    try:
        affine_mm = grid_of(stack).affine_ras_mm
    except InputError as error:
        group.oddities.add(f"series: {error}")
        return

    orientation = "".join(nibabel.aff2axcodes(affine_mm))
    group.counts["orientation"][orientation] += 1


def _read(group: SeriesGroup, sample: int | None) -> None:
    from nnunet_ext.dicom.reading.pixels import read_pixels

    items: list[Slice] = []
    for acquisition in group.accepted:
        items += acquisition.slices
    if sample is not None and len(items) > sample:
        places = np.linspace(0, len(items) - 1, sample + 2)[1:-1]
        items = [items[round(place)] for place in places]

    for item in items:
        try:
            pixels = read_pixels(item)
        except (InputError, MemoryError) as error:
            group.oddities.add(_nameless(str(error), [item]) or "a slice does not fit into memory")
            continue

        low, high = float(pixels.values.min()), float(pixels.values.max())
        if group.range is not None:
            low, high = min(low, group.range[0]), max(high, group.range[1])
        group.range = (low, high)
        group.read += 1
        group.counts["unit (of slices read)"][pixels.unit] += 1
        for remark in pixels.remarks:
            group.oddities.add(f"slices read: {remark}")


def _nameless(line: str, slices: Sequence[Slice]) -> str:
    """Return a line without the path of a slice: folders are often called after the patient."""
    for item in slices:
        if item.path in line:
            return line.replace(item.path, "a file")

    return line


def lines_of(scan: Scan, folder: Path, sample: int | None) -> list[str]:
    """Return lines to print of a scan; they name no patient, and a file only if it is damaged."""
    lines = []
    for group in series_groups(scan.slices, sample):
        lines += _lines_of_group(group)

    if scan.damaged:
        lines.append(f"DICOM files that cannot be read: {len(scan.damaged)}")
        reasons = [line.removeprefix(f"{folder}/") for line in scan.damaged.values()]
        lines += _first_ones([f"  odd: {reason}" for reason in reasons])

    return lines


def _lines_of_group(group: SeriesGroup) -> list[str]:
    series = {(item.patient_id, item.study_uid, item.series_uid) for item in group.slices}
    patients = {item.patient_id for item in group.slices}
    lines = [
        f"DICOM {group.modality or 'without modality'}: {len(group.slices)} images, "
        f"{len(series)} series, {len(patients)} patients"
    ]
    if group.accepted:
        slices = sum(len(acquisition.slices) for acquisition in group.accepted)
        lines.append(f"  volumes: {len(group.accepted)} ({counted(slices, 'image')})")
    for name, counter in group.counts.items():
        lines.append(property_line(name, counter))
    if group.range:
        low, high = group.range
        lines.append(f"  range: {low:g} to {high:g} (of {group.read} slices read)")

    odd = [f"  odd: {count} {what}" for what, count in group.oddities.most_common()]

    return lines + _first_ones(_lines_of_rejected(group)) + _first_ones(odd)


def _lines_of_rejected(group: SeriesGroup) -> list[str]:
    """Return a line per reason for which series are left out."""
    series: Counter[str] = Counter()
    images: Counter[str] = Counter()
    for reject in group.rejected:
        reason = _nameless(reject.reason, reject.slices)
        series[reason] += 1
        images[reason] += len(reject.slices)

    lines = []
    for reason, count in series.most_common():
        lines.append(f"  {count} series left out ({counted(images[reason], 'image')}): {reason}")

    return lines


def property_line(name: str, counter: Counter[str]) -> str:
    """Return the commonest values of a property, with their number where there are several."""
    if len(counter) == 1:
        return f"  {name}: {next(iter(counter))}"

    common = [f"{value} ({number})" for value, number in counter.most_common(4)]
    more = f", and {len(counter) - 4} more" if len(counter) > 4 else ""

    return f"  {name}: {', '.join(common)}{more}"


def _first_ones(lines: Sequence[str]) -> list[str]:
    shown = list(lines[:MANY])
    if len(lines) > MANY:
        shown.append(f"  and {len(lines) - MANY} more such lines")

    return shown
