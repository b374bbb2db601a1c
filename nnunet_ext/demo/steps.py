"""Steps of a demo: commands of this environment, each with its log; finished ones are skipped."""

from __future__ import annotations

import re
import subprocess
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TextIO

from nnunet_ext.errors import InputError
from nnunet_ext.stock.commands import command_environment, console_script

NNUNET_FOLDERS = ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results")
PLAN = ("nnUNetv2_plan_and_preprocess", "-c", "2d", "--verify_dataset_integrity")
EPOCH_LINE = re.compile(r"Epoch (\d+)\s*$")


@dataclass
class Steps:
    """Steps below ``root``; each prints what it does and keeps its log in ``root/logs``.

    Args:
        root: folder of everything that the demo writes.
        device: of trainings and predictions.
        count: number of steps, for what is printed.
    """

    root: Path
    device: str
    count: int
    done: int = field(default=0, init=False)
    started: float = field(default_factory=time.monotonic, init=False)

    @property
    def downloads(self) -> Path:
        """The folder of generated downloads."""
        return self.root / "downloads"

    def make_folders(self) -> None:
        """Make the folders of downloads, logs and nnU-Net, unless they are there."""
        for name in ("downloads", "logs", *NNUNET_FOLDERS):
            folder = self.root / name
            folder.mkdir(parents=True, exist_ok=True)

    def announce(self, what: str) -> None:
        """Count the step and print what it does."""
        self.done += 1
        print(f"[{self.done:2}/{self.count}] {what}", flush=True)

    def call(self, name: str, *arguments: str, skip: bool = False, epochs: int = 0) -> None:
        """Run a console script of this environment; a training shows its epochs.

        Raises:
            InputError: it failed; names the log.
        """
        shown = " ".join([name, *arguments])
        shown = shown.replace(str(self.root), self.root.name)
        if skip:
            self.announce(f"{shown}   (done before)")
            return

        self.announce(shown)
        log = self.root / "logs" / f"{self.done:02}_{name}.log"
        with (
            log.open("w") as file,
            subprocess.Popen(
                [console_script(name), *arguments],
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                env=self.environment(),
            ) as process,
        ):
            assert process.stdout is not None
            follow(process.stdout, file, epochs)

        if process.returncode != 0:
            lines = log.read_text().strip().splitlines()
            last = lines[-1] if lines else "no output"
            raise InputError(f"{log}: {name} failed: {last}; fix that and run the demo again")

    def environment(self) -> dict[str, str]:
        """Return nnU-Net's folders below the demo's, and two worker processes."""
        folders = {name: str(self.root / name) for name in NNUNET_FOLDERS}
        return command_environment(**folders, nnUNet_def_n_proc="2", nnUNet_n_proc_DA="2")

    def show(self, files: Iterable[Path]) -> None:
        """Print how long it took, and what to look at.

        Raises:
            AssertionError: the number of steps was announced wrongly.
        """
        assert self.done == self.count
        minutes = (time.monotonic() - self.started) / 60
        print(f"\nThe demo took {minutes:.1f} minutes on {self.device}. Look at:")
        for file in files:
            print(f"  {file}")


def follow(output: Iterable[str], log: TextIO, epochs: int) -> None:
    """Copy the output to the log; count epochs on a progress bar."""
    from tqdm import tqdm

    with tqdm(total=epochs, unit="epoch", leave=False, disable=not epochs) as bar:
        for line in output:
            log.write(line)
            match = EPOCH_LINE.search(line)
            if match:
                epoch = int(match[1])
                bar.update(epoch - bar.n)
