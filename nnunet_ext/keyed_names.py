"""Names that stand for patients, studies and series; only the owner of the key can trace them.

They are keyed hashes. A plain hash of a patient number is found again in seconds by trying all
numbers. HMAC with a secret key is not. The key lies in the user's own configuration folder. Equal
input and equal key give equal names, so that a second run finds the cases of the first.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import json
import os
import secrets
import stat
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

from nnunet_ext.errors import InputError

KEY_VARIABLE = "nnUNet_ext_key"
KEY_BYTES = 32
NAME_DIGITS = 16  # hexadecimal: two of a million cases share a name with a probability of 3e-8
OWNER_ONLY = 0o600


def configuration_folder() -> Path:
    """Return the user's own folder for settings of this package, made if absent.

    Only the user can read it.

    Raises:
        InputError: it cannot be made.
    """
    if sys.platform == "win32":
        base = Path(os.environ.get("APPDATA") or Path.home() / "AppData" / "Roaming")
    else:
        base = Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config")
    folder = base / "nnunet_ext"
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(
            f"{folder}: cannot be made ({error.strerror}); set {KEY_VARIABLE} to a file for the "
            f"key of case names"
        ) from error
    return folder


def key_file() -> Path:
    """Return the file of the key.

    It is what ``nnUNet_ext_key`` names, else ``key`` in :func:`configuration_folder`.
    """
    chosen = os.environ.get(KEY_VARIABLE)
    if chosen:
        return Path(chosen)
    return configuration_folder() / "key"


def read_key() -> bytes:
    """Return the user's key, made on first use.

    Raises:
        InputError: it cannot be read or made, is too short, or others can read it.
    """
    path = key_file()
    try:
        if not path.exists():
            _make_key(path)
        key = path.read_bytes()
        mode = stat.S_IMODE(path.stat().st_mode)
    except OSError as error:
        raise InputError(
            f"{path}: key of case names cannot be read or made ({error.strerror}); set "
            f"{KEY_VARIABLE} to another file"
        ) from error

    if len(key) < KEY_BYTES:
        raise InputError(
            f"{path}: holds {len(key)} bytes, a key has {KEY_BYTES}; restore it, or delete it for "
            f"new names"
        )
    if os.name == "posix" and mode & 0o077:
        raise InputError(f"{path}: others can read the key of case names; run: chmod 600 {path}")
    return key


def keyed_name(kind: str, *parts: str, key: bytes | None = None) -> str:
    """Return ``kind-`` and 16 hexadecimal digits: HMAC-SHA256 of the parts under the user's key.

    Args:
        kind: what is named, such as ``patient``; the same text has another name as another kind.
        parts: identifiers, such as a study's and a series' UID; ``("ab", "c")`` and ``("a", "bc")``
            differ.
        key: in place of the user's own.

    Raises:
        InputError: the key cannot be used.
    """
    message = json.dumps([kind, *parts]).encode()
    if key is None:
        key = read_key()
    digest = hmac.new(key, message, hashlib.sha256).hexdigest()
    return f"{kind}-{digest[:NAME_DIGITS]}"


def note_names(entries: Mapping[str, Mapping[str, str]], path: Path) -> None:
    """Add what names stand for to a file of JSON lines that only its owner can read.

    Known lines are not repeated.

    Args:
        entries: of each name, the identifiers behind it.
        path: made if absent; it must lie outside of every output.

    Raises:
        InputError: the file cannot be written.
    """
    lines = []
    for name, identifiers in entries.items():
        lines.append(json.dumps({"name": name, **identifiers}))
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, OWNER_ONLY)
        with os.fdopen(descriptor, "r+", encoding="utf-8") as file:
            if os.name == "posix":
                os.fchmod(descriptor, OWNER_ONLY)
            known = set(file.read().splitlines())
            new = [line for line in lines if line not in known]
            file.write("".join(f"{line}\n" for line in new))
    except (OSError, ValueError) as error:
        raise InputError(
            f"{path}: cannot note what case names stand for ({error}); choose another file"
        ) from error


def _make_key(path: Path) -> None:
    """Write a new key whole; where another process was faster, its key stays."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    # Mode 0600, and a name that nobody can guess.
    descriptor, unfinished = tempfile.mkstemp(dir=path.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(secrets.token_bytes(KEY_BYTES))
        with contextlib.suppress(FileExistsError):
            os.link(unfinished, path)
    finally:
        Path(unfinished).unlink()
