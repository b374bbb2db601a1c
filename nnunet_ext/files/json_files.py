"""JSON files from outside: read within bounds; errors take one line."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nnunet_ext.errors import InputError

LARGEST_BYTES = 256 << 20  # more than any list of cases; Python needs several times as much memory
LONGEST_NUMBER = 30  # characters; a float64 has 24 at most
SHOWN_CHARACTERS = 80

Shape = Mapping[str, type | tuple[type, ...]]
"""Keys that an object must have, and the types that their values may have."""


def parse_json(text: str) -> Any:
    """Parse JSON from outside.

    Raises:
        ValueError: not JSON, or JSON that is nested too deeply, has numbers that are too large, or
            gives a name twice in one object.
    """
    if not text.strip():
        raise ValueError("it is empty")
    try:
        return json.loads(
            text,
            parse_int=_whole_number,
            parse_float=_number,
            object_pairs_hook=_object,
        )
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def read_json(path: Path, advice: str) -> Any:
    """Read a JSON file of any content.

    Args:
        path: of the file.
        advice: what the user should do if it cannot be read.

    Raises:
        InputError: missing, unreadable or too large, or see :func:`parse_json`.
    """
    try:
        size = path.stat().st_size
        if size > LARGEST_BYTES:
            mebibytes = size >> 20
            raise InputError(
                f"{path}: has {mebibytes} MiB, too large for a file of this kind; {advice}"
            )
        text = path.read_text(encoding="utf-8-sig")
        return parse_json(text)
    except UnicodeDecodeError:
        reason = "is not UTF-8 text"
    except OSError as error:
        reason = f"cannot be read ({error.strerror or error})"
    except ValueError as error:
        reason = f"is not readable as JSON ({_shown(str(error))})"
    raise InputError(f"{path}: {reason}; {advice}")


def read_object(path: Path, advice: str, shape: Shape | None = None) -> dict[str, Any]:
    """Read a JSON file that holds one object.

    Args:
        path: of the file.
        advice: what the user should do if it is not as expected.
        shape: the keys that the object must have, with the types of their values.

    Raises:
        InputError: see :func:`read_json`; or other content, whose first error the message names.
    """
    content = read_json(path, advice)
    if not isinstance(content, dict):
        raise InputError(f"{path}: holds no JSON object; {advice}")

    required = shape or {}
    for key, kind in required.items():
        if key not in content:
            raise InputError(f"{path}: has no {key!r}; {advice}")
        value = content[key]
        is_flag = isinstance(value, bool)  # to Python a kind of whole number
        is_misplaced_flag = is_flag and kind is not bool
        if is_misplaced_flag or not isinstance(value, kind):
            raise InputError(f"{path}: has an impossible {key!r}; {advice}")
    return content


def _whole_number(text: str) -> int:
    digits = len(text)
    if digits > LONGEST_NUMBER:
        raise ValueError(f"a number of {digits} digits")
    return int(text)


def _number(text: str) -> float:
    number = float(text)
    if math.isinf(number):
        shown = text[:LONGEST_NUMBER]
        raise ValueError(f"a number too large, {shown}")
    return number


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content: dict[str, Any] = {}
    for name, value in pairs:
        if name in content:
            shown = name[:SHOWN_CHARACTERS]
            raise ValueError(f"{shown!r} is given twice in one object")
        content[name] = value
    return content


def _shown(text: str) -> str:
    line, _, _ = text.partition("\n")
    printable = "".join(filter(str.isprintable, line))
    return printable[:200]
