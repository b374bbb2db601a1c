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
        words, numbers = tuple(_NUMBER.split(line)), _NUMBER.findall(line)
        self._counts[words] += count
        ranges = self._numbers.setdefault(words, [(number, number) for number in numbers])
        for place, number in enumerate(numbers):
            low, high = ranges[place]
            ranges[place] = (min(low, number, key=float), max(high, number, key=float))

    def most_common(self) -> list[tuple[str, int]]:
        """Return each kind with its count, the commonest first.

        A number that is not the same in all lines is shown as its range.
        """
        return [(self._shown(words), count) for words, count in self._counts.most_common()]

    def _shown(self, words: tuple[str, ...]) -> str:
        text = words[0]
        for (low, high), word in zip(self._numbers[words], words[1:], strict=True):
            number = low if float(low) == float(high) else f"{low}..{high}"
            text += number + word

        return text
