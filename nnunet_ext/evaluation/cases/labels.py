"""Voxel values and the label names under which they are evaluated."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nnunet_ext.errors import InputError
from nnunet_ext.files.json_files import read_object
from nnunet_ext.stock.files import MOST_LABELS

FOREGROUND = "foreground"
MOST_INFERRED = 40  # labels that are taken for such without being declared


@dataclass(frozen=True)
class LabelSet:
    """Voxel values by label name, several for a region.

    Voxels whose reference has the value ``ignore`` are left out.
    """

    values: dict[str, tuple[int, ...]]
    ignore: int | None = None

    @property
    def known(self) -> set[int]:
        """Every value a prediction may hold."""
        of_labels = self.values.values()
        return {0}.union(*of_labels)

    @property
    def merged(self) -> str:
        """Name of the label that holds every foreground value; see `with_foreground`."""
        foreground = self.known - {0}
        names = [name for name, given in self.values.items() if set(given) == foreground]
        return names[0]

    def with_foreground(self) -> "LabelSet":
        """Add all labels merged as ``foreground``, unless one label already is the union.

        Raises:
            InputError: a part of the labels is already called ``foreground``.
        """
        union = tuple(sorted(self.known - {0}))
        for given in self.values.values():
            if sorted(given) == list(union):
                return self
        if FOREGROUND in self.values:
            raise InputError(
                f"label name {FOREGROUND!r} is kept for all labels merged; rename the label with -l"
            )
        return LabelSet({**self.values, FOREGROUND: union}, self.ignore)


def labels_from_arguments(arguments: Sequence[str]) -> LabelSet:
    """Return the labels of ``NAME=VALUE`` or ``NAME=VALUE,VALUE`` (a region).

    The name ``ignore`` is nnU-Net's ignore label.

    Raises:
        InputError: an argument cannot be understood, or a label is given twice.
    """
    declared: dict[str, Any] = {}
    for argument in arguments:
        name, separator, text = argument.partition("=")
        try:
            values = [int(value) for value in text.split(",")]
        except ValueError:
            values = []
        if not (name and separator and values):
            raise InputError(
                f"-l {argument}: write NAME=VALUE or NAME=VALUE,VALUE with whole numbers"
            )
        if name in declared:
            raise InputError(f"-l {argument}: label {name!r} is given twice")
        declared[name] = values
    return _checked(declared, "-l")


def labels_beside(folders: Iterable[Path]) -> LabelSet | None:
    """Return the labels of the dataset.json files in these folders, or None without any.

    Only some of them may declare an ignore label, such as that of a network trained on incomplete
    labels; that of the first folder counts.

    Raises:
        InputError: a dataset.json cannot be read, or two of them declare different labels.
    """
    found: dict[Path, LabelSet] = {}
    for folder in folders:
        path = folder / "dataset.json"
        # A link to nothing, or a folder, of that name is refused: somebody meant to declare labels.
        is_there = path.exists() or path.is_symlink()
        if is_there and path not in found:
            found[path] = _read(path)
    if not found:
        return None

    first, *others = found
    for other in others:
        if not _agree(found[first], found[other]):
            raise InputError(
                f"{first} and {other} declare different labels; state them with -l NAME=VALUE"
            )
    return found[first]


def _agree(first: LabelSet, second: LabelSet) -> bool:
    """Return whether two files declare the same labels; one may declare no ignore label."""
    declared = {first.ignore, second.ignore} - {None}
    return first.values == second.values and len(declared) < 2


def inferred_labels(values: Iterable[int]) -> LabelSet:
    """Return one label per value found except 0, named by its number.

    Raises:
        InputError: nothing but background was found, or as many values as only an image has.
    """
    foreground = sorted(set(values) - {0})
    if len(foreground) > MOST_INFERRED:
        raise InputError(
            f"references and predictions hold {len(foreground)} values, as images do; if these "
            f"are labels, state -l"
        )
    if not foreground:
        raise InputError(
            "references and predictions hold only background; name the labels with -l NAME=VALUE"
        )
    return LabelSet({str(value): (value,) for value in foreground})


def _read(path: Path) -> LabelSet:
    content = read_object(path, "fix it or state the labels with -l", {"labels": dict})
    declared = {}
    for name, given in content["labels"].items():
        if not isinstance(given, list):
            given = [given]
        declared[name] = given
    return _checked(declared, str(path))


def _checked(declared: dict[str, list[Any]], source: str) -> LabelSet:
    if len(declared) > MOST_LABELS:
        raise InputError(
            f"{source}: declares {len(declared)} labels, more than {MOST_LABELS}; is this an image?"
        )
    for name, given in declared.items():
        _require_whole_numbers(name, given, source)
    values = {name: tuple(given) for name, given in declared.items() if name != "background"}
    ignore = values.pop("ignore", None)
    if not values:
        raise InputError(f"{source}: no foreground label")
    for name, foreground in values.items():
        if min(foreground) < 1:
            raise InputError(
                f"{source}: label {name!r} has the value {min(foreground)}; foreground values "
                f"start at 1"
            )
    if ignore is None:
        return LabelSet(values)

    taken = set().union(*values.values())
    if len(ignore) != 1 or ignore[0] in taken:
        raise InputError(f"{source}: 'ignore' needs one value that no other label has")
    return LabelSet(values, ignore[0])


def _require_whole_numbers(name: str, given: list[Any], source: str) -> None:
    if not given:
        raise InputError(f"{source}: label {name!r} has no value; labels are whole numbers")
    for value in given:
        if isinstance(value, bool) or not isinstance(value, int):
            raise InputError(
                f"{source}: label {name!r} has the value {value!r}; labels are whole numbers"
            )
