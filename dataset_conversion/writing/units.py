"""Whether two converted data sets have intensities of the same unit, as far as their conversion
says so.
"""

from __future__ import annotations

from pathlib import Path

from dataset_conversion.writing.journal import read_records

KINDS = {
    "HU": "Hounsfield units",
    "grey values": "grey values 0..255",
    "0..1": "values 0..1",
}  # by how a unit begins


def known_units(folder: Path) -> set[str]:
    """The kinds of unit in a raw data set; empty where no conversion of this package recorded
    any.
    """
    records = [record for own in read_records(folder).values() for record in own]
    found = set()
    for record in records:
        found |= {
            kind for beginning, kind in KINDS.items() if record.intensity_unit.startswith(beginning)
        }
    return found


def different_units(first: Path, second: Path) -> str | None:
    """What units two data sets have that share none; None where they share one or the unit of one
    is not known.
    """
    units = known_units(first), known_units(second)
    if not all(units) or units[0] & units[1]:
        return None
    ours, theirs = (" and ".join(sorted(kinds)) for kinds in units)
    return f"{second.name} has {theirs}, {first.name} {ours}"
