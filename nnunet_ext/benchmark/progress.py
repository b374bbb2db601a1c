"""What a runner shows: a bar of runs with the time left, and the commands as they start."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from types import TracebackType

from nnunet_ext.benchmark.run import Run

_FORMAT = "{desc} {percentage:3.0f}%|{bar}| {n:.1f}/{total_fmt} runs [{elapsed}, {remaining} left]"


class Progress:
    """A bar that moves by a run's share at every epoch; only lines outside a terminal."""

    def __init__(self, runs: Sequence[Run]) -> None:
        from tqdm import tqdm

        self._total = len(runs)
        self._left = {run.name for run in runs}
        self._bar = tqdm(total=len(runs), bar_format=_FORMAT, disable=not sys.stderr.isatty())

    def __enter__(self) -> Progress:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: object, trace: TracebackType | None
    ) -> None:
        self._bar.close()

    def say(self, line: str) -> None:
        """Print a line above the bar."""
        self._bar.write(line, file=sys.stdout)
        sys.stdout.flush()

    def epoch(self, run: Run, number: int) -> None:
        """Show that a training has begun an epoch, counted from 0."""
        settings = {**run.suite.budget, **run.row.settings}
        epochs = int(settings.get("num_epochs", 1000))
        text = f"{run.name}, epoch {number} of {epochs}"
        self._bar.set_description_str(text, refresh=False)
        self._move(number / epochs)

    def done(self, run: Run) -> None:
        """Show that a run has ended, here or in another process."""
        self._left.discard(run.name)
        self._move(0)

    def _move(self, share: float) -> None:
        position = self._total - len(self._left) + share
        if self._bar.disable:
            return
        self._bar.n = position
        self._bar.refresh()
