"""The folder that a conversion writes into: who made it, and whether it may be changed."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dataset_conversion.writing.case_writer import (
    TEMPORARY_PREFIX,
)
from dataset_conversion.writing.journal import (
    LOCK_PREFIX,
    journals,
    read_header,
    read_records,
)
from nnunet_ext.errors import InputError
from nnunet_ext.files.locks import held

# Of entries that are no part of a data set: files in work, and locks.
PASSING_NAMES = (TEMPORARY_PREFIX, LOCK_PREFIX)


def make_folder(folder: Path) -> None:
    """Make the folder.

    Raises:
        InputError: another process has just made one with the same id under another name.
    """
    raw = folder.parent
    raw.mkdir(parents=True, exist_ok=True)
    number, _, _ = folder.name.partition("_")
    lock = raw / f"{LOCK_PREFIX}{number}.lock"
    with held(lock, keep_file=False):
        others = [other for other in raw.glob(f"{number}_*") if other.name != folder.name]
        if others and not folder.exists():
            raise InputError(f"{others[0]}: already has the id of {folder.name}; choose another -d")

        folder.mkdir(exist_ok=True)


def require_ours(folder: Path, header: Mapping[str, Any], overwrite: bool) -> None:
    """Refuse a folder that something else made, or the same converter with other options.

    Raises:
        InputError: the folder is not to be written.
    """
    if not folder.exists() or _is_unused(folder):
        return

    earlier = journals(folder)
    if not earlier:
        raise _made_by("something else", folder)

    for journal in earlier:
        existing = _header_of(journal, folder, header["converter"])
        different = _different_options(existing["settings"], header["settings"])
        if different:
            _require_overwritable(folder, different, overwrite)
        elif existing.get("collection") != header["collection"]:
            raise InputError(
                f"{folder}: holds {existing.get('collection')} and is not changed; "
                f"choose another -d or --name"
            )


def _made_by(maker: str, folder: Path) -> InputError:
    return InputError(
        f"{folder}: was made by {maker} and is not changed; choose another -d or --name"
    )


def _header_of(journal: Path, folder: Path, converter: str) -> dict[str, Any]:
    """Return the first line of a journal.

    Raises:
        InputError: another converter, or something else, wrote it.
    """
    header = read_header(journal)
    maker = header["converter"] if header else "something else"
    if header is None or maker != converter:
        raise _made_by(maker, folder)

    return header


def _require_overwritable(folder: Path, different: list[str], overwrite: bool) -> None:
    """Refuse to mix cases of several options, unless the earlier ones are to be replaced."""
    if overwrite or not read_records(folder):
        return

    raise InputError(
        f"{folder}: was converted with other options ({', '.join(different)}); "
        f"add --overwrite to convert it again"
    )


def _is_unused(folder: Path) -> bool:
    """Whether a folder is empty, or its conversion was killed before its journal began."""
    if not folder.is_dir():
        return False

    return all(entry.name.startswith(PASSING_NAMES) for entry in folder.iterdir())


def _different_options(then: Mapping[str, Any], settings: Mapping[str, Any]) -> list[str]:
    """Return the options of an earlier run that are not those of now, as text."""
    text = json.dumps(settings)
    now = json.loads(text)
    different = []
    for name in sorted({*now, *then}):
        earlier = then.get(name)
        if now.get(name) != earlier:
            different.append(f"{name}={earlier}")

    return different
