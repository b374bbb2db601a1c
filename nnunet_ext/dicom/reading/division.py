"""Divide a series into stacks: by geometry, then by what its header says.

The header tells acquisitions and reconstructions apart.
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
from nnunet_ext.printable import counted

# of the shorter of two runs that must lie beside the other; otherwise they are halves of one stack
SHARED_RANGE = 0.5
# of a series: the largest share that slices of another acquisition may make up to be left out
LONE_SHARE = 0.1
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
Range = tuple[float, float]


class NoVolume(Exception):
    """Slices that never were a volume, such as those of a watch for a contrast agent.

    The message says what they are.
    """


def divide(items: Sequence[Slice], rules: Rules) -> list[tuple[Part, tuple[str, ...]]]:
    """Return stacks without repeated positions, each sorted along the normal, with remarks.

    Slices whose places form one regular stack are one, unless fields that describe the
    reconstruction sort them into regular stacks between each other. Where positions repeat, a field
    that divides the series into whole stacks decides. Otherwise exact copies go (their pixels are
    read), and the fields are tried again; then runs of InstanceNumber that lie beside each other.
    What remains is rejected or, as ``rules`` say, thinned to the lowest InstanceNumber. A part too
    small for a stack comes last, beside the others.

    Raises:
        InputError: no field tells the slices at one position apart.
        NoVolume: all slices lie at fewer positions than a stack needs, which repeat.
    """
    items = in_order(items)
    layers = layers_of(items)
    positions_repeat = _largest(layers) > 1
    if positions_repeat:
        parts = _first_whole(_ways(items), layers, rules)
    else:
        parts = _interleaved(items, rules)

    parts = parts or _without_lone(items, rules)
    if parts:
        return _numbered(parts, (), rules)
    if not positions_repeat:
        return [(items, ())]
    return _divided_without_copies(items, layers, rules)


def _divided_without_copies(
    items: Sequence[Slice], layers: Sequence[Part], rules: Rules
) -> list[tuple[Part, tuple[str, ...]]]:
    """Return the stacks of a series in which an exact copy of a slice is ignored."""
    kept: Part = []
    for layer in layers:
        kept += _without_copies(layer)

    remarks: tuple[str, ...] = ()
    copies = len(items) - len(kept)
    if copies:
        remarks = (f"{copies} exact {'copy' if copies == 1 else 'copies'} left out",)

    layers = layers_of(kept)
    if _largest(layers) == 1:
        return [(kept, remarks)]
    if len(layers) < rules.minimum_slices:
        positions = "one position" if len(layers) == 1 else f"{len(layers)} positions"
        raise NoVolume(
            f"shows {positions} again and again, as the watch for a contrast agent does; it is "
            "not a volume"
        )

    ways = [*_ways(kept), _by_runs(kept)]
    parts = _first_whole(ways, layers, rules) or _without_lone(kept, rules)
    if parts:
        return _numbered(parts, remarks, rules)
    return [_thinned(layers, remarks, rules)]


def _thinned(
    layers: Sequence[Part], remarks: tuple[str, ...], rules: Rules
) -> tuple[Part, tuple[str, ...]]:
    """Return one slice of each position, if the rules allow it.

    Raises:
        InputError: they do not.
    """
    repeated = sum(len(layer) > 1 for layer in layers)
    positions = counted(repeated, "position")
    if rules.repeats == "reject":
        raise InputError(
            f"holds several different slices at {positions}; neither phase, acquisition, "
            "reconstruction, time nor order in the headers sorts them into whole stacks"
        )

    kept = [min(layer, key=_order_of) for layer in layers]
    return kept, (*remarks, f"several slices at {positions}, the lowest InstanceNumber kept")


def _order_of(item: Slice) -> tuple[int, str, int]:
    number = item.instance_number or 0
    frame = item.frame or 0
    return number, item.path, frame


def _largest(layers: Sequence[Part]) -> int:
    """Return how many slices share a position, at most."""
    sizes = map(len, layers)
    return max(sizes)


def _ways(items: Sequence[Slice]) -> Ways:
    """Return ways of dividing slices, the likeliest first: by each field, then by several."""
    times = tuple(TIME_FIELDS.values())
    reconstruction = tuple(RECONSTRUCTION_FIELDS.values())

    ways = []
    for field in (*times, *reconstruction, *LAST_FIELDS.values()):
        ways.append(_by_fields(items, (field,)))

    ways.append(_by_fields(items, reconstruction))
    for time in times:
        ways.append(_by_fields(items, (*reconstruction, time)))

    return ways


def _interleaved(items: Sequence[Slice], rules: Rules) -> list[Part]:
    """Return regular stacks between each other's slices, as a field tells them apart; or none.

    A second pass that begins half a step further repeats no position. But a number that alternates
    from slice to slice of one regular stack tells no second pass.
    """
    fits_one_grid = _kind(items) in ("regular", "missing")
    for name, field in {**TIME_FIELDS, **RECONSTRUCTION_FIELDS}.items():
        values = {field(item) for item in items}
        if values & {None, ""}:
            continue  # a field that some slices lack was lost, and tells nothing

        parts = _by_fields(items, (field,))
        most = len(items) * MOST_PARTS
        if not 1 < len(parts) <= most or not _are_stacks(parts, rules):
            continue

        if fits_one_grid and name in TIME_FIELDS and not _follow_each_other(parts):
            continue

        ranges_mm = sorted(map(_range_mm, parts))
        if _share_ranges(ranges_mm) and _are_regular(parts):
            return parts

    return []


def _without_lone(items: Sequence[Slice], rules: Rules) -> list[Part]:
    """Return whole stacks, and last the few slices of other acquisitions among them; or none."""
    if _kind(items) in ("regular", "missing"):
        return []

    for field in (*TIME_FIELDS.values(), *RECONSTRUCTION_FIELDS.values()):
        parts = _by_fields(items, (field,))
        whole, lone = _by_size(parts, rules)

        most = max(1, LONE_SHARE * len(items))
        slices = sum(map(len, lone))
        if not whole or not 0 < slices <= most:
            continue

        if not _are_stacks(whole, rules) or not _are_regular(whole):
            continue

        if _lies_among(itertools.chain(*lone), itertools.chain(*whole)):
            return [*whole, *lone]

    return []


def _by_size(parts: Sequence[Part], rules: Rules) -> tuple[list[Part], list[Part]]:
    """Return the parts that are large enough for a stack, and the others."""
    whole = []
    lone = []
    for part in parts:
        if len(part) >= rules.smallest_stack:
            whole.append(part)
        else:
            lone.append(part)
    return whole, lone


def _lies_among(few: Iterable[Slice], many: Iterable[Slice]) -> bool:
    """Return whether slices lie between the first and the last of others.

    Beyond these they would continue the stack.
    """
    few_first_mm, few_last_mm = _range_mm(list(few))
    first_mm, last_mm = _range_mm(list(many))
    after_first = few_first_mm >= first_mm - SAME_POSITION_MM
    before_last = few_last_mm <= last_mm + SAME_POSITION_MM
    return bool(after_first and before_last)


def _are_regular(parts: Iterable[Part]) -> bool:
    kinds = map(_kind, parts)
    return all(kind == "regular" for kind in kinds)


def _kind(items: Sequence[Slice]) -> Kind | None:
    """Return how slices lie, as far as their positions are written; None if positions repeat."""
    if len(items) < 2:
        return None
    along_mm = np.sort(_along_mm(items))
    smallest_step_mm = np.diff(along_mm).min()
    if smallest_step_mm <= SAME_POSITION_MM:
        return None

    along_rounding_mm = rounding_mm(items)[2]
    kind, _ = step_of(along_mm, along_rounding_mm)
    return kind


def rounding_mm(items: Sequence[Slice]) -> np.ndarray:
    """Return half a unit of the last digit of the positions, (3,), along rows, columns and normal.

    Digits are counted over all slices, because a writer leaves out trailing zeros.
    """
    decimals = [item.position_decimals for item in items if item.position_decimals]
    if not decimals:
        return np.zeros(3)

    most_decimals = np.max(decimals, axis=0)
    halves_mm = 0.5 * 10.0**-most_decimals
    cosines = np.abs(directions_of(items[0].orientation))
    return np.asarray(cosines @ halves_mm)


def _follow_each_other(parts: Sequence[Part]) -> bool:
    """Return whether InstanceNumber says that one part was made after the other."""
    ranges = []
    for part in parts:
        numbers = []
        for item in part:
            if item.instance_number is None:
                return False
            numbers.append(item.instance_number)
        ranges.append((min(numbers), max(numbers)))

    pairs = itertools.pairwise(sorted(ranges))
    return all(last < first for (_, last), (first, _) in pairs)


def _share_ranges(ranges_mm: Iterable[Range]) -> bool:
    """Return whether each of these runs shares a good part of its range with the next one."""
    for (begin_mm, end_mm), (next_begin_mm, next_end_mm) in itertools.pairwise(ranges_mm):
        shared_end_mm = min(end_mm, next_end_mm)
        shared_begin_mm = max(begin_mm, next_begin_mm)
        shared_mm = shared_end_mm - shared_begin_mm
        shorter_mm = min(end_mm - begin_mm, next_end_mm - next_begin_mm)
        if not shared_mm >= SHARED_RANGE * shorter_mm:
            return False
    return True


def _first_whole(ways: Ways, layers: Sequence[Part], rules: Rules) -> list[Part]:
    """Return the first way with as many stacks as slices share a position; or none.

    More parts would be pieces, such as the rotations of a step-and-shoot scan.
    """
    count = _largest(layers)
    for parts in ways:
        if len(parts) == count and _are_stacks(parts, rules):
            return parts

    return []


def _numbered(
    parts: list[Part], remarks: tuple[str, ...], rules: Rules
) -> list[tuple[Part, tuple[str, ...]]]:
    """Return the parts in order, each with its remarks."""
    whole, lone = _by_size(parts, rules)
    if lone:
        slices = counted(sum(map(len, lone)), "slice")
        remarks = (*remarks, f"{slices} of another acquisition left out")

    numbered = []
    for number, part in enumerate(whole, start=1):
        of_part = remarks
        if len(whole) > 1:
            of_part = (*remarks, f"acquisition {number} of {len(whole)} in one series")
        numbered.append((in_order(part), of_part))

    for part in lone:
        numbered.append((part, (LONE,)))

    return numbered


def in_order(items: Sequence[Slice]) -> Part:
    """Return slices along the normal; at one position in the order of InstanceNumber and path."""
    ordered = sorted(items, key=_order_of)
    places = np.round(_along_mm(ordered) / SAME_POSITION_MM)
    order = np.argsort(places, kind="stable")
    return [ordered[index] for index in order]


def layers_of(items: Sequence[Slice]) -> list[Part]:
    """Return sorted slices, those at one position together."""
    steps_mm = np.diff(_along_mm(items))
    layers = [[items[0]]]
    for item, step_mm in zip(items[1:], steps_mm, strict=True):
        if step_mm <= SAME_POSITION_MM:
            layers[-1].append(item)
        else:
            layers.append([item])

    return layers


def _along_mm(items: Sequence[Slice]) -> np.ndarray:
    """Return the positions along the normal, (n,)."""
    _, _, normal = directions_of(items[0].orientation)
    positions_mm = np.array([item.position_mm for item in items])
    return positions_mm @ normal


def _range_mm(items: Sequence[Slice]) -> Range:
    along_mm = _along_mm(items)
    return along_mm.min(), along_mm.max()


def _without_copies(layer: Sequence[Slice]) -> Part:
    """Return the slices at one position without those that repeat an earlier one.

    A copy holds the same values at the same place.
    """
    if len(layer) == 1:
        return list(layer)

    first_with: dict[tuple, Slice] = {}
    for item in layer:
        pixels = read_pixels(item)
        values = np.ascontiguousarray(pixels.values, dtype=np.float64)
        digest = hashlib.sha256(values.tobytes()).hexdigest()
        place = np.round(item.position_mm, 2)
        first_with.setdefault((digest, *place), item)

    return list(first_with.values())


def _by_fields(items: Sequence[Slice], fields: Sequence[Field]) -> list[Part]:
    """Return slices by what these fields say, the lowest InstanceNumber first."""
    parts: dict[tuple, Part] = defaultdict(list)
    for item in items:
        values = tuple(field(item) for field in fields)
        parts[values].append(item)

    return sorted(parts.values(), key=_lowest_number)


def _lowest_number(part: Part) -> int:
    numbers = [item.instance_number or 0 for item in part]
    return min(numbers)


def _by_runs(items: Sequence[Slice]) -> list[Part]:
    """Return runs of InstanceNumber along which the position moves one way.

    There are none where they do not lie beside each other.
    """
    numbers = Counter(item.instance_number for item in items)
    if None in numbers or max(numbers.values()) > 1:
        return []

    ordered = sorted(items, key=lambda item: item.instance_number or 0)
    along_mm = _along_mm(ordered)
    parts = []
    ranges_mm = []
    for run in _one_way_runs(along_mm):
        parts.append([ordered[index] for index in run])
        places_mm = along_mm[run]
        ranges_mm.append((places_mm.min(), places_mm.max()))
    return parts if _share_ranges(ranges_mm) else []


def _one_way_runs(along_mm: np.ndarray) -> list[list[int]]:
    """Return runs of indices along which the position moves one way."""
    runs = [[0]]
    for index in range(1, len(along_mm)):
        run = runs[-1]
        step_mm = along_mm[index] - along_mm[index - 1]
        stands = abs(step_mm) <= SAME_POSITION_MM
        turns = False
        if len(run) > 1:
            first_step_mm = along_mm[run[1]] - along_mm[run[0]]
            turns = step_mm * first_step_mm < 0
        if stands or turns:
            runs.append([index])
        else:
            run.append(index)
    return runs


def _are_stacks(parts: Iterable[Part], rules: Rules) -> bool:
    return all(_is_stack(part, rules) for part in parts)


def _is_stack(items: Sequence[Slice], rules: Rules) -> bool:
    """Return whether there are enough slices for a stack, each at another position."""
    if len(items) < rules.smallest_stack:
        return False

    layers = layers_of(in_order(items))
    return _largest(layers) == 1
