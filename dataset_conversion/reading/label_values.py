"""Label values: proof that they are declared ones, merging and renumbering, masks stored as
pictures.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from nnunet_ext.errors import InputError

GREY_WEIGHTS = (0.299, 0.587, 0.114)  # ITU-R 601, what PIL and OpenCV use: (128, 0, 0) becomes 38
Colour = tuple[int, int, int]
ROUNDING = 1e-3  # how far from a whole number a label value may be stored
ANTIALIASED_SHARE = 0.1  # at most this many pixels between black and white per white pixel


def distinct_values(array: np.ndarray) -> np.ndarray:
    """Sorted distinct values; along the last axis piece by piece, since sorting a whole volume
    doubles its memory.
    """
    if array.ndim < 3:
        return np.unique(array)
    if array.dtype == np.uint8:
        counts = [
            np.bincount(array[..., index].ravel("K"), minlength=256)
            for index in range(array.shape[-1])
        ]
        return np.flatnonzero(np.sum(counts, axis=0)).astype(np.uint8)
    found = [np.unique(array[..., index]) for index in range(array.shape[-1])]
    return np.unique(np.concatenate(found)) if found else np.unique(array)


def count_values(label: np.ndarray, values: Iterable[int]) -> dict[int, int]:
    """How many voxels hold each of these values; comparing is much faster than sorting."""
    return {value: int(np.count_nonzero(label == value)) for value in values}


def rounded_labels(label: np.ndarray) -> tuple[np.ndarray, tuple[str, ...]]:
    """A label stored as fractions that are whole but for rounding, such as 0.99999994, as whole
    numbers; and warnings.

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
            f"holds values that are no whole numbers, such as {fraction:.9g}; save it as whole "
            f"numbers"
        )
    warnings = (f"label values up to {off:.2g} beside whole numbers are rounded",) if off else ()
    return whole, warnings


def integer_labels(label: np.ndarray, valid: Sequence[int]) -> np.ndarray:
    """The label array as uint8, proven to hold only ``valid`` values (0..255).

    Raises:
        InputError: values that are no integers or not among the valid ones; the message says which.
    """
    if (
        sum(count_values(label, set(valid)).values()) != label.size
    ):  # NaN and fractions equal no integer
        values = distinct_values(label)
        foreign = values[~np.isin(values, valid)]
        shown = ", ".join(f"{value:.9g}" for value in foreign[:5]) + (
            ", ..." if foreign.size > 5 else ""
        )
        raise InputError(f"holds label values {shown}; declared are {', '.join(map(str, valid))}")
    return label.astype(np.uint8, copy=False)


@dataclass(frozen=True)
class LabelRenumbering:
    """From a publisher's label values to consecutive ones.

    ``names`` are the new names with their values, ``new_value`` gives the new value of each old
    one.
    """

    names: dict[str, int]
    new_value: dict[int, int]

    def __call__(self, label: np.ndarray) -> np.ndarray:
        """New labels, uint8, of old ones.

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
    if 0 not in declared or any(not 0 <= value <= 255 for value in declared):
        raise InputError(
            f"labels {sorted(declared)}: 0 must be the background and none lie outside 0..255"
        )
    group_of = {value: name for value, name in declared.items() if value != 0}
    taken: set[int] = set()
    for group in groups:
        members, _, name = (part.strip() for part in group.rpartition("="))
        if not members or not name:
            raise InputError(f"--merge {group}: write VALUE,VALUE=NAME, e.g. 1,2=tumour")
        values = [_member(member.strip(), declared, group) for member in members.split(",")]
        if repeated := sorted(taken.intersection(values)) or sorted(
            {v for v in values if values.count(v) > 1}
        ):
            raise InputError(
                f"--merge {group}: label {repeated[0]} is merged twice; name each label once"
            )
        taken.update(values)
        group_of.update(dict.fromkeys(values, name))
    _require_distinct(group_of, taken, groups)
    names: dict[str, int] = {"background": 0}
    for value in sorted(group_of):
        names.setdefault(group_of[value], len(names))
    return LabelRenumbering(
        names, {0: 0, **{value: names[name] for value, name in sorted(group_of.items())}}
    )


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
        return LabelRenumbering(dict(published), {value: value for value in published.values()})
    by_name = {name.casefold(): value for name, value in published.items() if value != 0}
    members = {
        name.casefold(): [by_name[part.casefold()] for part in parts if part.casefold() in by_name]
        for name, parts in groups.items()
    }
    spelling = {name.casefold(): name for name in (*published, *groups)}
    names, new_value = {"background": 0}, dict.fromkeys(published.values(), 0)
    for parts in (
        [part.strip().casefold() for part in entry.split("+")] for entry in wanted.split(",")
    ):
        name = "+".join(spelling.get(part, part) for part in parts)
        values: list[int] = []
        for part in parts:
            chosen = [by_name[part]] if part in by_name else members.get(part, [])
            if not chosen:
                valid = ", ".join(
                    [name for name, value in published.items() if value != 0] + list(groups)
                )
                raise InputError(f"--labels {wanted}: no label {part!r}; there are {valid}")
            values += chosen
        if name in names or any(new_value[value] for value in values):
            raise InputError(
                f"--labels {wanted}: {name} names a label for the second time; name each once"
            )
        names[name] = len(names)
        new_value.update(dict.fromkeys(values, names[name]))
    return LabelRenumbering(names, new_value)


def _member(member: str, declared: Mapping[int, str], group: str) -> int:
    by_name = {name.casefold(): value for value, name in declared.items()}
    value = (
        int(member) if member.isascii() and member.isdigit() else by_name.get(member.casefold(), -1)
    )
    if value not in declared or value == 0:
        valid = ", ".join(
            f"{value} ({name})" for value, name in sorted(declared.items()) if value != 0
        )
        raise InputError(f"--merge {group}: no label {member!r} to merge; there are {valid}")
    return value


def _require_distinct(group_of: Mapping[int, str], merged: set[int], groups: Sequence[str]) -> None:
    """One name stands for one label or one group, and background for none."""
    kept = [name for value, name in group_of.items() if value not in merged]
    group_names = [group.rpartition("=")[2].strip() for group in groups]
    every = [name.casefold() for name in (*kept, *group_names, "background")]
    for name in every:
        if every.count(name) > 1:
            raise InputError(
                f"label name {name!r} would stand for two labels; choose another name in --merge"
            )


def binary_mask(picture: np.ndarray) -> tuple[np.ndarray, tuple[str, ...]]:
    """A black and white picture as labels 0 and 1.

    Args:
        picture: (H, W) uint8, values 0 and 255 (or 0 and 1); a few pixels between, as resizing
            leaves, are allowed.

    Returns:
        Labels (H, W) uint8, and warnings.

    Raises:
        InputError: too many values that are neither black nor white, so this is no binary mask.
    """
    if np.isin(picture, (0, 1)).all():
        return picture.astype(np.uint8), ()
    white = picture == 255
    between = int(np.count_nonzero((picture > 0) & ~white))
    if between > ANTIALIASED_SHARE * np.count_nonzero(white):
        values = ", ".join(map(str, np.unique(picture)[:5]))
        raise InputError(f"holds values {values}, ...; a binary mask has 0 and 255")
    warnings = (f"{between} mask pixels between black and white: threshold 128",) if between else ()
    return (picture >= 128).astype(np.uint8), warnings


def colour_classes(
    colours: np.ndarray, indices: np.ndarray | None, classes: Sequence[Colour]
) -> np.ndarray:
    """A picture of class colours as class indices.

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
    greys = [
        round(sum(w * c for w, c in zip(GREY_WEIGHTS, colour, strict=True))) for colour in classes
    ]
    count = len(classes)
    candidates: list[tuple[np.ndarray, Sequence[tuple[int, ...]]]] = [
        (colours, classes),
        (colours, [(grey,) * 3 for grey in greys]),
        (colours, [(index,) * 3 for index in range(count)]),
    ]
    if indices is not None:
        candidates.append((indices[..., None], [(index,) for index in range(count)]))
    for picture, keys in candidates:
        matches = np.stack([(picture == np.array(key)).all(axis=-1) for key in keys])
        if matches.any(axis=0).all():
            return matches.argmax(axis=0).astype(np.uint8)
    found = np.unique(colours.reshape(-1, 3), axis=0)[:5].tolist()
    raise InputError(
        f"holds colours {found}; known are {[list(colour) for colour in classes]} or grey {greys}"
    )
