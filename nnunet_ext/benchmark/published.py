"""Figures that papers have published, which the report shows under those that a suite measured."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Published:
    """One line of a paper's table.

    Args:
        method: as the paper calls it.
        values: one per column of the table; Dice and the like from 0 to 1.
        row: of the suite that trains the same; empty: none does.
    """

    method: str
    values: tuple[float, ...]
    row: str = ""


@dataclass(frozen=True)
class PublishedTable:
    """A table of a paper, or the part of it that a suite repeats.

    Args:
        source: paper and table.
        measured: on which data and how, as a sentence.
        differs: what the suite does otherwise, as sentences.
        label: of the suite's test set, to which the figures belong.
        columns: headers of the figures.
        lines: of the table.
        decimals: that the paper prints.
    """

    source: str
    measured: str
    differs: str
    label: str
    columns: tuple[str, ...]
    lines: tuple[Published, ...]
    decimals: int = 3
