"""JSON files from outside: read within bounds, and refused in one line if they are wrong."""

import json
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nnunet_ext.errors import InputError

LARGEST_BYTES = 256 << 20  # more than any list of cases; Python takes several times as much memory
LONGEST_NUMBER = 30  # characters; a float64 has 24 at most
SHOWN_CHARACTERS = 80

Shape = Mapping[str, type | tuple[type, ...]]
"""Keys that an object must have, and the types that their values may be of."""


def parse_json(text: str) -> Any:
    """Parse JSON from outside.

    Raises:
        ValueError: not JSON, or JSON nested too deeply, numbers that nothing can hold, or a name
            given twice in one object.
    """
    if not text.strip():
        raise ValueError("it is empty")
    try:
        return json.loads(
            text, parse_int=_whole_number, parse_float=_number, object_pairs_hook=_object
        )
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def read_json(path: Path, advice: str) -> Any:
    """Read a JSON file of any content.

    Args:
        path: of the file.
        advice: what the user should do where it cannot be read.

    Raises:
        InputError: missing, unreadable or too large, or see :func:`parse_json`.
    """
    try:
        size = path.stat().st_size
        if size > LARGEST_BYTES:
            raise InputError(
                f"{path}: has {size >> 20} MiB, too large for a file of this kind; {advice}"
            )
        return parse_json(path.read_text(encoding="utf-8-sig"))
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
        advice: what the user should do where it is not as expected.
        shape: what the object must hold.

    Raises:
        InputError: see :func:`read_json`; or another content, of which the first misfit is named.
    """
    content = read_json(path, advice)
    if not isinstance(content, dict):
        raise InputError(f"{path}: holds no JSON object; {advice}")
    for key, kind in (shape or {}).items():
        value = content.get(key)
        # Python counts true and false among the whole numbers.
        is_flag = isinstance(value, bool) and kind is not bool
        if not isinstance(value, kind) or is_flag:
            what = "no" if key not in content else "an impossible"
            raise InputError(f"{path}: has {what} {key!r}; {advice}")
    return content


def _whole_number(text: str) -> int:
    if len(text) > LONGEST_NUMBER:
        raise ValueError(f"a number of {len(text)} digits")
    return int(text)


def _number(text: str) -> float:
    number = float(text)
    if number in (float("inf"), float("-inf")):
        raise ValueError(f"a number too large, {text[:LONGEST_NUMBER]}")
    return number


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) < len(pairs):
        twice, _ = Counter(name for name, _ in pairs).most_common(1)[0]
        raise ValueError(f"{twice[:SHOWN_CHARACTERS]!r} is given twice in one object")
    return content


def _shown(text: str) -> str:
    line = text.partition("\n")[0]
    return "".join(filter(str.isprintable, line))[:200]
