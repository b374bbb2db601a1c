"""The conversion of one data set: finding its cases, and converting them in worker processes."""

from __future__ import annotations

import itertools
import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path

from dataset_conversion.converter import Converter, Inventory, SourceCase
from dataset_conversion.reading.download_folder import first_of, require_unpacked
from dataset_conversion.shaping.choices import (
    require_possible,
    wanted_cases,
)
from dataset_conversion.writing.case_names import require_same_names, without_name_clashes
from dataset_conversion.writing.case_writer import (
    Record,
    case_of,
    convert_case,
    is_unchanged,
    output_names,
)
from dataset_conversion.writing.completion import finish, sum_up
from dataset_conversion.writing.conversion_job import Job, Workers
from dataset_conversion.writing.journal import (
    Journal,
    files_in,
    is_complete,
    journals,
    only_part,
    only_writer,
    read_header,
    read_records,
    remove_leftovers,
    start_journal,
)
from dataset_conversion.writing.overlaps import known_overlaps
from dataset_conversion.writing.result_folder import make_folder, require_ours
from dataset_conversion.writing.summary import Summary
from nnunet_ext.errors import InputError, first_line
from nnunet_ext.worker_processes import in_worker_processes, on_dask_cluster


def convert(
    converter: Converter,
    folder: Path,
    workers: Workers | None = None,
    *,
    overwrite: bool = False,
    dry_run: bool = False,
    forbid_overlap: bool = False,
) -> Summary:
    """Convert a data set into ``folder``, or continue an interrupted conversion.

    Cases that are done are not read again. Bad cases are reported and left out.

    Args:
        converter: the data set, with its options.
        folder: the result, such as ``nnUNet_raw/Dataset120_Name``; made if absent.
        workers: default: this process alone.
        overwrite: convert again what an earlier run of the same converter made.
        dry_run: only look: nothing is written, no pixels are read.
        forbid_overlap: refuse where another data set in the same nnUNet_raw shares images with
            this one.

    Raises:
        InputError: the download is not this data set, or the folder belongs to something else.
    """
    started = time.monotonic()
    found = _find_cases(converter, folder)
    overlaps = known_overlaps(folder, converter.collection)
    if overlaps and forbid_overlap:
        raise InputError(
            f"{overlaps[0]}; move one of the two out of nnUNet_raw, or leave out --forbid-overlap"
        )

    job = Job(
        converter,
        folder,
        found.cases,
        workers or Workers(),
        overwrite,
        forbid_overlap,
    )
    require_ours(folder, job.header, overwrite)

    notes = list(found.notes)
    for overlap in overlaps:
        notes.append(f"{overlap}; do not train on one and test on the other")
    summary = Summary(folder, list(found.problems), notes)
    summary.planned = [case.id for case in job.own]
    if dry_run:
        summary.count_by_part = Counter(case.part for case in job.own)
    elif found.cases:
        _carry_out(job, summary, started)

    return summary


def _find_cases(converter: Converter, folder: Path) -> Inventory:
    """Return the cases to convert.

    Raises:
        InputError: an option is impossible, or there is no case for the options.
    """
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

    return found


def _carry_out(job: Job, summary: Summary, started: float) -> None:
    """Convert what is not done yet, and complete the summary.

    Raises:
        InputError: the folder cannot be written.
    """
    folder = job.folder
    try:
        make_folder(folder)
        with only_writer(folder, shared=job.workers.parts > 1):
            _prepare(job)
            with only_part(job.journal):
                _convert_cases(job, summary)
            done = sum_up(job, summary)
            summary.seconds = time.monotonic() - started
            finish(job, done, summary)
    except OSError as error:
        raise InputError(
            f"{folder}: cannot write ({error}); fix that and run the same command again"
        ) from error


def _prepare(job: Job) -> None:
    """Bring the folder into a state in which every file has a known origin.

    Raises:
        InputError: a file in it is of unknown origin.
    """
    folder = job.folder
    earlier = read_records(folder).values()
    made = _outputs(itertools.chain.from_iterable(earlier))
    _require_known_files(job, made)
    own = {case.id for case in job.own}
    remove_leftovers(folder, own)

    if job.overwrite:
        _remove_earlier(job, made)
    else:
        require_same_names(job.converter, job.cases, folder)

    is_fresh = job.overwrite or not job.journal.is_file()
    if is_fresh or not (read_records(folder) or read_header(job.journal) == job.header):
        start_journal(job.journal, job.header)

    # A data set of only unlabelled images has no folders for training.
    names: set[str] = set()
    for case in job.cases:
        names.update(_folder_names(case))
    for name in names:
        (folder / name).mkdir(exist_ok=True)


def _folder_names(case: SourceCase) -> list[str]:
    names = [f"images{case.part}"]
    if case.label_files:
        names.append(f"labels{case.part}")

    return names


def _require_known_files(job: Job, made: set[str]) -> None:
    planned = {case.id: case for case in job.cases}
    foreign = []
    for name in files_in(job.folder) - made:
        if not _is_output(job.converter, planned.get(case_of(name)), name):
            foreign.append(name)

    if foreign:
        raise InputError(
            f"{job.folder / min(foreign)}: was not made by this conversion; move it away and run "
            f"again"
        )


def _remove_earlier(job: Job, made: set[str]) -> None:
    """Delete what an earlier run made.

    Raises:
        InputError: it was made in several parts.
    """
    earlier = journals(job.folder)
    if not earlier:
        return

    if earlier != [job.journal]:
        raise InputError(
            f"{job.folder}: was made in several parts, which --overwrite cannot tell apart; "
            f"delete it"
        )

    (job.folder / "dataset.json").unlink(missing_ok=True)
    for name in made:
        (job.folder / name).unlink(missing_ok=True)


def _is_output(converter: Converter, case: SourceCase | None, name: str) -> bool:
    """Whether a file may be of a case that was in work when a run was killed."""
    if case is None:
        return False
    if converter.slices:
        return name.partition("/")[0] in _folder_names(case)

    images, label = output_names(converter, case)
    return name in images or name == label


def _convert_cases(job: Job, summary: Summary) -> None:
    """Convert the cases of this run that are not done, or whose files changed."""
    folder = job.folder
    done = read_records(folder)
    pending, changed = _pending_cases(job, done, summary)
    if pending:
        (folder / "dataset.json").unlink(missing_ok=True)  # it comes last and says: complete

    journal = Journal(job.journal)
    try:
        for case, result in _results(job, pending):
            if isinstance(result, str):
                kept = "; what an earlier run made of it is kept" if case.id in changed else ""
                summary.problems.append(result + kept)
                continue

            # There may be fewer slices now.
            for name in _outputs(done.get(case.id, ())) - _outputs(result):
                (folder / name).unlink(missing_ok=True)
            journal.add(case.id, result)
            summary.converted.append(case.id)
    finally:
        journal.close()


def _pending_cases(
    job: Job, done: Mapping[str, list[Record]], summary: Summary
) -> tuple[list[SourceCase], list[str]]:
    """Return the cases to convert, and the ids of those that were converted from other files."""
    pending, changed = [], []
    for case in job.own:
        records = done.get(case.id)
        if records is None or not is_complete(job.folder, records):
            pending.append(case)
        elif records and not is_unchanged(job.converter, case, records[0]):
            pending.append(case)
            changed.append(case.id)
        else:
            summary.skipped.append(case.id)

    if changed:
        summary.notes.append(
            f"{len(changed)} cases to convert again: their files changed or more came "
            f"({first_of(changed, 3)})"
        )

    return pending, changed


def _outputs(records: Iterable[Record]) -> set[str]:
    outputs: set[str] = set()
    for record in records:
        outputs.update(record.outputs)

    return outputs


def _results(job: Job, cases: list[SourceCase]) -> Iterator[tuple[SourceCase, list[Record] | str]]:
    """Convert cases; a line of text stands for a case that failed."""
    from tqdm import tqdm

    work = partial(_outcome, job.converter, job.folder)
    if job.workers.dask is None:
        results = in_worker_processes(work, cases, job.workers.processes)
    else:
        results = on_dask_cluster(work, cases, job.workers.dask)
    yield from tqdm(results, total=len(cases), unit="case", disable=not sys.stderr.isatty())


def _outcome(converter: Converter, folder: Path, case: SourceCase) -> list[Record] | str:
    try:
        return convert_case(converter, case, folder)
    except InputError as error:
        return str(error)
    except MemoryError:
        return f"{case.image_files[0]}: does not fit into memory; run again with a smaller -np"
    except OSError:
        # The result cannot be written, so no other case could be either. A source that cannot be
        # read is an InputError.
        raise
    except Exception as error:  # a file that is odd in a way nobody thought of; the others go on
        return (
            f"{case.image_files[0]}: {type(error).__name__}: {first_line(error)}; "
            f"please report this as a bug, with the file if you may share it"
        )
