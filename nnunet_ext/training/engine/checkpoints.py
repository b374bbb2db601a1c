"""Checkpoint files: written whole or not at all, continued only by the training that wrote them."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from nnunet_ext.files.whole_file import whole_file


def write_checkpoint(checkpoint: Mapping[str, Any], path: Path) -> None:
    """Write a checkpoint whole: a kill while writing leaves the previous one readable."""
    with whole_file(path) as unfinished, unfinished.open("wb") as file:
        torch.save(checkpoint, file)
        file.flush()
        descriptor = file.fileno()
        os.fsync(descriptor)


def differences(saved: Mapping[str, Any], now: Mapping[str, Any], above: str = "") -> list[str]:
    """List every entry in which two nested settings differ.

    A line is ``hyperparameters.seed is 1, was 0``.
    """
    names = {*saved, *now}
    found = []
    for name in sorted(names):
        path = f"{above}{name}"
        old = saved.get(name, "absent")
        new = now.get(name, "absent")
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            found += differences(old, new, f"{path}.")
        elif old != new:
            found.append(f"{path} is {new}, was {old}")
    return found
