"""Step time and memory of every trainer over plain nnU-Net, beside the ratio of their FLOPs.

Run from the repository's root: ``python -m benchmarks.train_step [--device cuda] [--steps 20] [--configurations 2d]``.
Trainers take turns step by step, so a machine that changes its speed changes both. A ratio of step times below the
ratio of FLOPs means that the engine costs nothing beyond the method's own arithmetic.
"""

import argparse
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from torch.utils.flop_counter import FlopCounterMode

from nnunet_ext.trainers.plain import PlainTrainer
from nnunet_ext.trainers.relation_driven import RelationDrivenTrainer
from tests.miniature_plans import batch, plans, trainer

SIZES: dict[str, dict[str, Any]] = {
    "2d": {"dimension": 2, "patch_size": (160, 160), "batch_size": 4, "features": (16, 32, 64, 128, 256)},
    "2d wide": {"dimension": 2, "patch_size": (160, 160), "batch_size": 4, "features": (32, 64, 128, 256, 512)},
    "3d_fullres": {"dimension": 3, "patch_size": (32, 64, 64), "batch_size": 2, "features": (16, 32, 64, 128)},
}
STREAMS = {"general": ["Dataset998_General"], "unlabeled": ["Dataset997_Unlabeled"]}
VARIANTS: dict[str, tuple[type, tuple[str, ...]]] = {
    "PlainTrainer": (PlainTrainer, ()),
    "RelationDrivenTrainer": (RelationDrivenTrainer, ("general",)),
    "RelationDrivenTrainer, unlabelled stream": (RelationDrivenTrainer, ("general", "unlabeled")),
}


def build(cls: type, roles: tuple[str, ...], size: dict[str, Any], device: str) -> tuple[Any, dict[str, Any]]:
    """A trainer and one batch for it."""
    made = trainer(
        cls,
        Path(tempfile.mkdtemp()),
        plans(**size, streams={role: STREAMS[role] for role in roles}, settings={"general_checkpoint": "random"}),
        device,
    )
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
    """FLOPs of one training step, forward and backward."""
    with FlopCounterMode(display=False) as counter:
        made.train_step(data)
    return counter.get_total_flops()


def measure(configuration: str, steps: int, device: str) -> list[str]:
    """Markdown rows of one configuration."""
    size = SIZES[configuration]
    plain_made, plain_data = build(nnUNetTrainer, (), size, device)
    plain_flops = flops(plain_made, plain_data)
    rows = []
    for name, (cls, roles) in VARIANTS.items():
        made, data = build(cls, roles, size, device)
        flop_ratio = flops(made, data) / plain_flops
        for _ in range(3):
            made.train_step(data), plain_made.train_step(plain_data)
        pairs = [one_pair((made, data), (plain_made, plain_data), first=i % 2) for i in range(steps)]
        ours, plain = (statistics.median(column) for column in zip(*pairs, strict=True))
        ratios = sorted(own / reference for own, reference in pairs)
        low, ratio, high = (ratios[round(q * (len(ratios) - 1))] for q in (0.25, 0.5, 0.75))
        rows.append(
            f"| {configuration} | {name} | {1000 * ours:.0f} | {1000 * plain:.0f} "
            f"| {ratio:.2f} [{low:.2f}, {high:.2f}] | {flop_ratio:.2f} | {ratio / flop_ratio:.2f} "
            f"| {made.batch_size / ours:.1f} |"
        )
    return rows


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--configurations", nargs="+", default=list(SIZES), choices=list(SIZES))
    arguments = parser.parse_args()
    table = [row for name in arguments.configurations for row in measure(name, arguments.steps, arguments.device)]
    print(
        f"\ntorch {torch.__version__}, {arguments.device}, {torch.get_num_threads()} threads, {arguments.steps} pairs"
    )
    print(
        "\n| configuration | trainer | ms/step | nnU-Net ms/step | time ratio [quartiles] | FLOP ratio | overhead "
        "| samples/s |"
    )
    print("|---|---|---|---|---|---|---|---|")
    print("\n".join(table))


if __name__ == "__main__":
    main()
