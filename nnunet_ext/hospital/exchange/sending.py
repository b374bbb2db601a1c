"""Send the results of studies to archives: each object once, with its answer in the log."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from nnunet_ext.errors import first_line
from nnunet_ext.hospital.exchange.destinations import Answer, Connection, Destination, NotReached
from nnunet_ext.hospital.exchange.state import State
from nnunet_ext.hospital.survey import Survey

TRIES = 4
FIRST_PAUSE_S = 1.0  # doubled after every try


@dataclass
class Sent:
    """How many objects were stored, and how many were refused or not answered."""

    stored: int = 0
    before: int = 0
    refused: int = 0
    waiting: int = 0
    answers: list[dict[str, str]] = field(default_factory=list)

    @property
    def is_complete(self) -> bool:
        """Return whether every destination has every object."""
        return not (self.refused or self.waiting)


def results_folders(found: Survey, output: Path) -> list[Path]:
    """Return the folders of the studies that have results."""
    folders = [output / case.name for case in found.cases]
    return [folder for folder in folders if folder.is_dir()]


def objects_of(folder: Path) -> list[Path]:
    """Return the DICOM files of a study's results, in a fixed order."""
    return sorted(folder.rglob("*.dcm"))


def send_results(
    folders: Sequence[Path],
    destinations: Sequence[Destination],
    state: State,
    *,
    tries: int = TRIES,
    pause: Callable[[float], None] = time.sleep,
) -> Sent:
    """Send the results of studies; what a destination has stored before is left out.

    After a kill between an answer and its note, that one object is sent again under the same UID,
    by which archives know it.

    Args:
        folders: of the studies' results.
        destinations: all of them receive everything.
        state: what was sent before.
        tries: how often an archive that does not answer is tried in this run.
        pause: waits for so many seconds.
    """
    sent = Sent()
    for destination in destinations:
        for folder in folders:
            _send_study(folder, destination, state, sent, tries, pause)
    return sent


def _send_study(
    folder: Path,
    destination: Destination,
    state: State,
    sent: Sent,
    tries: int,
    pause: Callable[[float], None],
) -> None:
    uids = _uids_of(folder, sent)
    waiting = [file for file, uid in uids.items() if not state.is_stored(uid, destination.name)]
    sent.before += len(uids) - len(waiting)

    for attempt in range(tries):
        if not waiting:
            return
        if attempt:
            pause(FIRST_PAUSE_S * 2 ** (attempt - 1))

        try:
            with destination.connected(waiting) as connection:
                for file, answer in _answers(connection, list(waiting)):
                    state.note_object(
                        uids[file], destination.name, answer.text, stored=answer.stored
                    )
                    waiting.remove(file)
                    _log(folder, file, destination, answer, sent)
        except NotReached as error:
            sys.stderr.write(f"{folder.name}: {error}; try {attempt + 1} of {tries}\n")

    sent.waiting += len(waiting)


def _answers(connection: Connection, files: Sequence[Path]) -> Iterator[tuple[Path, Answer]]:
    for file in files:
        try:
            yield file, connection.store(file)
        except (OSError, AttributeError, NotImplementedError) as error:
            if isinstance(error, ConnectionError):
                raise NotReached(first_line(error)) from error
            yield file, Answer(False, f"cannot be read ({first_line(error)})")


def _log(folder: Path, file: Path, destination: Destination, answer: Answer, sent: Sent) -> None:
    name = f"{folder.name}/{file.relative_to(folder).as_posix()}"
    sys.stderr.write(f"{name} -> {destination.name}: {answer.text}\n")
    sent.answers.append({"object": name, "destination": destination.name, "answer": answer.text})
    if answer.stored:
        sent.stored += 1
    else:
        sent.refused += 1


def _uids_of(folder: Path, sent: Sent) -> dict[Path, str]:
    """Return the UID of each object; one that cannot be read counts as refused."""
    from pydicom import dcmread

    uids = {}
    for file in objects_of(folder):
        try:
            header = dcmread(file, specific_tags=["SOPInstanceUID"], stop_before_pixels=True)
            uids[file] = str(header.SOPInstanceUID)
        except Exception as error:  # pydicom raises a dozen kinds
            sent.refused += 1
            name = f"{folder.name}/{file.relative_to(folder).as_posix()}"
            sys.stderr.write(f"{name}: is damaged ({type(error).__name__}); predict it again\n")
    return uids
