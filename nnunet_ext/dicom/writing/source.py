"""The images that a result belongs to: their headers, and what every result repeats of them."""

from __future__ import annotations

import datetime
import hashlib
import logging
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from nnunet_ext.dicom.reading.headers import CT_STORAGE, MR_STORAGE
from nnunet_ext.dicom.reading.series import Acquisition
from nnunet_ext.dicom.writing.segments import Model, Segment, ascii_text
from nnunet_ext.errors import InputError, first_line
from nnunet_ext.files.whole_file import whole_file

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

FIRST_NEW_NUMBER = 1001  # of series; scanners count from 1
LARGEST_SERIES_NUMBER = 9999
# What results refer to, and where a slice keeps it.
NEEDED_UIDS = {
    "StudyInstanceUID": "study_uid",
    "SeriesInstanceUID": "series_uid",
    "SOPInstanceUID": "sop_uid",
}
TYPE_2 = (
    "PatientName",
    "PatientID",
    "PatientBirthDate",
    "PatientSex",
    "StudyDate",
    "StudyTime",
    "ReferringPhysicianName",
    "StudyID",
    "AccessionNumber",
)
"""What every object has, empty where nothing is known (PS3.3 C.7.1.1 and C.7.2.1)."""
# Patient module and Clinical Trial Subject module, PS3.3 C.7.1.1 and C.7.1.3
_PATIENT = """
    IssuerOfPatientID IssuerOfPatientIDQualifiersSequence TypeOfPatientID OtherPatientIDs
    OtherPatientIDsSequence PatientBirthTime OtherPatientNames EthnicGroup PatientComments
    ReferencedPatientSequence QualityControlSubject PatientSpeciesDescription
    PatientSpeciesCodeSequence PatientBreedDescription PatientBreedCodeSequence
    BreedRegistrationSequence ResponsiblePerson ResponsiblePersonRole ResponsibleOrganization
    PatientIdentityRemoved DeidentificationMethod DeidentificationMethodCodeSequence
    ClinicalTrialSponsorName ClinicalTrialProtocolID ClinicalTrialProtocolName
    ClinicalTrialSiteID ClinicalTrialSiteName ClinicalTrialSubjectID
    ClinicalTrialSubjectReadingID
"""
# General Study, Patient Study and Clinical Trial Study modules, PS3.3 C.7.2
_STUDY = """
    StudyInstanceUID StudyDescription ReferringPhysicianIdentificationSequence
    ConsultingPhysicianName IssuerOfAccessionNumberSequence PhysiciansOfRecord
    PhysiciansOfRecordIdentificationSequence NameOfPhysiciansReadingStudy
    PhysiciansReadingStudyIdentificationSequence RequestingServiceCodeSequence
    ReferencedStudySequence ProcedureCodeSequence AdmittingDiagnosesDescription
    AdmittingDiagnosesCodeSequence PatientAge PatientSize PatientWeight MedicalAlerts Allergies
    SmokingStatus PregnancyStatus LastMenstrualDate PatientState Occupation
    AdditionalPatientHistory AdmissionID IssuerOfAdmissionIDSequence ServiceEpisodeID
    ServiceEpisodeDescription PatientSexNeutered ClinicalTrialTimePointID
    ClinicalTrialTimePointDescription
"""
PATIENT_AND_STUDY = ("SpecificCharacterSet", *TYPE_2, *_PATIENT.split(), *_STUDY.split())
"""What belongs to the patient and the study, the same in all objects of the study."""


@dataclass(frozen=True)
class Source:
    """An acquisition with the headers of its files.

    ``headers`` holds one data set per file, in the order in which the slices first name the files,
    without pixels and with every attribute of :data:`TYPE_2`. Results take everything that concerns
    the patient and the study, and the UIDs they refer to, from here.
    """

    acquisition: Acquisition
    headers: tuple[Dataset, ...]

    @property
    def first(self) -> Dataset:
        """Return the header whose patient and study every result repeats."""
        return self.headers[0]

    @cached_property
    def of_slices(self) -> tuple[Dataset, ...]:
        """Return the header of each slice's file."""
        paths = [item.path for item in self.acquisition.slices]
        files = dict.fromkeys(paths)  # of many frames: each once
        by_path = dict(zip(files, self.headers, strict=True))
        return tuple(by_path[path] for path in paths)

    @property
    def frame_of_reference_uid(self) -> str:
        """Return the images' frame of reference, or one that depends on the series alone."""
        written = text_of(self.first, "FrameOfReferenceUID")
        if written:
            return written
        series_uid = text_of(self.first, "SeriesInstanceUID")
        return derived_uid(series_uid)


def read_source(acquisition: Acquisition) -> Source:
    """Read the headers of an acquisition's files again, as a whole.

    Raises:
        InputError: a file cannot be read, has no UIDs to refer to, or belongs to another study than
            the others.
    """
    paths = dict.fromkeys(item.path for item in acquisition.slices)
    headers = [_read_header(path) for path in paths]

    studies = {text_of(header, "StudyInstanceUID") for header in headers}
    if len(studies) > 1:
        raise InputError(
            f"{acquisition.slices[0].path}: the images of its series name several studies"
        )
    return Source(acquisition, tuple(headers))


def header_texts(path: str, names: Sequence[str]) -> list[str]:
    """Return texts of a file's header, empty where absent.

    Raises:
        InputError: the file cannot be read.
    """
    header = _read_header(path)
    return [text_of(header, name) for name in names]


def _read_header(path: str) -> Dataset:
    """Read the header of a file; absent attributes of :data:`TYPE_2` become empty ones."""
    from pydicom import dcmread

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            header = dcmread(path, stop_before_pixels=True, force=True)
    except Exception as error:  # pydicom raises a dozen kinds
        raise InputError(
            f"{path}: DICOM header cannot be read ({first_line(error)}); copy it again"
        ) from error

    for name in NEEDED_UIDS:
        if not text_of(header, name):
            raise InputError(f"{path}: {without_uid(name)}")

    for name in TYPE_2:
        if name not in header:
            setattr(header, name, "")
    return header


def without_uid(name: str) -> str:
    """Return why images without this UID are of no use."""
    return f"has no {name}, so no result can refer to it; export the study again"


def new_series_numbers(taken: Iterable[int | None], count: int) -> list[int]:
    """Return so many numbers that no series of the study has."""
    first = FIRST_NEW_NUMBER
    for number in taken:
        if number is not None and number <= LARGEST_SERIES_NUMBER:
            first = max(first, number + 1)
    return list(range(first, first + count))


def text_of(header: Dataset, name: str) -> str:
    """Return a text of a header, empty where absent or not readable."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about identifiers that are not UIDs
        try:
            return str(header.get(name) or "").strip()
        except Exception:  # a damaged element
            return ""


def derived_uid(text: str) -> str:
    """Return a UID that depends only on a text."""
    content = text.encode()
    digest = hashlib.sha256(content).digest()
    number = int.from_bytes(digest[:16], "big")
    return f"2.25.{number}"


def require_mask(
    mask: np.ndarray, acquisition: Acquisition, segments: Iterable[Segment] = ()
) -> None:
    """Check that a mask lies on the slices and holds no value without a segment.

    Raises:
        InputError: it does not.
    """
    stack = acquisition.stack
    shape = (len(acquisition.slices), stack.rows, stack.columns)
    if mask.shape != shape:
        raise InputError(
            f"the mask has shape {mask.shape}, the slices {shape}; predict on the exported image"
        )
    if not segments:
        return

    unknown = set(np.unique(mask).tolist()) - {0}
    for segment in segments:
        unknown -= set(segment.values)
    if unknown:
        raise InputError(
            f"the mask holds the value {min(unknown)}, which the model's labels do not name"
        )


def proxies(source: Source) -> list[Dataset]:
    """Return a plain image per slice for highdicom, without texts that real headers garble.

    Highdicom takes several plain images or one multi-frame image, and orientations only where they
    are exactly equal. So a proxy holds UIDs and the place, and is plain even for a frame of many.
    """
    from pydicom.dataset import Dataset

    acquisition = source.acquisition
    stack = acquisition.stack
    orientation = _decimal_strings(stack.directions[:2].ravel())
    spacing = _decimal_strings(stack.spacing_mm[::-1])
    (step,) = _decimal_strings([stack.step_mm])

    result = []
    for item, header in zip(acquisition.slices, source.of_slices, strict=True):
        proxy = Dataset()
        for name in TYPE_2:
            setattr(proxy, name, "")
        proxy.SOPClassUID = MR_STORAGE if item.modality == "MR" else CT_STORAGE
        for name in ("SOPInstanceUID", "SeriesInstanceUID", "StudyInstanceUID"):
            setattr(proxy, name, text_of(header, name))
        proxy.FrameOfReferenceUID = source.frame_of_reference_uid
        proxy.Modality = item.modality or "CT"
        proxy.Rows, proxy.Columns = stack.rows, stack.columns
        proxy.ImageOrientationPatient = orientation
        proxy.ImagePositionPatient = _decimal_strings(item.position_mm)
        proxy.PixelSpacing = spacing
        # the part of the body that a frame stands for; dcmqi takes it for the distance between
        # frames
        proxy.SliceThickness = step
        lossy = text_of(header, "LossyImageCompression")
        proxy.LossyImageCompression = lossy if lossy in ("00", "01") else "00"
        result.append(proxy)
    return result


def _decimal_strings(numbers: Iterable[float]) -> list[str]:
    """Return numbers as DICOM writes them, of at most 16 characters."""
    from pydicom.valuerep import format_number_as_ds

    return [format_number_as_ds(float(number)) for number in numbers]


@contextmanager
def quietly() -> Iterator[None]:
    """Run highdicom without its remarks on impossible identifiers and on frames of one file."""
    logger = logging.getLogger("highdicom")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def equipment_of(model: Model) -> dict[str, Any]:
    """Return the arguments of highdicom that say what made an object."""
    return {
        "manufacturer": ascii_text(model.manufacturer),
        "manufacturer_model_name": ascii_text(model.name),
        "software_versions": ascii_text(model.version),
        "device_serial_number": ascii_text(model.serial),
    }


def new_object(
    sop_class: str,
    transfer_syntax: str,
    modality: str,
    model: Model,
    series_uid: str,
    series_number: int,
) -> Dataset:
    """Return a data set that names the object, its series and what made it.

    :func:`write_object` writes it.
    """
    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.uid import UID, generate_uid

    data = Dataset()
    data.file_meta = FileMetaDataset()
    data.file_meta.TransferSyntaxUID = UID(transfer_syntax)
    data.file_meta.MediaStorageSOPClassUID = data.SOPClassUID = UID(sop_class)
    data.file_meta.MediaStorageSOPInstanceUID = data.SOPInstanceUID = generate_uid()

    now = datetime.datetime.now()
    data.InstanceCreationDate = now.strftime("%Y%m%d")
    data.InstanceCreationTime = now.strftime("%H%M%S")
    data.Modality = modality
    data.SeriesInstanceUID = series_uid
    data.SeriesNumber = series_number

    equipment = equipment_of(model)
    data.Manufacturer = equipment["manufacturer"]
    data.ManufacturerModelName = equipment["manufacturer_model_name"]
    data.SoftwareVersions = equipment["software_versions"]
    data.DeviceSerialNumber = equipment["device_serial_number"]
    return data


def reference_to(source: Source, index: int) -> Dataset:
    """Return a reference to the image, or the frame, of a slice."""
    from pydicom.dataset import Dataset

    header = source.of_slices[index]
    frame = source.acquisition.slices[index].frame
    reference = Dataset()
    with quietly():
        reference.ReferencedSOPClassUID = text_of(header, "SOPClassUID") or CT_STORAGE
        reference.ReferencedSOPInstanceUID = text_of(header, "SOPInstanceUID")

    if frame is not None:
        reference.ReferencedFrameNumber = frame + 1
    return reference


def write_object(file: Path, result: Dataset, source: Source) -> None:
    """Write a result with the patient and the study of its source, byte for byte as they are there.

    Raises:
        InputError: the file cannot be written.
    """
    from pydicom.filewriter import correct_ambiguous_vr

    correct_ambiguous_vr(result, True)
    _repeat_patient_and_study(result, source.first)
    result.set_original_encoding(False, True, result._character_set)
    try:
        with whole_file(file) as unfinished:
            result.save_as(unfinished, enforce_file_format=True)
    except OSError as error:
        raise InputError(f"{file}: cannot be written ({error.strerror})") from error


def _repeat_patient_and_study(result: Dataset, header: Dataset) -> None:
    """Copy the elements of :data:`PATIENT_AND_STUDY` without decoding their texts."""
    from pydicom.tag import Tag

    for name in PATIENT_AND_STUDY:
        if name not in header:
            if name in result:
                delattr(result, name)
            continue

        element = header.get_item(Tag(name))
        result[element.tag] = _as_explicit(element, header)


def _as_explicit(element: Any, header: Dataset) -> Any:
    """Return an element for a file of explicit VR and little endian; texts stay undecoded."""
    from pydicom.datadict import dictionary_VR

    if not getattr(element, "is_raw", False):
        return element
    vr = dictionary_VR(element.tag)
    if vr in ("SQ", "US", "UL", "SS", "SL", "FD", "FL", "AT") or element.value is None:
        return header[element.tag]  # decoded, because binary values depend on the byte order
    return element._replace(
        VR=vr, length=len(element.value), is_implicit_VR=False, is_little_endian=True
    )
