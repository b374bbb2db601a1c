"""Another process at work, in which locks that this one would simply take again are held."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def another_process(folder: Path, shared: bool = False) -> Iterator[int]:
    """A process that converts into the folder, as far as locks tell; yields its number."""
    code = (
        "import sys; from pathlib import Path; from dataset_conversion.writing.journal import "
        "only_writer\n"
        f"with only_writer(Path({str(folder)!r}), shared={shared}):\n"
        "    print('held', flush=True); sys.stdin.read()"
    )
    with holding(code) as number:
        yield number


@contextmanager
def holding(code: str) -> Iterator[int]:
    """A process that runs the code, says so in one line when it holds what it should, and ends with
    its input.
    """
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdin is not None and process.stdout is not None
    try:
        assert process.stdout.readline() == "held\n"
        yield process.pid
    finally:
        process.stdin.close()
        process.wait()
