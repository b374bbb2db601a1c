"""The losses of one training step, caught before anybody moves: for tests of who gets which
gradient.
"""

from contextlib import nullcontext
from typing import Any

import torch


def caught_losses(made: Any, data: dict[str, Any]) -> dict[str, torch.Tensor]:
    """Every loss that a step hands to ``update``, by name, with its graph."""
    caught: dict[str, torch.Tensor] = {}
    replaced = {
        "update": lambda *players, **losses: caught.update(losses),
        "note": lambda **values: None,
        "note_gradient_ratio": lambda *losses: None,
        "draw": lambda **rows: None,
        "follow": lambda *names, **options: None,
        "simultaneous": nullcontext,
    }
    made.__dict__.update(replaced)
    try:
        made.training_step(data)
    finally:
        for name in replaced:
            del made.__dict__[name]
    return caught
