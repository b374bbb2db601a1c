"""Whether a checkpoint belongs to the training that wants to continue it."""

from collections.abc import Mapping
from typing import Any


def differences(saved: Mapping[str, Any], now: Mapping[str, Any], above: str = "") -> list[str]:
    """Every entry in which two nested settings differ, as ``hyperparameters.seed is 1, was 0``."""
    found = []
    for name in sorted({*saved, *now}):
        old, new, path = saved.get(name, "absent"), now.get(name, "absent"), f"{above}{name}"
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            found += differences(old, new, f"{path}.")
        elif old != new:
            found.append(f"{path} is {new}, was {old}")
    return found
