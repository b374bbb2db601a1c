"""The images that a result belongs to: their headers, and what every result repeats of them."""

from __future__ import annotations

import datetime
import hashlib
import logging
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from nnunet_ext.dicom.reading.headers import CT_STORAGE, MR_STORAGE
from nnunet_ext.dicom.reading.series import Acquisition
from nnunet_ext.dicom.writing.segments import Model, Segment, ascii_text
from nnunet_ext.errors import InputError
from nnunet_ext.files.whole_file import whole_file
from nnunet_ext.worker_processes import first_line

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

FIRST_NEW_NUMBER = 1001  # of series; scanners count from 1
LARGEST_SERIES_NUMBER = 9999
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
PATIENT_AND_STUDY = (
    "SpecificCharacterSet",
    *TYPE_2,
    # Patient module and Clinical Trial Subject module, PS3.3 C.7.1.1 and C.7.1.3
    "IssuerOfPatientID",
    "IssuerOfPatientIDQualifiersSequence",
    "TypeOfPatientID",
    "OtherPatientIDs",
    "OtherPatientIDsSequence",
    "PatientBirthTime",
    "OtherPatientNames",
    "EthnicGroup",
    "PatientComments",
    "ReferencedPatientSequence",
    "QualityControlSubject",
    "PatientSpeciesDescription",
    "PatientSpeciesCodeSequence",
    "PatientBreedDescription",
    "PatientBreedCodeSequence",
    "BreedRegistrationSequence",
    "ResponsiblePerson",
    "ResponsiblePersonRole",
    "ResponsibleOrganization",
    "PatientIdentityRemoved",
    "DeidentificationMethod",
    "DeidentificationMethodCodeSequence",
    "ClinicalTrialSponsorName",
    "ClinicalTrialProtocolID",
    "ClinicalTrialProtocolName",
    "ClinicalTrialSiteID",
    "ClinicalTrialSiteName",
    "ClinicalTrialSubjectID",
    "ClinicalTrialSubjectReadingID",
    # General Study, Patient Study and Clinical Trial Study modules, PS3.3 C.7.2
    "StudyInstanceUID",
    "StudyDescription",
    "ReferringPhysicianIdentificationSequence",
    "ConsultingPhysicianName",
    "IssuerOfAccessionNumberSequence",
    "PhysiciansOfRecord",
    "PhysiciansOfRecordIdentificationSequence",
    "NameOfPhysiciansReadingStudy",
    "PhysiciansReadingStudyIdentificationSequence",
    "RequestingServiceCodeSequence",
    "ReferencedStudySequence",
    "ProcedureCodeSequence",
    "AdmittingDiagnosesDescription",
    "AdmittingDiagnosesCodeSequence",
    "PatientAge",
    "PatientSize",
    "PatientWeight",
    "MedicalAlerts",
    "Allergies",
    "SmokingStatus",
    "PregnancyStatus",
    "LastMenstrualDate",
    "PatientState",
    "Occupation",
    "AdditionalPatientHistory",
    "AdmissionID",
    "IssuerOfAdmissionIDSequence",
    "ServiceEpisodeID",
    "ServiceEpisodeDescription",
    "PatientSexNeutered",
    "ClinicalTrialTimePointID",
    "ClinicalTrialTimePointDescription",
)
"""What belongs to the patient and the study, and is therefore the same in all objects of the study.
"""


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
        """The header whose patient and study every result repeats."""
        return self.headers[0]

    @cached_property
    def of_slices(self) -> tuple[Dataset, ...]:
        """The header of each slice's file."""
        paths = dict.fromkeys(item.path for item in self.acquisition.slices)
        by_path = dict(zip(paths, self.headers, strict=True))
        return tuple(by_path[item.path] for item in self.acquisition.slices)

    @property
    def frame_of_reference_uid(self) -> str:
        """Of the images, or one that depends on the series alone."""
        return text_of(self.first, "FrameOfReferenceUID") or derived_uid(
            text_of(self.first, "SeriesInstanceUID")
        )


def read_source(acquisition: Acquisition) -> Source:
    """Read the headers of an acquisition's files again, as a whole.

    Raises:
        InputError: a file cannot be read, has no UIDs to refer to, or belongs to another study than
            the others.
    """
    from pydicom import dcmread

    headers = []
    for path in dict.fromkeys(item.path for item in acquisition.slices):
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                header = dcmread(path, stop_before_pixels=True, force=True)
        except Exception as error:  # pydicom raises a dozen kinds
            raise InputError(
                f"{path}: DICOM header cannot be read ({first_line(error)}); copy it again"
            ) from error

        for name in ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID"):
            if not text_of(header, name):
                raise InputError(
                    f"{path}: has no {name}, so no result can refer to it; export the study again"
                )

        for name in TYPE_2:
            if name not in header:
                setattr(header, name, "")

        headers.append(header)

    if len({text_of(header, "StudyInstanceUID") for header in headers}) > 1:
        raise InputError(
            f"{acquisition.slices[0].path}: the images of its series name several studies"
        )

    return Source(acquisition, tuple(headers))


def new_series_numbers(taken: Iterable[int | None], count: int) -> list[int]:
    """So many numbers that no series of the study has."""
    used = {number for number in taken if number is not None}
    first = max(
        [FIRST_NEW_NUMBER, *(number + 1 for number in used if number <= LARGEST_SERIES_NUMBER)]
    )
    return list(range(first, first + count))


def text_of(header: Dataset, name: str) -> str:
    """A text of a header, empty where absent or not readable."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about identifiers that are no UIDs
        try:
            return str(header.get(name) or "").strip()
        except Exception:  # a damaged element
            return ""


def derived_uid(text: str) -> str:
    """A UID that depends only on a text."""
    number = int.from_bytes(hashlib.sha256(text.encode()).digest()[:16], "big")
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

    described = {0, *(value for segment in segments for value in segment.values)}
    found = set(np.unique(mask).tolist()) if segments else set()
    if found - described:
        raise InputError(
            f"the mask holds the value {min(found - described)}, which the model's labels do not "
            f"name"
        )


def proxies(source: Source) -> list[Dataset]:
    """A plain image per slice for highdicom: UIDs and place, none of the texts that real headers
    garble.

    Highdicom takes several plain images or one multi-frame image, and orientations only where they
    are exactly equal.
    """
    from pydicom.dataset import Dataset
    from pydicom.valuerep import format_number_as_ds

    acquisition = source.acquisition
    stack = acquisition.stack
    orientation = [format_number_as_ds(float(value)) for value in stack.directions[:2].ravel()]
    result = []
    for item, header in zip(acquisition.slices, source.of_slices, strict=True):
        proxy = Dataset()
        for name in TYPE_2:
            setattr(proxy, name, "")
        proxy.SOPClassUID = (
            MR_STORAGE if item.modality == "MR" else CT_STORAGE
        )  # plain even for a frame of many
        for name in ("SOPInstanceUID", "SeriesInstanceUID", "StudyInstanceUID"):
            setattr(proxy, name, text_of(header, name))
        proxy.FrameOfReferenceUID = source.frame_of_reference_uid
        proxy.Modality = item.modality or "CT"
        proxy.Rows, proxy.Columns = stack.rows, stack.columns
        proxy.ImageOrientationPatient = orientation
        proxy.ImagePositionPatient = [
            format_number_as_ds(float(value)) for value in item.position_mm
        ]
        proxy.PixelSpacing = [format_number_as_ds(float(value)) for value in stack.spacing_mm[::-1]]
        # the part of the body that a frame stands for; dcmqi takes it for the distance between
        # frames
        proxy.SliceThickness = format_number_as_ds(float(stack.step_mm))
        lossy = text_of(header, "LossyImageCompression")
        proxy.LossyImageCompression = lossy if lossy in ("00", "01") else "00"
        result.append(proxy)

    return result


@contextmanager
def quietly() -> Iterator[None]:
    """Run highdicom without its remarks on identifiers that are no UIDs, and on frames of one
    file.
    """
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
    """The arguments of highdicom that say what made an object."""
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
    """A data set with what concerns the object, its series and what made it, to be written by
    :func:`write_object`.
    """
    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.uid import UID, generate_uid

    now = datetime.datetime.now()
    equipment = equipment_of(model)
    data = Dataset()
    data.file_meta = FileMetaDataset()
    data.file_meta.TransferSyntaxUID = UID(transfer_syntax)
    data.file_meta.MediaStorageSOPClassUID = data.SOPClassUID = UID(sop_class)
    data.file_meta.MediaStorageSOPInstanceUID = data.SOPInstanceUID = generate_uid()
    data.InstanceCreationDate, data.InstanceCreationTime = (
        now.strftime("%Y%m%d"),
        now.strftime("%H%M%S"),
    )
    data.Modality, data.SeriesInstanceUID, data.SeriesNumber = modality, series_uid, series_number
    data.Manufacturer, data.ManufacturerModelName = (
        equipment["manufacturer"],
        equipment["manufacturer_model_name"],
    )
    data.SoftwareVersions, data.DeviceSerialNumber = (
        equipment["software_versions"],
        equipment["device_serial_number"],
    )
    return data


def reference_to(source: Source, index: int) -> Dataset:
    """A reference to the image, or the frame, of a slice."""
    from pydicom.dataset import Dataset

    header, frame = source.of_slices[index], source.acquisition.slices[index].frame
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
    """An element for a file of explicit VR and little endian, still undecoded where it is a
    text.
    """
    from pydicom.datadict import dictionary_VR

    if not getattr(element, "is_raw", False):
        return element
    vr = dictionary_VR(element.tag)
    if vr in ("SQ", "US", "UL", "SS", "SL", "FD", "FL", "AT") or element.value is None:
        return header[element.tag]  # decoded, because binary values depend on the byte order
    return element._replace(
        VR=vr, length=len(element.value), is_implicit_VR=False, is_little_endian=True
    )
