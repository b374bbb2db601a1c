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
MANY = 5  # lines of one kind that are listed
COMMONEST = 4  # values of a property that are listed


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
        group = groups.setdefault(item.modality, SeriesGroup(item.modality))
        group.slices.append(item)

    rules = Rules(modalities=MODALITIES)
    accepted, rejected = acquisitions_of(slices, rules)
    for acquisition in accepted:
        first = acquisition.slices[0]
        groups[first.modality].accepted.append(acquisition)
    for reject in rejected:  # the slices of a reject share a reason, not always a modality
        first = reject.slices[0]
        groups[first.modality].rejected.append(reject)

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

    for item in _sampled_slices(group, sample):
        try:
            pixels = read_pixels(item)
        except (InputError, MemoryError) as error:
            reason = _nameless(str(error), [item])
            group.oddities.add(reason or "a slice does not fit into memory")
            continue

        low = float(pixels.values.min())
        high = float(pixels.values.max())
        if group.range is not None:
            lowest, highest = group.range
            low = min(low, lowest)
            high = max(high, highest)
        group.range = (low, high)
        group.read += 1
        group.counts["unit (of slices read)"][pixels.unit] += 1
        for remark in pixels.remarks:
            group.oddities.add(f"slices read: {remark}")


def _sampled_slices(group: SeriesGroup, sample: int | None) -> list[Slice]:
    """Return so many slices of a group's volumes, evenly spread; None: all."""
    items: list[Slice] = []
    for acquisition in group.accepted:
        items += acquisition.slices
    if sample is None or len(items) <= sample:
        return items

    last = len(items) - 1
    inner_places = np.linspace(0, last, sample + 2)[1:-1]

    return [items[round(place)] for place in inner_places]


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
        odd = []
        for line in scan.damaged.values():
            reason = line.removeprefix(f"{folder}/")
            odd.append(f"  odd: {reason}")
        lines += _first_ones(odd)

    return lines


def _lines_of_group(group: SeriesGroup) -> list[str]:
    patients = set()
    series = set()
    for item in group.slices:
        patients.add(item.patient_id)
        series.add((item.patient_id, item.study_uid, item.series_uid))

    modality = group.modality or "without modality"
    images = len(group.slices)
    lines = [
        f"DICOM {modality}: {images} images, {len(series)} series, {len(patients)} patients",
    ]
    if group.accepted:
        volumes = len(group.accepted)
        slices = sum(len(acquisition.slices) for acquisition in group.accepted)
        lines.append(f"  volumes: {volumes} ({counted(slices, 'image')})")
    for name, counter in group.counts.items():
        lines.append(property_line(name, counter))
    if group.range:
        low, high = group.range
        lines.append(f"  range: {low:g} to {high:g} (of {group.read} slices read)")

    rejected = _lines_of_rejected(group)
    lines += _first_ones(rejected)
    odd = [f"  odd: {count} {what}" for what, count in group.oddities.most_common()]
    lines += _first_ones(odd)

    return lines


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
        of_images = counted(images[reason], "image")
        lines.append(f"  {count} series left out ({of_images}): {reason}")

    return lines


def property_line(name: str, counter: Counter[str]) -> str:
    """Return the commonest values of a property, with their number where there are several."""
    if len(counter) == 1:
        (only,) = counter
        return f"  {name}: {only}"

    common = counter.most_common(COMMONEST)
    shown = ", ".join(f"{value} ({number})" for value, number in common)
    further = len(counter) - len(common)
    if further:
        shown += f", and {further} more"

    return f"  {name}: {shown}"


def _first_ones(lines: Sequence[str]) -> list[str]:
    shown = list(lines[:MANY])
    further = len(lines) - len(shown)
    if further:
        shown.append(f"  and {further} more such lines")

    return shown
