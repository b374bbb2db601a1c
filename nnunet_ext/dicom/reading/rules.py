"""Which series are taken."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Rules:
    """Which series are accepted; known modalities are CT and MR.

    ``repeats`` says what happens where several different slices share a position and no field tells
    acquisitions apart: ``reject`` the series, or keep the ``first`` by InstanceNumber and say so.
    """

    modalities: tuple[str, ...] = ("CT",)
    minimum_slices: int = 3
    derived: bool = False
    repeats: Literal["reject", "first"] = "reject"

    @property
    def smallest_stack(self) -> int:
        """Slices of the smallest stack that a series is divided into."""
        return max(2, self.minimum_slices)
