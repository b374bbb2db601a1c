"""What has been answered and sent, in one SQLite file that survives a kill at any moment.

It holds keyed names, UIDs of results, and answers; nothing of a patient.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from nnunet_ext.errors import InputError

FILE_NAME = "state.sqlite"
LONGEST_WAIT_S = 30.0
TABLES = """
CREATE TABLE IF NOT EXISTS deliveries (
    name TEXT PRIMARY KEY, content TEXT NOT NULL, outcome TEXT NOT NULL, seconds REAL NOT NULL
);
CREATE TABLE IF NOT EXISTS objects (
    uid TEXT NOT NULL, destination TEXT NOT NULL, answer TEXT NOT NULL, stored INTEGER NOT NULL,
    seconds REAL NOT NULL, PRIMARY KEY (uid, destination)
);
"""


class State:
    """The file of an output folder; :func:`opened_state` opens it."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    def outcome_of(self, delivery: str, content: str) -> str | None:
        """Return what became of a delivery with this content; None if it has not been answered."""
        row = self._connection.execute(
            "SELECT outcome FROM deliveries WHERE name = ? AND content = ?", (delivery, content)
        ).fetchone()
        return None if row is None else str(row[0])

    def has_changed(self, delivery: str, content: str) -> bool:
        """Return whether a delivery was answered with other content."""
        row = self._connection.execute(
            "SELECT 1 FROM deliveries WHERE name = ? AND content != ?", (delivery, content)
        ).fetchone()
        return row is not None

    def note_delivery(self, delivery: str, content: str, outcome: str) -> None:
        """Note what became of a delivery; its earlier content is forgotten."""
        with self._connection:
            self._connection.execute(
                "INSERT OR REPLACE INTO deliveries VALUES (?, ?, ?, ?)",
                (delivery, content, outcome, time.time()),
            )

    def is_stored(self, uid: str, destination: str) -> bool:
        """Return whether a destination has stored an object."""
        row = self._connection.execute(
            "SELECT 1 FROM objects WHERE uid = ? AND destination = ? AND stored", (uid, destination)
        ).fetchone()
        return row is not None

    def note_object(self, uid: str, destination: str, answer: str, *, stored: bool) -> None:
        """Note the final answer to an object."""
        with self._connection:
            self._connection.execute(
                "INSERT OR REPLACE INTO objects VALUES (?, ?, ?, ?, ?)",
                (uid, destination, answer, int(stored), time.time()),
            )


@contextmanager
def opened_state(output: Path) -> Iterator[State]:
    """Open the state of an output folder; made if absent.

    Raises:
        InputError: the file is not a state, or cannot be written.
    """
    file = output / FILE_NAME
    connection = None
    try:
        connection = sqlite3.connect(file, timeout=LONGEST_WAIT_S)
        connection.execute("PRAGMA synchronous = FULL")
        connection.executescript(TABLES)
        yield State(connection)
    except sqlite3.Error as error:
        raise InputError(
            f"{file}: cannot be used ({error}); free the disk, or remove the file to send all again"
        ) from error
    finally:
        if connection is not None:
            connection.close()
