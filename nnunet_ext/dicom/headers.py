"""DICOM headers without pixels: one :class:`Slice` per image or frame, as plain values that travel and are cached."""

from __future__ import annotations

import math
import struct
import warnings
import zlib
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from nnunet_ext.dicom.ordinary_files import ordinary_elements
from nnunet_ext.errors import InputError
from nnunet_ext.worker_processes import first_line

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

CT_STORAGE = "1.2.840.10008.5.1.4.1.1.2"  # enhanced kinds continue it
PREFIX_BYTES = 1 << 15  # holds the header of nearly every CT slice, so that one read per file is enough
INFLATED_LIMIT = 1 << 29  # bytes that a deflated file may unpack to
LARGEST_FRAME_COUNT = 20_000
DEFLATED = "1.2.840.10008.1.2.1.99"
ARCHIVE_ENDINGS = (".zip", ".7z", ".rar", ".tar", ".tar.gz", ".tgz", ".iso")

_TAGS = {
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
    "BodyPartExamined": 0x00180015,
    "SliceThickness": 0x00180050,
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
    "SamplesPerPixel": 0x00280002,
    "NumberOfFrames": 0x00280008,
    "Rows": 0x00280010,
    "Columns": 0x00280011,
    "PixelSpacing": 0x00280030,
}
_WANTED = frozenset(_TAGS.values())
_LAST = _TAGS["PixelSpacing"]


class Element(NamedTuple):
    """An undecoded element, as pydicom has them."""

    value: bytes
    is_little_endian: bool = True


Elements = dict[int, Any]
"""Undecoded elements by tag, ours or pydicom's."""


class Slice(NamedTuple):
    """One image or frame of a file.

    Absent texts are empty, absent numbers ``None``, absent vectors empty. ``position_mm`` is the centre of the first
    pixel and ``orientation`` the directions of increasing column and of increasing row, both in DICOM's patient
    coordinates (left, posterior, head). ``spacing_mm`` is the distance between rows, then between columns.
    """

    path: str
    frame: int | None = None
    sop_class: str = ""
    sop_uid: str = ""
    modality: str = ""
    patient_id: str = ""
    study_uid: str = ""
    series_uid: str = ""
    frame_of_reference_uid: str = ""
    image_type: str = ""
    series_number: int | None = None
    acquisition_number: int | None = None
    instance_number: int | None = None
    temporal_position: int | None = None
    acquisition_time: str = ""
    rows: int = 0
    columns: int = 0
    samples: int = 1
    position_mm: tuple[float, ...] = ()
    orientation: tuple[float, ...] = ()
    spacing_mm: tuple[float, ...] = ()
    thickness_mm: float | None = None
    description: str = ""
    kernel: str = ""
    body_part: str = ""
    transfer_syntax: str = ""


def read_headers(path: Path) -> list[Slice]:
    """Headers of a DICOM file: one slice, or one per frame; an empty list for any other kind of file.

    The start of the file decides, not its name. A file without the 128-byte preamble is read if it begins like DICOM.

    Raises:
        InputError: damaged, or an archive that hides files; one line that says what to do.
    """
    try:
        with path.open("rb", buffering=0) as stream:
            start = stream.read(PREFIX_BYTES)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from error
    if path.name.lower().endswith(ARCHIVE_ENDINGS):
        raise InputError(f"{path}: is an archive; unpack it and run again")
    if not _looks_like_dicom(start):
        if path.suffix.lower() in (".dcm", ".dicom"):
            raise InputError(f"{path}: {'is empty' if not start else 'is no DICOM file'}; copy it again or remove it")
        return []
    try:
        return _slices(path, start)
    except InputError:
        raise
    except Exception as error:  # damaged files make pydicom raise a dozen kinds
        raise InputError(f"{path}: DICOM header is damaged ({first_line(error)}); copy it again") from error


def _looks_like_dicom(start: bytes) -> bool:
    if start[128:132] == b"DICM":
        return True
    # Without preamble: an element of group 2 or 8 with a small element number, in either byte order.
    group, element, rest = start[:2], start[2:4], start[4:8]
    return group in (b"\2\0", b"\x08\0", b"\0\x08") and b"\0" in element and len(start) >= 16 and any(rest)


def _slices(path: Path, start: bytes) -> list[Slice]:
    if (elements := _elements_at(start)) is None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # pydicom's remarks on values that are checked here
            elements = _elements_of(path, start)
    plain = _plain_slice(path, elements)
    frames = int(_text(elements, "NumberOfFrames") or 1)
    if not 1 <= frames <= LARGEST_FRAME_COUNT:
        raise InputError(f"{path}: says it has {frames} frames; it is damaged, copy it again")
    if is_kind_of(plain.sop_class, CT_STORAGE) and not (plain.rows and plain.columns):
        raise InputError(f"{path}: ends before its pixels; it is truncated, copy it again")
    enhanced = plain.sop_class.startswith(f"{CT_STORAGE}.")
    if frames == 1 and not enhanced:
        return [plain]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return _frames(path, plain, frames)


def is_kind_of(sop_class: str, storage: str) -> bool:
    """Whether an object is of a storage class, in its plain or in one of its enhanced forms."""
    return sop_class == storage or sop_class.startswith(f"{storage}.")


def _elements_at(start: bytes) -> Elements | None:
    """Elements of an ordinary file from its first bytes; ``None`` where that is not enough or anything is unusual."""
    found: Elements = {}
    try:
        for tag, begin, end in ordinary_elements(start):
            if tag > _LAST:
                return found if _TAGS["Columns"] in found else None
            if tag in _WANTED:
                found[tag] = Element(start[begin:end])
    except ValueError:  # the slow way will say what is wrong
        pass
    return None


def _elements_of(path: Path, start: bytes) -> Elements:
    """Elements of any file that pydicom reads."""
    from pydicom import dcmread

    if DEFLATED.encode() in start[132:1024]:
        refuse_inflation_bomb(path)
    data = dcmread(path, stop_before_pixels=True, specific_tags=[*_WANTED], force=True)
    return {int(tag): part.get_item(tag) for part in (data.file_meta, data) for tag in _WANTED if tag in part}


def refuse_inflation_bomb(path: Path) -> None:
    """Refuse a deflated file that unpacks to more than any image needs; pydicom would unpack it in one piece.

    Raises:
        InputError: it does.
    """
    with path.open("rb") as stream:
        content = stream.read()
    position = content.find(struct.pack("<HH", 2, 0), 132)
    if position < 0 or len(content) < position + 12:
        raise InputError(f"{path}: DICOM header is damaged (no group length); copy it again")
    begin = position + 12 + struct.unpack_from("<I", content, position + 8)[0]
    engine, total, rest = zlib.decompressobj(-zlib.MAX_WBITS), 0, content[begin:]
    while rest and not engine.eof:
        total += len(engine.decompress(rest, 1 << 24))
        rest = engine.unconsumed_tail
        if total > INFLATED_LIMIT:
            raise InputError(f"{path}: unpacks to more than {INFLATED_LIMIT >> 20} MiB; do not use this file")


def _plain_slice(path: Path, data: Elements) -> Slice:
    """What the top level of the header says."""
    sop_class = _text(data, "SOPClassUID") or _text(data, "MediaStorageSOPClassUID")
    return Slice(
        path=str(path),
        sop_class=sop_class,
        sop_uid=_text(data, "SOPInstanceUID"),
        modality=_text(data, "Modality") or ("CT" if is_kind_of(sop_class, CT_STORAGE) else ""),
        patient_id=_decoded(data, "PatientID"),
        study_uid=_text(data, "StudyInstanceUID"),
        series_uid=_text(data, "SeriesInstanceUID"),
        frame_of_reference_uid=_text(data, "FrameOfReferenceUID"),
        image_type=_text(data, "ImageType").upper(),
        series_number=_whole(data, "SeriesNumber"),
        acquisition_number=_whole(data, "AcquisitionNumber"),
        instance_number=_whole(data, "InstanceNumber"),
        temporal_position=_whole(data, "TemporalPositionIdentifier"),
        acquisition_time=_text(data, "AcquisitionTime"),
        rows=_short(data, "Rows"),
        columns=_short(data, "Columns"),
        samples=_short(data, "SamplesPerPixel") or 1,
        position_mm=_vector(path, data, "ImagePositionPatient", 3),
        orientation=_vector(path, data, "ImageOrientationPatient", 6),
        spacing_mm=_vector(path, data, "PixelSpacing", 2),
        thickness_mm=next(iter(_vector(path, data, "SliceThickness", 1)), None),
        description=_decoded(data, "SeriesDescription"),
        kernel=_text(data, "ConvolutionKernel"),
        body_part=_text(data, "BodyPartExamined"),
        transfer_syntax=_text(data, "TransferSyntaxUID"),
    )


def _frames(path: Path, plain: Slice, frames: int) -> list[Slice]:
    """Slices of an enhanced image; the file itself where it has no per-frame geometry."""
    from pydicom import dcmread
    from pydicom.dataset import Dataset

    data = dcmread(path, stop_before_pixels=True, force=True)
    if "PerFrameFunctionalGroupsSequence" not in data:
        return [plain] if frames == 1 else [plain._replace(position_mm=(), orientation=())]
    groups = data.PerFrameFunctionalGroupsSequence
    shared = (data.get("SharedFunctionalGroupsSequence") or [Dataset()])[0]
    if len(groups) != frames:
        raise InputError(f"{path}: has {frames} frames but describes {len(groups)}; it is damaged, copy it again")
    return [_frame(path, plain, index, group, shared) for index, group in enumerate(groups)]


def _frame(path: Path, plain: Slice, index: int, group: Dataset, shared: Dataset) -> Slice:
    def item(sequence: str) -> Any:
        items = group.get(sequence) or shared.get(sequence)
        return items[0] if items else {}

    def vector(sequence: str, name: str, count: int) -> tuple[float, ...]:
        values = item(sequence).get(name)
        return _finite(path, name, [] if values is None else values, count)

    measures, content = item("PixelMeasuresSequence"), item("FrameContentSequence")
    thickness = measures.get("SliceThickness")
    frame_type = item("CTImageFrameTypeSequence").get("FrameType")
    return plain._replace(
        frame=index,
        position_mm=vector("PlanePositionSequence", "ImagePositionPatient", 3),
        orientation=vector("PlaneOrientationSequence", "ImageOrientationPatient", 6),
        spacing_mm=vector("PixelMeasuresSequence", "PixelSpacing", 2),
        thickness_mm=None if thickness is None else float(thickness),
        image_type="\\".join(frame_type) if frame_type else plain.image_type,
        instance_number=index + 1,
        temporal_position=content.get("TemporalPositionIndex"),
        acquisition_number=content.get("FrameAcquisitionNumber", plain.acquisition_number),
        acquisition_time=str(content.get("FrameAcquisitionDateTime", plain.acquisition_time)),
    )


def _raw(data: Elements, name: str) -> Any:
    element = data.get(_TAGS[name])
    return None if element is None else element.value


def _text(data: Elements, name: str) -> str:
    """Value as text without padding; empty where it is absent."""
    value = _raw(data, name)
    if value is None:
        return ""
    return value.decode("latin-1").strip(" \0\n") if isinstance(value, bytes) else str(value).strip()


def _decoded(data: Elements, name: str) -> str:
    """Text in the file's character set; only its equality and the series choice depend on it."""
    value = _raw(data, name)
    if not isinstance(value, bytes):
        return str(value or "").strip()
    return _in_character_set(value, _text(data, "SpecificCharacterSet"))


@lru_cache(maxsize=4096)
def _in_character_set(value: bytes, character_sets: str) -> str:
    if value.isascii() and b"\x1b" not in value:  # escapes switch the set
        return value.decode("ascii").strip(" \0\n")
    from pydicom.charset import convert_encodings, decode_bytes

    try:
        text = decode_bytes(value, convert_encodings(character_sets.split("\\")), {ord("\\")})
    except (LookupError, ValueError):
        text = value.decode("latin-1")
    return text.strip(" \0\n")


def _whole(data: Elements, name: str) -> int | None:
    try:
        return int(_text(data, name).partition("\\")[0])
    except ValueError:
        return None


def _short(data: Elements, name: str) -> int:
    """A 16-bit number; 0 where it is absent."""
    element = data.get(_TAGS[name])
    if element is None or not element.value:
        return 0
    if isinstance(element.value, bytes):
        return int(struct.unpack_from("<H" if element.is_little_endian else ">H", element.value)[0])
    return int(element.value)


def _vector(path: Path, data: Elements, name: str, count: int) -> tuple[float, ...]:
    text = _text(data, name)
    return _finite(path, name, text.split("\\") if text else [], count)


def _finite(path: Path, name: str, values: Iterable[Any], count: int) -> tuple[float, ...]:
    """``count`` finite numbers, or none where the file gives none.

    Raises:
        InputError: other than that.
    """
    try:
        numbers = tuple(float(value) for value in values)
    except (TypeError, ValueError):
        numbers = (math.nan,)
    if not numbers:
        return ()
    if len(numbers) != count or not all(map(math.isfinite, numbers)):
        raise InputError(f"{path}: {name} is not {count} numbers; its place is unknown, remove the file")
    return numbers


def sop_class_name(uid: str) -> str:
    """Name of a kind of DICOM object, e.g. ``CT Image Storage``."""
    from pydicom.uid import UID

    return UID(uid).name if uid else "an object without SOP class"
