"""The headers of all DICOM files below a folder, read in worker processes and kept in a cache."""

from __future__ import annotations

import json
import os
import sqlite3
import sys
from collections.abc import Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

from nnunet_ext.dicom.reading.headers import Slice, read_headers
from nnunet_ext.errors import InputError
from nnunet_ext.worker_processes import first_line, in_worker_processes

CHUNK = 1024  # files per task of a worker; fewer files are read before a worker has started
CACHE_VERSION = 2  # of what a cache row holds
Rows = list[list]  # of a file: one per slice, the fields after the path as JSON values
_SYSTEM_NAMES = frozenset({"__MACOSX", "Thumbs.db", "desktop.ini"})


@dataclass
class Scan:
    """What lies in a folder.

    ``damaged``: files that should be readable, each with the line that says why not; ``others``:
    count of non-DICOM.
    """

    slices: list[Slice] = field(default_factory=list)
    damaged: dict[str, str] = field(default_factory=dict)
    others: int = 0


def scan(folder: Path, *, processes: int = 1, cache: Path | None = None) -> Scan:
    """Read the headers of every file below ``folder``, whatever the files and folders are called.

    Slices come in the order of their paths, with ``path`` as ``folder`` joined with the rest. Links
    to folders are not followed. Hidden files and what operating systems leave behind are passed
    over.

    Args:
        folder: of any depth.
        processes: worker processes.
        cache: SQLite file, made if absent, readable by its owner only (it holds patient
            identifiers); a file is read again when its size or time of change differs. Must lie
            outside ``folder``.

    Raises:
        InputError: no such folder, or a cache that lies in it or is another kind of file.
    """
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder; -i names a folder of DICOM files")
    files = sorted(_files(folder))
    if cache is None:
        return _as_scan(_results(files, processes))
    if cache.resolve().is_relative_to(folder.resolve()):
        raise InputError(f"{cache}: lies in the folder that is scanned; choose a place outside")
    with closing(_open_cache(cache)) as database:
        try:
            return _as_scan(_cached_results(files, processes, database))
        except (sqlite3.Error, ValueError, TypeError) as error:
            raise InputError(
                f"{cache}: cannot be used as cache ({first_line(error)}); delete it"
            ) from error


def _cached_results(
    files: list[str], processes: int, database: sqlite3.Connection
) -> Iterator[tuple[str, Rows | str]]:
    """As :func:`_results`; reads only the files that the cache does not hold as they are now."""
    pending = []
    states = {}
    for file in files:
        state = _state(file)
        query = "SELECT content FROM file WHERE path = ? AND state = ?"
        row = database.execute(query, (_key(file), state)).fetchone()
        if row:
            yield file, json.loads(row[0])
        else:
            pending.append(file)
            states[file] = state
    for number, (file, result) in enumerate(_results(pending, processes), start=1):
        row = (_key(file), states[file], json.dumps(result))
        database.execute("INSERT OR REPLACE INTO file VALUES (?, ?, ?)", row)
        if number % (4 * CHUNK) == 0:
            database.commit()  # a kill loses little
        yield file, result
    database.commit()


def _open_cache(cache: Path) -> sqlite3.Connection:
    try:
        cache.parent.mkdir(parents=True, exist_ok=True)
        os.close(os.open(cache, os.O_RDWR | os.O_CREAT, 0o600))
        database = sqlite3.connect(cache)
        (version,) = database.execute("PRAGMA user_version").fetchone()
        tables = {
            name
            for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")
        }
    except (OSError, sqlite3.Error) as error:
        raise InputError(
            f"{cache}: is no cache of DICOM headers ({error}); choose another file"
        ) from error
    if tables - {"file"} or (tables and version == 0):
        database.close()
        raise InputError(f"{cache}: is a database of something else; choose another file")
    if version != CACHE_VERSION:
        database.execute("DROP TABLE IF EXISTS file")
        database.execute("CREATE TABLE file (path BLOB PRIMARY KEY, state TEXT, content TEXT)")
        database.execute(f"PRAGMA user_version = {CACHE_VERSION}")
    return database


def _key(file: str) -> bytes:
    return os.fsencode(os.path.realpath(file))  # bytes, because not every name on a disc is text


def _state(file: str) -> str:
    status = os.stat(file)  # noqa: PTH116 - of 750 000 files
    return f"{status.st_size}-{status.st_mtime_ns}"


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
    """Each file with the rows of its slices, or with the line that says what is wrong."""
    from tqdm import tqdm

    chunks = [tuple(files[begin : begin + CHUNK]) for begin in range(0, len(files), CHUNK)]
    with tqdm(total=len(files), unit="file", disable=not sys.stderr.isatty()) as progress:
        for chunk, results in in_worker_processes(_read_chunk, chunks, processes):
            yield from zip(chunk, results, strict=True)
            progress.update(len(chunk))


def _read_chunk(files: tuple[str, ...]) -> list[Rows | str]:
    results: list[Rows | str] = []
    for file in files:
        try:
            results.append(
                [list(item[1:]) for item in read_headers(Path(file))]
            )  # a JSON value, without the path
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
            slices[file] = [Slice._make([file, *map(_shared, row)]) for row in result]
        else:
            found.others += 1
    found.slices = [item for file in sorted(slices) for item in slices[file]]
    found.damaged = dict(sorted(found.damaged.items()))
    return found


def _shared(value: Any) -> Any:
    """A header's value, kept once for all slices that have it: 750 000 slices would fill
    gigabytes.
    """
    if isinstance(value, str):
        return sys.intern(value)
    return _vector(tuple(value)) if isinstance(value, list | tuple) else value


@lru_cache(maxsize=4096)
def _vector(value: tuple[float, ...]) -> tuple[float, ...]:
    return value
