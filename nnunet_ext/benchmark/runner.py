"""Carry out the runs of a suite with stock commands.

Several processes, also on several machines, share the work. Two locks guard a run. The runner holds
``.lock`` while it works on it, so that others choose another run. Each command holds
``.command.lock`` itself until it ends, so that after a kill of the runner nobody starts a second
one beside the orphan. Both end with their process, however it is killed. What several runs share,
planning and the preprocessing of streams, is guarded in the same way.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TextIO

from nnunet_ext.benchmark import measured
from nnunet_ext.benchmark.progress import Progress
from nnunet_ext.benchmark.run import Place, Run, write_suite_plans
from nnunet_ext.benchmark.suite import MadeData, Suite
from nnunet_ext.errors import InputError
from nnunet_ext.files import locked_program
from nnunet_ext.files.atomic_json import write_json
from nnunet_ext.files.folders import make_folder
from nnunet_ext.files.locked_program import BUSY
from nnunet_ext.files.locks import held, taken
from nnunet_ext.stock.commands import program

DECLARED = "suite.json"
PLANNED = ".planned"
COMMAND_LOCK = ".command.lock"
EPOCH_LINE = re.compile(r"Epoch (\d+)\s*$")
LOOK_EVERY_SECONDS = 0.2


def prepare(suite: Suite, place: Place) -> None:
    """Make the folders and the data, unless they are there.

    Raises:
        InputError: the folder holds runs of another suite, or of rows declared differently.
    """
    logs = place.root / "logs"
    for folder in (place.raw, place.preprocessed, place.results, logs):
        make_folder(folder, "choose another -o")
    with held(place.root / ".lock"):
        _require_same(suite, place.root / DECLARED)
        _write_data(suite, place)


def _require_same(suite: Suite, path: Path) -> None:
    """Check that runs of one table were declared alike; further rows are welcome."""
    declared = json.loads(json.dumps(suite.declared()))  # as it will be read back
    before = declared
    if path.is_file():
        before = json.loads(path.read_text(encoding="utf-8"))
    if before["shared"] != declared["shared"]:
        raise InputError(f"{path}: holds runs of another suite or budget; choose another -o")

    rows = before["rows"]
    for name, row in declared["rows"].items():
        if rows.setdefault(name, row) != row:
            raise InputError(
                f"{path}: row {name} was declared differently; rename it, or choose another -o"
            )
    write_json({**declared, "rows": rows}, path)


def _write_data(suite: Suite, place: Place) -> None:
    written = place.root / ".data_written"
    if written.is_file():
        return
    unfinished = place.root / ".raw.unfinished"
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir()
    suite.write_data(unfinished)
    for dataset in sorted(unfinished.iterdir()):
        target = place.raw / dataset.name
        if not target.exists():
            dataset.rename(target)
    shutil.rmtree(unfinished)
    written.touch()


class Runner:
    """Carry out runs; try each once."""

    def __init__(self, progress: Progress) -> None:
        self.progress = progress
        self.attempted: set[str] = set()

    def run_all(self, runs: Sequence[Run]) -> None:
        """Carry out all runs, also after others failed.

        Those that another process is working on come last.
        """
        busy = []
        for run in runs:
            is_done = self.carry_out(run)
            if not is_done:
                busy.append(run)
        for run in busy:
            self.progress.say(f"{run.name}: waiting for another process")
            self.carry_out(run, wait=True)

    def carry_out(self, run: Run, wait: bool = False) -> bool:
        """Bring a run to its end, from where it is; failures are printed and noted in its folder.

        Returns:
            False if another process is working on it, or on its first stage, and ``wait`` is off.
        """
        first = run.first_stage
        if first is not None and not first.finished and not self.carry_out(first, wait):
            return False

        run.folder.mkdir(parents=True, exist_ok=True)
        lock = run.folder / ".lock"
        if wait:
            with held(lock):
                failed_elsewhere = run.failure.is_file()
                if not run.finished and not failed_elsewhere:
                    self._attempt(run)
        else:
            with taken(lock) as ours:
                if not ours:
                    return False
                if not run.finished:
                    self._attempt(run)
        if run.finished and run.suite.discard_checkpoints:
            run.discard_checkpoints()
        self.progress.done(run)
        return True

    def _attempt(self, run: Run) -> None:
        if run.name in self.attempted:
            return
        self.attempted.add(run.name)
        run.failure.unlink(missing_ok=True)
        try:
            self._work(run)
        except InputError as error:
            run.failure.write_text(f"{error}\n", encoding="utf-8")
            self.progress.say(f"{run.name}: failed: {error}")

    def _work(self, run: Run) -> None:
        """Do all steps of a run; finished ones are skipped."""
        if run.first_stage is not None and not run.first_stage.finished:
            raise InputError(f"its first stage {run.first_stage.name} has failed")
        self._plan(run)
        if not run.training.trained:
            self._configure(run)
            self._train(run)
        if not run.row.tested:
            return

        own = run.folder / COMMAND_LOCK
        if not run.predictions.is_dir():
            unfinished = run.folder / ".predictions.unfinished"
            self._execute(run, lambda: run.predict(unfinished), own)
            unfinished.rename(run.predictions)
        self._execute(run, run.evaluate, own)

    def _plan(self, run: Run) -> None:
        """Make, plan and preprocess the labelled data set, once for all runs that use it."""
        lock = run.place.root / f".plan_{run.dataset_number}.lock"
        of_command = lock.with_suffix(COMMAND_LOCK)
        with held(lock):
            planned = run.place.preprocessed / run.dataset / PLANNED
            if planned.is_file():
                return

            is_made = isinstance(run.row.trains_on, MadeData)
            raw = run.place.raw / run.dataset
            if is_made and not raw.is_dir():
                self._execute(run, run.make_data, of_command)
            self._execute(run, run.plan, of_command)
            folder = run.place.preprocessed / run.dataset
            write_suite_plans(run.suite, folder)
            (folder / PLANNED).touch()

    def _configure(self, run: Run) -> None:
        """Configure one run at a time, because the rows share the streams it preprocesses."""
        lock = run.place.root / f".configure_{run.dataset_number}.lock"
        of_command = lock.with_suffix(COMMAND_LOCK)
        with held(lock):
            self._execute(run, run.configure, of_command)

    def _train(self, run: Run) -> None:
        measuring = [sys.executable, "-m", measured.__name__, str(run.measured)]
        lock = run.folder / COMMAND_LOCK
        while not run.training.trained:
            command = run.train()
            has_run = self._start(run, command, lock, measuring)
            if has_run and not run.training.trained:
                raise InputError(f"nnUNetv2_train ended without a final checkpoint ({run.log})")

    def _execute(self, run: Run, command: Callable[[], list[str]], lock: Path) -> None:
        """Run a command to its end, after any orphan of a killed runner that still runs it."""
        while not self._start(run, command(), lock):
            pass

    def _start(self, run: Run, words: list[str], lock: Path, prefix: Sequence[str] = ()) -> bool:
        """Run a command that holds a lock.

        Args:
            run: its log receives the output.
            words: the command.
            lock: of the command.
            prefix: program that runs the command.

        Returns:
            False if an orphan of a killed runner held the lock; it has ended now.

        Raises:
            InputError: it ended with an error; gives its last line.
        """
        self.progress.say(shlex.join(words))
        locked = [sys.executable, "-m", locked_program.__name__, str(lock)]
        locked += [*prefix, *program(words)]
        code, last = self._follow(run, locked, words)
        if code == BUSY:
            self.progress.say(f"{run.name}: waiting for a command of a killed runner")
            with held(lock):
                return False
        if code:
            raise InputError(f"{words[0]} ended with code {code}: {last} ({run.log})")
        return True

    def _follow(self, run: Run, command: Sequence[str], shown: Sequence[str]) -> tuple[int, str]:
        """Run a command and return its exit code and last line.

        The output goes to the run's log, where an orphan may go on writing.
        """
        last = "no output"
        with (
            run.log.open("ab", buffering=0) as log,
            run.log.open(encoding="utf-8", errors="replace") as reading,
        ):
            log.write(f"$ {shlex.join(shown)}\n".encode())
            reading.seek(0, os.SEEK_END)
            with subprocess.Popen(
                command, stdout=log, stderr=log, env=run.place.environment()
            ) as process:
                for line in _lines(reading, process):
                    last = line.strip() or last
                    match = EPOCH_LINE.search(line)
                    if match:
                        self.progress.epoch(run, int(match[1]))
        return process.returncode, last


def _lines(file: TextIO, process: subprocess.Popen[bytes]) -> Iterator[str]:
    """Yield lines as a process writes them, until it has ended."""
    rest = ""
    running = True
    while running:
        running = process.poll() is None
        *lines, rest = (rest + file.read()).split("\n")
        yield from lines
        if running:
            time.sleep(LOOK_EVERY_SECONDS)
    yield rest
