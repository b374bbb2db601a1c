"""What a metric is: one declaration that says how it is computed, printed and compared."""

import math
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeVar, get_args

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    import pandas as pd

Value = TypeVar("Value")
Arrays = TypeVar("Arrays", bound="_Arrays")
Values = TypeVar("Values", "pd.Series", npt.NDArray[np.float64])

EmptyPolicy = Literal["nan", "one", "zero"]
EMPTY_POLICIES: tuple[EmptyPolicy, ...] = get_args(EmptyPolicy)


class Better(Enum):
    """Which values of a metric are better; the value is the arrow in tables and figures."""

    HIGHER = "↑"
    LOWER = "↓"
    NEAR_ZERO = "→ 0"  # of both signs, which tell over-segmentation from under-segmentation


class ConfusionCounts(NamedTuple):
    """Voxels of one case: true and false positives, false and true negatives."""

    tp: int
    fp: int
    fn: int
    tn: int


@dataclass(frozen=True, eq=False)
class _Arrays:
    """Arrays of one case; metrics may share what is slow to compute from them."""

    _shared: dict[Hashable, Any] = field(default_factory=dict, init=False, repr=False)

    def shared(self: Arrays, compute: Callable[[Arrays], Value]) -> Value:
        """Return ``compute(self)``, computed once for all metrics."""
        if compute not in self._shared:
            self._shared[compute] = compute(self)
        return self._shared[compute]


@dataclass(frozen=True, eq=False)
class MaskPair(_Arrays):
    """Two masks of one shape, 2D or 3D.

    ``spacing`` is in mm per voxel, in the order of the arrays' axes, or in voxels where the files
    store none (``has_spacing``); ``tolerance_mm`` is that of the profile.
    """

    prediction: npt.NDArray[np.bool_]
    reference: npt.NDArray[np.bool_]
    spacing: Sequence[float]
    tolerance_mm: float
    has_spacing: bool = True


@dataclass(frozen=True, eq=False)
class SoftMapPair(_Arrays):
    """A soft map in [0, 1] of one image, and the reference mask; both (rows, columns)."""

    prediction: npt.NDArray[np.float64]
    reference: npt.NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class ProbabilityPair(_Arrays):
    """Probabilities in [0, 1] of one case as the network gave them, and the reference mask.

    Both have one shape, 2D or 3D.
    """

    prediction: npt.NDArray[np.float32]
    reference: npt.NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True)
class Metric:
    """One metric. What it is computed from (its ``from_...`` functions) says what it needs.

    Args:
        name: as in ``--metrics`` and the columns of tables.
        header: as people write it.
        better: which values are better. There is no default: a wrong one prints the worse method
            in bold.
        decimals: digits after the point in tables.
        range: lowest and highest value.
        from_counts: numerator and denominator, from the counts of one case.
        from_masks: the value of one case, from its masks and their spacing.
        from_soft_map: the value of one slice, from a soft map that is stretched to [0, 1].
        from_probabilities: the value of one case, from probabilities as they are.
        from_cases: one number of a whole method, from the rows of `cases_table`.
        of_metric: the metric whose defined values ``from_cases`` takes; "" for all voxels.
        uses_tolerance: whether it depends on ``--tolerance``.
        follows_empty_policy: whether ``--empty`` decides what 0/0 counts.

    Raises:
        ValueError: the declaration is incomplete or contradicts itself.
    """

    name: str
    header: str
    better: Better
    decimals: int
    range: tuple[float, float]
    from_counts: Callable[[ConfusionCounts], tuple[int, int]] | None = None
    from_masks: Callable[[MaskPair], float] | None = None
    from_soft_map: Callable[[SoftMapPair], float] | None = None
    from_probabilities: Callable[[ProbabilityPair], float] | None = None
    from_cases: Callable[["pd.DataFrame"], float] | None = None
    of_metric: str = ""
    uses_tolerance: bool = False
    follows_empty_policy: bool = True

    def __post_init__(self) -> None:
        if not self.name.isidentifier():
            raise ValueError(f"metric {self.name!r}: the name is letters, digits and _")
        lowest, highest = self.range
        if lowest >= highest:
            raise ValueError(f"metric {self.name}: range {self.range} is empty")

        ways = (
            self.from_counts,
            self.from_masks,
            self.from_soft_map,
            self.from_probabilities,
            self.from_cases,
        )
        undeclared = ways.count(None)
        if undeclared == len(ways):
            raise ValueError(f"metric {self.name}: nothing says what it is computed from")

    @property
    def header_with_arrow(self) -> str:
        """Header and which values are better."""
        return f"{self.header} {self.better.value}"

    def of_counts(self, counts: ConfusionCounts, empty: EmptyPolicy = "nan") -> float:
        """Return the value of one case.

        A fraction 0/0 is undefined (NaN), perfect (``one``) or failed (``zero``), as ``empty``
        says. n/0 has no value under any policy.

        Raises:
            ValueError: unknown policy, or the metric does not follow from counts.
        """
        if empty not in EMPTY_POLICIES:
            known = ", ".join(EMPTY_POLICIES)
            raise ValueError(f"unknown policy for empty masks {empty!r}; choose one of {known}")
        if self.from_counts is None:
            raise ValueError(f"{self.name}: does not follow from voxel counts")

        numerator, denominator = self.from_counts(counts)
        if denominator:
            return numerator / denominator
        if numerator or empty == "nan" or not self.follows_empty_policy:
            return float("nan")

        is_perfect = empty == "one"
        is_score = self.better is Better.HIGHER
        return 1.0 if is_perfect == is_score else 0.0

    def of_arrays(self, arrays: MaskPair | SoftMapPair | ProbabilityPair) -> float | None:
        """Return the value of one case or slice; None if it is not computed from such arrays."""
        ways: dict[type, Callable[[Any], float] | None] = {
            MaskPair: self.from_masks,
            SoftMapPair: self.from_soft_map,
            ProbabilityPair: self.from_probabilities,
        }
        compute = ways[type(arrays)]
        return None if compute is None else compute(arrays)

    def formatted(self, value: float) -> str:
        """Return the value with the metric's decimals, ``nan`` where it is undefined."""
        if math.isnan(value):
            return "nan"
        return f"{value:.{self.decimals}f}"

    def badness(self, values: Values) -> Values:
        """Return numbers that rise from the best to the worst value."""
        if self.better is Better.HIGHER:
            return -values
        return abs(values)

    def best(self, values: dict[str, float]) -> set[str]:
        """Return the names with the best value as it is printed; none if there is no choice.

        Values that are printed alike are all the best.
        """
        sign = 1.0 if self.better is Better.HIGHER else -1.0
        scores = {}
        for name, value in values.items():
            if not math.isnan(value):
                printed = float(self.formatted(value))
                scores[name] = sign * abs(printed)

        different = set(scores.values())
        if len(values) < 2 or len(different) < 2:
            return set()
        highest = max(different)
        return {name for name, score in scores.items() if score == highest}
