"""``--slices`` and ``--split`` as typed values, parsed from what the user wrote."""

from __future__ import annotations

from dataclasses import dataclass

from dataset_conversion.converter import Converter
from nnunet_ext.errors import InputError


@dataclass(frozen=True)
class SliceChoice:
    """Which axial slices of a volume are written.

    ``first`` and ``last`` are indices from 0; ``last`` is None for the end of the volume.
    ``with_label`` takes only slices in which the label is not empty.
    """

    first: int = 0
    last: int | None = None
    step: int = 1
    with_label: bool = False

    def indices(self, count: int) -> range:
        """Return the slices to look at, of a volume of so many.

        >>> list(SliceChoice(step=5).indices(12))
        [0, 5, 10]
        """
        stop = count if self.last is None else min(self.last + 1, count)
        return range(self.first, stop, self.step)


@dataclass(frozen=True)
class PublishedSplit:
    """Folds that the data set itself knows, by their name."""

    name: str


@dataclass(frozen=True)
class PatientSplit:
    """So many folds that keep the cases of a patient together."""

    folds: int


def slice_choice(converter: Converter) -> SliceChoice | None:
    """Return which slices the user wants; None: whole volumes.

    Raises:
        InputError: the text is not ``lesion``, ``all``, ``every:N`` or ``FIRST:LAST``.
    """
    text = converter.slices
    if not text:
        return None
    if text == "all":
        return SliceChoice()
    if text == "lesion":
        return SliceChoice(with_label=True)

    before, _, after = text.partition(":")
    number = _number(after)
    if before == "every" and number:
        return SliceChoice(step=number)

    first = _number(before)
    if first is not None and number is not None and first <= number:
        return SliceChoice(first, number)

    raise InputError(
        f"--slices {text}: write lesion, all, every:N or FIRST:LAST, e.g. every:5 or 60:99"
    )


def split_choice(converter: Converter) -> PublishedSplit | PatientSplit | None:
    """Return the split that the user wants; None: nnU-Net's own folds.

    Raises:
        InputError: the text names no published split, nor two or more folds of patients.
    """
    text = converter.split
    if not text:
        return None
    if text in converter.splits:
        return PublishedSplit(text)

    kind, _, count = text.partition(":")
    folds = _number(count)
    if kind == "patient" and folds is not None and folds >= 2:
        return PatientSplit(folds)

    valid = ", ".join([*converter.splits, "patient:K with K of 2 or more"])
    raise InputError(f"--split {text}: {converter.name} has {valid}")


def _number(text: str) -> int | None:
    """Return a whole number written with ASCII digits alone; None where it is something else."""
    return int(text) if text.isascii() and text.isdigit() else None
