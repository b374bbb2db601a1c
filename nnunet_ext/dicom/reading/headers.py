"""DICOM headers without pixels: one :class:`Slice` per image or frame.

Slices are plain values that travel between processes.
"""

from __future__ import annotations

import struct
import warnings
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from nnunet_ext.dicom.reading.elements import (
    LAST,
    TAGS,
    WANTED,
    Element,
    Elements,
    decimals,
    decoded_text_of,
    finite_or_none,
    float_of,
    number_of,
    short_of,
    text_of,
    vector,
    vector_of,
    whole_of,
)
from nnunet_ext.dicom.reading.ordinary_files import ordinary_elements
from nnunet_ext.errors import InputError, first_line

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

CT_STORAGE = "1.2.840.10008.5.1.4.1.1.2"  # enhanced kinds continue it
MR_STORAGE = "1.2.840.10008.5.1.4.1.1.4"
SCAN_STORAGE = (CT_STORAGE, MR_STORAGE)
# holds the header of nearly every CT slice, so that one read per file is enough
PREFIX_BYTES = 1 << 15
INFLATED_LIMIT = 1 << 29  # bytes that a deflated file may unpack to
LARGEST_FRAME_COUNT = 20_000
DEFLATED = "1.2.840.10008.1.2.1.99"
ARCHIVE_ENDINGS = (".zip", ".7z", ".rar", ".tar", ".tar.gz", ".tgz", ".iso")

SLOPE, INTERCEPT = "RescaleSlope", "RescaleIntercept"
SETTINGS = ("KVP", "EchoTime", "ReconstructionDiameter", "FilterType", "ContrastBolusAgent")
"""Further fields that tell two reconstructions or acquisitions of one series apart."""


class Slice(NamedTuple):
    """One image or frame of a file.

    Absent texts are empty, absent numbers ``None``, absent vectors empty. ``position_mm`` is the
    centre of the first pixel and ``orientation`` the directions of increasing column and of
    increasing row, both in DICOM's patient coordinates (left, posterior, head). ``spacing_mm`` is
    the distance between rows, then between columns. ``position_decimals`` counts the digits with
    which each coordinate is written. ``rescaling`` names the fields that state a rescaling,
    ``settings`` joins those of :data:`SETTINGS`.
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
    position_decimals: tuple[int, ...] = ()
    photometric: str = ""
    rescaling: str = ""
    cardiac_phase: float | None = None
    trigger_time: float | None = None
    settings: str = ""


def read_headers(path: Path) -> list[Slice]:
    """Return the headers of a DICOM file: one slice, or one per frame; none for any other file.

    The start of the file decides, not its name. A file without the 128-byte preamble is read if it
    begins like DICOM.

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
            defect = "is not a DICOM file" if start else "is empty"
            raise InputError(f"{path}: {defect}; copy it again or remove it")
        return []

    try:
        return _slices(path, start)
    except InputError:
        raise
    except Exception as error:  # damaged files make pydicom raise a dozen kinds
        raise InputError(
            f"{path}: DICOM header is damaged ({first_line(error)}); copy it again"
        ) from error


def _looks_like_dicom(start: bytes) -> bool:
    if start[128:132] == b"DICM":
        return True
    # Without preamble: an element of group 2 or 8 with a small element number, in either byte
    # order.
    group = start[:2]
    element = start[2:4]
    rest = start[4:8]
    is_known_group = group in (b"\2\0", b"\x08\0", b"\0\x08")
    is_small_element = b"\0" in element
    has_more = len(start) >= 16 and any(rest)
    return is_known_group and is_small_element and has_more


def _slices(path: Path, start: bytes) -> list[Slice]:
    elements = _elements_at(start)
    if elements is None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # pydicom's remarks on values that are checked here
            elements = _elements_of(path, start)

    plain = _plain_slice(path, elements)
    if not may_be_scan(plain):
        return [plain]

    frames = whole_of(elements, "NumberOfFrames") or 1  # some writers say 0 of a plain image
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


def may_be_scan(item: Slice) -> bool:
    """Return whether an image may be a slice of a scan; of other objects no field is judged."""
    sop_class = item.sop_class
    if sop_class and not any(is_kind_of(sop_class, storage) for storage in SCAN_STORAGE):
        return False
    return "LOCALIZER" not in item.image_type.split("\\")


def is_kind_of(sop_class: str, storage: str) -> bool:
    """Return whether an object is of a storage class, plain or in one of its enhanced forms."""
    if sop_class == storage:
        return True
    return sop_class.startswith(f"{storage}.")


def _elements_at(start: bytes) -> Elements | None:
    """Return the elements of an ordinary file from its first bytes.

    None where these are not enough or anything is unusual.
    """
    found: Elements = {}
    try:
        for tag, begin, end in ordinary_elements(start):
            if tag > LAST:
                return found if TAGS["Columns"] in found else None
            if tag in WANTED:
                found[tag] = Element(start[begin:end])
    except ValueError:  # the slow way will say what is wrong
        pass
    return None


def _elements_of(path: Path, start: bytes) -> Elements:
    """Return the elements of any file that pydicom reads."""
    from pydicom import dcmread

    if DEFLATED.encode() in start[132:1024]:
        refuse_inflation_bomb(path)

    data = dcmread(path, stop_before_pixels=True, specific_tags=[*WANTED], force=True)
    elements: Elements = {}
    for part in (data.file_meta, data):
        for tag in WANTED:
            if tag in part:
                elements[int(tag)] = part.get_item(tag)
    return elements


def refuse_inflation_bomb(path: Path) -> None:
    """Refuse a deflated file that unpacks to more than any image needs.

    pydicom would unpack it in one piece.

    Raises:
        InputError: it does.
    """
    with path.open("rb") as stream:
        content = stream.read()
    position = content.find(struct.pack("<HH", 2, 0), 132)
    if position < 0 or len(content) < position + 12:
        raise InputError(f"{path}: DICOM header is damaged (no group length); copy it again")

    (length,) = struct.unpack_from("<I", content, position + 8)
    rest = content[position + 12 + length :]
    engine = zlib.decompressobj(-zlib.MAX_WBITS)
    total = 0
    while rest and not engine.eof:
        total += len(engine.decompress(rest, 1 << 24))
        rest = engine.unconsumed_tail
        if total > INFLATED_LIMIT:
            raise InputError(
                f"{path}: unpacks to more than {INFLATED_LIMIT >> 20} MiB; do not use this file"
            )


def _plain_slice(path: Path, data: Elements) -> Slice:
    """Return what the top level of the header says."""
    sop_class = text_of(data, "SOPClassUID") or text_of(data, "MediaStorageSOPClassUID")
    settings = [text_of(data, name) for name in SETTINGS]
    item = Slice(
        path=str(path),
        sop_class=sop_class,
        sop_uid=text_of(data, "SOPInstanceUID"),
        modality=text_of(data, "Modality") or ("CT" if is_kind_of(sop_class, CT_STORAGE) else ""),
        patient_id=decoded_text_of(data, "PatientID"),
        study_uid=text_of(data, "StudyInstanceUID"),
        series_uid=text_of(data, "SeriesInstanceUID"),
        frame_of_reference_uid=text_of(data, "FrameOfReferenceUID"),
        image_type=text_of(data, "ImageType").upper(),
        series_number=whole_of(data, "SeriesNumber"),
        acquisition_number=whole_of(data, "AcquisitionNumber"),
        instance_number=whole_of(data, "InstanceNumber"),
        temporal_position=whole_of(data, "TemporalPositionIdentifier"),
        acquisition_time=text_of(data, "AcquisitionTime"),
        rows=short_of(data, "Rows"),
        columns=short_of(data, "Columns"),
        samples=short_of(data, "SamplesPerPixel") or 1,
        thickness_mm=number_of(data, "SliceThickness"),
        description=decoded_text_of(data, "SeriesDescription"),
        kernel=text_of(data, "ConvolutionKernel"),
        body_part=text_of(data, "BodyPartExamined"),
        transfer_syntax=text_of(data, "TransferSyntaxUID"),
        photometric=text_of(data, "PhotometricInterpretation").upper(),
        rescaling=", ".join(name for name in (SLOPE, INTERCEPT) if text_of(data, name)),
        cardiac_phase=float_of(data, "NominalPercentageOfCardiacPhase"),
        trigger_time=number_of(data, "TriggerTime"),
        settings="\\".join(settings) if any(settings) else "",
    )
    return _with_place(path, item, data) if may_be_scan(item) else item


def _with_place(path: Path, item: Slice, data: Elements) -> Slice:
    position = text_of(data, "ImagePositionPatient")
    position_decimals = tuple(map(decimals, position.split("\\"))) if position else ()
    return item._replace(
        position_mm=vector_of(path, data, "ImagePositionPatient", 3),
        position_decimals=position_decimals,
        orientation=vector_of(path, data, "ImageOrientationPatient", 6),
        spacing_mm=vector_of(path, data, "PixelSpacing", 2),
    )


def _frames(path: Path, plain: Slice, frames: int) -> list[Slice]:
    """Return the slices of an enhanced image; the file itself if its frames have no geometry."""
    from pydicom import dcmread
    from pydicom.dataset import Dataset

    data = dcmread(path, stop_before_pixels=True, force=True)
    if "PerFrameFunctionalGroupsSequence" not in data:
        return [plain] if frames == 1 else [plain._replace(position_mm=(), orientation=())]

    groups = data.PerFrameFunctionalGroupsSequence
    shared_groups = data.get("SharedFunctionalGroupsSequence") or [Dataset()]
    if len(groups) != frames:
        raise InputError(
            f"{path}: has {frames} frames but describes {len(groups)}; it is damaged, copy it again"
        )
    return [
        _frame(path, plain, index, group, shared_groups[0]) for index, group in enumerate(groups)
    ]


def _frame(path: Path, plain: Slice, index: int, group: Dataset, shared: Dataset) -> Slice:
    def item(sequence: str) -> Any:
        items = group.get(sequence) or shared.get(sequence)
        if not items:
            return {}
        return items[0]

    def numbers(sequence: str, name: str, count: int) -> tuple[float, ...]:
        values = item(sequence).get(name)
        if values is None:
            values = []
        return vector(path, name, values, count)

    measures, content = item("PixelMeasuresSequence"), item("FrameContentSequence")
    transformation = item("PixelValueTransformationSequence")
    rescaling = [name for name in (SLOPE, INTERCEPT) if transformation.get(name) is not None]
    kernel = item("CTReconstructionSequence").get("ConvolutionKernel")
    phase = item("CardiacSynchronizationSequence").get("NominalPercentageOfCardiacPhase")
    frame_type = item("CTImageFrameTypeSequence").get("FrameType")
    position = item("PlanePositionSequence").get("ImagePositionPatient") or ()
    return plain._replace(
        frame=index,
        position_mm=numbers("PlanePositionSequence", "ImagePositionPatient", 3),
        position_decimals=tuple(decimals(str(value)) for value in position),
        orientation=numbers("PlaneOrientationSequence", "ImageOrientationPatient", 6),
        spacing_mm=numbers("PixelMeasuresSequence", "PixelSpacing", 2),
        thickness_mm=finite_or_none(measures.get("SliceThickness")),
        image_type="\\".join(frame_type) if frame_type else plain.image_type,
        instance_number=index + 1,
        temporal_position=content.get("TemporalPositionIndex"),
        acquisition_number=content.get("FrameAcquisitionNumber", plain.acquisition_number),
        acquisition_time=str(content.get("FrameAcquisitionDateTime", plain.acquisition_time)),
        rescaling=", ".join(rescaling),
        kernel=str(kernel) if kernel else plain.kernel,
        cardiac_phase=plain.cardiac_phase if phase is None else finite_or_none(phase),
    )


def sop_class_name(uid: str) -> str:
    """Return the name of a kind of DICOM object, e.g. ``CT Image Storage``."""
    if not uid:
        return "an object without SOP class"
    return uid_name(uid)


def uid_name(uid: str) -> str:
    """Return the name of a UID, or the UID itself where it has none.

    pydicom's remarks on impossible UIDs are left out.
    """
    from pydicom.config import IGNORE
    from pydicom.uid import UID

    return UID(uid, validation_mode=IGNORE).name
