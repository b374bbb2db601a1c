"""nnUNetv2_ext_train; whole trainings are in test_end_to_end.py."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from nnunet_ext.commands.train import load_pretrained_weights
from nnunet_ext.errors import InputError
from nnunet_ext.trainers.plain import PlainTrainer
from tests.miniature_plans import plans, trainer


def torchrun(*arguments: str) -> str:
    """The last error line of two processes."""
    code = "from nnunet_ext.commands.train import train_entry; train_entry()"
    launch = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc_per_node",
        "1",
        "--no-python",
    ]
    run = subprocess.run(
        [*launch, sys.executable, "-c", code, *arguments],
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode != 0
    return next(line for line in run.stderr.splitlines() if "error:" in line)


def test_what_torchrun_cannot_start_is_refused() -> None:
    stock = torchrun("1", "2d", "0", "-tr", "nnUNetTrainer", "-device", "cpu")
    assert stock.endswith(
        "-tr nnUNetTrainer: nnU-Net's trainers run on one node; use nnUNetv2_train, or PlainTrainer"
    )


def test_pretrained_weights_are_loaded_but_for_the_heads(tmp_path: Path) -> None:
    source, made = (
        trainer(PlainTrainer, tmp_path / str(seed), plans(settings={"seed": seed})).network
        for seed in (1, 2)
    )
    heads = {
        name: value.clone() for name, value in made.state_dict().items() if ".seg_layers." in name
    }
    torch.save({"network_weights": source.state_dict()}, tmp_path / "start.pth")
    load_pretrained_weights(made, str(tmp_path / "start.pth"))
    for name, value in made.state_dict().items():
        assert torch.equal(value, heads[name] if name in heads else source.state_dict()[name])
    torch.save({"network_weights": {"encoder.weight": torch.zeros(1)}}, tmp_path / "other.pth")
    with pytest.raises(
        InputError, match=r"other\.pth: \d+ of \d+ weights do not fit.*nnUNetv2_ext_pretrained"
    ):
        load_pretrained_weights(made, str(tmp_path / "other.pth"))
