"""Step time and peak memory of every trainer over plain nnU-Net, beside the ratio of their FLOPs.

Run from the repository's root: ``python -m benchmarks.train_step [--device cuda] [--steps 20] [--configurations 2d]``.
Trainers take turns with plain nnU-Net step by step, so a machine that changes its speed changes both. Overhead is the
ratio of step times over the ratio of FLOPs: below 1 the engine costs nothing beyond the method's own arithmetic. Memory
is that of a process which trains this trainer alone: resident on the CPU, allocated on the GPU.
"""

import argparse
import multiprocessing
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from torch.utils.flop_counter import FlopCounterMode

from nnunet_ext.commands.configure import trainers
from nnunet_ext.training.engine import cpu
from tests.miniature_plans import batch, plans, trainer

SIZES: dict[str, dict[str, Any]] = {
    "2d": {"dimension": 2, "patch_size": (160, 160), "batch_size": 4, "features": (16, 32, 64, 128, 256)},
    "2d wide": {"dimension": 2, "patch_size": (160, 160), "batch_size": 4, "features": (32, 64, 128, 256, 512)},
    "2d large": {"dimension": 2, "patch_size": (448, 384), "batch_size": 8, "features": (32, 64, 128, 256, 512, 512)},
    "3d_fullres": {"dimension": 3, "patch_size": (32, 64, 64), "batch_size": 2, "features": (16, 32, 64, 128)},
    "3d large": {"dimension": 3, "patch_size": (64, 128, 128), "batch_size": 2, "features": (32, 64, 128, 256, 320)},
}
WARM_UP = 3


def variants() -> dict[str, tuple[type, tuple[str, ...]]]:
    """Every trainer with its required streams, and once more with the optional ones."""
    found: dict[str, tuple[type, tuple[str, ...]]] = {}
    for name, cls in trainers().items():
        found[name] = (cls, cls.required_streams)
        if cls.optional_streams:
            found[f"{name}, {' and '.join(cls.optional_streams)}"] = (cls, cls.required_streams + cls.optional_streams)
    return found


def build(cls: type, roles: tuple[str, ...], configuration: str, device: str) -> tuple[Any, dict[str, Any]]:
    """A trainer and one batch for it, on its device."""
    streams = {role: ["Dataset998_Other"] for role in roles}
    content = plans(**SIZES[configuration], streams=streams, settings={"general_checkpoint": "random"})
    made = trainer(cls, Path(tempfile.mkdtemp()), content, device)
    made.network.train()
    return made, batch(made, roles)


def step_seconds(made: Any, data: dict[str, Any]) -> float:
    """Wall time of one training step, device included."""
    start = time.perf_counter()
    made.train_step(data)  # ends in a copy to the host, hence waits for the device
    return time.perf_counter() - start


def one_pair(ours: tuple[Any, dict], plain: tuple[Any, dict], first: int) -> tuple[float, float]:
    """Seconds of one step of each, begun with either: the second of two steps finds other things in the cache."""
    if first:
        seconds = step_seconds(*plain)
        return step_seconds(*ours), seconds
    return step_seconds(*ours), step_seconds(*plain)


def flops(made: Any, data: dict[str, Any]) -> int:
    """FLOPs of one training step, forward and backward; of the network as written, before any compilation."""
    with FlopCounterMode(display=False) as counter:
        made.train_step(data)
    return counter.get_total_flops()


def _measure_memory(cls: type, roles: tuple[str, ...], configuration: str, device: str, answer: Any) -> None:
    before = 0.0 if device == "cuda" else _status("VmRSS")
    made, data = build(cls, roles, configuration, device)
    for _ in range(WARM_UP):
        made.train_step(data)
    peak = torch.cuda.max_memory_allocated() / 2**20 if device == "cuda" else _status("VmHWM")
    answer.put(peak - before)


def _status(entry: str) -> float:
    """MiB of an entry of /proc/self/status; getrusage would count the parent's memory, too."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(entry))
    return int(line.split()[1]) / 2**10


def memory(cls: type, roles: tuple[str, ...], configuration: str, device: str) -> float:
    """MiB at the peak of a training step, weights included: what it adds to the process, or is allocated on a GPU."""
    spawn = multiprocessing.get_context("spawn")
    answer = spawn.Queue()
    process = spawn.Process(target=_measure_memory, args=(cls, roles, configuration, device, answer))
    process.start()
    result = answer.get()
    process.join()
    return result


def measure(configuration: str, steps: int, device: str) -> list[str]:
    """Markdown rows of one configuration."""
    plain = build(nnUNetTrainer, (), configuration, device)
    plain_flops, plain_memory = flops(*plain), memory(nnUNetTrainer, (), configuration, device)
    rows = []
    for name, (cls, roles) in variants().items():
        ours = build(cls, roles, configuration, device)
        flop_ratio = flops(*ours) / plain_flops
        for _ in range(WARM_UP):
            ours[0].train_step(ours[1]), plain[0].train_step(plain[1])
        pairs = [one_pair(ours, plain, first=i % 2) for i in range(steps)]
        own, reference = (statistics.median(column) for column in zip(*pairs, strict=True))
        ratios = sorted(a / b for a, b in pairs)
        low, ratio, high = (ratios[round(q * (len(ratios) - 1))] for q in (0.25, 0.5, 0.75))
        rows.append(
            f"| {configuration} | {name} | {1000 * own:.0f} | {1000 * reference:.0f} "
            f"| {ratio:.2f} [{low:.2f}, {high:.2f}] | {flop_ratio:.2f} | {ratio / flop_ratio:.2f} "
            f"| {ours[0].batch_size / own:.1f} | {memory(cls, roles, configuration, device):.0f} | {plain_memory:.0f} |"
        )
    return rows


def main() -> None:
    """Print the table."""
    cpu.keep_freed_memory()  # as every trainer does when it begins to train; plain nnU-Net profits, too
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--configurations", nargs="+", default=["2d", "2d wide", "3d_fullres"], choices=list(SIZES))
    arguments = parser.parse_args()
    table = [row for name in arguments.configurations for row in measure(name, arguments.steps, arguments.device)]
    print(
        f"\ntorch {torch.__version__}, {arguments.device}, {torch.get_num_threads()} threads, {arguments.steps} pairs\n"
    )
    print(
        "| configuration | trainer | ms/step | nnU-Net ms/step | time ratio [quartiles] | FLOP ratio | overhead "
        "| samples/s | MiB | nnU-Net MiB |"
    )
    print("|" + "---|" * 10)
    print("\n".join(table))


if __name__ == "__main__":
    main()
