"""Pixels of one slice as physical values: Hounsfield units for CT."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from nnunet_ext.dicom.reading.headers import DEFLATED, Slice, refuse_inflation_bomb, uid_name
from nnunet_ext.dicom.reading.ordinary_files import (
    EXPLICIT_LITTLE,
    IMPLICIT_LITTLE,
    PLAIN_SYNTAXES,
    ordinary_elements,
)
from nnunet_ext.errors import InputError, first_line
from nnunet_ext.hounsfield import FILL_HU, PADDING_BELOW_HU

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

# 12-bit values stored without their sign; air reads 3096
WRAP_LIMIT, WRAP, WRAP_INTERCEPT = 3096, 4096, -100
LARGEST_RESCALE = 1e6  # of slope and intercept; beyond, voxels would not fit their type
LARGEST_INTERCEPT_HU = 1 << 15  # no scanner stores Hounsfield units so far from 0
SPELLINGS_OF_HU = frozenset({"hu", "hounsfield", "hounsfield unit", "hounsfield units"})
GREY = ("", "MONOCHROME1", "MONOCHROME2")
LARGEST_PIXELS = 1 << 26
LARGEST_SLOPE = 1 << 14  # beyond, 16-bit values leave the range of int32
_PIXEL_DATA, _MODALITY_TABLE = 0x7FE00010, 0x00283000
_SHORTS = {
    0x00280002: "SamplesPerPixel",
    0x00280010: "Rows",
    0x00280011: "Columns",
    0x00280100: "BitsAllocated",
    0x00280101: "BitsStored",
    0x00280102: "HighBit",
    0x00280103: "PixelRepresentation",
    0x00280120: "PixelPaddingValue",
    0x00280121: "PixelPaddingRangeLimit",
}
_TEXTS = {
    0x00280004: "PhotometricInterpretation",
    0x00280008: "NumberOfFrames",
    0x00281052: "RescaleIntercept",
    0x00281053: "RescaleSlope",
    0x00281054: "RescaleType",
}
Header = Any
"""Pydicom's data set, or a dictionary of an ordinary file; asked by ``get`` and element names."""


@dataclass(frozen=True)
class Pixels:
    """Values (row, column) of a slice, integers where they are whole.

    ``unit`` is ``HU``, or what else is known; ``remarks`` say what was corrected.
    """

    values: np.ndarray
    unit: str
    remarks: tuple[str, ...]


def read_pixels(item: Slice) -> Pixels:
    """Decode one slice and apply its own rescaling, modality table, padding and inversion.

    Padding, declared or below ``PADDING_BELOW_HU``, becomes ``FILL_HU`` in CT. Grey values of
    MONOCHROME1 are inverted unless a rescaling makes them Hounsfield units, which no display
    convention changes.

    Raises:
        InputError: truncated, damaged, colours, or compressed in a way no installed decoder reads.
    """
    decoded = _decode_plain(item)
    if decoded is None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            decoded = _decode(item)

    data, stored = decoded
    try:
        return _interpreted(data, item, stored)
    except (InputError, MemoryError):
        raise
    except Exception as error:  # fields that decide about the values may hold anything
        raise InputError(
            f"{item.path}: its rescaling, table or padding cannot be read ({first_line(error)}); "
            "fix or remove it"
        ) from error


def _interpreted(data: Header, item: Slice, stored: np.ndarray) -> Pixels:
    """Return stored values as physical ones."""
    colours = str(data.get("PhotometricInterpretation") or "")
    if colours not in GREY:
        raise InputError(f"{item.path}: is a colour picture ({colours}), not a scan; remove it")

    padding = _declared_padding(data, stored)
    values, unit, remarks = _rescaled(data, item, stored)
    if unit == "HU":
        padding |= values < PADDING_BELOW_HU
        values[padding] = FILL_HU

    if padding.any():
        remarks.append("padding set to air" if unit == "HU" else "holds padding")
    return Pixels(values, unit, tuple(remarks))


def _decode_plain(item: Slice) -> tuple[Header, np.ndarray] | None:
    """Do the same as :func:`_decode` for an uncompressed file of one 16-bit image.

    None where anything is unusual: pydicom will read it or say what is wrong.
    """
    if item.frame is not None or item.transfer_syntax not in PLAIN_SYNTAXES:
        return None

    try:
        content = Path(item.path).read_bytes()
        header, begin, end = _plain_header(content)
        if not _is_one_image(header):
            return None
        rows = header["Rows"]
        columns = header["Columns"]
        bits = header["BitsStored"]
    except (OSError, KeyError, ValueError):
        return None

    size = rows * columns
    if not 0 < 2 * size == end - begin:
        return None

    kind = "<i2" if header["PixelRepresentation"] else "<u2"
    stored = np.frombuffer(content, kind, size, begin).reshape(rows, columns)
    if bits < 16:  # what stands in the other bits is not part of the value
        above = 16 - bits
        stored = (stored << above) >> above
    return header, stored.astype(np.int32)


def _plain_header(content: bytes) -> tuple[dict[str, Any], int, int]:
    """Return what decides about the values of an ordinary file, and where its pixels lie.

    Raises:
        ValueError: anything is unusual.
    """
    header: dict[str, Any] = {}
    for tag, begin, end in ordinary_elements(content):
        if tag == _PIXEL_DATA:
            if end > len(content):
                raise ValueError("pixels that end too early")
            break
        if tag == _MODALITY_TABLE:
            raise ValueError("values by a table")
        if tag in _SHORTS:
            if end - begin != 2:
                raise ValueError("several numbers instead of one")
            header[_SHORTS[tag]] = int.from_bytes(content[begin:end], "little")
        elif tag in _TEXTS:
            header[_TEXTS[tag]] = content[begin:end].decode("latin-1").strip(" \0") or None
    else:
        raise ValueError("no pixels")

    for name in ("RescaleSlope", "RescaleIntercept"):
        if header.get(name) is not None:
            header[name] = float(header[name])
    return header, begin, end


def _is_one_image(header: Header) -> bool:
    """Return whether a file holds one grey image whose values lie at the bottom of 16 bits.

    Raises:
        KeyError: a field is absent.
    """
    bits = header["BitsStored"]
    is_grey = header["SamplesPerPixel"] == 1
    is_16_bit = header["BitsAllocated"] == 16
    is_at_bottom = header["HighBit"] == bits - 1
    if not is_grey or not is_16_bit or not is_at_bottom or not 1 <= bits <= 16:
        return False

    is_one_frame = header.get("NumberOfFrames") in (None, "1")
    is_integer = header["PixelRepresentation"] in (0, 1)
    return is_one_frame and is_integer


def _decode(item: Slice) -> tuple[Header, np.ndarray]:
    """Return the header and the stored values, widened to int32."""
    path = Path(item.path)
    try:
        data = _data_set(item)
        if data.get("SamplesPerPixel", 1) != 1:
            raise InputError(f"{path}: is a colour picture, not a scan; remove it")
        if not 0 < data.Rows * data.Columns <= LARGEST_PIXELS:
            raise InputError(
                f"{path}: says it has {data.Columns}x{data.Rows} pixels; it is damaged, copy it "
                "again"
            )
        _require_decoder(item)
        stored = _stored_values(data, item)
    except (InputError, MemoryError):
        raise
    except Exception as error:  # decoders raise a dozen kinds for damaged data
        raise InputError(
            f"{path}: its pixels cannot be read ({first_line(error)}); copy it again"
        ) from error

    if stored.shape != (data.Rows, data.Columns):
        raise InputError(
            f"{path}: its pixels have shape {stored.shape}, not what its header says; copy it again"
        )
    return data, stored.astype(np.float64 if stored.dtype.kind == "f" else np.int32)


def _data_set(item: Slice) -> Dataset:
    """Return pydicom's data set of the file, with its encoding."""
    from pydicom import dcmread
    from pydicom.uid import UID

    path = Path(item.path)
    if item.transfer_syntax == DEFLATED:
        refuse_inflation_bomb(path)
    data: Dataset
    if item.frame is None:
        data = dcmread(path, force=True)
    else:
        data = _multi_frame(path, path.stat().st_mtime_ns)

    # no preamble: pydicom has found out the encoding
    if "TransferSyntaxUID" not in data.file_meta:
        implicit, _ = data.original_encoding
        data.file_meta.TransferSyntaxUID = UID(IMPLICIT_LITTLE if implicit else EXPLICIT_LITTLE)
    return data


def _require_decoder(item: Slice) -> None:
    """Refuse a transfer syntax that nothing installed reads, with what to do."""
    from pydicom.pixels import get_decoder

    syntax = item.transfer_syntax
    if not syntax:
        return
    try:
        get_decoder(syntax)
    except NotImplementedError:
        name = "" if uid_name(syntax) == syntax else f" ({uid_name(syntax)})"
        raise InputError(
            f"{item.path}: its pixels cannot be read: no decoder is known for transfer syntax "
            f"{syntax}{name}; convert the file first, e.g. with gdcmconv --raw"
        ) from None


def _stored_values(data: Dataset, item: Slice) -> np.ndarray:
    """Return the stored values of an image, whichever bits they lie in.

    Raises:
        InputError: such values are compressed, or the bits are impossible.
    """
    from pydicom.pixels import pixel_array

    frame = item.frame or 0
    bits = data.get("BitsStored")
    high = data.get("HighBit")
    if bits is None or high is None or high == bits - 1:
        return pixel_array(data, index=frame, raw=True)

    allocated = int(data.BitsAllocated)
    below = int(high) + 1 - int(bits)
    if below < 0 or high >= allocated or item.transfer_syntax not in (*PLAIN_SYNTAXES, DEFLATED):
        raise InputError(
            f"{item.path}: stores {bits} bits up to bit {high}, which is not read; convert the "
            "file first, e.g. with gdcmconv --raw"
        )

    data.BitsStored = allocated  # or pydicom would cut the upper bits off
    whole = pixel_array(data, index=frame, raw=True)
    data.BitsStored = bits
    above = allocated - 1 - int(high)
    return (whole << above) >> (above + below)


@lru_cache(maxsize=1)
def _multi_frame(path: Path, changed_ns: int) -> Dataset:
    """Return a file of many frames, read once for all of them."""
    from pydicom import dcmread

    del changed_ns  # part of the key
    return dcmread(path, force=True)


def _declared_padding(data: Header, stored: np.ndarray) -> np.ndarray:
    """Return the mask of PixelPaddingValue, or of the range up to PixelPaddingRangeLimit."""
    first = data.get("PixelPaddingValue")
    last = data.get("PixelPaddingRangeLimit")
    if not isinstance(first, int):
        return np.zeros(stored.shape, bool)

    if not isinstance(last, int):
        last = first
    ends = [_as_stored(first, data), _as_stored(last, data)]
    low, high = sorted(ends)
    return (stored >= low) & (stored <= high)


def _as_stored(value: int, data: Header) -> int:
    """Return a value of the header in the sign of the pixels.

    63536 means -2000 among signed 16-bit values.
    """
    bits = int(data.get("BitsAllocated"))
    is_signed = data.get("PixelRepresentation") == 1
    values = 1 << bits
    value %= values
    if is_signed and value >= values // 2:
        return value - values
    return value


def _rescaled(data: Header, item: Slice, stored: np.ndarray) -> tuple[np.ndarray, str, list[str]]:
    """Return values in the unit that the header gives, that unit, and what was corrected."""
    group = _transformation(data, item.frame)
    slope = _number(group, "RescaleSlope", item)
    intercept = _number(group, "RescaleIntercept", item)

    if slope is None and data.get("ModalityLUTSequence"):
        return _by_table(data, stored)
    if slope is None and intercept is None:
        return _as_they_are(data, item, stored)

    slope = 1.0 if slope is None else slope
    intercept = intercept or 0.0
    _require_possible_rescaling(item, slope, intercept)

    remarks = []
    if item.modality == "CT" and _wrapped(data, intercept) and (stored >= WRAP_LIMIT).any():
        stored = np.where(stored >= WRAP_LIMIT, stored - WRAP, stored)
        remarks.append("12-bit values without sign corrected")
    return _linear(stored, slope, intercept), _rescaled_unit(group, item), remarks


def _rescaled_unit(group: Header, item: Slice) -> str:
    """Return the unit of values that the header rescales."""
    unit = _unit_name(group.get("RescaleType"))
    if item.modality == "CT" and unit in ("", "HU_MOD", "US"):
        return "HU"
    return unit or "arbitrary"


def _by_table(data: Header, stored: np.ndarray) -> tuple[np.ndarray, str, list[str]]:
    """Return what :func:`_rescaled` does where a table gives the values."""
    from pydicom.pixels import apply_modality_lut

    values = np.asarray(apply_modality_lut(stored, data)).astype(np.int32)
    table = data.get("ModalityLUTSequence")[0]
    unit = _unit_name(table.get("ModalityLUTType"))
    if unit == "HU":  # tables are read without sign, Hounsfield units have one
        values[values >= 1 << 15] -= 1 << 16
    return values, unit or "unknown", ["modality table applied"]


def _as_they_are(
    data: Header, item: Slice, stored: np.ndarray
) -> tuple[np.ndarray, str, list[str]]:
    """Return what :func:`_rescaled` does where the header gives no rescaling."""
    if data.get("PhotometricInterpretation") == "MONOCHROME1":
        return _as_inverted(data, stored), "unknown", ["MONOCHROME1 inverted"]

    unit = "HU" if item.modality == "CT" else "unknown"
    return stored, unit, []


def _require_possible_rescaling(item: Slice, slope: float, intercept: float) -> None:
    """Refuse numbers that lose the values."""
    largest = LARGEST_INTERCEPT_HU if item.modality == "CT" else LARGEST_RESCALE
    if not (0 < slope <= LARGEST_RESCALE and abs(intercept) <= largest):  # NaN, too
        raise InputError(
            f"{item.path}: rescales by {slope:g}, {intercept:g}; its values are lost, remove the "
            "file"
        )


def _linear(stored: np.ndarray, slope: float, intercept: float) -> np.ndarray:
    """Return the values times the slope plus the intercept, integers where these are whole."""
    whole = slope.is_integer() and intercept.is_integer() and abs(slope) < LARGEST_SLOPE
    if whole and stored.dtype.kind == "i":
        stored *= int(slope)  # in place: new arrays of this size are slow
        stored += int(intercept)
        return stored
    return stored * slope + intercept


def _number(group: Header, name: str, item: Slice) -> float | None:
    """Return a number of the header; None where it is absent or empty.

    Raises:
        InputError: the field holds something else.
    """
    value = group.get(name)
    if value is None or value == "":
        return None
    try:
        return float(value)
    except (TypeError, ValueError):
        shown = value if isinstance(value, str) else "\\".join(map(str, value))
        raise InputError(
            f"{item.path}: {name} is '{shown[:40]}', not a number; its values are unknown, fix or "
            "remove the file"
        ) from None


def _unit_name(value: object) -> str:
    """Return a unit of the header; Hounsfield units in whatever spelling are ``HU``."""
    name = str(value or "").strip()
    if name.casefold() in SPELLINGS_OF_HU:
        return "HU"
    return name


def _transformation(data: Header, frame: int | None) -> Header:
    """Return where slope and intercept stand: the frame's group, or the top level."""
    if frame is None:
        return data

    shared = data.get("SharedFunctionalGroupsSequence", [])
    for groups in (data.PerFrameFunctionalGroupsSequence[frame], *shared):
        if groups.get("PixelValueTransformationSequence"):
            return groups.PixelValueTransformationSequence[0]
    return data


def _wrapped(data: Header, intercept: float) -> bool:
    """Return whether values from 3096 on are negative ones.

    Unsigned 12 bits cannot hold air with so high an intercept. The two known populations of the
    RSNA challenge differ in all three fields, so all three are asked.
    """
    has_12_bits = data.get("BitsStored") == 12
    is_unsigned = data.get("PixelRepresentation") == 0
    return has_12_bits and is_unsigned and intercept > WRAP_INTERCEPT


def _as_inverted(data: Header, stored: np.ndarray) -> np.ndarray:
    """Return grey values mirrored within the range that their bits can hold."""
    bits = int(data.get("BitsStored"))
    sum_of_ends = (1 << bits) - 1
    if data.get("PixelRepresentation") == 1:
        sum_of_ends = -1
    return sum_of_ends - stored
