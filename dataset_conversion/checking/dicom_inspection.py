"""What the DICOM files of a folder hold, for people: series, geometry, values, oddities. Nothing of
the patients.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from dataset_conversion.writing.line_kinds import LineKinds
from nnunet_ext.errors import InputError

if TYPE_CHECKING:
    from nnunet_ext.dicom.reading.folder_scan import Scan
    from nnunet_ext.dicom.reading.headers import Slice
    from nnunet_ext.dicom.reading.series import Acquisition, Rejected

MODALITIES = ("CT", "MR")  # whose series are put together
MANY = 5  # values or oddities that are listed


@dataclass
class SeriesGroup:
    """The series of one modality; ``counts`` has a counter per property, ``oddities`` counts
    lines.
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
    """Series by modality, the largest first.

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

    for item in group.slices:
        group.counts["transfer syntax (images)"][
            uid_name(item.transfer_syntax) or "none given"
        ] += 1
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
    group.counts["shape"][f"{stack.columns}x{stack.rows}x{len(acquisition.slices)}"] += 1
    sizes_mm = (*stack.spacing_mm, stack.step_mm)
    group.counts["voxel size (mm)"]["x".join(f"{size:.3g}" for size in sizes_mm)] += 1
    try:
        affine_mm = grid_of(stack).affine_ras_mm
    except InputError as error:
        group.oddities.add(f"series: {error}")
        return
    group.counts["orientation"]["".join(nibabel.aff2axcodes(affine_mm))] += 1


def _read(group: SeriesGroup, sample: int | None) -> None:
    from nnunet_ext.dicom.reading.pixels import read_pixels

    items = [item for acquisition in group.accepted for item in acquisition.slices]
    if sample is not None and len(items) > sample:
        items = [items[round(place)] for place in np.linspace(0, len(items) - 1, sample + 2)[1:-1]]
    for item in items:
        try:
            pixels = read_pixels(item)
        except (InputError, MemoryError) as error:
            group.oddities.add(_nameless(str(error), [item]) or "a slice does not fit into memory")
            continue
        low, high = float(pixels.values.min()), float(pixels.values.max())
        group.range = (
            (min(low, group.range[0]), max(high, group.range[1])) if group.range else (low, high)
        )
        group.read += 1
        group.counts["unit (of slices read)"][pixels.unit] += 1
        for remark in pixels.remarks:
            group.oddities.add(f"slices read: {remark}")


def _nameless(line: str, slices: Sequence[Slice]) -> str:
    """A line without the path of one of the slices: folders are often called after the patient."""
    path = next((item.path for item in slices if item.path in line), None)
    return line if path is None else line.replace(path, "a file")


def lines_of(scan: Scan, folder: Path, sample: int | None) -> list[str]:
    """Lines to print of a scan; they name no patient, and a file only where it is damaged."""
    lines = []
    for group in series_groups(scan.slices, sample):
        lines += _lines_of_group(group)
    if scan.damaged:
        lines.append(f"DICOM files that cannot be read: {len(scan.damaged)}")
        lines += _first_ones(
            f"  odd: {line.removeprefix(f'{folder}/')}" for line in scan.damaged.values()
        )
    return lines


def _lines_of_group(group: SeriesGroup) -> list[str]:
    series = {(item.patient_id, item.study_uid, item.series_uid) for item in group.slices}
    patients = len({item.patient_id for item in group.slices})
    lines = [
        f"DICOM {group.modality or 'without modality'}: {len(group.slices)} images, {len(series)} "
        f"series, "
        f"{patients} patients"
    ]
    if group.accepted:
        slices = sum(len(acquisition.slices) for acquisition in group.accepted)
        lines.append(f"  volumes: {len(group.accepted)} ({slices} images)")
    lines += [property_line(name, counter) for name, counter in group.counts.items()]
    if group.range:
        lines.append(
            f"  range: {group.range[0]:g} to {group.range[1]:g} (of {group.read} slices read)"
        )
    left_out: Counter[str] = Counter()
    images: Counter[str] = Counter()
    for reject in group.rejected:
        reason = _nameless(reject.reason, reject.slices)
        left_out[reason] += 1
        images[reason] += len(reject.slices)
    lines += _first_ones(
        f"  left out: {count} ({images[reason]} images): {reason}"
        for reason, count in left_out.most_common()
    )
    return lines + _first_ones(
        f"  odd: {count} {what}" for what, count in group.oddities.most_common()
    )


def property_line(name: str, counter: Counter[str]) -> str:
    """The commonest values of a property, with their number where there are several."""
    common = [
        f"{value} ({number})" if len(counter) > 1 else value
        for value, number in counter.most_common(4)
    ]
    more = f", and {len(counter) - 4} more" if len(counter) > 4 else ""
    return f"  {name}: {', '.join(common)}{more}"


def _first_ones(lines: Iterable[str]) -> list[str]:
    every = list(lines)
    return every[:MANY] + (
        [f"  and {len(every) - MANY} more such lines"] if len(every) > MANY else []
    )
