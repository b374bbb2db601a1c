"""nnU-Net's three folders and the data sets in them, with errors a user can act on."""

import os
from collections.abc import Iterator
from pathlib import Path

from nnunet_ext.errors import InputError, first_line


def plain_name(name: str, told_by: str) -> str:
    """Return a name after checking that it can name a file or folder and leads nowhere else.

    Args:
        name: from a file from outside.
        told_by: that file and its term for the name, for the message.

    Raises:
        InputError: a path, ``..``, a hidden name, or one with control characters.
    """
    is_one_part = name == Path(name).name and "\\" not in name
    is_shown = name.isprintable() and not name.startswith(".")
    if not name or not is_one_part or not is_shown:
        raise InputError(
            f"{told_by} {name!r} is a path or cannot name a file; use letters, digits, _ . and -"
        )
    return name


def environment_folder(variable: str) -> Path:
    """Return the folder that an nnU-Net environment variable names.

    Raises:
        InputError: unset, or no such folder.
    """
    value = os.environ.get(variable)
    if not value:
        raise InputError(f"{variable} is not set; export {variable}=/path/to/{variable}")
    if not Path(value).is_dir():
        raise InputError(
            f"{variable}={value}: no such folder; create it, or export {variable}=/path/to/another"
        )
    return Path(value)


def new_dataset_folder(raw: Path, number: int, name: str, option: str = "-d") -> Path:
    """Return ``raw/Dataset120_Name``, where no other data set has the number; it is not made.

    Args:
        raw: nnU-Net's folder of raw data sets.
        number: of the new data set.
        name: of the new data set.
        option: of the command, by which the user gives the number.

    Raises:
        InputError: an impossible number or name, or a number that is taken, also in nnU-Net's other
            folders.
    """
    if not 1 <= number <= 999:
        raise InputError(f"{option} {number}: choose a number from 1 to 999")
    letters_and_digits = name.replace("_", "").replace("-", "")
    if not name.isascii() or not letters_and_digits.isalnum():
        raise InputError(f"--name {name}: use ASCII letters, digits, - and _ only")

    prefix = f"Dataset{number:03d}"
    folder = raw / f"{prefix}_{name}"
    for taken in _folders_of_number(raw, prefix):
        if taken.name != folder.name:
            _, _, own = taken.name.partition("_")
            raise InputError(
                f"{taken}: already has the id {number}; choose another {option}, or --name {own} "
                "if you mean that one"
            )
    return folder


def _folders_of_number(raw: Path, number: str) -> Iterator[Path]:
    """Yield the folders of a data set's number in the raw folder and nnU-Net's other ones."""
    yield from sorted(raw.glob(f"{number}_*"))
    for variable in ("nnUNet_preprocessed", "nnUNet_results"):
        root = os.environ.get(variable)
        if root:
            yield from sorted(Path(root).glob(f"{number}_*"))


def dataset_name(dataset: str) -> str:
    """Return nnU-Net's name of a data set given as ``120`` or ``Dataset120_X``.

    Raises:
        InputError: unknown, or several folders share the id.
    """
    from nnunetv2.utilities.dataset_name_id_conversion import (
        find_candidate_datasets,
        maybe_convert_to_dataset_name,
    )

    if not dataset.startswith("Dataset"):
        if not dataset.isdigit():
            raise InputError(
                f"{dataset}: not a data set; give its number (120) or name (Dataset120_X)"
            )
        candidates = find_candidate_datasets(int(dataset))
        names = sorted(map(str, candidates), key=_number_and_title)
        if not names:
            raise InputError(
                f"data set {dataset} is in none of nnUNet_raw, nnUNet_preprocessed; convert it "
                "first"
            )
        if len(names) > 1:  # to nnU-Net, 1201 is also a name of 120
            all_names = " and ".join(names)
            raise InputError(
                f"{dataset} stands for {all_names}; give the name instead of the number, here and "
                f"in nnU-Net's commands: {names[0]}"
            )
    try:
        return str(maybe_convert_to_dataset_name(dataset))
    except RuntimeError as error:
        raise InputError(first_line(error)) from error


def _number_and_title(name: str) -> tuple[str, str, str]:
    return name.partition("_")
