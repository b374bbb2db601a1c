"""The end of a conversion: what lies in the folder, and the files that say so."""

from __future__ import annotations

import itertools

from dataset_conversion.reading.download_folder import natural_key
from dataset_conversion.reading.mirroring import MIRRORED
from dataset_conversion.shaping.choices import (
    output_channels,
    output_labels,
)
from dataset_conversion.writing.case_writer import (
    Record,
)
from dataset_conversion.writing.conversion_job import Job
from dataset_conversion.writing.journal import (
    is_complete,
    read_records,
)
from dataset_conversion.writing.overlaps import copies_elsewhere
from dataset_conversion.writing.result_files import (
    replace_text,
    write_dataset_json,
    write_provenance,
    written_channels,
)
from dataset_conversion.writing.splits import SPLITS_NAME, with_patients, write_splits
from dataset_conversion.writing.summary import SUMMARY_NAME, Summary, markdown


def sum_up(job: Job, summary: Summary) -> list[Record]:
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


def _note_copies(job: Job, summary: Summary, records: list[Record]) -> None:
    """Note images that occur twice, here or in another data set."""
    first_with: dict[str, str] = {}
    for record in records:
        first = first_with.setdefault(record.image_sha256, record.case)
        if first != record.case:
            summary.duplicates[record.case] = first

    summary.copies = copies_elsewhere(
        job.folder,
        job.converter.collection,
        records,
        read_files=job.forbid_overlap,
    )
    if summary.copies and job.forbid_overlap:
        pairs = [f"{case} = {copy}" for case, copy in summary.copies.items()]
        examples = ", ".join(pairs[:3])
        summary.problems.append(
            f"{job.folder}: {len(pairs)} images occur in other data sets ({examples}), so it gets "
            f"no dataset.json; leave them out of the download, or leave out --forbid-overlap"
        )


def finish(job: Job, done: list[Record], summary: Summary) -> None:
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
