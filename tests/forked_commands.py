"""Console scripts as forked processes: torch and the like are imported once per test process, not
once per command.

Python's fork server does the work. It has imported :data:`SLOW_TO_IMPORT` and nothing that starts
threads, so its children are as good as fresh interpreters. nnU-Net and this package are imported by
each child, which therefore sees its own environment. Set ``REAL_COMMANDS=1`` to start a fresh
interpreter for every command instead.
"""

import multiprocessing
import os
import signal
import sys
import tempfile
from importlib.metadata import entry_points
from multiprocessing import context
from pathlib import Path

from nnunet_ext import discovery

SLOW_TO_IMPORT = [
    "torch._dynamo",
    "SimpleITK",
    "nibabel",
    "seaborn",
    "skimage.measure",
    "sklearn",
    "timm",
]
FORKED = not os.environ.get("REAL_COMMANDS")
TIMEOUT_SECONDS = 600

_SERVER = multiprocessing.get_context("forkserver")
_SERVER.set_forkserver_preload(SLOW_TO_IMPORT)


class Command:
    """A running console script of this environment, with its workers in a session of its own."""

    def __init__(
        self,
        name: str,
        arguments: list[str],
        environment: dict[str, str],
        folder: Path,
        forked: bool = FORKED,
    ) -> None:
        file, self._output = tempfile.mkstemp(".txt", f"{name}_", folder)
        os.close(file)
        self._process = _SERVER.Process(
            target=_become, args=(name, arguments, environment, folder, self._output, forked)
        )
        self._process.start()

    @property
    def running(self) -> bool:
        """Whether it has not ended yet."""
        return self._process.is_alive()

    @property
    def output(self) -> str:
        """What it has printed so far, with its errors."""
        return Path(self._output).read_text()

    def wait(self) -> int:
        """Wait for its end and return the exit code, negative where a signal ended it."""
        self._process.join(TIMEOUT_SECONDS)
        if self._process.exitcode is None:
            self.kill()
            raise TimeoutError(f"no end after {TIMEOUT_SECONDS} s:\n{self.output}")
        return self._process.exitcode

    def kill(self) -> None:
        """Send SIGKILL to it and its workers."""
        assert self._process.pid is not None
        os.killpg(self._process.pid, signal.SIGKILL)
        self._process.join()


def _become(
    name: str,
    arguments: list[str],
    environment: dict[str, str],
    folder: Path,
    output: str,
    forked: bool,
) -> None:
    """Turn this process into the console script."""
    os.setsid()
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)

    file = os.open(output, os.O_WRONLY | os.O_APPEND)
    os.dup2(file, sys.stdout.fileno())
    os.dup2(file, sys.stderr.fileno())

    program = str(Path(sys.executable).parent / name)
    sys.argv = [program, *arguments]
    if not forked:
        os.execv(program, sys.argv)

    discovery.activate()  # as our start-up file does in a fresh interpreter
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    os.cpu_count = lambda: (
        1
    )  # nnU-Net gives torch that many threads; from Python 3.13 on it is PYTHON_CPU_COUNT=1
    # workers are forked, too, also where nnU-Net asks for spawned ones: there are no threads that a
    # fork would lose
    multiprocessing.set_start_method("fork", force=True)
    context._concrete_contexts["spawn"] = context._concrete_contexts["fork"]  # type: ignore[attr-defined]
    (entry,) = entry_points(group="console_scripts", name=name)
    sys.exit(entry.load()())
