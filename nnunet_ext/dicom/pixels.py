"""Pixels of one slice as physical values: Hounsfield units for CT."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.pixels import pixel_array
from pydicom.uid import DeflatedExplicitVRLittleEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

from nnunet_ext.dicom.headers import Slice, refuse_inflation_bomb
from nnunet_ext.errors import InputError
from nnunet_ext.worker_processes import first_line

AIR_HU = -1024
PADDING_HU = -1500  # nothing scanned lies below; scanners fill what they did not scan with -2000, -3024 and the like
WRAP_LIMIT, WRAP, WRAP_INTERCEPT = 3096, 4096, -100  # 12-bit values stored without their sign; air reads 3096
LARGEST_RESCALE = 1e6  # of slope and intercept; beyond, voxels would not fit their type
LARGEST_PIXELS = 1 << 26


@dataclass(frozen=True)
class Pixels:
    """Values (row, column) of a slice, integers where they are whole.

    ``unit`` is ``HU``, or what else is known; ``remarks`` say what was mended.
    """

    values: np.ndarray
    unit: str
    remarks: tuple[str, ...]


def read_pixels(item: Slice) -> Pixels:
    """Decode one slice and apply what its own header says: rescaling, modality table, padding, inverted grey values.

    Padding, declared or below ``PADDING_HU``, becomes ``AIR_HU`` in CT. Grey values of MONOCHROME1 are inverted unless
    a rescaling makes them Hounsfield units, which no display convention changes.

    Raises:
        InputError: truncated, damaged, colours, or compressed in a way no installed decoder reads.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        data, stored = _decode(item)
    padding = _declared_padding(data, stored)
    values, unit, remarks = _rescaled(data, item, stored)
    if unit == "HU":
        padding |= values < PADDING_HU
        values[padding] = AIR_HU
    if padding.any():
        remarks.append("padding set to air" if unit == "HU" else "holds padding")
    return Pixels(values, unit, tuple(remarks))


def _decode(item: Slice) -> tuple[Dataset, np.ndarray]:
    """The header and the stored values, widened to int32."""
    path, frame = Path(item.path), item.frame
    try:
        if item.transfer_syntax == DeflatedExplicitVRLittleEndian:
            refuse_inflation_bomb(path)
        data = dcmread(path, force=True) if frame is None else _multi_frame(path, path.stat().st_mtime_ns)
        if "TransferSyntaxUID" not in data.file_meta:  # no preamble: pydicom has found out the encoding
            implicit, _ = data.original_encoding
            data.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian if implicit else ExplicitVRLittleEndian
        if data.get("SamplesPerPixel", 1) != 1:
            raise InputError(f"{path}: is a colour picture, no scan; remove it")
        if not 0 < data.Rows * data.Columns <= LARGEST_PIXELS:
            raise InputError(f"{path}: says it has {data.Columns}x{data.Rows} pixels; it is damaged, copy it again")
        stored = pixel_array(data, index=frame or 0, raw=True)
    except (InputError, MemoryError):
        raise
    except Exception as error:  # decoders raise a dozen kinds for damaged data
        raise InputError(f"{path}: its pixels cannot be read ({first_line(error)}); copy it again") from error
    if stored.shape != (data.Rows, data.Columns):
        raise InputError(f"{path}: its pixels have shape {stored.shape}, not what its header says; copy it again")
    return data, stored.astype(np.float64 if stored.dtype.kind == "f" else np.int32)


@lru_cache(maxsize=1)
def _multi_frame(path: Path, changed_ns: int) -> Dataset:
    """A file of many frames, read once for all of them."""
    del changed_ns  # part of the key
    return dcmread(path, force=True)


def _declared_padding(data: Dataset, stored: np.ndarray) -> np.ndarray:
    """Mask of PixelPaddingValue, or of the range up to PixelPaddingRangeLimit."""
    first, last = data.get("PixelPaddingValue"), data.get("PixelPaddingRangeLimit")
    if not isinstance(first, int):
        return np.zeros(stored.shape, bool)
    last = last if isinstance(last, int) else first
    low, high = sorted(_as_stored(value, data) for value in (first, last))
    return (stored >= low) & (stored <= high)


def _as_stored(value: int, data: Dataset) -> int:
    """A value of the header in the sign of the pixels: 63536 means -2000 among signed 16-bit values."""
    bits = int(data.BitsAllocated)
    value %= 1 << bits
    return value - (1 << bits) if data.PixelRepresentation == 1 and value >= 1 << (bits - 1) else value


def _rescaled(data: Dataset, item: Slice, stored: np.ndarray) -> tuple[np.ndarray, str, list[str]]:
    """Values in the unit that the header gives, that unit, and what was mended."""
    remarks: list[str] = []
    group = _transformation(data, item.frame)
    table = data.get("ModalityLUTSequence")
    slope, intercept = group.get("RescaleSlope"), group.get("RescaleIntercept")
    if table and slope is None:
        from pydicom.pixels import apply_modality_lut

        values = np.asarray(apply_modality_lut(stored, data)).astype(np.int32)
        kind = str(table[0].get("ModalityLUTType", ""))
        if kind == "HU":
            values[values >= 1 << 15] -= 1 << 16  # tables are read without sign, Hounsfield units have one
        return values, kind or "unknown", ["modality table applied"]
    if slope is None and intercept is None:
        if data.get("PhotometricInterpretation") == "MONOCHROME1":
            return _as_inverted(data, stored), "unknown", ["MONOCHROME1 inverted"]
        return stored, "HU" if item.modality == "CT" else "unknown", []
    slope, intercept = float(1 if slope is None else slope), float(intercept or 0)
    if not max(abs(slope), abs(intercept)) <= LARGEST_RESCALE or slope == 0:  # NaN, too
        raise InputError(f"{item.path}: rescales by {slope:g}, {intercept:g}; its values are lost, remove the file")
    if item.modality == "CT" and _wrapped(data, intercept) and (stored >= WRAP_LIMIT).any():
        stored = np.where(stored >= WRAP_LIMIT, stored - WRAP, stored)
        remarks.append("12-bit values without sign mended")
    kind = str(group.get("RescaleType", "") or "")
    unit = "HU" if item.modality == "CT" and kind in ("", "HU", "HU_MOD", "US") else kind or "arbitrary"
    if slope.is_integer() and intercept.is_integer() and stored.dtype.kind == "i":
        return stored * int(slope) + int(intercept), unit, remarks
    return stored * slope + intercept, unit, remarks


def _transformation(data: Dataset, frame: int | None) -> Dataset:
    """Where slope and intercept stand: the frame's group of an enhanced image, or the top level."""
    if frame is not None:
        for groups in (data.PerFrameFunctionalGroupsSequence[frame], *data.get("SharedFunctionalGroupsSequence", [])):
            if groups.get("PixelValueTransformationSequence"):
                return groups.PixelValueTransformationSequence[0]
    return data


def _wrapped(data: Dataset, intercept: float) -> bool:
    """Whether values from 3096 on are negative ones: unsigned 12 bits cannot hold air with so high an intercept.

    The two known populations of the RSNA challenge differ in all three fields, so all three are asked.
    """
    return data.BitsStored == 12 and data.PixelRepresentation == 0 and intercept > WRAP_INTERCEPT


def _as_inverted(data: Dataset, stored: np.ndarray) -> np.ndarray:
    """Grey values mirrored within the range that their bits can hold."""
    bits = int(data.BitsStored)
    return (-1 if data.PixelRepresentation == 1 else (1 << bits) - 1) - stored
