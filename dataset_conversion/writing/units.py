"""Whether two converted data sets have one intensity unit, as far as their conversions say so."""

from __future__ import annotations

import itertools
from pathlib import Path

from dataset_conversion.writing.journal import read_records

# By how a unit begins.
KINDS = {"HU": "Hounsfield units", "grey values": "grey values 0..255", "0..1": "values 0..1"}


def known_units(folder: Path) -> set[str]:
    """Return the kinds of unit in a raw data set; empty where no conversion recorded any."""
    found = set()
    for record in itertools.chain.from_iterable(read_records(folder).values()):
        for beginning, kind in KINDS.items():
            if record.intensity_unit.startswith(beginning):
                found.add(kind)

    return found


def different_units(first: Path, second: Path) -> str | None:
    """Return the units of two data sets that share none.

    It is None where they share one, or where the unit of one is not known.
    """
    ours, theirs = known_units(first), known_units(second)
    if not ours or not theirs or ours & theirs:
        return None

    return (
        f"{second.name} has {' and '.join(sorted(theirs))}, "
        f"{first.name} {' and '.join(sorted(ours))}"
    )
