"""The smallest training that runs every part of a method, for the tests of all trainers."""

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Miniature:
    """What a trainer needs in addition to nnU-Net's smallest plans.

    Args:
        edge: length of each axis of the patch, in pixels.
        features: channels of the planned network's stages.
        settings: hyperparameters, for instance a phase that begins with the second iteration.
    """

    edge: int = 16
    features: tuple[int, ...] = (4, 8, 16)
    settings: dict[str, Any] = field(default_factory=dict)
