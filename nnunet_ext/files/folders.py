"""Folders to write to, with an error that a user can act on."""

from pathlib import Path

from nnunet_ext.errors import InputError


def make_folder(folder: Path, advice: str) -> None:
    """Make a folder and those above it, unless it is there.

    Args:
        folder: what to make.
        advice: what the user can do if that fails, such as ``choose another -o``.

    Raises:
        InputError: a file is in the way, or the folder may not be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        reason = f"cannot make this folder ({error.strerror})"
        raise InputError(f"{folder}: {reason}; {advice}") from error
