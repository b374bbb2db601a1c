"""The table of the RSNA haemorrhage challenge: which types of haemorrhage each image shows."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from nnunet_ext.errors import InputError, first_line

TYPES = ("epidural", "intraparenchymal", "intraventricular", "subarachnoid", "subdural")
"""In the order of BHSD's label values 1 to 5, which is also the table's."""
BITS = {kind: 1 << index for index, kind in enumerate((*TYPES, "any"))}
DELIMITERS = ",;\t"
IMAGE_COLUMNS = ("id", "image", "image_id", "imageid", "sopinstanceuid")
LONG_COLUMNS = frozenset({"id", "label"})
INDEX_COLUMNS = ("", "index", "unnamed: 0")  # as pandas writes them
VALUES = {"0": False, "1": True, "0.0": False, "1.0": True}
EXPECTED = "columns ID and Label, or an image's ID and its types"


@dataclass
class HaemorrhageTable:
    """Types by image id.

    ``notes`` say what was odd, ``unread`` which tables had an unknown header.
    """

    types: dict[str, frozenset[str]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    unread: list[str] = field(default_factory=list)


def read_table(files: Iterable[Path]) -> HaemorrhageTable:
    """Return the types present in each image.

    The published table has a row per image and type, ``ID_12cadc6af_epidural,0``. A column before,
    another separator, spaces, blank lines and 1.0 for 1 are what programs make of it, and so is the
    wide form with a row per image. Tables of submissions hold probabilities and are ignored. Of
    contradictory rows the positive one counts.

    Raises:
        InputError: a row is not as its header says.
    """
    table = HaemorrhageTable()
    positive: dict[str, int] = {}  # 750 000 images: bits, not sets
    negative: dict[str, int] = {}
    repeated = contradictory = 0
    for file in files:
        for image, kind, present in _entries(file, table):
            same, other = (positive, negative) if present else (negative, positive)
            again = bool(other.setdefault(image, 0) & BITS[kind])
            contradictory += again
            repeated += again or bool(same.get(image, 0) & BITS[kind])
            same[image] = same.get(image, 0) | BITS[kind]

    if repeated:
        table.notes.append(
            f"{repeated} rows of the table occur twice, {contradictory} of them with another label"
        )

    types_of = {bits: _types_of(bits) for bits in set(positive.values())}
    table.types = {image: types_of[bits] for image, bits in positive.items()}

    return table


def _types_of(bits: int) -> frozenset[str]:
    return frozenset(kind for kind in BITS if bits & BITS[kind])


def in_words(types: frozenset[str] | None) -> str:
    """Return the types of an image as text; ``unknown`` where the table does not hold it."""
    if types is None:
        return "unknown"
    if not types:
        return "none"

    named = types - {"any"}
    return " ".join(sorted(named)) or "any"


def _entries(file: Path, table: HaemorrhageTable) -> Iterator[tuple[str, str, bool]]:
    """Yield image, type and whether it is present, of each cell of a table."""
    if "submission" in file.name.lower():
        return

    try:
        with file.open(encoding="utf-8-sig", newline="") as stream:
            head = stream.readline()
            delimiter = max(DELIMITERS, key=head.count)
            header = next(csv.reader([head], delimiter=delimiter), [])
            names = [name.strip().casefold() for name in header]
            rows = csv.reader(stream, delimiter=delimiter)
            if LONG_COLUMNS <= set(names) <= LONG_COLUMNS.union(INDEX_COLUMNS):
                yield from _long(file, names, rows)
            elif BITS.keys() <= set(names) and not set(names).isdisjoint(IMAGE_COLUMNS):
                yield from _wide(file, names, rows)
            elif file.name.lower().startswith("stage_"):
                table.unread.append(f"{file.name} begins with '{head.strip()[:60]}'")
    except (UnicodeDecodeError, csv.Error, OSError) as error:
        raise InputError(
            f"{file}: cannot be read as a table ({first_line(error)}); download it again"
        ) from error


def _long(
    file: Path, names: list[str], rows: Iterable[list[str]]
) -> Iterator[tuple[str, str, bool]]:
    image_column = names.index("id")
    label_column = names.index("label")
    for number, row in enumerate(rows, start=2):
        cells = list(map(str.strip, row))
        if not any(cells):
            continue

        image = kind = label = ""
        if len(cells) == len(names):
            image, _, kind = cells[image_column].rpartition("_")
            label = cells[label_column]
        if not image or kind not in BITS or label not in VALUES:
            shown = ",".join(row)[:60]
            raise InputError(f"{file}: line {number} is {shown!r}, expected ID_..._type,0 or 1")

        yield image, kind, VALUES[label]


def _wide(
    file: Path, names: list[str], rows: Iterable[list[str]]
) -> Iterator[tuple[str, str, bool]]:
    column = next(filter(names.__contains__, IMAGE_COLUMNS))
    image_column = names.index(column)
    places = {kind: names.index(kind) for kind in BITS}
    for number, row in enumerate(rows, start=2):
        cells = list(map(str.strip, row))
        if not any(cells):
            continue

        image = ""
        labels: list[str] = []
        if len(cells) == len(names):
            image = cells[image_column]
            labels = [cells[place] for place in places.values()]
        if not image or not VALUES.keys() >= set(labels):
            shown = ",".join(row)[:60]
            raise InputError(
                f"{file}: line {number} is {shown!r}, expected an ID and 0 or 1 per type"
            )

        for kind, label in zip(places, labels, strict=True):
            yield image, kind, VALUES[label]
