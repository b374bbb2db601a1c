"""Label values: proof that they are declared, merging, renumbering, masks stored as pictures."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from dataset_conversion.reading.download_folder import first_of
from nnunet_ext.errors import InputError

GREY_WEIGHTS = (0.299, 0.587, 0.114)  # ITU-R 601, what PIL and OpenCV use: (128, 0, 0) becomes 38
Colour = tuple[int, int, int]
ROUNDING = 1e-3  # how far from a whole number a label value may be stored
ANTIALIASED_SHARE = 0.1  # at most this many pixels between black and white per white pixel


def distinct_values(array: np.ndarray) -> np.ndarray:
    """Return the sorted distinct values.

    It goes layer by layer, since sorting a whole volume doubles its memory.
    """
    if array.ndim < 3 or array.shape[-1] == 0:
        return np.unique(array)

    layers = np.moveaxis(array, -1, 0)
    if array.dtype == np.uint8:
        counts = np.zeros(256, int)
        for layer in layers:
            counts += np.bincount(layer.ravel("K"), minlength=256)
        present = np.flatnonzero(counts)
        return present.astype(np.uint8)

    values_of_layers = [np.unique(layer) for layer in layers]
    return np.unique(np.concatenate(values_of_layers))


def count_values(label: np.ndarray, values: Iterable[int]) -> dict[int, int]:
    """Count the voxels of each of these values; comparing is much faster than sorting."""
    counts = {}
    for value in values:
        count = np.count_nonzero(label == value)
        counts[value] = int(count)

    return counts


def rounded_labels(label: np.ndarray) -> tuple[np.ndarray, tuple[str, ...]]:
    """Return a label that is whole but for rounding, such as 0.99999994, as whole numbers.

    Returns:
        The label, and warnings.

    Raises:
        InputError: NaN, or values that are farther from whole numbers.
    """
    if label.dtype.kind != "f":
        return label, ()
    if not np.isfinite(label).all():
        raise InputError(
            "holds NaN or infinite values; a label holds whole numbers from 0, so save it as such"
        )
    whole = np.rint(label)
    off = float(np.abs(label - whole).max(initial=0))
    if off > ROUNDING:
        fraction = label[np.abs(label - whole) > ROUNDING][0]
        raise InputError(
            f"holds values that are not whole numbers, such as {fraction:.9g}; save it as whole "
            f"numbers"
        )
    if off:
        return whole, (f"label values up to {off:.2g} beside whole numbers are rounded",)

    return whole, ()


def integer_labels(label: np.ndarray, valid: Sequence[int]) -> np.ndarray:
    """Return the label array as uint8, proven to hold only ``valid`` values (0..255).

    Raises:
        InputError: other values, which the message lists.
    """
    counts = count_values(label, set(valid))
    valid_voxels = sum(counts.values())
    if valid_voxels != label.size:  # NaN and fractions equal no integer
        values = distinct_values(label)
        foreign = values[~np.isin(values, valid)]
        shown = first_of([f"{value:.9g}" for value in foreign], 5)
        declared = ", ".join(map(str, valid))
        raise InputError(f"holds label values {shown}; declared are {declared}")

    return label.astype(np.uint8, copy=False)


@dataclass(frozen=True)
class LabelRenumbering:
    """A mapping from a publisher's label values to consecutive ones.

    ``names`` are the new names with their values; ``new_value`` gives the new value of each old
    one.
    """

    names: dict[str, int]
    new_value: dict[int, int]

    def __call__(self, label: np.ndarray) -> np.ndarray:
        """Return the new labels, uint8, of old ones.

        Raises:
            InputError: an old value that was not declared.
        """
        old = integer_labels(label, sorted(self.new_value))
        if not self.changes:
            return old

        table = np.zeros(256, np.uint8)
        for value, new in self.new_value.items():
            table[value] = new

        return table[old]

    @property
    def changes(self) -> bool:
        """Whether any value becomes another."""
        return any(old != new for old, new in self.new_value.items())


def label_map(declared: Mapping[int, str], groups: Sequence[str] = ()) -> LabelRenumbering:
    """Merge labels and number the result consecutively, in the order of each group's smallest old
    value.

    Args:
        declared: old value (0..255) to name; 0 is the background.
        groups: each ``1,2,3=tumour``; members are values or names.

    Raises:
        InputError: an unknown member, one in two groups, the background, or a name that is taken.

    >>> label_map({0: "background", 1: "edema", 2: "core", 4: "node"}, ["1,2=tumour"]).names
    {'background': 0, 'tumour': 1, 'node': 2}
    """
    if 0 not in declared or not all(0 <= value <= 255 for value in declared):
        raise InputError(
            f"labels {sorted(declared)}: 0 must be the background and none lie outside 0..255"
        )

    name_of = {value: name for value, name in declared.items() if value != 0}
    merged: set[int] = set()
    for group in groups:
        name, values = _parse_group(group, declared)
        for value in values:
            if value in merged:
                raise InputError(
                    f"--merge {group}: label {value} is merged twice; name each label once"
                )

            merged.add(value)
            name_of[value] = name
    _require_distinct(name_of, merged, groups)

    names: dict[str, int] = {"background": 0}
    new_value = {0: 0}
    for value in sorted(name_of):
        new_value[value] = names.setdefault(name_of[value], len(names))

    return LabelRenumbering(names, new_value)


def _parse_group(group: str, declared: Mapping[int, str]) -> tuple[str, list[int]]:
    """Return the name and the label values of an entry of --merge, such as ``1,2,3=tumour``."""
    members, _, name = group.rpartition("=")
    name = name.strip()
    if not members.strip() or not name:
        raise InputError(f"--merge {group}: write VALUE,VALUE=NAME, e.g. 1,2=tumour")

    values = []
    for member in members.split(","):
        value = _member(member.strip(), declared, group)
        values.append(value)

    return name, values


def choose_labels(
    published: Mapping[str, int], wanted: str, groups: Mapping[str, Sequence[str]]
) -> LabelRenumbering:
    """Keep some labels, in the order they are named; the others become background.

    Args:
        published: label names and values, 0 the background.
        wanted: names separated by commas: a label, a group, or labels joined by ``+``; empty: all
            as they are.
        groups: name to the labels it merges.

    Raises:
        InputError: an unknown name, or a label that is named twice.

    >>> labels = {"background": 0, "ggo": 1, "node": 2}
    >>> choose_labels(labels, "infection", {"infection": ("ggo", "node")})
    LabelRenumbering(names={'background': 0, 'infection': 1}, new_value={0: 0, 1: 1, 2: 1})
    """
    if not wanted:
        unchanged = {value: value for value in published.values()}
        return LabelRenumbering(dict(published), unchanged)

    values_of = _values_of_names(published, groups)
    spelling = {name.casefold(): name for name in (*published, *groups)}
    names = {"background": 0}
    new_value = dict.fromkeys(published.values(), 0)
    for entry in wanted.split(","):
        parts = [part.strip().casefold() for part in entry.split("+")]
        values: list[int] = []
        for part in parts:
            if not values_of.get(part):
                raise _no_such_label(part, wanted, published, groups)
            values += values_of[part]

        name = "+".join(map(spelling.__getitem__, parts))
        is_taken = any(map(new_value.get, values))
        if name in names or is_taken:
            raise InputError(
                f"--labels {wanted}: {name} names a label for the second time; name each once"
            )

        names[name] = len(names)
        chosen = dict.fromkeys(values, names[name])
        new_value.update(chosen)

    return LabelRenumbering(names, new_value)


def _no_such_label(
    part: str, wanted: str, published: Mapping[str, int], groups: Mapping[str, Sequence[str]]
) -> InputError:
    labels = [label for label, value in published.items() if value != 0]
    valid = ", ".join([*labels, *groups])

    return InputError(f"--labels {wanted}: no label {part!r}; there are {valid}")


def _values_of_names(
    published: Mapping[str, int], groups: Mapping[str, Sequence[str]]
) -> dict[str, list[int]]:
    """Return the label values that each name stands for, of labels and groups; names are folded."""
    values_of = {}
    for label, value in published.items():
        if value != 0:
            values_of[label.casefold()] = [value]

    of_groups = {}
    for group, labels in groups.items():
        values: list[int] = []
        for label in labels:
            values += values_of.get(label.casefold(), [])
        of_groups[group.casefold()] = values

    return {**of_groups, **values_of}


def _member(member: str, declared: Mapping[int, str], group: str) -> int:
    """Return the value of a label that an entry of --merge gives by value or name."""
    is_number = member.isascii() and member.isdigit()
    if is_number:
        value = int(member)
    else:
        value_of = {name.casefold(): value for value, name in declared.items()}
        value = value_of.get(member.casefold(), 0)

    if value == 0 or value not in declared:
        known = [f"{value} ({name})" for value, name in sorted(declared.items()) if value != 0]
        raise InputError(
            f"--merge {group}: no label {member!r} to merge; there are {', '.join(known)}"
        )

    return value


def _require_distinct(name_of: Mapping[int, str], merged: set[int], groups: Sequence[str]) -> None:
    """Check that a name stands for one label or one group, and background for none."""
    names = []
    for value, name in name_of.items():
        if value not in merged:
            names.append(name)
    for group in groups:
        _, _, name = group.rpartition("=")
        names.append(name.strip())
    names.append("background")

    counts = Counter(map(str.casefold, names))
    for name, count in counts.items():
        if count > 1:
            raise InputError(
                f"label name {name!r} would stand for two labels; choose another name in --merge"
            )


def binary_mask(picture: np.ndarray) -> tuple[np.ndarray, tuple[str, ...]]:
    """Return a black and white picture as labels 0 and 1.

    Args:
        picture: (H, W) uint8, values 0 and 255 (or 0 and 1); a few pixels between, as resizing
            leaves, are allowed.

    Returns:
        Labels (H, W) uint8, and warnings.

    Raises:
        InputError: too many values that are neither black nor white, so this is not a binary mask.
    """
    if np.isin(picture, (0, 1)).all():
        return picture.astype(np.uint8), ()

    is_white = picture == 255
    is_grey = (picture > 0) & ~is_white
    white = np.count_nonzero(is_white)
    between = np.count_nonzero(is_grey)
    if between > ANTIALIASED_SHARE * white:
        first_values = np.unique(picture)[:5]
        values = ", ".join(map(str, first_values))
        raise InputError(f"holds values {values}, ...; a binary mask has 0 and 255")

    warnings: tuple[str, ...] = ()
    if between:
        warnings = (f"{between} mask pixels between black and white: threshold 128",)
    is_marked = picture >= 128

    return is_marked.astype(np.uint8), warnings


def colour_classes(
    colours: np.ndarray, indices: np.ndarray | None, classes: Sequence[Colour]
) -> np.ndarray:
    """Return a picture of class colours as class indices.

    Colours decide: they keep their meaning when a tool reorders a palette or converts it to RGB or
    grey.

    Args:
        colours: (H, W, 3) uint8.
        indices: (H, W) palette indices where the file has a palette.
        classes: colour of class 0, 1, ...

    Returns:
        (H, W) uint8, values ``0 .. len(classes) - 1``.

    Raises:
        InputError: neither the colours, nor their grey values, nor plain indices.
    """
    greys = [_grey_of(colour) for colour in classes]
    numbers = range(len(classes))
    candidates: list[tuple[np.ndarray, Sequence[tuple[int, ...]]]] = [
        (colours, classes),
        (colours, [(grey,) * 3 for grey in greys]),
        (colours, [(number,) * 3 for number in numbers]),
    ]
    if indices is not None:
        keys = [(number,) for number in numbers]
        candidates.append((indices[..., None], keys))

    for picture, keys_of_classes in candidates:
        matches = _matches(picture, keys_of_classes)
        has_class = matches.any(axis=0)
        if has_class.all():
            return matches.argmax(axis=0).astype(np.uint8)

    found = np.unique(colours.reshape(-1, 3), axis=0)
    known = list(map(list, classes))
    raise InputError(f"holds colours {found[:5].tolist()}; known are {known} or grey {greys}")


def _matches(picture: np.ndarray, keys: Sequence[tuple[int, ...]]) -> np.ndarray:
    """Return where each key's colour is: (key, H, W)."""
    found = []
    for key in keys:
        is_equal = picture == np.array(key)
        found.append(is_equal.all(axis=-1))

    return np.stack(found)


def _grey_of(colour: Colour) -> int:
    grey = 0.0
    for weight, part in zip(GREY_WEIGHTS, colour, strict=True):
        grey += weight * part

    return round(grey)
