"""The conversion of one data set: what is to do, doing it in worker processes, what came of it."""

from __future__ import annotations

import json
import os
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from dataset_conversion.converter import Converter, SourceCase
from dataset_conversion.reading.download_folder import natural_key, require_unpacked
from dataset_conversion.reading.mirroring import MIRRORED
from dataset_conversion.shaping.choices import (
    output_channels,
    output_labels,
    require_possible,
    wanted_cases,
)
from dataset_conversion.writing.case_names import require_same_names, without_name_clashes
from dataset_conversion.writing.case_writer import (
    TEMPORARY_PREFIX,
    Record,
    case_of,
    convert_case,
    is_unchanged,
    output_names,
)
from dataset_conversion.writing.journal import (
    LOCK_PREFIX,
    Journal,
    files_in,
    is_complete,
    journal_name,
    journals,
    only_part,
    only_writer,
    read_header,
    read_records,
    remove_leftovers,
    start_journal,
)
from dataset_conversion.writing.overlaps import copies_elsewhere, known_overlaps
from dataset_conversion.writing.result_files import (
    replace_text,
    version,
    write_dataset_json,
    write_provenance,
    written_channels,
)
from dataset_conversion.writing.splits import SPLITS_NAME, with_patients, write_splits
from dataset_conversion.writing.summary import SUMMARY_NAME, Summary, markdown
from nnunet_ext.errors import InputError
from nnunet_ext.files.locks import held
from nnunet_ext.worker_processes import first_line, in_worker_processes, on_dask_cluster


@dataclass(frozen=True)
class Workers:
    """Who converts: ``processes`` here or a Dask cluster, and which part of the cases."""

    processes: int = 1
    dask: str | None = None
    part: int = 0
    parts: int = 1


def convert(
    converter: Converter,
    folder: Path,
    workers: Workers | None = None,
    *,
    overwrite: bool = False,
    dry_run: bool = False,
    forbid_overlap: bool = False,
) -> Summary:
    """Convert a data set into ``folder`` (``nnUNet_raw/Dataset120_Name``), or continue an
    interrupted conversion.

    Cases that are done are not read again. Bad cases are reported and left out.

    Args:
        converter: the data set, with its options.
        folder: result; made if absent.
        workers: default: this process alone.
        overwrite: convert anew what an earlier run of the same converter made.
        dry_run: only look: nothing is written, no pixels are read.
        forbid_overlap: refuse where another data set in the same nnUNet_raw shares images with this
            one.

    Raises:
        InputError: the download is not this data set, or the folder belongs to something else.
    """
    started = time.monotonic()
    workers = workers or Workers()
    require_unpacked(converter.source)
    require_possible(converter)
    if folder.resolve().parent == converter.source.resolve():
        raise InputError(
            f"{folder.parent}: is nnUNet_raw and the download, which stays as it is; choose "
            f"another of one"
        )
    found = without_name_clashes(wanted_cases(converter, converter.find_cases()))
    if not found.cases and not found.problems:
        why = f" ({'; '.join(found.notes[:3])})" if found.notes else ""
        raise InputError(
            f"{converter.source}: holds no case of {converter.name} for these options{why}"
        )
    overlaps = known_overlaps(folder, converter.collection)
    if overlaps and forbid_overlap:
        raise InputError(
            f"{overlaps[0]}; move one of the two out of nnUNet_raw, or leave out --forbid-overlap"
        )
    header = {
        "converter": converter.name,
        "collection": converter.collection,
        "settings": converter.settings,
    }
    header["version"] = version()
    require_ours(folder, header, overwrite)
    notes = [
        *found.notes,
        *(f"{line}; do not train on one and test on the other" for line in overlaps),
    ]
    summary = Summary(folder, list(found.problems), notes)
    own = found.cases[workers.part :: workers.parts]
    summary.planned = [case.id for case in own]
    if dry_run:
        summary.count_by_part = Counter(case.part for case in own)
        return summary
    if not found.cases:
        return summary

    try:
        _make(folder)
        with only_writer(folder, shared=workers.parts > 1):
            journal = folder / journal_name(workers.part, workers.parts)
            _prepare(converter, found.cases, {case.id for case in own}, journal, header, overwrite)
            with only_part(journal):
                _convert_cases(converter, own, journal, workers, summary)
            done = _sum_up(converter, found.cases, summary, forbid_overlap)
            summary.seconds = time.monotonic() - started
            _finish(converter, done, summary, forbid_overlap)
    except OSError as error:
        raise InputError(
            f"{folder}: cannot write ({error}); mend that and run the same command again"
        ) from error
    return summary


def _make(folder: Path) -> None:
    """Make the folder, unless another process has just made one with the same id under another
    name.

    Raises:
        InputError: it has.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    number = folder.name.partition("_")[0]
    with held(folder.parent / f"{LOCK_PREFIX}{number}.lock", keep_file=False):
        others = [other for other in folder.parent.glob(f"{number}_*") if other.name != folder.name]
        if others and not folder.exists():
            raise InputError(f"{others[0]}: already has the id of {folder.name}; choose another -d")
        folder.mkdir(exist_ok=True)


def require_ours(folder: Path, header: Mapping[str, Any], overwrite: bool) -> None:
    """Refuse a folder that something else made, or the same converter with other options.

    Raises:
        InputError: the folder is not to be written.
    """
    if not folder.exists():
        return
    passing = (TEMPORARY_PREFIX, LOCK_PREFIX)
    if folder.is_dir() and all(entry.name.startswith(passing) for entry in folder.iterdir()):
        return  # empty, or killed before its journal began
    headers = [read_header(journal) for journal in journals(folder)] or [None]
    for existing in headers:
        if existing is None or existing["converter"] != header["converter"]:
            maker = "something else" if existing is None else existing["converter"]
            raise InputError(
                f"{folder}: was made by {maker} and is left alone; choose another -d or --name"
            )
        now, then = json.loads(json.dumps(header["settings"])), existing["settings"]
        other = [
            f"{name}={then.get(name)}"
            for name in sorted({*now, *then})
            if now.get(name) != then.get(name)
        ]
        if not other and existing.get("collection") != header["collection"]:
            raise InputError(
                f"{folder}: holds {existing.get('collection')} and is left alone; choose another "
                f"-d or --name"
            )
        if other and not overwrite and read_records(folder):
            options = ", ".join(other)
            raise InputError(
                f"{folder}: was converted with other options ({options}); add --overwrite to "
                f"convert anew"
            )


def _prepare(
    converter: Converter,
    cases: list[SourceCase],
    own: set[str],
    journal: Path,
    header: dict,
    overwrite: bool,
) -> None:
    """Bring the folder into a state in which every file has a known origin.

    Args:
        converter: the data set.
        cases: all cases.
        own: ids of those that this run converts.
        journal: of this run.
        header: its first line.
        overwrite: drop what was converted before.
    """
    folder = journal.parent
    made = {
        name
        for records in read_records(folder).values()
        for record in records
        for name in record.outputs
    }
    planned = {case.id: case for case in cases}
    foreign = {
        name
        for name in files_in(folder) - made
        if not _is_output(converter, planned.get(case_of(name)), name)
    }
    if foreign:
        raise InputError(
            f"{folder / min(foreign)}: was not made by this conversion; move it away and run again"
        )
    remove_leftovers(folder, own)
    if not overwrite:
        require_same_names(converter, cases, folder)
    if overwrite and journals(folder):
        if journal not in journals(folder) or len(journals(folder)) > 1:
            raise InputError(
                f"{folder}: was made in several parts, which --overwrite cannot tell apart; "
                f"delete it"
            )
        (folder / "dataset.json").unlink(missing_ok=True)
        for name in made:
            (folder / name).unlink(missing_ok=True)
    if (
        overwrite
        or not journal.is_file()
        or not (read_records(folder) or read_header(journal) == header)
    ):
        start_journal(journal, header)
    # A data set of only unlabelled images has no folders for training.
    for part in {case.part for case in cases}:
        (folder / f"images{part}").mkdir(exist_ok=True)
    for part in {case.part for case in cases if case.label_files}:
        (folder / f"labels{part}").mkdir(exist_ok=True)


def _is_output(converter: Converter, case: SourceCase | None, name: str) -> bool:
    """Whether a file may be of a case that was in work when a run was killed."""
    if case is None:
        return False
    if converter.slices:
        return name.partition("/")[0] in (f"images{case.part}", f"labels{case.part}")
    images, label = output_names(converter, case)
    return name in images or name == label


def _convert_cases(
    converter: Converter, cases: list[SourceCase], path: Path, workers: Workers, summary: Summary
) -> None:
    folder = path.parent
    done = read_records(folder)
    pending, changed = [], []
    for case in cases:
        records = done.get(case.id)
        if records is None or not is_complete(folder, records):
            pending.append(case)
        elif records and not is_unchanged(converter, case, records[0]):
            pending.append(case)
            changed.append(case.id)
        else:
            summary.skipped.append(case.id)
    if changed:
        examples = ", ".join(changed[:3]) + (", ..." if len(changed) > 3 else "")
        summary.notes.append(
            f"{len(changed)} cases to convert anew: their files changed or more came ({examples})"
        )
    if pending:
        (folder / "dataset.json").unlink(missing_ok=True)  # it comes last and says: complete
    journal = Journal(path)
    try:
        for case, result in _results(converter, pending, folder, workers):
            if isinstance(result, str):
                kept = "; what an earlier run made of it is kept" if case.id in changed else ""
                summary.problems.append(result + kept)
            else:
                old, new = (
                    {name for record in records for name in record.outputs}
                    for records in (done.get(case.id, ()), result)
                )
                for name in old - new:  # there may be fewer slices now
                    (folder / name).unlink(missing_ok=True)
                journal.add(case.id, result)
                summary.converted.append(case.id)
    finally:
        journal.close()


def _results(
    converter: Converter, cases: list[SourceCase], folder: Path, workers: Workers
) -> Iterator[tuple[SourceCase, list[Record] | str]]:
    """Convert cases; a line of text stands for a case that failed."""
    from tqdm import tqdm

    work = partial(_outcome, converter, folder)
    if workers.dask is None:
        results = in_worker_processes(work, cases, workers.processes)
    else:
        results = on_dask_cluster(work, cases, workers.dask)
    yield from tqdm(results, total=len(cases), unit="case", disable=not sys.stderr.isatty())


def _outcome(converter: Converter, folder: Path, case: SourceCase) -> list[Record] | str:
    try:
        return convert_case(converter, case, folder)
    except InputError as error:
        return str(error)
    except MemoryError:
        return f"{case.image_files[0]}: does not fit into memory; run again with a smaller -np"
    except OSError:
        # the result cannot be written: no other case could be; a source that cannot be read is an
        # InputError
        raise
    except Exception as error:  # a file odd in a way that nobody thought of; the other cases go on
        return (
            f"{case.image_files[0]}: {type(error).__name__}: {first_line(error)}; please report "
            f"this file's kind"
        )


def _sum_up(
    converter: Converter, cases: list[SourceCase], summary: Summary, forbid_overlap: bool
) -> list[Record]:
    """Complete the summary by what lies in the folder, and return the records of that in natural
    order.
    """
    folder = summary.folder
    by_case = {
        case: records
        for case, records in read_records(folder).items()
        if is_complete(folder, records)
    }
    every = [record for records in by_case.values() for record in records]
    done = with_patients(
        sorted(every, key=lambda record: natural_key(record.case)), converter.patients
    )
    first_with: dict[str, str] = {}
    for record in done:
        first = first_with.setdefault(record.image_sha256, record.case)
        if first != record.case:
            summary.duplicates[record.case] = first
    summary.copies = copies_elsewhere(folder, converter.collection, done, read_files=forbid_overlap)
    if summary.copies and forbid_overlap:
        pairs = ", ".join(f"{case} = {copy}" for case, copy in list(summary.copies.items())[:3])
        summary.problems.append(
            f"{folder}: {len(summary.copies)} images occur in other data sets ({pairs}), so it "
            f"gets no dataset.json; "
            "leave them out of the download, or leave out --forbid-overlap"
        )
    summary.converted.sort(key=natural_key)
    summary.problems.sort(key=natural_key)
    summary.elsewhere = len(by_case.keys() - {*summary.converted, *summary.skipped})
    summary.count(done, output_labels(converter).names)
    gone = by_case.keys() - {case.id for case in cases}
    if gone:
        summary.notes.append(
            f"{len(gone)} cases of an earlier run are no longer in the download; they are kept"
        )
    mirrored = sum(MIRRORED in problem for problem in summary.problems)
    if mirrored and any(record.label_voxels for record in done):
        summary.notes.append(
            f"{mirrored} labels are mirrored, so those that could not be judged (small or "
            f"symmetric) may be, too: "
            "look at the converted cases before training"
        )
    missing = {case.id for case in cases} - by_case.keys() - set(summary.planned)
    summary.complete = not missing  # the rest failed here; another part's may only be late
    return done


def _finish(
    converter: Converter, done: list[Record], summary: Summary, forbid_overlap: bool
) -> None:
    """Write what stands beside the cases when no part has anything left to do; dataset.json comes
    last.
    """
    folder = summary.folder
    if summary.copies and forbid_overlap:
        (folder / "dataset.json").unlink(missing_ok=True)
    elif done and summary.complete:
        write_provenance(folder, done, summary.duplicates | summary.copies)
        if converter.split:
            if earlier := write_splits(folder, converter, done):
                summary.notes.append(
                    f"the earlier {SPLITS_NAME} was another; it is now called {earlier}"
                )
        elif (folder / SPLITS_NAME).is_file():
            summary.notes.append(f"{SPLITS_NAME} of an earlier run, or your own, is kept")
        replace_text(folder / SUMMARY_NAME, f"# {folder.name}\n\n{markdown(summary)}")
        channels = written_channels(converter, summary.units)
        if channels != output_channels(converter):
            summary.notes.append(
                f"no case is in HU, so the channel is called {channels[0]!r}: nnU-Net scales CT "
                f"as HU"
            )
        write_dataset_json(folder, converter, channels, summary.count_by_part["Tr"])


def dataset_folder(raw: Path, dataset_id: int, name: str) -> Path:
    """``raw/Dataset120_Name``, where no other data set has the id.

    Raises:
        InputError: an impossible id or name, or an id that is taken, also in nnU-Net's other
            folders.
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
                    f"{taken}: already has the id {dataset_id}; choose another -d, or --name "
                    f"{own} if you mean that one"
                )
    return folder
