"""Names of cases, each of one case only."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

from dataset_conversion.converter import Converter, Inventory, SourceCase
from dataset_conversion.reading.download_folder import natural_key
from dataset_conversion.writing.case_writer import source_names
from dataset_conversion.writing.journal import read_records
from nnunet_ext.errors import InputError
from nnunet_ext.files.checksums import sha256_of_file


def without_name_clashes(found: Inventory) -> Inventory:
    """Return the cases whose ids differ, also on file systems that ignore upper and lower case.

    Of exact copies the first is taken; others of one id are problems.
    """
    by_id: dict[str, list[SourceCase]] = defaultdict(list)
    for case in found.cases:
        by_id[case.id.casefold()].append(case)

    cases = []
    problems = list(found.problems)
    copies = 0
    for first, *others in by_id.values():
        if not others or all(_contents(case) == _contents(first) for case in others):
            cases.append(first)
            copies += len(others)
            continue

        for case, other in zip((first, *others), (*others, first), strict=True):
            problems.append(
                f"{case.image_files[0]}: and {other.image_files[0]} would both become case "
                f"{case.id}, and differ; remove one of them, or rename it"
            )

    notes = list(found.notes)
    if copies:
        notes.append(f"{copies} exact copies of cases are left out")

    return Inventory(sorted(cases, key=lambda case: natural_key(case.id)), problems, notes)


def require_same_names(converter: Converter, cases: list[SourceCase], folder: Path) -> None:
    """Refuse to keep a case beside another of the same image.

    There may be one because some names depend on what else the download holds.
    """
    records = read_records(folder)
    gone = records.keys() - {case.id for case in cases}
    if not gone:
        return

    name_now = {}
    for case in cases:
        for name, file in source_names(converter, case).items():
            if file in case.image_files:
                name_now[name] = case.id

    for name in sorted(gone):
        for file_name in records[name][0].source_bytes:
            if file_name in name_now:
                raise InputError(
                    f"{folder}: what was converted as {name} is now called "
                    f"{name_now[file_name]}; add --overwrite"
                )

    if gone == records.keys():
        raise InputError(
            f"{folder}: holds {len(gone)} cases, and none of them is in {converter.source}; "
            f"choose another -d or --name, or add --overwrite to convert this download in their "
            f"place"
        )


def _contents(case: SourceCase) -> list[str]:
    """Return hashes of a case's files, which tell exact copies."""
    return [sha256_of_file(file) for file in (*case.image_files, *case.label_files)]
