"""Values of undecoded DICOM elements as plain texts and numbers."""

from __future__ import annotations

import math
import struct
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from nnunet_ext.errors import InputError

TAGS = {
    "MediaStorageSOPClassUID": 0x00020002,
    "TransferSyntaxUID": 0x00020010,
    "SpecificCharacterSet": 0x00080005,
    "ImageType": 0x00080008,
    "SOPClassUID": 0x00080016,
    "SOPInstanceUID": 0x00080018,
    "AcquisitionTime": 0x00080032,
    "Modality": 0x00080060,
    "SeriesDescription": 0x0008103E,
    "PatientID": 0x00100020,
    "ContrastBolusAgent": 0x00180010,
    "BodyPartExamined": 0x00180015,
    "SliceThickness": 0x00180050,
    "KVP": 0x00180060,
    "EchoTime": 0x00180081,
    "TriggerTime": 0x00181060,
    "ReconstructionDiameter": 0x00181100,
    "FilterType": 0x00181160,
    "ConvolutionKernel": 0x00181210,
    "StudyInstanceUID": 0x0020000D,
    "SeriesInstanceUID": 0x0020000E,
    "SeriesNumber": 0x00200011,
    "AcquisitionNumber": 0x00200012,
    "InstanceNumber": 0x00200013,
    "ImagePositionPatient": 0x00200032,
    "ImageOrientationPatient": 0x00200037,
    "FrameOfReferenceUID": 0x00200052,
    "TemporalPositionIdentifier": 0x00200100,
    "NominalPercentageOfCardiacPhase": 0x00209241,
    "SamplesPerPixel": 0x00280002,
    "PhotometricInterpretation": 0x00280004,
    "NumberOfFrames": 0x00280008,
    "Rows": 0x00280010,
    "Columns": 0x00280011,
    "PixelSpacing": 0x00280030,
    "RescaleIntercept": 0x00281052,
    "RescaleSlope": 0x00281053,
}
WANTED = frozenset(TAGS.values())
LAST = max(WANTED)


class Element(NamedTuple):
    """One undecoded element, in the shape that pydicom gives it."""

    value: bytes
    is_little_endian: bool = True


Elements = dict[int, Any]
"""Undecoded elements by tag, ours or pydicom's."""


def text_of(data: Elements, name: str) -> str:
    """Return a value as text without padding; empty where it is absent."""
    value = _raw(data, name)
    if value is None:
        return ""
    if isinstance(value, bytes):
        return value.decode("latin-1").strip(" \0\n")
    return str(value).strip()


def decoded_text_of(data: Elements, name: str) -> str:
    """Return a text in the file's character set.

    Only its equality and the choice of series depend on it.
    """
    value = _raw(data, name)
    if not isinstance(value, bytes):
        return str(value or "").strip()
    character_sets = text_of(data, "SpecificCharacterSet")
    return _in_character_set(value, character_sets)


def whole_of(data: Elements, name: str) -> int | None:
    """Return the first number of a value; None where it is absent or not a whole number."""
    try:
        return int(text_of(data, name).partition("\\")[0])
    except ValueError:
        return None


def number_of(data: Elements, name: str) -> float | None:
    """Return a finite number; None for any other text, because it decides nothing alone."""
    text = text_of(data, name)
    return finite_or_none(text)


def float_of(data: Elements, name: str) -> float | None:
    """Return a binary floating point number (VR FL or FD); None where it is absent or none."""
    element = data.get(TAGS[name])
    if element is None:
        return None
    if not isinstance(element.value, bytes):
        return finite_or_none(element.value)

    form = {4: "f", 8: "d"}.get(len(element.value))
    if form is None:
        return None
    order = "<" if element.is_little_endian else ">"
    (number,) = struct.unpack(order + form, element.value)
    return finite_or_none(number)


def short_of(data: Elements, name: str) -> int:
    """Return a 16-bit number; 0 where it is absent."""
    element = data.get(TAGS[name])
    if element is None or not element.value:
        return 0
    if not isinstance(element.value, bytes):
        return int(element.value)

    form = "<H" if element.is_little_endian else ">H"
    (number,) = struct.unpack_from(form, element.value)
    return int(number)


def vector_of(path: Path, data: Elements, name: str, count: int) -> tuple[float, ...]:
    """Return ``count`` finite numbers, or none where the file gives none.

    Raises:
        InputError: the file gives anything else.
    """
    text = text_of(data, name)
    values = text.split("\\") if text else []
    return vector(path, name, values, count)


def vector(path: Path, name: str, values: Iterable[Any], count: int) -> tuple[float, ...]:
    """Return the same as :func:`vector_of`, of decoded values."""
    try:
        numbers = tuple(map(float, values))
    except (TypeError, ValueError):
        numbers = (math.nan,)
    if not numbers:
        return ()

    if len(numbers) != count or not all(map(math.isfinite, numbers)):
        raise InputError(
            f"{path}: {name} is not {count} numbers; its place is unknown, remove the file"
        )
    return numbers


def finite_or_none(value: Any) -> float | None:
    """Return a finite number, or None."""
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return number if math.isfinite(number) else None


@lru_cache(maxsize=4096)
def decimals(text: str) -> int:
    """Return how many digits behind the point a decimal string needs, up to five.

    What follows is noise of the writer.

    >>> decimals("-8"), decimals("0.60"), decimals("8.800000000000001"), decimals("1.25e1")
    (0, 1, 1, 1)
    """
    number = finite_or_none(text) or 0.0
    written = f"{number:.5f}".rstrip("0")
    _, _, digits = written.partition(".")
    return len(digits)


def _raw(data: Elements, name: str) -> Any:
    element = data.get(TAGS[name])
    if element is None:
        return None
    return element.value


@lru_cache(maxsize=4096)
def _in_character_set(value: bytes, character_sets: str) -> str:
    if value.isascii() and b"\x1b" not in value:  # escapes switch the set
        return value.decode("ascii").strip(" \0\n")
    from pydicom.charset import convert_encodings, decode_bytes

    backslash = ord("\\")
    try:
        encodings = convert_encodings(character_sets.split("\\"))
        text = decode_bytes(value, encodings, {backslash})
    except (LookupError, ValueError):
        text = value.decode("latin-1")

    return text.strip(" \0\n")
