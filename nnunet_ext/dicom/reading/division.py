"""A series divided into stacks: by geometry first, then by what its header says of acquisition and
reconstruction.
"""

from __future__ import annotations

import hashlib
import itertools
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence

import numpy as np

from nnunet_ext.dicom.reading.geometry import SAME_POSITION_MM, Kind, directions_of, step_of
from nnunet_ext.dicom.reading.headers import Slice
from nnunet_ext.dicom.reading.pixels import read_pixels
from nnunet_ext.dicom.reading.rules import Rules
from nnunet_ext.errors import InputError

SHARED_RANGE = (
    0.5  # of the shorter of two runs must lie beside the other, or they are halves of one stack
)
LONE_SHARE = 0.1  # of a series that slices of another acquisition may make up to be left out
MOST_PARTS = 1 / 3  # of the slices: more parts would be pieces

LONE = "of another acquisition than the slices around"

Field = Callable[[Slice], object]
TIME_FIELDS: dict[str, Field] = {
    "TemporalPositionIdentifier": lambda item: item.temporal_position,
    "NominalPercentageOfCardiacPhase": lambda item: item.cardiac_phase,
    "TriggerTime": lambda item: item.trigger_time,
    "AcquisitionNumber": lambda item: item.acquisition_number,
}
"""Of one pass over the body or another; a number may also count the rows of one detector."""
RECONSTRUCTION_FIELDS: dict[str, Field] = {
    "ConvolutionKernel": lambda item: item.kernel,
    "SliceThickness": lambda item: (
        None if item.thickness_mm is None else f"{item.thickness_mm:.3g}"
    ),
    "SeriesNumber": lambda item: item.series_number,
    "the file of an enhanced image": lambda item: None if item.frame is None else item.path,
    "ImageType": lambda item: item.image_type,
    "KVP, EchoTime, ReconstructionDiameter, FilterType, ContrastBolusAgent": lambda item: (
        item.settings
    ),
    "SeriesDescription": lambda item: item.description,
}
"""Of one image series or another, whatever their slices' places are."""
LAST_FIELDS: dict[str, Field] = {"AcquisitionTime": lambda item: item.acquisition_time}
"""Often another for every slice."""

Part = list[Slice]
Ways = list[list[Part]]


class NoVolume(Exception):
    """Slices that never were a volume, such as those that wait for a contrast agent; the message
    says what they are.
    """


def divide(items: Sequence[Slice], rules: Rules) -> list[tuple[Part, tuple[str, ...]]]:
    """Stacks without repeated positions, each sorted along the normal, with remarks.

    Slices whose places form one regular stack are one, unless fields that describe the
    reconstruction sort them into regular stacks between each other. Where positions repeat, a field
    that divides the series into whole stacks decides. Otherwise exact copies go (their pixels are
    read), and the fields are tried again; then runs of InstanceNumber that lie beside each other.
    What remains is rejected or, as ``rules`` say, thinned to the lowest InstanceNumber. A part too
    small for a stack comes last, beside the others.

    Raises:
        InputError: nothing that was asked tells the slices at one position apart.
        NoVolume: all slices lie at fewer positions than a stack needs, which repeat.
    """
    items = in_order(items)
    layers = layers_of(items)
    if max(map(len, layers)) == 1:
        parts = _interleaved(items, rules) or _without_lone(items, rules)
        return _numbered(parts, (), rules) if parts else [(items, ())]

    if parts := _first_whole(_ways(items), layers, rules) or _without_lone(items, rules):
        return _numbered(parts, (), rules)

    kept = [item for layer in layers for item in _without_copies(layer)]
    copies = len(items) - len(kept)
    remarks = (f"{copies} exact copies left out",) if copies else ()
    layers = layers_of(kept)
    if max(map(len, layers)) == 1:
        return [(kept, remarks)]
    if len(layers) < rules.minimum_slices:
        positions = "one position" if len(layers) == 1 else f"{len(layers)} positions"
        raise NoVolume(
            f"shows {positions} again and again, as the watch for a contrast agent does: no volume"
        )

    if parts := _first_whole([*_ways(kept), _by_runs(kept)], layers, rules) or _without_lone(
        kept, rules
    ):
        return _numbered(parts, remarks, rules)

    repeated = sum(len(layer) > 1 for layer in layers)
    if rules.repeats == "reject":
        raise InputError(
            f"holds several different slices at {repeated} positions; neither phase, acquisition, "
            f"reconstruction, time "
            "nor order in the headers sorts them into whole stacks"
        )

    first = [
        min(layer, key=lambda item: (item.instance_number or 0, item.path)) for layer in layers
    ]
    return [
        (
            first,
            (*remarks, f"several slices at {repeated} positions, the lowest InstanceNumber kept"),
        )
    ]


def _ways(items: Sequence[Slice]) -> Ways:
    """Ways of dividing slices, the likeliest first: by each field, then by several together."""
    reconstruction, times = tuple(RECONSTRUCTION_FIELDS.values()), tuple(TIME_FIELDS.values())
    single = [(field,) for field in (*times, *reconstruction, *LAST_FIELDS.values())]
    joint = [reconstruction, *((*reconstruction, time) for time in times)]
    return [_by_fields(items, fields) for fields in (*single, *joint)]


def _interleaved(items: Sequence[Slice], rules: Rules) -> list[Part]:
    """Regular stacks between each other's slices, as a field tells them apart; empty where there
    are none.

    A second pass that begins half a step further repeats no position. But a number that alternates
    from slice to slice of one regular stack tells no second pass.
    """
    fits_one_grid = _kind(items) in ("regular", "missing")
    for name, field in {**TIME_FIELDS, **RECONSTRUCTION_FIELDS}.items():
        if any(field(item) in (None, "") for item in items):
            continue  # a field that some slices lack was lost, and tells nothing
        parts = _by_fields(items, (field,))
        if not 1 < len(parts) <= len(items) * MOST_PARTS or not all(
            _is_stack(part, rules) for part in parts
        ):
            continue

        if fits_one_grid and name in TIME_FIELDS and not _follow_each_other(parts):
            continue

        ends_mm = [(along.min(), along.max()) for along in map(_along_mm, parts)]
        beside = all(_beside(*pair) for pair in itertools.pairwise(sorted(ends_mm)))
        if beside and all(_is_regular(part) for part in parts):
            return parts

    return []


def _without_lone(items: Sequence[Slice], rules: Rules) -> list[Part]:
    """Whole stacks, and last the few slices of other acquisitions among them, as a field tells;
    empty if none does.
    """
    if _kind(items) in ("regular", "missing"):
        return []
    for fields in [(field,) for field in (*TIME_FIELDS.values(), *RECONSTRUCTION_FIELDS.values())]:
        parts = _by_fields(items, fields)
        lone = [part for part in parts if len(part) < rules.smallest_stack]
        whole = [part for part in parts if len(part) >= rules.smallest_stack]

        few = 0 < sum(map(len, lone)) <= max(1, LONE_SHARE * len(items))
        if (
            not few
            or not whole
            or not all(_is_stack(part, rules) and _is_regular(part) for part in whole)
        ):
            continue

        if _lies_among(itertools.chain(*lone), itertools.chain(*whole)):
            return [*whole, *lone]

    return []


def _lies_among(few: Iterable[Slice], many: Iterable[Slice]) -> bool:
    """Whether slices lie between the first and the last of others; beyond these they would continue
    the stack.
    """
    few_mm, many_mm = _along_mm(list(few)), _along_mm(list(many))
    above = few_mm.min() >= many_mm.min() - SAME_POSITION_MM
    return bool(above and few_mm.max() <= many_mm.max() + SAME_POSITION_MM)


def _is_regular(items: Sequence[Slice]) -> bool:
    return _kind(items) == "regular"


def _kind(items: Sequence[Slice]) -> Kind | None:
    """How slices lie, as far as their positions are written; None where positions repeat."""
    along_mm = np.sort(_along_mm(items))
    if len(along_mm) < 2 or np.diff(along_mm).min() <= SAME_POSITION_MM:
        return None
    return step_of(along_mm, rounding_mm(items)[2])[0]


def rounding_mm(items: Sequence[Slice]) -> np.ndarray:
    """Half a unit of the last digit of the positions, (3,), along rows, columns and the normal.

    Digits are counted over all slices, because a writer leaves out trailing zeros.
    """
    decimals = [item.position_decimals for item in items if item.position_decimals]
    if not decimals:
        return np.zeros(3)
    halves_mm = 0.5 * 10.0 ** -np.max(decimals, axis=0)
    return np.asarray(np.abs(directions_of(items[0].orientation)) @ halves_mm)


def _follow_each_other(parts: Sequence[Part]) -> bool:
    """Whether InstanceNumber says that one part was made after the other."""
    numbers = [[item.instance_number for item in part] for part in parts]
    if any(None in part for part in numbers):
        return False
    ranges = sorted((min(part), max(part)) for part in numbers)  # type: ignore[type-var]
    return all(first[1] < second[0] for first, second in itertools.pairwise(ranges))  # type: ignore[operator]


def _beside(first_mm: tuple[float, float], second_mm: tuple[float, float]) -> bool:
    """Whether two runs, each from its begin to its end, share a good part of their range."""
    shared_mm = min(first_mm[1], second_mm[1]) - max(first_mm[0], second_mm[0])
    return shared_mm >= SHARED_RANGE * min(first_mm[1] - first_mm[0], second_mm[1] - second_mm[0])


def _first_whole(ways: Ways, layers: Sequence[Part], rules: Rules) -> list[Part]:
    """The first way of dividing a series into as many stacks as slices share a position; empty
    where there is none.

    More parts would be pieces, such as the rotations of a step-and-shoot scan.
    """
    count = max(map(len, layers))
    for parts in ways:
        if len(parts) == count and all(_is_stack(part, rules) for part in parts):
            return parts
    return []


def _numbered(
    parts: list[Part], remarks: tuple[str, ...], rules: Rules
) -> list[tuple[Part, tuple[str, ...]]]:
    whole = [part for part in parts if len(part) >= rules.smallest_stack]
    lone = [part for part in parts if len(part) < rules.smallest_stack]
    if lone:
        remarks = (*remarks, f"{sum(map(len, lone))} slices of another acquisition left out")

    numbered = []
    for number, part in enumerate(whole, start=1):
        which = (f"acquisition {number} of {len(whole)} in one series",) if len(whole) > 1 else ()
        numbered.append((in_order(part), (*remarks, *which)))

    return [*numbered, *((part, (LONE,)) for part in lone)]


def in_order(items: Sequence[Slice]) -> Part:
    """Along the normal; slices at one position in the order of InstanceNumber and path."""
    ordered = sorted(
        items, key=lambda item: (item.instance_number or 0, item.path, item.frame or 0)
    )
    directions = directions_of(ordered[0].orientation)
    places = np.array([item.position_mm for item in ordered]) @ directions[2]
    return [
        ordered[index] for index in np.argsort(np.round(places / SAME_POSITION_MM), kind="stable")
    ]


def layers_of(items: Sequence[Slice]) -> list[Part]:
    """Sorted slices, those at one position together."""
    layers = [[items[0]]]
    for item, step_mm in zip(items[1:], np.diff(_along_mm(items)), strict=True):
        if step_mm <= SAME_POSITION_MM:
            layers[-1].append(item)
        else:
            layers.append([item])

    return layers


def _along_mm(items: Sequence[Slice]) -> np.ndarray:
    normal = directions_of(items[0].orientation)[2]
    return np.array([item.position_mm for item in items]) @ normal


def _without_copies(layer: Sequence[Slice]) -> Part:
    """Slices at one position without those that hold the same values at the same place as an
    earlier one.
    """
    if len(layer) == 1:
        return list(layer)
    first_with: dict[tuple, Slice] = {}
    for item in layer:
        values = read_pixels(item).values
        digest = hashlib.sha256(
            np.ascontiguousarray(values, dtype=np.float64).tobytes()
        ).hexdigest()
        first_with.setdefault((digest, *np.round(item.position_mm, 2)), item)

    return list(first_with.values())


def _by_fields(items: Sequence[Slice], fields: Sequence[Field]) -> list[Part]:
    parts: dict[tuple, Part] = defaultdict(list)
    for item in items:
        parts[tuple(field(item) for field in fields)].append(item)
    return sorted(parts.values(), key=lambda part: min(item.instance_number or 0 for item in part))


def _by_runs(items: Sequence[Slice]) -> list[Part]:
    """Runs of InstanceNumber along which the position moves one way; none where they do not lie
    beside each other.
    """
    numbers = Counter(item.instance_number for item in items)
    if None in numbers or max(numbers.values()) > 1:
        return []
    ordered = sorted(items, key=lambda item: item.instance_number or 0)
    along_mm = _along_mm(ordered)
    runs = [[0]]
    for index in range(1, len(ordered)):
        step_mm = along_mm[index] - along_mm[index - 1]
        run = runs[-1]
        turns = len(run) > 1 and step_mm * (along_mm[run[1]] - along_mm[run[0]]) < 0
        if abs(step_mm) <= SAME_POSITION_MM or turns:
            runs.append([index])
        else:
            run.append(index)

    ranges = [(along_mm[run].min(), along_mm[run].max()) for run in runs]
    if not all(_beside(*pair) for pair in itertools.pairwise(ranges)):
        return []
    return [[ordered[index] for index in run] for run in runs]


def _is_stack(items: Sequence[Slice], rules: Rules) -> bool:
    return len(items) >= rules.smallest_stack and max(map(len, layers_of(in_order(items)))) == 1
