"""Wall time, processor time and peak memory of whole commands, run in turns, and their table."""

from __future__ import annotations

import os
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

COLUMNS = (
    "input",
    "tool",
    "wall s",
    "CPU s",
    "peak MB",
    "output MB",
    "ours faster, wall",
    "ours faster, CPU",
)
OURS = "ours"


@dataclass(frozen=True)
class Cost:
    """Costs of one run.

    ``cpu_s`` is user and system time of the command and its processes, ``peak_mb`` the largest
    resident set of any of them, ``output_mb`` what it wrote.
    """

    wall_s: float
    cpu_s: float
    peak_mb: float
    output_mb: float


@dataclass(frozen=True)
class Tool:
    """``command`` makes the command line for an output folder; ``stdin`` is given to it."""

    command: Callable[[Path], Sequence[str | Path]]
    stdin: str = ""


def cost_of(tool: Tool) -> Cost:
    """Run a tool into a new folder, its messages dropped.

    Raises:
        RuntimeError: it failed; with the end of its messages.
    """
    with (
        tempfile.TemporaryDirectory() as folder,
        tempfile.TemporaryFile() as stdin,
        tempfile.TemporaryFile() as messages,
    ):
        stdin.write(tool.stdin.encode())
        stdin.seek(0)
        command = [str(part) for part in tool.command(Path(folder))]
        start = time.perf_counter()
        process = subprocess.Popen(
            command,
            env=environment(Path(folder)),
            stdin=stdin,
            stdout=messages,
            stderr=subprocess.STDOUT,
        )
        _, status, usage = os.wait4(process.pid, 0)  # of the process and all its children
        wall_s = time.perf_counter() - start
        process.returncode = os.waitstatus_to_exitcode(status)
        if status:
            messages.seek(0)
            raise RuntimeError(
                f"{' '.join(command)} failed:\n{messages.read().decode(errors='replace')[-2000:]}"
            )
        size = sum(path.stat().st_size for path in Path(folder).rglob("*") if path.is_file())
    return Cost(wall_s, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024, size / 1e6)


def environment(folder: Path) -> dict[str, str]:
    """Return the environment of a run, with one thread per process.

    nnU-Net's folders are the output folder, the package is this repository's.
    """
    values = dict.fromkeys(("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"), str(folder))
    threads = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
    return {**os.environ, **values, **threads, "PYTHONPATH": str(Path(__file__).parents[1])}


def in_turns(tools: Mapping[str, Tool], repeats: int) -> dict[str, list[Cost]]:
    """Return the costs of all runs by tool.

    The tools alternate, so that a machine that changes its speed changes all.
    """
    costs: dict[str, list[Cost]] = {name: [] for name in tools}
    for _ in range(repeats):
        for name, tool in tools.items():
            costs[name].append(cost_of(tool))
    return costs


def rows_of(source: str, costs: Mapping[str, Sequence[Cost]]) -> list[dict[str, str]]:
    """Return the rows of :data:`COLUMNS`: medians (lowest to highest).

    And how often ours does the work in a tool's time.
    """
    rows = []
    for name, runs in costs.items():
        ratios = [
            "" if name == OURS else f"{_median(runs, field) / _median(costs[OURS], field):.2f}"
            for field in ("wall_s", "cpu_s")
        ]
        cells = [
            source,
            name,
            _range(runs, "wall_s"),
            _range(runs, "cpu_s"),
            f"{max(run.peak_mb for run in runs):.0f}",
            f"{_median(runs, 'output_mb'):.1f}",
            *ratios,
        ]
        rows.append(dict(zip(COLUMNS, cells, strict=True)))
    return rows


def _median(runs: Sequence[Cost], field: str) -> float:
    return statistics.median(getattr(run, field) for run in runs)


def _range(runs: Sequence[Cost], field: str) -> str:
    values = [getattr(run, field) for run in runs]
    return f"{statistics.median(values):.2f} ({min(values):.2f} to {max(values):.2f})"


def markdown(rows: Sequence[Mapping[str, str]]) -> str:
    """Rows with equal keys as a table."""
    lines = ["| " + " | ".join(rows[0]) + " |", "|" + " --- |" * len(rows[0])]
    return "\n".join(lines + ["| " + " | ".join(row.values()) + " |" for row in rows])
