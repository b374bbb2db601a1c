"""The conversion of one data set: what is to do, doing it in worker processes, what came of it."""

from __future__ import annotations

import json
import os
import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from dataset_conversion.case_writer import TEMPORARY_PREFIX, Record, convert_case, output_names
from dataset_conversion.converter import Case, Converter, Found
from dataset_conversion.download_folder import natural_key
from dataset_conversion.journal import (
    JOURNAL_NAME,
    Journal,
    files_in,
    is_complete,
    only_writer,
    read_header,
    read_records,
    remove_leftovers,
    start_journal,
)
from dataset_conversion.result_files import version, write_dataset_json, write_provenance
from nnunet_ext.errors import InputError
from nnunet_ext.worker_processes import in_worker_processes


@dataclass
class Summary:
    """What a conversion did. Cases are ids in natural order; ``problems`` are lines, one per case that failed.

    ``empty`` have a label file without foreground; ``duplicates`` map a case to an earlier one with the same image.
    """

    folder: Path
    problems: list[str]
    notes: list[str]
    planned: list[str] = field(default_factory=list)
    converted: list[str] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)
    empty: list[str] = field(default_factory=list)
    duplicates: dict[str, str] = field(default_factory=dict)
    count_by_part: Counter[str] = field(default_factory=Counter)
    warnings: int = 0


def convert(
    converter: Converter, folder: Path, *, processes: int = 1, overwrite: bool = False, dry_run: bool = False
) -> Summary:
    """Convert a data set into ``folder`` (``nnUNet_raw/Dataset120_Name``), or continue an interrupted conversion.

    Cases that are done are not read again. Bad cases are reported and left out.

    Args:
        converter: the data set, with its options.
        folder: result; made if absent.
        processes: worker processes, at least 1.
        overwrite: convert anew what an earlier run of the same converter made.
        dry_run: only look: nothing is written, no pixels are read.

    Raises:
        InputError: the download is not this data set, or the folder belongs to something else.
    """
    found = _without_name_clashes(converter.find_cases())
    if not found.cases and not found.problems:
        raise InputError(f"{converter.source}: holds no case of {converter.name}")
    header = {"converter": converter.name, "settings": converter.settings, "version": version()}
    require_ours(folder, header, overwrite)
    summary = Summary(folder, list(found.problems), list(found.notes))
    summary.planned = [case.id for case in found.cases]
    if dry_run:
        summary.count_by_part = Counter(case.part for case in found.cases)
        return summary
    if not found.cases:
        return summary

    try:
        folder.mkdir(parents=True, exist_ok=True)
        with only_writer(folder):
            _prepare(converter, found.cases, folder, header, overwrite)
            _convert_cases(converter, found.cases, folder, processes, summary)
    except OSError as error:
        raise InputError(f"{folder}: cannot write ({error}); mend that and run the same command again") from error
    return summary


def require_ours(folder: Path, header: Mapping[str, Any], overwrite: bool) -> None:
    """Refuse a folder that something else made, or the same converter with other options.

    Raises:
        InputError: the folder is not to be written.
    """
    if not folder.exists():
        return
    if folder.is_dir() and all(entry.name.startswith(TEMPORARY_PREFIX) for entry in folder.iterdir()):
        return  # empty, or killed before its journal began
    existing = read_header(folder / JOURNAL_NAME)
    if existing is None or existing["converter"] != header["converter"]:
        maker = "something else" if existing is None else existing["converter"]
        raise InputError(f"{folder}: was made by {maker} and is left alone; choose another -d or --name")
    if existing["settings"] != json.loads(json.dumps(header["settings"])) and not overwrite:
        options = ", ".join(f"{name}={value}" for name, value in existing["settings"].items())
        raise InputError(f"{folder}: was converted with other options ({options}); add --overwrite to convert it anew")


def _without_name_clashes(found: Found) -> Found:
    """Cases whose ids differ, also on file systems that ignore case; the others become problems."""
    count = Counter(case.id.casefold() for case in found.cases)
    clashes = [case for case in found.cases if count[case.id.casefold()] > 1]
    lines = [f"{case.image_files[0]}: several files would become case {case.id}; rename them" for case in clashes]
    cases = [case for case in found.cases if count[case.id.casefold()] == 1]
    return Found(sorted(cases, key=lambda case: natural_key(case.id)), found.problems + lines, found.notes)


def _prepare(converter: Converter, cases: list[Case], folder: Path, header: dict, overwrite: bool) -> None:
    """Bring the folder into a state in which every file has a known origin."""
    journal = folder / JOURNAL_NAME
    records = read_records(journal)
    planned: set[str] = set()
    for case in cases:
        images, label = output_names(converter, case)
        planned.update([*images, label] if label else images)
    foreign = files_in(folder) - planned - {name for record in records.values() for name in record.outputs}
    if foreign:
        raise InputError(f"{folder / min(foreign)}: was not made by this conversion; move it away and run again")
    remove_leftovers(folder)
    if overwrite and records:
        (folder / "dataset.json").unlink(missing_ok=True)
        for name in (name for record in records.values() for name in record.outputs):
            (folder / name).unlink(missing_ok=True)
    if overwrite or not journal.is_file():
        start_journal(folder, header)
    # A data set of only unlabelled images has no folders for training.
    for part in {case.part for case in cases}:
        (folder / f"images{part}").mkdir(exist_ok=True)
    for part in {case.part for case in cases if case.label_files}:
        (folder / f"labels{part}").mkdir(exist_ok=True)


def _convert_cases(converter: Converter, cases: list[Case], folder: Path, processes: int, summary: Summary) -> None:
    journal = Journal(folder)
    try:
        pending = []
        for case in cases:
            record = journal.records.get(case.id)
            if record is None or not is_complete(folder, record):
                pending.append(case)
            elif changed := _changed_source(converter, record):
                summary.problems.append(f"{changed}: changed since case {case.id} was converted; add --overwrite")
            else:
                summary.skipped.append(case.id)
        if pending:
            (folder / "dataset.json").unlink(missing_ok=True)  # it comes last and says: complete
        for case, result in _results(converter, pending, folder, processes):
            if isinstance(result, Record):
                journal.add(result)
                summary.converted.append(case.id)
            else:
                summary.problems.append(result)
    finally:
        journal.close()
    _finish(converter, cases, folder, journal.records, summary)


def _changed_source(converter: Converter, record: Record) -> Path | None:
    """A source file whose size is no longer what it was; sizes tell without reading."""
    for name, size in record.source_bytes.items():
        file = converter.source / name
        if file.is_file() and file.stat().st_size != size:
            return file
    return None


def _results(
    converter: Converter, cases: list[Case], folder: Path, processes: int
) -> Iterator[tuple[Case, Record | str]]:
    """Convert cases, in worker processes if more than one; a line of text stands for a case that failed."""
    from tqdm import tqdm

    results = in_worker_processes(partial(_outcome, converter, folder), cases, processes)
    yield from tqdm(results, total=len(cases), unit="case", disable=not sys.stderr.isatty())


def _outcome(converter: Converter, folder: Path, case: Case) -> Record | str:
    try:
        return convert_case(converter, case, folder)
    except InputError as error:
        return str(error)
    except MemoryError:
        return f"{case.image_files[0]}: does not fit into memory; run again with a smaller -np"


def _finish(
    converter: Converter, cases: list[Case], folder: Path, records: Mapping[str, Record], summary: Summary
) -> None:
    """Write conversion.csv and dataset.json, and sum up."""
    order = sorted(records.values(), key=lambda record: natural_key(record.case))
    done = [record for record in order if is_complete(folder, record)]
    first_with: dict[str, str] = {}
    for record in done:
        first = first_with.setdefault(record.image_sha256, record.case)
        if first != record.case:
            summary.duplicates[record.case] = first
    summary.converted.sort(key=natural_key)
    summary.problems.sort(key=natural_key)
    summary.empty = [record.case for record in done if record.label_voxels and set(record.label_voxels) == {"0"}]
    summary.count_by_part = Counter(record.part for record in done)
    summary.warnings = sum(len(record.warnings) for record in done)
    gone = {record.case for record in done} - {case.id for case in cases}
    if gone:
        summary.notes.append(f"{len(gone)} cases of an earlier run are no longer in the download; they are kept")
    if done:
        write_provenance(folder, done, summary.duplicates)
        write_dataset_json(folder, converter, summary.count_by_part["Tr"])


def dataset_folder(raw: Path, dataset_id: int, name: str) -> Path:
    """``raw/Dataset120_Name``, where no other data set has the id.

    Raises:
        InputError: an impossible id or name, or an id that is taken, also in nnU-Net's other folders.
    """
    if not 1 <= dataset_id <= 999:
        raise InputError(f"-d {dataset_id}: choose a number from 1 to 999")
    if not name.isascii() or not name.replace("_", "").replace("-", "").isalnum():
        raise InputError(f"--name {name}: use ASCII letters, digits, - and _ only")
    folder = raw / f"Dataset{dataset_id:03d}_{name}"
    others = [os.environ.get(variable) for variable in ("nnUNet_preprocessed", "nnUNet_results")]
    for root in [raw, *(Path(other) for other in others if other)]:
        for taken in sorted(root.glob(f"Dataset{dataset_id:03d}_*")):
            if taken.name != folder.name:
                own = taken.name.partition("_")[2]
                raise InputError(
                    f"{taken}: already has the id {dataset_id}; choose another -d (to continue it: --name {own})"
                )
    return folder
