"""nnU-Net's three folders and the data sets in them, with errors a user can act on."""

import os
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
