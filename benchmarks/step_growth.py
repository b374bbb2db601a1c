"""How the time of a training step grows with patch and batch, per trainer.

Run from the repository's root: ``python -m benchmarks.step_growth [--trainers ...] [--steps 7]``.
2d, 16 to 256 features. Trainers of one size take turns, so that a machine that changes its speed
changes all of them.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Sequence

from benchmarks.train_step import (
    SIZES,
    WARM_UP,
    build,
    flops,
    seconds_of_each,
    step_seconds,
    variants,
)
from nnunet_ext.training.engine import cpu

PATCHES = ((64, 4), (128, 4), (256, 4))  # pixels per side, and batch size
BATCHES = ((128, 2), (128, 8))
DEFAULT = (
    "PlainTrainer",
    "RelationDrivenTrainer",
    "ImageSpaceDATrainer",
    "AMDDASTrainer",
    "VQSemiSupervisedTrainer",
)


def rows_of_size(side: int, batch_size: int, names: Sequence[str], steps: int) -> list[str]:
    """Return one Markdown row per trainer."""
    size = {**SIZES["2d"], "patch_size": (side, side), "batch_size": batch_size}
    found = variants()
    runs = []
    for name in names:
        trainer, roles = found[name]
        made, data = build(trainer, roles, size, "cpu")
        runs.append((made, data))

    for run in runs * WARM_UP:
        step_seconds(*run)
    rounds = [seconds_of_each(runs, first) for first in range(steps)]

    rows = []
    for index, name in enumerate(names):
        seconds = statistics.median(of_round[index] for of_round in rounds)
        per_sample_ms = 1000 * seconds / batch_size
        gigaflops = flops(*runs[index]) / 1e9
        rows.append(
            f"| {side} x {side} | {batch_size} | {name} | {1000 * seconds:.0f} "
            f"| {per_sample_ms:.0f} | {gigaflops:.1f} |"
        )
    return rows


def main() -> None:
    """Print the table."""
    cpu.keep_freed_memory()
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trainers", nargs="+", default=list(DEFAULT), choices=list(variants()))
    parser.add_argument("--steps", type=int, default=7)
    arguments = parser.parse_args()

    print("| patch | batch | trainer | ms/step | ms/sample | GFLOPs/step |")
    print("|" + "---|" * 6)
    for side, batch_size in PATCHES + BATCHES:
        for row in rows_of_size(side, batch_size, arguments.trainers, arguments.steps):
            print(row, flush=True)


if __name__ == "__main__":
    main()
