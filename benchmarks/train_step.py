"""Step time of every trainer, compared in three ways.

Against plain nnU-Net, against its FLOPs, and against the same step as a bare loop.

The *engine overhead* is the time of a step over that of the same forward and backward passes and
optimizer steps in a bare PyTorch loop. The *FLOP ratio* says how much arithmetic the method adds to
plain nnU-Net; the time ratio differs from it where memory, not arithmetic, limits. A trainer is
warmed up into its last phase first. Memory is that of a process which trains this trainer alone:
resident on the CPU, allocated on the GPU.
"""

import argparse
import multiprocessing
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from torch.utils.flop_counter import FlopCounterMode

from nnunet_ext.own_trainers import trainers
from nnunet_ext.training.engine import cpu
from nnunet_ext.training.engine.batches import to_device
from nnunet_ext.training.engine.updates import Updater
from tests.miniature_plans import batch, plans, trainer

SIZES: dict[str, dict[str, Any]] = {
    "2d": {
        "dimension": 2,
        "patch_size": (160, 160),
        "batch_size": 4,
        "features": (16, 32, 64, 128, 256),
    },
    "2d wide": {
        "dimension": 2,
        "patch_size": (160, 160),
        "batch_size": 4,
        "features": (32, 64, 128, 256, 512),
    },
    "2d large": {
        "dimension": 2,
        "patch_size": (448, 384),
        "batch_size": 8,
        "features": (32, 64, 128, 256, 512, 512),
    },
    "3d_fullres": {
        "dimension": 3,
        "patch_size": (32, 64, 64),
        "batch_size": 2,
        "features": (16, 32, 64, 128, 128),
    },
    "3d large": {
        "dimension": 3,
        "patch_size": (64, 128, 128),
        "batch_size": 2,
        "features": (32, 64, 128, 256, 320),
    },
}
WARM_UP = 3


def variants() -> dict[str, tuple[type, tuple[str, ...]]]:
    """Every trainer with its required streams, and once more with the optional ones."""
    found: dict[str, tuple[type, tuple[str, ...]]] = {}
    for name, cls in trainers().items():
        found[name] = (cls, cls.required_streams)
        if cls.optional_streams:
            found[f"{name}, {' and '.join(cls.optional_streams)}"] = (
                cls,
                cls.required_streams + cls.optional_streams,
            )
    return found


def build(
    cls: type, roles: tuple[str, ...], size: dict[str, Any], device: str
) -> tuple[Any, dict[str, Any]]:
    """A trainer in the last epoch of its training, and one batch for it, on its device.

    ``size`` is as in :data:`SIZES`.
    """
    streams = {role: ["Dataset998_Other"] for role in roles}
    content = {**size, "streams": streams}
    if cls is not nnUNetTrainer:
        content["settings"] = cls.without_first_stage
    made = trainer(cls, Path(tempfile.mkdtemp()), plans(**content), device)
    made.current_epoch = made.num_epochs - 1
    made.network.train()
    return made, batch(made, roles)


class BareLoop:
    """A trainer's own training step in a loop as a script has it.

    No log, no checks, no processes.
    """

    def __init__(self, made: Any) -> None:
        self.made = made
        self.batch_size = made.batch_size
        self.waiting: list[list[Updater]] | None = None
        made.update, made.simultaneous = self.update, self.simultaneous
        made.note = made.draw = lambda **values: None

    def train_step(self, data: dict[str, Any]) -> float:
        """One step; returns the last loss, as a progress bar shows it."""
        on_device = to_device(data, self.made.device)
        with self.made._autocast():
            self.made.training_step(on_device)
        self.made._iteration_in_epoch += 1
        return self.last.item()

    def update(self, *players: str, **losses: torch.Tensor) -> None:
        """Backward, clip and step."""
        updaters = [self.made.updaters[player] for player in players]
        for updater in updaters:
            updater.optimizer.zero_grad()
        self.last = sum(losses.values(), torch.zeros((), device=self.made.device))
        scaler = updaters[0].scaler
        loss = self.last if scaler is None else scaler.scale(self.last)
        parameters: list[torch.nn.Parameter] = []
        for updater in updaters:
            parameters += updater.trained_parameters()
        loss.backward(inputs=parameters, retain_graph=self.waiting is not None)
        if self.waiting is None:
            self.step(updaters)
        else:
            self.waiting.append(updaters)

    @contextmanager
    def simultaneous(self) -> Iterator[None]:
        """Steps after all backward passes."""
        self.waiting = []
        yield
        for updaters in self.waiting:
            self.step(updaters)
        self.waiting = None

    def step(self, updaters: list[Updater]) -> None:
        """Clip and step."""
        scaler = updaters[0].scaler
        for updater in updaters:
            if scaler is not None:
                scaler.unscale_(updater.optimizer)
            if updater.max_norm is not None:
                for group in updater.clipped_groups:
                    torch.nn.utils.clip_grad_norm_(group, updater.max_norm)
            if scaler is None:
                updater.optimizer.step()
            else:
                scaler.step(updater.optimizer)
        if scaler is not None:
            scaler.update()


def step_seconds(made: Any, data: dict[str, Any]) -> float:
    """Wall time of one training step, device included."""
    start = time.perf_counter()
    made.train_step(data)  # ends in a copy to the host, hence waits for the device
    return time.perf_counter() - start


def seconds_of_each(runs: list[tuple[Any, dict]], first: int) -> list[float]:
    """Return the seconds of one step of each; every round begins with another one.

    The later ones find other things in the cache.
    """
    order = [(first + i) % len(runs) for i in range(len(runs))]
    seconds = {index: step_seconds(*runs[index]) for index in order}
    return [seconds[index] for index in range(len(runs))]


def ratio(over: list[float], under: list[float]) -> str:
    """Median and quartiles of the ratio of paired times."""
    ratios = sorted(a / b for a, b in zip(over, under, strict=True))
    low, median, high = (ratios[round(q * (len(ratios) - 1))] for q in (0.25, 0.5, 0.75))
    return f"{median:.2f} [{low:.2f}, {high:.2f}]"


def flops(made: Any, data: dict[str, Any]) -> int:
    """Return the FLOPs of one training step, forward and backward.

    Of the network as written, before any compilation.
    """
    with FlopCounterMode(display=False) as counter:
        made.train_step(data)
    return counter.get_total_flops()


def _measure_memory(
    cls: type, roles: tuple[str, ...], size: dict[str, Any], device: str, answer: Any
) -> None:
    before = 0.0 if device == "cuda" else _status("VmRSS")
    made, data = build(cls, roles, size, device)
    for _ in range(WARM_UP):
        made.train_step(data)
    peak = torch.cuda.max_memory_allocated() / 2**20 if device == "cuda" else _status("VmHWM")
    answer.put(peak - before)


def _status(entry: str) -> float:
    """MiB of an entry of /proc/self/status; getrusage would count the parent's memory, too."""
    line = next(
        line
        for line in Path("/proc/self/status").read_text().splitlines()
        if line.startswith(entry)
    )
    return int(line.split()[1]) / 2**10


def memory(cls: type, roles: tuple[str, ...], size: dict[str, Any], device: str) -> float:
    """Return the MiB at the peak of a training step, weights included.

    It is what the step adds to the process, or what is allocated on a GPU.
    """
    spawn = multiprocessing.get_context("spawn")
    answer = spawn.Queue()
    process = spawn.Process(target=_measure_memory, args=(cls, roles, size, device, answer))
    process.start()
    result = answer.get()
    process.join()
    return result


def measure(configuration: str, names: list[str], steps: int, device: str) -> Iterator[str]:
    """Yield a Markdown row for every trainer of one configuration."""
    size = SIZES[configuration]
    plain = build(nnUNetTrainer, (), size, device)
    plain_flops, plain_memory = flops(*plain), memory(nnUNetTrainer, (), size, device)
    dimensions = f"{size['dimension']}d"
    for name, (cls, roles) in variants().items():
        if dimensions not in cls.configurations or (names and cls.__name__ not in names):
            continue
        made, data = build(cls, roles, size, device)
        bare = BareLoop(build(cls, roles, size, device)[0])
        runs = [(made, data), (bare, data), plain]
        for _ in range(WARM_UP):
            for run in runs:
                step_seconds(*run)
        flop_ratio = flops(made, data) / plain_flops

        times = [seconds_of_each(runs, first) for first in range(steps)]
        own, in_a_loop, reference = (list(column) for column in zip(*times, strict=True))
        median = statistics.median(own)
        yield (
            f"| {configuration} | {name} | {1000 * median:.0f} | "
            f"{1000 * statistics.median(reference):.0f} "
            f"| {ratio(own, reference)} | {flop_ratio:.2f} | {ratio(own, in_a_loop)} "
            f"| {made.batch_size / median:.1f} | {memory(cls, roles, size, device):.0f} "
            f"| {plain_memory:.0f} |"
        )


def main() -> None:
    """Print the table."""
    # as every trainer does when it begins to train; plain nnU-Net profits, too
    cpu.keep_freed_memory()
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument(
        "--configurations", nargs="+", default=["2d", "2d wide", "3d_fullres"], choices=list(SIZES)
    )
    parser.add_argument("--trainers", nargs="+", default=[], help="default: all")
    arguments = parser.parse_args()
    print(
        f"\ntorch {torch.__version__}, {arguments.device}, {torch.get_num_threads()} threads, "
        f"{arguments.steps} steps\n"
    )
    print(
        "| configuration | trainer | ms/step | nnU-Net ms/step | time ratio [quartiles] | FLOP "
        "ratio | engine overhead "
        "| samples/s | MiB | nnU-Net MiB |"
    )
    print("|" + "---|" * 10)
    for configuration in arguments.configurations:
        for row in measure(configuration, arguments.trainers, arguments.steps, arguments.device):
            print(row, flush=True)


if __name__ == "__main__":
    main()
