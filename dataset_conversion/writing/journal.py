"""The journal of a conversion: which converter, which options, which cases are done.

One JSON object per line. The first line says what made the folder; each finished case adds one line
with its records, written only after its files lie in place. So a kill loses at most the cases in
work, and a folder without journal is not ours. Each part of a job array (``--num-parts``) writes a
journal of its own beside the others'; all are read.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Collection
from contextlib import AbstractContextManager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from dataset_conversion.writing.case_writer import Record, case_of
from nnunet_ext.files.json_files import LARGEST_BYTES, parse_json
from nnunet_ext.files.locks import alone
from nnunet_ext.files.whole_file import TEMPORARY_PREFIX, whole_file

JOURNAL_NAME = "conversion.jsonl"
LOCK_PREFIX = ".conversion-"
CASE_FOLDERS = ("imagesTr", "labelsTr", "imagesTs", "labelsTs", "imagesUn", "labelsUn")
OUTPUT_NAME = re.compile(rf"({'|'.join(CASE_FOLDERS)})/[^/\\.][^/\\]*")


def journal_name(part: int, parts: int) -> str:
    """Return the file name of the journal of one part, counted from 0, of a job array."""
    if parts == 1:
        return JOURNAL_NAME

    return f"conversion_{part}_of_{parts}.jsonl"


def journals(folder: Path) -> list[Path]:
    """All journals of a data set."""
    return sorted(folder.glob("conversion*.jsonl"))


class Journal:
    """Appends finished cases to one journal of a data set."""

    def __init__(self, path: Path) -> None:
        self._stream = path.open("r+", encoding="utf-8", newline="")
        text = self._stream.read()
        # Drop the half line that a kill may have left.
        whole_lines = text[: text.rfind("\n") + 1]
        self._stream.seek(len(whole_lines.encode()))
        self._stream.truncate()

    def add(self, case: str, records: list[Record]) -> None:
        """Note a finished case."""
        entry = {
            "case": case,
            "records": [asdict(record) for record in records],
        }
        line = json.dumps(entry)
        self._stream.write(f"{line}\n")
        self._stream.flush()
        os.fsync(self._stream.fileno())

    def close(self) -> None:
        """Close the file."""
        self._stream.close()


def start_journal(path: Path, header: dict[str, Any]) -> None:
    """Begin a journal without cases, in place of an earlier one."""
    line = json.dumps(header)
    with whole_file(path) as unfinished:
        unfinished.write_text(f"{line}\n", encoding="utf-8")


def only_writer(folder: Path, shared: bool = False) -> AbstractContextManager[None]:
    """Return a lock on the folder, which others may share.

    Raises:
        InputError: when entered, if another process holds it.
    """
    lock = folder / f"{LOCK_PREFIX}lock"
    return alone(lock, "another conversion is writing it", shared=shared)


def only_part(journal: Path) -> AbstractContextManager[None]:
    """Return a lock on one part of a job array."""
    lock = journal.with_name(f"{LOCK_PREFIX}{journal.stem}.lock")
    return alone(lock, "another process converts this part")


def read_header(path: Path) -> dict[str, Any] | None:
    """First line of a journal; None where it is no journal of ours."""
    try:
        with path.open(encoding="utf-8") as stream:
            header = parse_json(stream.readline(LARGEST_BYTES))
    except (OSError, ValueError):
        return None

    is_ours = isinstance(header, dict) and {"converter", "settings"} <= header.keys()

    return header if is_ours else None


def read_records(folder: Path) -> dict[str, list[Record]]:
    """Records of all journals of a data set, by case; lines that a kill cut short are left out."""
    records: dict[str, list[Record]] = {}
    for path in journals(folder):
        for line in path.read_text(encoding="utf-8", errors="replace").splitlines()[1:]:
            try:
                records.update([_finished_case(line)])
            except (ValueError, TypeError, KeyError):
                continue

    return records


def _finished_case(line: str) -> tuple[str, list[Record]]:
    """Return a case and its records.

    Raises:
        ValueError: a line that was cut short, or names files elsewhere: a doctored journal deletes
            nothing outside.
        TypeError: other content.
        KeyError: other content.
    """
    entry = parse_json(line)
    records = [Record(**record) for record in entry["records"]]
    for record in records:
        if not isinstance(record.outputs, dict):
            raise TypeError(record.outputs)

        for name, size in record.outputs.items():
            if not OUTPUT_NAME.fullmatch(name) or not isinstance(size, int):
                raise ValueError(name)

    return str(entry["case"]), records


def is_complete(folder: Path, records: list[Record]) -> bool:
    """Whether all files of a finished case still lie there at their size."""
    for record in records:
        for name, size in record.outputs.items():
            file = folder / name
            if not file.is_file() or file.stat().st_size != size:
                return False

    return True


def files_in(folder: Path) -> set[str]:
    """Return names like ``imagesTr/x_0000.png`` of everything visible in the case folders."""
    names: set[str] = set()
    for part in CASE_FOLDERS:
        place = folder / part
        for file in place.glob("[!.]*"):
            names.add(f"{part}/{file.name}")

    return names


def remove_leftovers(folder: Path, cases: Collection[str]) -> None:
    """Delete temporary files of these cases that a kill left behind.

    Those of other cases may be in work elsewhere.
    """
    for part in CASE_FOLDERS:
        place = folder / part
        for file in place.glob(f"{TEMPORARY_PREFIX}*"):
            if case_of(file.name) in cases:
                file.unlink(missing_ok=True)
