"""``nnUNetv2_ext_benchmark``: train the rows of a suite with several seeds, and compare them."""

import argparse
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from nnunet_ext.argument_types import positive
from nnunet_ext.commands.entry import command
from nnunet_ext.errors import InputError

if TYPE_CHECKING:
    from nnunet_ext.benchmark.run import Place, Run
    from nnunet_ext.benchmark.suite import Row, Suite


@command
def benchmark_entry(argv: list[str] | None = None) -> int:
    """Console script ``nnUNetv2_ext_benchmark``; 1 if a run failed."""
    args = _parser().parse_args(argv)

    from nnunet_ext.benchmark.run import Place
    from nnunet_ext.benchmark.suite import load_suite

    suite = load_suite(args.suite)
    place = Place(args.output.resolve(), args.device or _device())
    if args.run:
        return _one_run(suite, place, *args.run)

    names = args.rows or ()
    chosen = [suite.row(name) for name in names] or suite.rows
    seeds = args.seeds or suite.seeds
    runs = _runs(suite, place, chosen, seeds)
    missing = [run for run in runs if not run.finished]
    finished = len(runs) - len(missing)
    print(f"{finished} of {len(runs)} runs are finished", file=sys.stderr)
    if args.jobs:
        print("one run per line; when all have ended, run the same without --jobs", file=sys.stderr)
        for run in missing:
            words = _job(args.suite, run, args.device)
            print(shlex.join(words))
        return 0
    return _run_and_report(suite, place, runs)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="nnUNetv2_ext_benchmark",
        description="Generate or find the suite's data, train every row with every seed through "
        "stock commands, predict and score the test set, and write one table with intervals over "
        "seeds and cases. Finished runs are skipped and interrupted ones continued: run the same "
        "command again. Several processes share the work.",
    )
    parser.add_argument(
        "suite", metavar="SUITE", help="name of a suite, e.g. phantom-da, or a .py file with one"
    )
    parser.add_argument(
        "-o",
        dest="output",
        type=Path,
        required=True,
        metavar="FOLDER",
        help="everything goes there, nothing elsewhere",
    )
    parser.add_argument(
        "--seeds", type=positive, metavar="N", help="seeds 0 to N - 1; default: the suite's"
    )
    parser.add_argument("--rows", nargs="+", metavar="ROW", help="only these rows; default: all")
    parser.add_argument(
        "--jobs", action="store_true", help="print a command per missing run, and run nothing"
    )
    parser.add_argument(
        "--run", nargs=2, metavar=("ROW", "SEED"), help="only this run, without the table"
    )
    parser.add_argument(
        "-device", choices=("cpu", "cuda", "mps"), help="default: cuda if there is one, else cpu"
    )
    return parser


def _device() -> str:
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def _runs(suite: "Suite", place: "Place", rows: "Sequence[Row]", seeds: int) -> "list[Run]":
    """Return all rows of the first seed, then those of further ones."""
    from nnunet_ext.benchmark.run import Run

    available = _available(suite, rows)
    runs = []
    for seed in range(seeds):
        runs += [Run(suite, row, seed, place) for row in available]
    return runs


def _available(suite: "Suite", rows: "Sequence[Row]") -> "list[Row]":
    """Return the rows that this installation can train, and print why others are left out."""
    from nnunet_ext.benchmark.suite import unavailable

    reasons = {row.name: unavailable(suite, row) for row in rows}
    for name, reason in reasons.items():
        if reason:
            print(f"{name}: left out, {reason}", file=sys.stderr)
    available = [row for row in rows if not reasons[row.name]]
    if not available:
        raise InputError("none of these rows can be trained in this installation")
    return available


def _job(suite: str, run: "Run", device: str | None) -> list[str]:
    """Return the command of a run; unless a device was asked for, the job takes what it finds."""
    if suite.endswith(".py"):
        suite = str(Path(suite).resolve())
    words = ["nnUNetv2_ext_benchmark", suite]
    words += ["-o", str(run.place.root)]
    words += ["--run", run.row.name, str(run.seed)]
    if device:
        words += ["-device", device]
    return words


def _one_run(suite: "Suite", place: "Place", row: str, seed: str) -> int:
    from nnunet_ext.benchmark.run import Run

    if not seed.isdigit():
        raise InputError(f"--run {row} {seed}: write the row and the seed, a whole number from 0")
    asked_for = suite.row(row)
    (available,) = _available(suite, [asked_for])
    run = Run(suite, available, int(seed), place)
    _carry_out(suite, place, [run])
    return 0 if run.finished else 1


def _carry_out(suite: "Suite", place: "Place", runs: "Sequence[Run]") -> None:
    from nnunet_ext.benchmark.progress import Progress
    from nnunet_ext.benchmark.runner import Runner, prepare

    prepare(suite, place)
    with Progress(runs) as progress:
        Runner(progress).run_all([run for run in runs if not run.finished])


def _run_and_report(suite: "Suite", place: "Place", runs: "Sequence[Run]") -> int:
    from nnunet_ext.benchmark.report import write_report
    from nnunet_ext.files.locks import held

    _carry_out(suite, place, runs)
    failed = [run for run in runs if not run.finished]
    if any(run.finished and run.row.tested for run in runs):
        with held(place.root / ".report.lock"):  # of another process that ends at the same time
            text = write_report(suite, place, runs)
        print(f"\n{text}\n{place.root / 'report'}")
    for run in failed:
        print(f"{run.name}: {run.reason}", file=sys.stderr)
    if failed:
        raise InputError(
            f"{len(failed)} of {len(runs)} runs have no result; fix what they say and run the "
            f"same again"
        )
    return 0
