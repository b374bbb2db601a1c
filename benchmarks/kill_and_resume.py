"""Kill a training at random moments, continue it, and compare its end with an uninterrupted one.

Run from the repository's root: ``python -m benchmarks.kill_and_resume [--trainer NAME] [--kills 10]
[--seed 0]``. Generated data, the CPU, one loader worker; the kills are SIGKILL to the training and
its workers.
"""

import argparse
import random
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tests.workplace import DATASET, Workplace, kill_when, prepared_slices, pretrain

SETTINGS = [
    "num_epochs=20",
    "num_iterations_per_epoch=5",
    "num_val_iterations_per_epoch=2",
    "save_every=1",
]


def final_state(fold: Path) -> dict[str, Any] | None:
    """The finished checkpoint, if there is one."""
    path = fold / "checkpoint_final.pth"
    return torch.load(path, weights_only=False) if path.is_file() else None


def seconds_of_training(place: Workplace, train: tuple, fold: Path) -> float:
    """Run to the end; returns the seconds from the first epoch's log to the final checkpoint."""
    process = place.start(*train)
    while not (fold / "training_terms.csv").is_file():
        assert process.running, process.output
        time.sleep(0.02)
    begin = time.monotonic()
    while not (fold / "checkpoint_final.pth").is_file():
        assert process.running, process.output
        time.sleep(0.02)
    seconds = time.monotonic() - begin
    process.wait()
    return seconds


def main() -> None:
    """Print one line per kill and the comparison."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trainer", default="RelationDrivenTrainer")
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    chance = random.Random(arguments.seed)
    place = prepared_slices(Path(tempfile.mkdtemp()), SETTINGS)
    pretrain(place, "2d")
    fold = place.fold(DATASET, arguments.trainer, "2d")
    train = ("nnUNetv2_train", 120, "2d", 0, "-tr", arguments.trainer, "-device", "cpu")
    seconds = seconds_of_training(place, train, fold)
    uninterrupted = final_state(fold)
    assert uninterrupted is not None
    shutil.rmtree(fold)

    for kill in range(arguments.kills):
        # the kills spread over the training; each comes some time after the log has begun to move
        # again
        wait = chance.uniform(0, seconds / arguments.kills)
        process = place.start(*train, *(["--c"] if kill else []))
        begin = time.time()
        terms = fold / "training_terms.csv"

        def moving(begin: float = begin, terms: Path = terms) -> bool:
            return terms.is_file() and terms.stat().st_mtime > begin

        while not moving():
            assert process.running, process.output
            time.sleep(0.02)
        due = time.monotonic() + wait
        assert kill_when(process, lambda due=due: time.monotonic() >= due), process.output  # type: ignore[misc]
        epochs = len(terms.read_text().splitlines()) - 1
        print(
            f"kill {kill + 1}: {wait:.2f} s after the log moved, {epochs} epochs in it", flush=True
        )
    place.run(*train, "--c")

    resumed = final_state(fold)
    assert resumed is not None
    apart = [
        (resumed["network_weights"][name] - weight).abs().max().item()
        for name, weight in uninterrupted["network_weights"].items()
    ]
    losses = [
        np.abs(np.subtract(resumed["logging"][name], uninterrupted["logging"][name])).max()
        for name in ("train_losses", "val_losses", "mean_fg_dice")
    ]
    print(
        f"{arguments.trainer}: {arguments.kills} kills in {seconds:.0f} s of training; largest "
        f"difference of any"
    )
    print(
        f"weight {max(apart):g}, of any epoch's training loss, validation loss and pseudo Dice "
        f"{max(losses):g}"
    )


if __name__ == "__main__":
    main()
