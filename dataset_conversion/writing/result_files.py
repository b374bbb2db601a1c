"""What stands beside the cases of a converted data set: dataset.json and conversion.csv."""

from __future__ import annotations

import csv
import importlib.metadata
import io
import json
import tempfile
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path

from dataset_conversion.converter import Converter
from dataset_conversion.reading.download_folder import natural_key
from dataset_conversion.shaping.choices import output_channels, output_labels
from dataset_conversion.writing.case_writer import Record
from nnunet_ext.files.csv_cells import plain_cell
from nnunet_ext.files.whole_file import whole_file

PROVENANCE_NAME = "conversion.csv"
COLUMNS = (
    *("case", "folder", "sources", "sources_sha256", "image_sha256", "intensity_unit"),
    *("shape", "spacing_mm", "label_voxels", "transforms", "warnings", "duplicate_of"),
)
CT_OF_UNKNOWN_UNIT = "CT of unknown unit"


def version() -> str:
    """Return the version of this package, or ``unknown`` where it runs from a source folder."""
    try:
        return importlib.metadata.version("nnunetv2-ext")
    except importlib.metadata.PackageNotFoundError:
        return "unknown"


def written_channels(converter: Converter, units: Collection[str]) -> tuple[str, ...]:
    """Return the channel names, of which only Hounsfield units are called CT.

    nnU-Net normalises what is called CT as Hounsfield units.

    Args:
        converter: names the channels.
        units: of all written cases.
    """
    names = output_channels(converter)
    known_as_other = all(not unit.startswith("HU") and unit != "arbitrary" for unit in units)
    if not units or not known_as_other:
        return names
    return tuple(CT_OF_UNKNOWN_UNIT if name.casefold() == "ct" else name for name in names)


def write_dataset_json(
    folder: Path, converter: Converter, channels: Sequence[str], training_cases: int
) -> None:
    """Write dataset.json as nnU-Net's generator does, with licence and citation, in one step."""
    from nnunetv2.dataset_conversion.generate_dataset_json import generate_dataset_json

    with tempfile.TemporaryDirectory() as scratch:
        generate_dataset_json(
            scratch,
            channel_names={str(index): name for index, name in enumerate(channels)},
            labels=dict(output_labels(converter).names),
            num_training_cases=training_cases,
            file_ending=converter.file_ending,
            citation=converter.citation,
            dataset_name=folder.name,
            reference=converter.download,
            release=converter.release,
            license=converter.licence,
            converted_by=f"nnUNetv2_ext_convert {version()}: {converter.name}",
        )
        content = json.loads((Path(scratch) / "dataset.json").read_text(encoding="utf-8"))
    content["source"] = converter.name
    content["citation"] = converter.citation  # nnunetv2 2.8.1 stores the release here
    replace_text(folder / "dataset.json", json.dumps(content, indent=4, ensure_ascii=False) + "\n")


def write_provenance(folder: Path, records: Iterable[Record], duplicates: dict[str, str]) -> None:
    """Write conversion.csv: one row per case, in natural order.

    Several values in a cell are separated by ``; ``.

    Args:
        folder: of the data set.
        records: of all finished cases.
        duplicates: case to an earlier case with the same image.
    """
    ordered = sorted(records, key=lambda record: (record.part, natural_key(record.case)))
    details: set[str] = set()
    for record in ordered:
        details.update(record.details)
    detail_names = sorted(details)

    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow([*COLUMNS, *detail_names])
    for record in ordered:
        cells = _cells(record, duplicates.get(record.case, ""))
        cells += [record.details.get(name, "") for name in detail_names]
        writer.writerow(map(plain_cell, cells))
    replace_text(folder / PROVENANCE_NAME, stream.getvalue())


def _cells(record: Record, duplicate_of: str) -> list[str]:
    """Return the cells of :data:`COLUMNS`."""
    voxels = [f"{value}:{count}" for value, count in record.label_voxels.items()]

    return [
        record.case,
        f"images{record.part}",
        "; ".join(record.source_sha256.keys()),
        "; ".join(record.source_sha256.values()),
        record.image_sha256,
        record.intensity_unit,
        "x".join(map(str, record.shape)),
        "x".join(map(str, record.spacing_mm)),
        "; ".join(voxels),
        "; ".join(record.transforms),
        "; ".join(record.warnings),
        duplicate_of,
    ]


def replace_text(path: Path, text: str) -> None:
    """Write a file in one step."""
    with whole_file(path) as unfinished:
        unfinished.write_text(text, encoding="utf-8")
