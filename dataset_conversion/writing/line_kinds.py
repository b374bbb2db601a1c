"""Lines counted by kind, so that a hundred cases with one remark become one line."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable

_NUMBER = re.compile(r"(?<!\w)-?\d+(?:\.\d+)?(?:e[+-]?\d+)?|\d+")


class LineKinds:
    """Counts lines; those that differ only in their numbers are of one kind.

    >>> kinds = LineKinds(["gantry tilt 12.5 degrees", "odd", "gantry tilt 15 degrees"])
    >>> kinds.most_common()
    [('gantry tilt 12.5..15 degrees', 2), ('odd', 1)]
    """

    def __init__(self, lines: Iterable[str] = ()) -> None:
        self._counts: Counter[tuple[str, ...]] = Counter()
        self._numbers: dict[tuple[str, ...], list[tuple[str, str]]] = {}
        for line in lines:
            self.add(line)

    def __bool__(self) -> bool:
        return bool(self._counts)

    def total(self) -> int:
        """Return how many lines were counted."""
        return self._counts.total()

    def add(self, line: str, count: int = 1) -> None:
        """Count a line."""
        words = tuple(_NUMBER.split(line))
        numbers = _NUMBER.findall(line)
        self._counts[words] += count
        ranges = self._numbers.setdefault(words, [(number, number) for number in numbers])
        for place, number in enumerate(numbers):
            low, high = ranges[place]
            low = min(low, number, key=float)
            high = max(high, number, key=float)
            ranges[place] = (low, high)

    def most_common(self) -> list[tuple[str, int]]:
        """Return each kind with its count, the commonest first.

        A number that is not the same in all lines is shown as its range.
        """
        kinds = []
        for words, count in self._counts.most_common():
            text = self._shown(words)
            kinds.append((text, count))

        return kinds

    def _shown(self, words: tuple[str, ...]) -> str:
        text, *further = words
        ranges = self._numbers[words]
        for (low, high), word in zip(ranges, further, strict=True):
            is_one = float(low) == float(high)
            text += low if is_one else f"{low}..{high}"
            text += word

        return text
