"""What came of a conversion, as one table: printed at its end, and kept as conversion.md."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path

from dataset_conversion.writing.case_writer import Record
from dataset_conversion.writing.line_kinds import LineKinds

SUMMARY_NAME = "conversion.md"
SHOWN = 5  # ids in a row
PARTS = {
    "Tr": "training cases (imagesTr)",
    "Ts": "test cases (imagesTs)",
    "Un": "unlabelled cases (imagesUn)",
}


@dataclass
class Summary:
    """What a conversion did.

    Cases are ids in natural order; ``problems`` are lines, one per case that failed. ``elsewhere``
    counts cases that other parts of a job array, or an earlier download, gave.
    ``empty`` have a label file without foreground, ``full`` one without background; ``duplicates``
    map a case to an earlier one with the same image, ``copies`` to one in another data set
    (``Dataset006_X/case``). ``units`` counts cases by intensity unit, ``warnings`` by kind.
    ``label_voxels`` and ``label_cases`` count by label name, over all ``labelled`` cases.
    ``slices`` counts layers along the last axis. ``complete`` is False while another part of a job
    array has cases to do.
    """

    folder: Path
    problems: list[str]
    notes: list[str]
    planned: list[str] = field(default_factory=list)
    converted: list[str] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)
    elsewhere: int = 0
    empty: list[str] = field(default_factory=list)
    full: list[str] = field(default_factory=list)
    duplicates: dict[str, str] = field(default_factory=dict)
    count_by_part: Counter[str] = field(default_factory=Counter)
    copies: dict[str, str] = field(default_factory=dict)
    units: Counter[str] = field(default_factory=Counter)
    warnings: LineKinds = field(default_factory=LineKinds)
    slices: int = 0
    labelled: int = 0
    label_voxels: Counter[str] = field(default_factory=Counter)
    label_cases: Counter[str] = field(default_factory=Counter)
    seconds: float = 0
    complete: bool = True

    def count(self, records: Iterable[Record], labels: Mapping[str, int]) -> None:
        """Count what written cases hold.

        Args:
            records: of all written cases.
            labels: value by name.
        """
        for record in records:
            self.count_by_part[record.part] += 1
            self.units[record.intensity_unit] += 1
            for warning in record.warnings:
                self.warnings.add(warning)
            is_slice = len(record.shape) == 2
            self.slices += 1 if is_slice else record.shape[-1]
            if not record.label_voxels:
                continue

            self.labelled += 1
            if set(record.label_voxels) == {"0"}:
                self.empty.append(record.case)
            if "0" not in record.label_voxels:
                self.full.append(record.case)

            for name, value in labels.items():
                voxels = record.label_voxels.get(str(value), 0)
                self.label_voxels[name] += voxels
                self.label_cases[name] += voxels > 0


def markdown(summary: Summary) -> str:
    """Return the summary as Markdown table with padded columns."""
    rows = [_escaped(row) for row in _rows(summary)]
    names, values = zip(*rows, strict=True)
    name_width = max(map(len, names))
    value_width = max(map(len, values))
    rule = ("-" * name_width, "-" * value_width)
    rows.insert(1, rule)

    table = ""
    for name, value in rows:
        table += f"| {name:{name_width}} | {value:{value_width}} |\n"

    return table


def _escaped(row: tuple[str, str]) -> tuple[str, str]:
    name, value = row
    name = name.replace("|", r"\|")
    value = value.replace("|", r"\|")

    return name, value


def _rows(summary: Summary) -> list[tuple[str, str]]:
    rows = {
        "data set": str(summary.folder),
        "converted": str(len(summary.converted)),
        "done before": str(len(summary.skipped)),
    }
    if summary.elsewhere:
        rows["done by other parts or earlier"] = str(summary.elsewhere)
    rows["failed"] = str(len(summary.problems))
    for part, name in PARTS.items():
        rows[name] = str(summary.count_by_part[part])
    rows["slices"] = str(summary.slices)

    for name, voxels in summary.label_voxels.items():
        having = summary.label_cases[name]
        rows[f"label {name}"] = f"{voxels} voxels in {having} of {summary.labelled} cases"
    for unit, count in summary.units.most_common():
        rows[f"intensities: {unit}"] = f"{count} cases"
    if len(summary.units) > 1:
        rows["mixed intensity units"] = "nnU-Net normalises them all alike"
    rows |= _findings(summary)

    for kind, count in summary.warnings.most_common():
        rows[f"warning: {kind}"] = str(count)
    duration = timedelta(seconds=round(summary.seconds))
    rows["time (h:min:s)"] = str(duration)
    rows["per case"] = "conversion.csv"

    return list(rows.items())


def _findings(summary: Summary) -> dict[str, str]:
    rows = {}
    if summary.empty:
        rows["labels without foreground"] = _some(summary.empty)
    if summary.full:
        inverted = _some(summary.full)
        rows["labels without background"] = f"{inverted}; are they inverted?"
    if summary.duplicates:
        pairs = _equal(summary.duplicates)
        rows["images that occur twice"] = f"{pairs}; keep both on one side of any split"
    if summary.copies:
        pairs = _equal(summary.copies)
        rows["images of other data sets"] = f"{pairs}; do not test on them"

    return rows


def _equal(copies: Mapping[str, str]) -> str:
    """Return how many cases have the image of another one, and the first of them."""
    pairs = [f"{case} = {other}" for case, other in copies.items()]
    return _some(pairs)


def _some(names: list[str]) -> str:
    """Return how many names there are, and the first of them."""
    shown = ", ".join(names[:SHOWN])
    further = len(names) - SHOWN
    if further > 0:
        shown += f", and {further} more"

    return f"{len(names)}: {shown}"
