"""What the labels of a mask are called in DICOM: coded categories and types, and colours.

A JSON file of the user may change any of it; :data:`KNOWN_FILE` holds what usual names of labels
mean.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from nnunet_ext.errors import InputError
from nnunet_ext.files.json_files import read_object

KNOWN_FILE = Path(__file__).with_name("known_segments.json")
LONGEST_LABEL = 64  # characters of DICOM's LO
LONGEST_CODE = 16  # characters of DICOM's SH
NO_SEGMENTS = ("background", "ignore")
KEYS = ("label", "category", "type", "colour", "lesions")


class CodedText(NamedTuple):
    """A concept of a coding scheme, e.g. ``("10200004", "SCT", "Liver")``."""

    value: str
    scheme: str
    meaning: str


TISSUE = CodedText("85756007", "SCT", "Tissue")
COLOURS_RGB = (
    (255, 90, 40),
    (60, 160, 250),
    (250, 220, 50),
    (90, 200, 90),
    (190, 100, 230),
    (70, 210, 210),
    (240, 110, 170),
    (170, 130, 80),
)
"""Of segments whose names are not known, in turn."""


@dataclass(frozen=True)
class Segment:
    """One segment of a result.

    ``number`` counts from 1 without gaps, ``values`` are the label values of the mask that belong
    to it (several for a region). ``label`` is ASCII of at most 64 characters. ``lesions`` says
    whether each connected component is measured on its own.
    """

    number: int
    label: str
    values: tuple[int, ...]
    category: CodedText = TISSUE
    type: CodedText = TISSUE
    colour_rgb: tuple[int, int, int] = COLOURS_RGB[0]
    lesions: bool = False

    def of(self, mask: np.ndarray) -> np.ndarray:
        """Return where a mask of label values shows this segment, boolean."""
        if len(self.values) == 1:
            (value,) = self.values
            return np.asarray(mask == value)
        return np.isin(mask, self.values)


@dataclass(frozen=True)
class Model:
    """What made a mask, as every result names it.

    ``serial`` tells two trainings apart, e.g. a checkpoint's digest.
    """

    name: str
    version: str
    manufacturer: str = "nnunet_ext"
    serial: str = "unknown"


def segments_of(
    labels: Mapping[str, int | Sequence[int]], file: Path | None = None
) -> tuple[Segment, ...]:
    """Return the segments of the labels of a ``dataset.json``, in the order of their values.

    Background and ignore are left out.

    Args:
        labels: name to value, or to the values of a region.
        file: JSON of the user: ``{"segments": {NAME: {"label": ..., "category": [VALUE, SCHEME,
            MEANING], "type": [...], "colour": [R, G, B], "lesions": true}}}``, every key optional.

    Raises:
        InputError: the file is damaged, or names a label that the model does not have.
    """
    wanted = {}
    for name, value in labels.items():
        if name.casefold() not in NO_SEGMENTS:
            wanted[name] = _values_of(value)
    if not wanted:
        raise InputError("the labels name no segment beside the background; nothing can be written")

    choices = {} if file is None else _choices_in(file)
    unknown = sorted(choices.keys() - wanted.keys())
    if unknown:
        raise InputError(
            f"{file}: names the segment '{unknown[0]}', but the model's labels are "
            f"{', '.join(wanted)}"
        )

    segments = []
    ordered = sorted(wanted, key=lambda name: _order_of(wanted[name]))
    for number, name in enumerate(ordered, start=1):
        segment = _default_segment(number, name, wanted[name])
        choice = choices.get(name, {})
        segments.append(_with_choice(segment, choice, f"{file}: segment '{name}'"))
    return tuple(segments)


def ascii_text(text: str, otherwise: str = "unnamed", longest: int = LONGEST_LABEL) -> str:
    r"""Return a text that every character set of DICOM holds.

    >>> ascii_text("Läsion\\1"), ascii_text("病灶", "Segment 1")
    ('Lasion 1', 'Segment 1')
    """
    decomposed = unicodedata.normalize("NFKD", text)
    ascii_only = decomposed.encode("ascii", "ignore").decode()
    printable = re.sub(r"[^\x20-\x5b\x5d-\x7e]", " ", ascii_only)
    words = " ".join(printable.split())
    shortened = words[:longest].strip()
    return shortened or otherwise


def _values_of(value: int | Sequence[int]) -> tuple[int, ...]:
    if isinstance(value, int | np.integer):
        return (int(value),)
    return tuple(map(int, value))


def _order_of(values: tuple[int, ...]) -> tuple[int, ...]:
    """Return by what segments are sorted; regions come first."""
    is_region = len(values) > 1
    return (0, *values) if is_region else values


def _default_segment(number: int, name: str, values: tuple[int, ...]) -> Segment:
    """Return the segment as its name says."""
    label = ascii_text(name, f"Segment {number}")
    turn = (number - 1) % len(COLOURS_RGB)
    plain = Segment(number, label, values, colour_rgb=COLOURS_RGB[turn])

    words = re.split(r"[^a-z]+", name.casefold())
    singulars = _singulars(words)
    for known in _known().values():
        known_words = _singulars(known["words"])
        if singulars & known_words:
            choice = {key: known[key] for key in KEYS if key in known}
            return _with_choice(plain, choice, str(KNOWN_FILE))
    return plain


def _singulars(words: Iterable[str]) -> set[str]:
    return {word.removesuffix("s") for word in words}


@cache
def _known() -> dict[str, dict[str, Any]]:
    text = KNOWN_FILE.read_text(encoding="utf-8")
    content = json.loads(text)
    return dict(content["segments"])


def _choices_in(file: Path) -> dict[str, dict[str, Any]]:
    advice = 'give {"segments": {NAME: {...}}}'
    content = read_object(file, advice, {"segments": dict})
    segments: dict[str, Any] = content["segments"]
    for choice in segments.values():
        if not isinstance(choice, dict):
            raise InputError(f"{file}: holds a segment that is not a JSON object; {advice}")
    return segments


def _with_choice(segment: Segment, choice: Mapping[str, Any], where: str) -> Segment:
    """Return the segment with what a JSON entry says of it."""
    unknown = sorted(choice.keys() - set(KEYS))
    if unknown:
        raise InputError(f"{where}: has the key '{unknown[0]}'; valid are {', '.join(KEYS)}")

    changes: dict[str, Any] = {}
    if "label" in choice:
        label = str(choice["label"])
        changes["label"] = ascii_text(label, segment.label)
    for key in ("category", "type"):
        if key in choice:
            changes[key] = _code_of(choice[key], f"{where}: {key}")
    if "colour" in choice:
        changes["colour_rgb"] = _colour_of(choice["colour"], where)
    if "lesions" in choice:
        lesions = choice["lesions"]
        if not isinstance(lesions, bool):
            raise InputError(f"{where}: lesions is true or false, not {lesions!r}")
        changes["lesions"] = lesions
    return replace(segment, **changes)


def _code_of(value: object, where: str) -> CodedText:
    parts: list[Any] = value if isinstance(value, list) else []
    texts = [part for part in parts if isinstance(part, str) and part]
    if len(parts) != 3 or texts != parts:
        raise InputError(
            f'{where} is not [value, scheme, meaning], such as ["10200004", "SCT", "Liver"]'
        )

    code = CodedText(*parts)
    longest = max(len(code.value), len(code.scheme))
    if longest > LONGEST_CODE:
        raise InputError(f"{where} has a value or scheme of more than {LONGEST_CODE} characters")
    meaning = ascii_text(code.meaning)
    return code._replace(meaning=meaning)


def _colour_of(value: object, where: str) -> tuple[int, int, int]:
    refusal = f"{where}: colour is three whole numbers from 0 to 255, not {value!r}"
    if not isinstance(value, list) or len(value) != 3:
        raise InputError(refusal)

    for part in value:
        if type(part) is not int or not 0 <= part <= 255:
            raise InputError(refusal)
    red, green, blue = value
    return red, green, blue
