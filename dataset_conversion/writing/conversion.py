"""The conversion of one data set: what is to do, doing it in worker processes, what came of it."""

from __future__ import annotations

import itertools
import json
import os
import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from dataset_conversion.converter import Converter, Inventory, SourceCase
from dataset_conversion.reading.download_folder import first_of, natural_key, require_unpacked
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
from nnunet_ext.errors import InputError, first_line
from nnunet_ext.files.locks import held
from nnunet_ext.worker_processes import in_worker_processes, on_dask_cluster

# Of entries that are no part of a data set: files in work, and locks.
PASSING_NAMES = (TEMPORARY_PREFIX, LOCK_PREFIX)


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
    workers = workers or Workers()
    found = _find_cases(converter, folder)
    overlaps = known_overlaps(folder, converter.collection)
    if overlaps and forbid_overlap:
        raise InputError(
            f"{overlaps[0]}; move one of the two out of nnUNet_raw, or leave out --forbid-overlap"
        )

    job = _Job(converter, folder, found.cases, workers, overwrite, forbid_overlap)
    require_ours(folder, job.header, overwrite)

    leaks = [f"{line}; do not train on one and test on the other" for line in overlaps]
    summary = Summary(folder, list(found.problems), [*found.notes, *leaks])
    summary.planned = [case.id for case in job.own]
    if dry_run:
        summary.count_by_part = Counter(case.part for case in job.own)
    elif found.cases:
        _carry_out(job, summary, started)

    return summary


@dataclass(frozen=True)
class _Job:
    """What is to do: all cases of the data set, of which this run converts its own."""

    converter: Converter
    folder: Path
    cases: list[SourceCase]
    workers: Workers
    overwrite: bool
    forbid_overlap: bool

    @property
    def own(self) -> list[SourceCase]:
        """The cases that this run converts."""
        return self.cases[self.workers.part :: self.workers.parts]

    @property
    def journal(self) -> Path:
        """The journal of this run."""
        return self.folder / journal_name(self.workers.part, self.workers.parts)

    @property
    def header(self) -> dict[str, Any]:
        """The first line of the journal."""
        return {
            "converter": self.converter.name,
            "collection": self.converter.collection,
            "settings": self.converter.settings,
            "version": version(),
        }


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


def _carry_out(job: _Job, summary: Summary, started: float) -> None:
    """Convert what is not done yet, and complete the summary.

    Raises:
        InputError: the folder cannot be written.
    """
    folder = job.folder
    try:
        _make(folder)
        with only_writer(folder, shared=job.workers.parts > 1):
            _prepare(job)
            with only_part(job.journal):
                _convert_cases(job, summary)
            done = _sum_up(job, summary)
            summary.seconds = time.monotonic() - started
            _finish(job, done, summary)
    except OSError as error:
        raise InputError(
            f"{folder}: cannot write ({error}); fix that and run the same command again"
        ) from error


def _make(folder: Path) -> None:
    """Make the folder.

    Raises:
        InputError: another process has just made one with the same id under another name.
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
    if not folder.exists() or _is_unused(folder):
        return

    headers = [read_header(journal) for journal in journals(folder)] or [None]
    for existing in headers:
        maker = existing["converter"] if existing else "something else"
        if existing is None or maker != header["converter"]:
            raise InputError(
                f"{folder}: was made by {maker} and is not changed; choose another -d or --name"
            )

        different = _different_options(existing["settings"], header["settings"])
        if not different and existing.get("collection") != header["collection"]:
            raise InputError(
                f"{folder}: holds {existing.get('collection')} and is not changed; "
                f"choose another -d or --name"
            )
        if different and not overwrite and read_records(folder):
            raise InputError(
                f"{folder}: was converted with other options ({', '.join(different)}); "
                f"add --overwrite to convert it again"
            )


def _is_unused(folder: Path) -> bool:
    """Whether a folder is empty, or its conversion was killed before its journal began."""
    if not folder.is_dir():
        return False

    return all(entry.name.startswith(PASSING_NAMES) for entry in folder.iterdir())


def _different_options(then: Mapping[str, Any], settings: Mapping[str, Any]) -> list[str]:
    """Return the options of an earlier run that are not those of now, as text."""
    now = json.loads(json.dumps(settings))
    different = []
    for name in sorted({*now, *then}):
        if now.get(name) != then.get(name):
            different.append(f"{name}={then.get(name)}")

    return different


def _prepare(job: _Job) -> None:
    """Bring the folder into a state in which every file has a known origin.

    Raises:
        InputError: a file in it is of unknown origin.
    """
    folder = job.folder
    made = _outputs(itertools.chain.from_iterable(read_records(folder).values()))
    _require_known_files(job, made)
    remove_leftovers(folder, {case.id for case in job.own})

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


def _folder_names(case: SourceCase) -> tuple[str, ...]:
    images, labels = f"images{case.part}", f"labels{case.part}"
    return (images, labels) if case.label_files else (images,)


def _require_known_files(job: _Job, made: set[str]) -> None:
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


def _remove_earlier(job: _Job, made: set[str]) -> None:
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


def _convert_cases(job: _Job, summary: Summary) -> None:
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
    job: _Job, done: Mapping[str, list[Record]], summary: Summary
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


def _results(job: _Job, cases: list[SourceCase]) -> Iterator[tuple[SourceCase, list[Record] | str]]:
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


def _sum_up(job: _Job, summary: Summary) -> list[Record]:
    """Complete the summary by what lies in the folder.

    Returns:
        The records of that, in natural order.
    """
    by_case = {}
    for case, of_case in read_records(job.folder).items():
        if is_complete(job.folder, of_case):
            by_case[case] = of_case
    records = sorted(
        itertools.chain.from_iterable(by_case.values()),
        key=lambda record: natural_key(record.case),
    )
    done = with_patients(records, job.converter.patients)

    _note_copies(job, summary, done)
    summary.converted.sort(key=natural_key)
    summary.problems.sort(key=natural_key)
    summary.elsewhere = len(by_case.keys() - {*summary.converted, *summary.skipped})
    summary.count(done, output_labels(job.converter).names)

    planned = {case.id for case in job.cases}
    gone = by_case.keys() - planned
    if gone:
        summary.notes.append(
            f"{len(gone)} cases of an earlier run are no longer in the download; they are kept"
        )
    mirrored = sum(MIRRORED in problem for problem in summary.problems)
    if mirrored and any(record.label_voxels for record in done):
        summary.notes.append(
            f"{mirrored} labels are mirrored, so those that could not be judged (small or "
            f"symmetric) may be, too: look at the converted cases before training"
        )

    # What is missing of this run failed; what is missing of another part may only be late.
    missing = planned - by_case.keys() - set(summary.planned)
    summary.complete = not missing

    return done


def _note_copies(job: _Job, summary: Summary, records: list[Record]) -> None:
    """Note images that occur twice, here or in another data set."""
    first_with: dict[str, str] = {}
    for record in records:
        first = first_with.setdefault(record.image_sha256, record.case)
        if first != record.case:
            summary.duplicates[record.case] = first

    summary.copies = copies_elsewhere(
        job.folder, job.converter.collection, records, read_files=job.forbid_overlap
    )
    if summary.copies and job.forbid_overlap:
        pairs = [f"{case} = {copy}" for case, copy in summary.copies.items()]
        summary.problems.append(
            f"{job.folder}: {len(pairs)} images occur in other data sets "
            f"({', '.join(pairs[:3])}), so it gets no dataset.json; leave them out of the "
            f"download, or leave out --forbid-overlap"
        )


def _finish(job: _Job, done: list[Record], summary: Summary) -> None:
    """Write what stands beside the cases, once no part has anything left to do."""
    folder = job.folder
    if summary.copies and job.forbid_overlap:
        (folder / "dataset.json").unlink(missing_ok=True)
        return
    if not done or not summary.complete:
        return

    write_provenance(folder, done, summary.duplicates | summary.copies)
    if job.converter.split:
        earlier = write_splits(folder, job.converter, done)
        if earlier:
            summary.notes.append(
                f"the earlier {SPLITS_NAME} was another; it is now called {earlier}"
            )
    elif (folder / SPLITS_NAME).is_file():
        summary.notes.append(f"{SPLITS_NAME} of an earlier run, or your own, is kept")
    replace_text(folder / SUMMARY_NAME, f"# {folder.name}\n\n{markdown(summary)}")

    channels = written_channels(job.converter, summary.units)
    if channels != output_channels(job.converter):
        summary.notes.append(
            f"no case is in HU, so the channel is called {channels[0]!r}: nnU-Net scales CT as HU"
        )
    # The last file: it says that the data set is complete.
    write_dataset_json(folder, job.converter, channels, summary.count_by_part["Tr"])


def dataset_folder(raw: Path, dataset_id: int, name: str) -> Path:
    """Return ``raw/Dataset120_Name``, where no other data set has the id.

    Raises:
        InputError: an impossible id or name, or an id that is taken, also in nnU-Net's other
            folders.
    """
    if not 1 <= dataset_id <= 999:
        raise InputError(f"-d {dataset_id}: choose a number from 1 to 999")
    if not name.isascii() or not name.replace("_", "").replace("-", "").isalnum():
        raise InputError(f"--name {name}: use ASCII letters, digits, - and _ only")

    folder = raw / f"Dataset{dataset_id:03d}_{name}"
    roots = [raw]
    for variable in ("nnUNet_preprocessed", "nnUNet_results"):
        value = os.environ.get(variable)
        if value:
            roots.append(Path(value))

    for root in roots:
        for taken in sorted(root.glob(f"Dataset{dataset_id:03d}_*")):
            if taken.name != folder.name:
                own = taken.name.partition("_")[2]
                raise InputError(
                    f"{taken}: already has the id {dataset_id}; choose another -d, or --name "
                    f"{own} if you mean that one"
                )

    return folder
