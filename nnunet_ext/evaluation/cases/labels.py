"""Which voxel values are evaluated under which name."""

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
    """Voxel values by label name (several for a region), and the value that marks voxels to be left
    out.
    """

    values: dict[str, tuple[int, ...]]
    ignore: int | None = None

    @property
    def known(self) -> set[int]:
        """Every value a prediction may hold."""
        return {0}.union(*self.values.values())

    @property
    def merged(self) -> str:
        """Name of the label that holds every foreground value; see `with_foreground`."""
        foreground = self.known - {0}
        return next(name for name, given in self.values.items() if set(given) == foreground)

    def with_foreground(self) -> "LabelSet":
        """Add all labels merged as ``foreground``, unless one label already is the union.

        Raises:
            InputError: a part of the labels is already called ``foreground``.
        """
        union = tuple(sorted(self.known - {0}))
        if any(sorted(v) == list(union) for v in self.values.values()):
            return self
        if FOREGROUND in self.values:
            raise InputError(
                f"label name {FOREGROUND!r} is kept for all labels merged; rename the label with -l"
            )
        return LabelSet({**self.values, FOREGROUND: union}, self.ignore)


def labels_from_arguments(arguments: Sequence[str]) -> LabelSet:
    """Labels from ``NAME=VALUE`` or ``NAME=VALUE,VALUE`` (a region); the name ``ignore`` is
    nnU-Net's ignore label.
    """
    declared: dict[str, Any] = {}
    for argument in arguments:
        name, separator, text = argument.partition("=")
        try:
            values = [int(v) for v in text.split(",")]
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
    """Labels of the dataset.json files in these folders, or None where there is none.

    Only some of them may declare an ignore label, such as that of a network trained on incomplete
    labels; that of the first folder counts.

    Raises:
        InputError: a dataset.json cannot be read, or two of them declare different labels.
    """
    found: dict[Path, LabelSet] = {}
    for path in dict.fromkeys(folder / "dataset.json" for folder in folders):
        if path.is_file():
            found[path] = _read(path)
    first, *others = found or [None]
    for other in others:
        if first and other and not _agree(found[first], found[other]):
            raise InputError(
                f"{first} and {other} declare different labels; state them with -l NAME=VALUE"
            )
    return found[first] if first else None


def _agree(first: LabelSet, second: LabelSet) -> bool:
    same_ignore = first.ignore == second.ignore or None in (first.ignore, second.ignore)
    return first.values == second.values and same_ignore


def inferred_labels(values: Iterable[int]) -> LabelSet:
    """One label per value found except 0, named by its number.

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
            "references and predictions hold nothing but background; name the labels with -l "
            "NAME=VALUE"
        )
    return LabelSet({str(v): (v,) for v in foreground})


def _read(path: Path) -> LabelSet:
    declared = read_object(path, "mend it or state the labels with -l", {"labels": dict})["labels"]
    return _checked(
        {name: v if isinstance(v, list) else [v] for name, v in declared.items()}, str(path)
    )


def _checked(declared: dict[str, list[Any]], source: str) -> LabelSet:
    if len(declared) > MOST_LABELS:
        raise InputError(
            f"{source}: declares {len(declared)} labels, more than {MOST_LABELS}; is this an image?"
        )
    for name, listed in declared.items():
        if not listed:
            raise InputError(f"{source}: label {name!r} has no value; labels are whole numbers")
        if wrong := [
            value for value in listed if isinstance(value, bool) or not isinstance(value, int)
        ]:
            raise InputError(
                f"{source}: label {name!r} has the value {wrong[0]!r}; labels are whole numbers"
            )
    values = {name: tuple(given) for name, given in declared.items() if name != "background"}
    ignore = values.pop("ignore", None)
    if not values:
        raise InputError(f"{source}: no foreground label")
    for name, given in values.items():
        if min(given) < 1:
            raise InputError(
                f"{source}: label {name!r} has the value {min(given)}; foreground values start at 1"
            )
    if ignore is not None and (
        len(ignore) != 1 or any(ignore[0] in given for given in values.values())
    ):
        raise InputError(f"{source}: 'ignore' needs one value that no other label has")
    return LabelSet(values, ignore[0] if ignore else None)
