"""Generated DICOM series of any geometry, with any defect.

Everything is computed, nothing comes from a patient. Equal arguments give equal files.
"""

from __future__ import annotations

import warnings
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dataset_conversion.phantoms.anatomy import scanned, thorax
from dataset_conversion.phantoms.lesions import add_nodule

ROOT_UID = "2.25.7"  # of generated objects
AXIAL = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)
INTERCEPT = -1024
Edit = Callable[[int, Any], None]


def uid(*parts: int | str) -> str:
    """A valid UID that depends only on its arguments."""
    return f"{ROOT_UID}.{zlib.crc32(repr(parts).encode())}.{zlib.adler32(repr(parts).encode())}"


def write_series(
    folder: Path,
    hu: np.ndarray,
    positions_mm: np.ndarray,
    *,
    orientation: Sequence[float] = AXIAL,
    spacing_mm: tuple[float, float] = (1.0, 1.0),
    patient: str = "PHANTOM-1",
    study: str = "",
    series: str = "",
    modality: str = "CT",
    order: Sequence[int] | None = None,
    names: Callable[[int], str] = "1-{:03d}.dcm".format,
    edit: Edit | None = None,
) -> list[Path]:
    """Write a CT series, one file per slice.

    Args:
        folder: made if absent.
        hu: (n, row, column), whole numbers.
        positions_mm: (n, 3), centre of each slice's first pixel in patient coordinates.
        orientation: ImageOrientationPatient.
        spacing_mm: between rows, then columns.
        patient: PatientID.
        study: UID; default: by patient.
        series: UID; default: by study.
        modality: of the series.
        order: slice that is file 1, 2, ...; default: as they are.
        names: file name of a number from 1.
        edit: called with the slice's index and its data set before writing, to add a defect.

    Returns:
        Path of each slice, in the order of ``hu``.
    """
    study = study or uid(patient)
    series = series or uid(patient, study, "series")
    folder.mkdir(parents=True, exist_ok=True)
    paths = [Path()] * len(hu)
    with warnings.catch_warnings():
        warnings.simplefilter(
            "ignore"
        )  # about identifiers that are no UIDs, which some collections have
        for number, index in enumerate(range(len(hu)) if order is None else order, start=1):
            data = ct_slice(hu[index], positions_mm[index], orientation, spacing_mm)
            data.PatientID, data.StudyInstanceUID, data.SeriesInstanceUID = patient, study, series
            data.FrameOfReferenceUID = uid(study, "frame")
            data.Modality, data.InstanceNumber, data.SeriesNumber = modality, number, 2
            data.SOPInstanceUID = uid(series, index)
            data.file_meta.MediaStorageSOPInstanceUID = data.SOPInstanceUID
            if edit is not None:
                edit(index, data)
            paths[index] = folder / names(number)
            data.save_as(paths[index], enforce_file_format=True)
    return paths


def write_multi_frame(
    file: Path,
    hu: np.ndarray,
    positions_mm: np.ndarray,
    *,
    orientation: Sequence[float] = AXIAL,
    spacing_mm: tuple[float, float] = (1.0, 1.0),
    order: Sequence[int] | None = None,
    **options: Any,
) -> Path:
    """Write a CT series as one enhanced multi-frame file; arguments as of :func:`write_series`.

    ``order`` gives the slice that is frame 1, 2, ...; default: as they are.
    """
    frames = list(range(len(hu)) if order is None else order)

    def edit(_: int, data: Any) -> None:
        _make_multi_frame(data, hu[frames], positions_mm[frames], orientation, spacing_mm)

    first = slice(frames[0], frames[0] + 1)
    (path,) = write_series(
        file.parent,
        hu[first],
        positions_mm[first],
        orientation=orientation,
        spacing_mm=spacing_mm,
        names=lambda _: file.name,
        edit=edit,
        **options,
    )
    return path


def _make_multi_frame(
    data: Any,
    hu: np.ndarray,
    positions_mm: np.ndarray,
    orientation: Sequence[float],
    spacing_mm: Sequence[float],
) -> None:
    from pydicom.dataset import Dataset
    from pydicom.uid import UID

    def group(**fields: Any) -> list[Dataset]:
        item = Dataset()
        for name, value in fields.items():
            setattr(item, name, value)
        return [item]

    data.SOPClassUID = data.file_meta.MediaStorageSOPClassUID = UID("1.2.840.10008.5.1.4.1.1.2.1")
    for name in (
        "ImagePositionPatient",
        "ImageOrientationPatient",
        "PixelSpacing",
        "SliceThickness",
        "RescaleSlope",
        "RescaleIntercept",
    ):
        delattr(data, name)
    data.NumberOfFrames = len(hu)
    shared, frames = Dataset(), []
    shared.PixelMeasuresSequence = group(
        PixelSpacing=[_decimal(value) for value in spacing_mm], SliceThickness="99"
    )
    shared.PlaneOrientationSequence = group(
        ImageOrientationPatient=[_decimal(value) for value in orientation]
    )
    shared.PixelValueTransformationSequence = group(
        RescaleSlope=1, RescaleIntercept=INTERCEPT, RescaleType="HU"
    )
    for position_mm in positions_mm:
        frame = Dataset()
        frame.PlanePositionSequence = group(
            ImagePositionPatient=[_decimal(value) for value in position_mm]
        )
        frames.append(frame)
    data.SharedFunctionalGroupsSequence, data.PerFrameFunctionalGroupsSequence = [shared], frames
    set_pixels(data, np.asarray(hu) - INTERCEPT, bits=16, signed=False)


def ct_slice(
    hu: np.ndarray, position_mm: Sequence[float], orientation: Sequence[float], spacing_mm: Any
) -> Any:
    """A CT data set with unsigned 16-bit pixels and intercept -1024, without patient and series."""
    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.uid import UID, CTImageStorage, ExplicitVRLittleEndian

    data = Dataset()
    data.file_meta = FileMetaDataset()
    data.file_meta.MediaStorageSOPClassUID = data.SOPClassUID = CTImageStorage
    data.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    data.file_meta.ImplementationClassUID = UID(ROOT_UID)
    data.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
    data.ImagePositionPatient = [_decimal(value) for value in position_mm]
    data.ImageOrientationPatient = [_decimal(value) for value in orientation]
    data.PixelSpacing = [_decimal(value) for value in spacing_mm]
    data.SliceThickness = "99"  # never the distance between slices
    data.Rows, data.Columns = hu.shape
    data.SamplesPerPixel, data.PhotometricInterpretation = 1, "MONOCHROME2"
    data.RescaleSlope, data.RescaleIntercept = "1", str(INTERCEPT)
    set_pixels(data, np.asarray(hu) - INTERCEPT, bits=16, signed=False)
    return data


def set_pixels(data: Any, stored: np.ndarray, bits: int, signed: bool) -> None:
    """Give a data set stored values of so many bits."""
    data.BitsAllocated, data.BitsStored, data.HighBit = 16, bits, bits - 1
    data.PixelRepresentation = int(signed)
    values = np.asarray(stored).astype(np.int64) & ((1 << bits) - 1 if not signed else 0xFFFF)
    data.add_new("PixelData", "OW", values.astype("<u2").tobytes())


def _decimal(value: float) -> str:
    """A number as DICOM's decimal string, of at most 16 characters."""
    return (
        f"{float(value):.16g}" if len(f"{float(value):.16g}") <= 16 else f"{float(value):.9e}"[:16]
    )


def chest_series(
    seed: int, slices: int, size: int, spacing_mm: tuple[float, float, float], nodules: int = 0
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A chest CT in HU (slice, row, column), foot to head, its nodules as numbers 1, 2, ..., and
    positions (n, 3).

    ``spacing_mm`` is (slice, row, column).
    """
    generator = np.random.default_rng([seed, 44])
    body = thorax(generator, (slices, size, size), np.linspace(-0.6, 0.6, slices))
    label = np.zeros(body.hu.shape, np.uint8)
    for number in range(1, nodules + 1):
        nodule = add_nodule(body, generator, spacing_mm, 7 * spacing_mm[1])
        label[(nodule > 0) & (label == 0)] = number
    hu = np.round(scanned(generator, body.hu)).astype(np.int16)[::-1]
    first_mm = -np.array(spacing_mm[1:]) * (size - 1) / 2
    positions_mm = np.array(
        [(first_mm[1], first_mm[0], -200 + index * spacing_mm[0]) for index in range(slices)]
    )
    return hu, np.ascontiguousarray(label[::-1]), positions_mm
