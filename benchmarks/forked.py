"""Commands as forks of one process that has imported everything.

Hundreds of runs take minutes, each by itself.
"""

import importlib
import os
import resource
import signal
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

COMMANDS = ("inspect", "convert", "configure", "evaluate")
MOST_BYTES = (
    8 << 30
)  # of address space above what is imported already, so that a bad run does not take the machine
UNIT = 1 if sys.platform == "darwin" else 1024  # of what the system calls the largest resident set


@dataclass(frozen=True)
class Ended:
    """How a run ended.

    ``code`` is negative if a signal ended it, and None if it was stopped after its time.
    """

    code: int | None
    output: str
    seconds: float
    largest_bytes: int

    @property
    def has_traceback(self) -> bool:
        """Whether an error came through that nobody has put in words."""
        return "Traceback (most recent call last)" in self.output


class Run:
    """A command at work, in a process group of its own."""

    def __init__(self, command: str, arguments: Sequence[object], output: Path) -> None:
        self._output = output
        self._begin = time.monotonic()
        self._pid = os.fork()
        if self._pid == 0:
            _become(command, [str(argument) for argument in arguments], output)

    def kill(self) -> None:
        """Send SIGKILL to it and its workers."""
        try:
            os.killpg(self._pid, signal.SIGKILL)
        except ProcessLookupError:  # it has no group of its own yet
            os.kill(self._pid, signal.SIGKILL)

    def wait(self, most_seconds: float) -> Ended:
        """Wait for its end, or stop it."""
        stopped = False
        while True:
            pid, status, usage = os.wait4(self._pid, os.WNOHANG)
            if pid:
                break
            if not stopped and time.monotonic() - self._begin > most_seconds:
                self.kill()
                stopped = True
            time.sleep(0.005)
        code = None if stopped else os.waitstatus_to_exitcode(status)
        text = self._output.read_text(encoding="utf-8", errors="replace")
        return Ended(code, text, time.monotonic() - self._begin, usage.ru_maxrss * UNIT)


def import_everything() -> None:
    """Import what commands import, without starting a thread."""
    names = [f"nnunet_ext.commands.{command}" for command in COMMANDS]
    names += [
        "torch",
        "torch._dynamo",
        "SimpleITK",
        "nibabel",
        "pandas",
        "scipy.stats",
        "PIL.Image",
        "pydicom",
    ]
    names += [
        "nnunet_ext.training.streams.preprocessing",
        "nnunet_ext.evaluation.report.texts",
        "dataset_conversion.checking.inspection",
    ]
    for name in names:
        importlib.import_module(name)

    from nnunet_ext.own_trainers import trainers

    trainers()


def _become(command: str, arguments: list[str], output: Path) -> None:
    """Run the command in this process, and end it."""
    code = 70  # nothing that a command returns
    try:
        os.setsid()
        file = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        os.dup2(file, 1)
        os.dup2(file, 2)
        sys.stdout, sys.stderr = os.fdopen(1, "w", buffering=1), os.fdopen(2, "w", buffering=1)
        sys.argv = [f"nnUNetv2_ext_{command}", *arguments]
        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + MOST_BYTES, used + MOST_BYTES))
        module = importlib.import_module(f"nnunet_ext.commands.{command}")
        getattr(module, f"{command}_entry")(arguments)
    except SystemExit as end:
        failed = 0 if end.code is None else 1
        code = end.code if isinstance(end.code, int) else failed
    except BaseException:
        import traceback

        traceback.print_exc()
        code = 1
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
