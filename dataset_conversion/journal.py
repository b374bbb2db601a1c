"""The journal of a conversion: which converter, which options, which cases are done.

One JSON object per line. The first line says what made the folder; each finished case adds one line, written only after
its files lie in place. So a kill loses at most the cases in work, and a folder without journal is not ours.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from dataset_conversion.case_writer import TEMPORARY_PREFIX, Record
from nnunet_ext.errors import InputError

JOURNAL_NAME = "conversion.jsonl"
CASE_FOLDERS = tuple(f"{kind}{part}" for part in ("Tr", "Ts", "Un") for kind in ("images", "labels"))
OUTPUT_NAME = re.compile(rf"({'|'.join(CASE_FOLDERS)})/[^/\\.][^/\\]*")


class Journal:
    """Appends finished cases to the journal of a data set; ``records`` holds them by case."""

    def __init__(self, folder: Path) -> None:
        path = folder / JOURNAL_NAME
        self.records = read_records(path)
        self._stream = path.open("r+", encoding="utf-8", newline="")
        text = self._stream.read()
        self._stream.seek(len(text[: text.rfind("\n") + 1].encode()))  # drop the half line that a kill may have left
        self._stream.truncate()

    def add(self, record: Record) -> None:
        """Note a finished case."""
        self.records[record.case] = record
        self._stream.write(json.dumps(asdict(record)) + "\n")
        self._stream.flush()
        os.fsync(self._stream.fileno())

    def close(self) -> None:
        """Close the file."""
        self._stream.close()


def start_journal(folder: Path, header: dict[str, Any]) -> None:
    """Begin a journal without cases, in place of an earlier one."""
    temporary = folder / f"{TEMPORARY_PREFIX}{JOURNAL_NAME}"
    temporary.write_text(json.dumps(header) + "\n", encoding="utf-8")
    temporary.replace(folder / JOURNAL_NAME)


@contextmanager
def only_writer(folder: Path) -> Iterator[None]:
    """Hold a lock on the folder; a kill releases it.

    Raises:
        InputError: another process holds it.
    """
    try:
        import fcntl
    except ImportError:  # Windows; two runs at once then only repeat each other's work
        yield
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise InputError(f"{folder}: another conversion is writing it; wait for its end") from error
        yield
    finally:
        os.close(descriptor)


def read_header(path: Path) -> dict[str, Any] | None:
    """First line of a journal; None where it is no journal of ours."""
    try:
        with path.open(encoding="utf-8") as stream:
            header = json.loads(stream.readline())
    except (OSError, ValueError):
        return None
    return header if isinstance(header, dict) and {"converter", "settings"} <= header.keys() else None


def read_records(path: Path) -> dict[str, Record]:
    """Records of a journal by case; lines that a kill cut short are left out."""
    records: dict[str, Record] = {}
    if not path.is_file():
        return records
    for line in path.read_text(encoding="utf-8").splitlines()[1:]:
        try:
            record = Record(**json.loads(line))
        except (ValueError, TypeError):
            continue
        if all(OUTPUT_NAME.fullmatch(name) for name in record.outputs):  # a doctored journal deletes nothing outside
            records[record.case] = record
    return records


def is_complete(folder: Path, record: Record) -> bool:
    """Whether all files of a finished case still lie there at their size."""
    files = {folder / name: size for name, size in record.outputs.items()}
    return all(file.is_file() and file.stat().st_size == size for file, size in files.items())


def files_in(folder: Path) -> set[str]:
    """Names like ``imagesTr/x_0000.png`` of everything visible in the data set's case folders."""
    return {f"{name}/{file.name}" for name in CASE_FOLDERS for file in (folder / name).glob("[!.]*")}


def remove_leftovers(folder: Path) -> None:
    """Delete temporary files that a kill left behind."""
    for name in CASE_FOLDERS:
        for file in (folder / name).glob(f"{TEMPORARY_PREFIX}*"):
            file.unlink(missing_ok=True)
