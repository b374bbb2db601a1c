"""The headers of all DICOM files below a folder, read in worker processes."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

from nnunet_ext.dicom.reading.headers import Slice, read_headers
from nnunet_ext.errors import InputError
from nnunet_ext.worker_processes import in_worker_processes

CHUNK = 1024  # files per task of a worker; fewer files are read before a worker has started
Rows = list[list]  # of a file: one per slice, the fields after the path
_SYSTEM_NAMES = frozenset({"__MACOSX", "Thumbs.db", "desktop.ini"})


@dataclass
class Scan:
    """What lies in a folder.

    ``damaged`` maps each file that should be readable to the line that says why it is not;
    ``others`` counts the files of other kinds.
    """

    slices: list[Slice] = field(default_factory=list)
    damaged: dict[str, str] = field(default_factory=dict)
    others: int = 0


def scan(folder: Path, *, processes: int = 1) -> Scan:
    """Read the headers of every file below ``folder``, whatever the files and folders are called.

    Slices come in the order of their paths, with ``path`` as ``folder`` joined with the rest. Links
    to folders are not followed. Hidden files and what operating systems leave behind are ignored.

    Args:
        folder: of any depth.
        processes: worker processes.

    Raises:
        InputError: there is no such folder.
    """
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder; -i names a folder of DICOM files")

    files = sorted(_files(folder))
    results = _results(files, processes)
    return _as_scan(results)


def _files(folder: Path) -> Iterator[str]:
    for parent, folders, names in os.walk(folder):
        folders[:] = [
            name for name in folders if not name.startswith(".") and name not in _SYSTEM_NAMES
        ]
        for name in names:
            path = os.path.join(parent, name)  # noqa: PTH118 - of 750 000 files
            if not name.startswith(".") and name not in _SYSTEM_NAMES and os.path.isfile(path):  # noqa: PTH113
                yield path


def _results(files: list[str], processes: int) -> Iterator[tuple[str, Rows | str]]:
    """Yield each file with the rows of its slices, or with the line that says what is wrong."""
    from tqdm import tqdm

    chunks = []
    for begin in range(0, len(files), CHUNK):
        end = begin + CHUNK
        chunks.append(tuple(files[begin:end]))

    with tqdm(total=len(files), unit="file", disable=not sys.stderr.isatty()) as progress:
        for chunk, results in in_worker_processes(_read_chunk, chunks, processes):
            yield from zip(chunk, results, strict=True)
            progress.update(len(chunk))


def _read_chunk(files: tuple[str, ...]) -> list[Rows | str]:
    results: list[Rows | str] = []
    for file in files:
        try:
            results.append([list(item[1:]) for item in read_headers(Path(file))])
        except InputError as error:
            results.append(str(error))
    return results


def _as_scan(results: Iterable[tuple[str, Rows | str]]) -> Scan:
    slices: dict[str, list[Slice]] = {}
    found = Scan()
    for file, result in results:
        if isinstance(result, str):
            found.damaged[file] = result
        elif result:
            slices[file] = [_slice_of(file, row) for row in result]
        else:
            found.others += 1
    found.slices = [item for file in sorted(slices) for item in slices[file]]
    found.damaged = dict(sorted(found.damaged.items()))
    return found


def _slice_of(file: str, row: list) -> Slice:
    values = map(_shared, row)
    return Slice._make([file, *values])


def _shared(value: Any) -> Any:
    """Return a header's value, stored once for all slices that have it.

    Copies of it for 750 000 slices would fill gigabytes.
    """
    if isinstance(value, str):
        return sys.intern(value)
    if isinstance(value, tuple):
        return _vector(value)
    return value


@lru_cache(maxsize=4096)
def _vector(value: tuple[float, ...]) -> tuple[float, ...]:
    return value
