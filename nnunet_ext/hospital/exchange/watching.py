"""Answer studies as they finish arriving in a folder, each once, whatever ends the program.

A study counts as answered when its folder of results is in place, which happens at once, and as
sent when the state says so. So a kill at any moment costs at most the work on one study.
"""

from __future__ import annotations

import hashlib
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from nnunet_ext.errors import InputError
from nnunet_ext.files.locks import alone
from nnunet_ext.files.whole_file import TEMPORARY_PREFIX
from nnunet_ext.hospital.each_case import CaseOutcomes
from nnunet_ext.hospital.exchange.destinations import Destination
from nnunet_ext.hospital.exchange.options import QUIET_S
from nnunet_ext.hospital.exchange.sending import Sent, results_folders, send_results
from nnunet_ext.hospital.exchange.state import State, opened_state
from nnunet_ext.hospital.survey import Case, Survey
from nnunet_ext.keyed_names import keyed_name

LOCK = ".watch.lock"
POLL_S = 2.0
TRIES = 3  # of a study that fails
PAUSE_BETWEEN_TRIES_S = 60.0


class Work(Protocol):
    """What is done with a delivery."""

    def survey(self, folder: Path) -> Survey:
        """Choose the series of a folder."""

    def predict(self, cases: Sequence[Case]) -> CaseOutcomes:
        """Predict cases, and write their results."""

    def finished(self, found: Survey, outcomes: CaseOutcomes, sent: Sent) -> None:
        """Note what was done."""


@dataclass(frozen=True)
class Delivery:
    """A folder directly below the watched one; ``content`` changes with its files."""

    folder: Path
    content: str

    @property
    def name(self) -> str:
        """Return its keyed name; folders are often called after patients."""
        return keyed_name("delivery", self.folder.name)


@dataclass
class Watch:
    """A watched folder, and what has been seen of it since the start."""

    folder: Path
    output: Path
    work: Work
    destinations: Sequence[Destination] = ()
    quiet_s: float = QUIET_S
    clock: Callable[[], float] = time.monotonic
    _seen_since: dict[Delivery, float] = field(default_factory=dict)
    _tries: dict[Delivery, int] = field(default_factory=dict)
    _not_before: dict[Delivery, float] = field(default_factory=dict)

    def run(self, stop: Callable[[], bool] = lambda: False, poll_s: float = POLL_S) -> None:
        """Watch until ``stop``.

        Raises:
            InputError: another program watches for the same output, or the state is damaged.
        """
        with (
            alone(self.output / LOCK, "another watch writes here"),
            opened_state(self.output) as state,
        ):
            for leftover in self.output.glob(f"{TEMPORARY_PREFIX}*"):
                shutil.rmtree(leftover, ignore_errors=True)
                with suppress(OSError):
                    leftover.unlink()

            while not stop():
                for delivery in self.ready(state):
                    self.answer(delivery, state)
                time.sleep(poll_s)

    def ready(self, state: State) -> list[Delivery]:
        """Return deliveries that have not changed for the quiet period and have no answer."""
        now = self.clock()
        present = list(deliveries_in(self.folder))
        seen_since = {delivery: self._seen_since.get(delivery, now) for delivery in present}
        self._seen_since = seen_since

        found = []
        for delivery in present:
            is_quiet = now - seen_since[delivery] >= self.quiet_s
            is_due = now >= self._not_before.get(delivery, now)
            if is_quiet and is_due and state.outcome_of(delivery.name, delivery.content) is None:
                found.append(delivery)
        return found

    def answer(self, delivery: Delivery, state: State) -> None:
        """Predict what has no results yet, and send what was not sent.

        A delivery that fails, or whose archive does not answer, is tried again later.
        """
        try:
            found = self.work.survey(delivery.folder)
        except (InputError, OSError) as error:
            self._failed(delivery, state, f"cannot be read ({type(error).__name__})")
            return

        new = [case for case in found.cases if not (self.output / case.name).is_dir()]
        outcomes = self.work.predict(new)
        if state.has_changed(delivery.name, delivery.content):
            _say_what_changed(found, new)

        folders = results_folders(found, self.output)
        sent = send_results(folders, self.destinations, state, tries=1)
        self._finish(found, outcomes, sent)

        if outcomes.failed:
            self._failed(delivery, state, "; ".join(outcomes.failed.values()))
        elif sent.waiting:
            self._not_before[delivery] = self.clock() + PAUSE_BETWEEN_TRIES_S
        else:
            state.note_delivery(delivery.name, delivery.content, _outcome(found, sent))

    def _finish(self, found: Survey, outcomes: CaseOutcomes, sent: Sent) -> None:
        """Write index and record; a full disk does not stop the watch, whose results are whole."""
        try:
            self.work.finished(found, outcomes, sent)
        except OSError as error:
            sys.stderr.write(f"index or record cannot be written ({error.strerror})\n")

    def _failed(self, delivery: Delivery, state: State, reason: str) -> None:
        """Try a delivery again later, but not for ever."""
        self._tries[delivery] = self._tries.get(delivery, 0) + 1
        if self._tries[delivery] < TRIES:
            self._not_before[delivery] = self.clock() + PAUSE_BETWEEN_TRIES_S
            return
        sys.stderr.write(f"{delivery.name}: given up after {TRIES} tries: {reason}\n")
        state.note_delivery(delivery.name, delivery.content, f"failed: {reason}")


def _say_what_changed(found: Survey, new: Sequence[Case]) -> None:
    """Tell which results are of an earlier state of their delivery."""
    for case in found.cases:
        if case not in new:
            sys.stderr.write(
                f"{case.name}: files arrived after it was answered; to predict it again, remove "
                "its folder of results and rename its folder of images\n"
            )


def _outcome(found: Survey, sent: Sent) -> str:
    if not found.cases:
        return "holds no series that the rules take"
    return "answered" if sent.is_complete else "answered, but objects were refused"


def deliveries_in(folder: Path) -> Iterator[Delivery]:
    """Yield the deliveries of a folder: its sub-folders that hold files, in order of their names.

    Files and folders whose names begin with a dot are being written.

    Raises:
        InputError: there is no such folder.
    """
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder to watch; make it, or choose another -i")
    for path in sorted(folder.iterdir()):
        if path.is_dir() and not path.name.startswith("."):
            content = _content_of(path)
            if content:
                yield Delivery(path, content)


def _content_of(folder: Path) -> str:
    """Return a digest of names, sizes and times of the files below a folder; empty for none."""
    digest = hashlib.sha256()
    count = 0
    for path in sorted(folder.rglob("*")):
        try:
            facts = path.stat()
        except OSError:  # renamed at this moment
            continue
        if path.is_file():
            count += 1
            name = path.relative_to(folder).as_posix()
            digest.update(f"{name}\0{facts.st_size}\0{facts.st_mtime_ns}\n".encode())
    return digest.hexdigest() if count else ""
