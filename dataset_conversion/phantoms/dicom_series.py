"""Generated DICOM series of any geometry, with any defect.

Everything is computed, nothing comes from a patient. Equal arguments give equal files.
"""

from __future__ import annotations

import warnings
import zlib
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dataset_conversion.phantoms.anatomy import scanned_int16, thorax
from dataset_conversion.phantoms.lesions import add_nodule

ROOT_UID = "2.25.7"  # of generated objects
AXIAL = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)
INTERCEPT = -1024
# Of single slices; an enhanced file states them elsewhere.
FIELDS_OF_FRAMES = (
    *("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing"),
    *("SliceThickness", "RescaleSlope", "RescaleIntercept"),
)
Edit = Callable[[int, Any], None]


def uid(*parts: int | str) -> str:
    """Return a valid UID that depends only on its arguments."""
    text = repr(parts).encode()
    first = zlib.crc32(text)
    second = zlib.adler32(text)

    return f"{ROOT_UID}.{first}.{second}"


def write_series(  # noqa: PLR0913 - each stands for an attribute of the files
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
    indices = range(len(hu)) if order is None else order
    with warnings.catch_warnings():
        # About identifiers that are not UIDs, which some collections have.
        warnings.simplefilter("ignore")
        for number, index in enumerate(indices, start=1):
            data = ct_slice(hu[index], positions_mm[index], orientation, spacing_mm)
            data.PatientID = patient
            data.StudyInstanceUID = study
            data.SeriesInstanceUID = series
            data.FrameOfReferenceUID = uid(study, "frame")
            data.Modality = modality
            data.InstanceNumber = number
            data.SeriesNumber = 2
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

    data.SOPClassUID = data.file_meta.MediaStorageSOPClassUID = UID("1.2.840.10008.5.1.4.1.1.2.1")
    for name in FIELDS_OF_FRAMES:
        delattr(data, name)
    data.NumberOfFrames = len(hu)

    shared = Dataset()
    shared.PixelMeasuresSequence = _group(PixelSpacing=_decimals(spacing_mm), SliceThickness="99")
    shared.PlaneOrientationSequence = _group(ImageOrientationPatient=_decimals(orientation))
    shared.PixelValueTransformationSequence = _group(
        RescaleSlope=1, RescaleIntercept=INTERCEPT, RescaleType="HU"
    )
    data.SharedFunctionalGroupsSequence = [shared]

    frames = []
    for position_mm in positions_mm:
        frame = Dataset()
        frame.PlanePositionSequence = _group(ImagePositionPatient=_decimals(position_mm))
        frames.append(frame)
    data.PerFrameFunctionalGroupsSequence = frames
    set_pixels(data, np.asarray(hu) - INTERCEPT, bits=16, signed=False)


def _group(**fields: Any) -> list[Any]:
    """Return a sequence of one item with these fields."""
    from pydicom.dataset import Dataset

    item = Dataset()
    for name, value in fields.items():
        setattr(item, name, value)

    return [item]


def ct_slice(
    hu: np.ndarray, position_mm: Sequence[float], orientation: Sequence[float], spacing_mm: Any
) -> Any:
    """Return a CT data set with unsigned 16-bit pixels, intercept -1024, and without patient."""
    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.uid import UID, CTImageStorage, ExplicitVRLittleEndian

    data = Dataset()
    data.file_meta = FileMetaDataset()
    data.file_meta.MediaStorageSOPClassUID = data.SOPClassUID = CTImageStorage
    data.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    data.file_meta.ImplementationClassUID = UID(ROOT_UID)
    data.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
    data.ImagePositionPatient = _decimals(position_mm)
    data.ImageOrientationPatient = _decimals(orientation)
    data.PixelSpacing = _decimals(spacing_mm)
    data.SliceThickness = "99"  # never the distance between slices
    data.Rows, data.Columns = hu.shape
    data.SamplesPerPixel = 1
    data.PhotometricInterpretation = "MONOCHROME2"
    data.RescaleSlope = "1"
    data.RescaleIntercept = str(INTERCEPT)
    set_pixels(data, np.asarray(hu) - INTERCEPT, bits=16, signed=False)

    return data


def set_pixels(data: Any, stored: np.ndarray, bits: int, signed: bool) -> None:
    """Give a data set stored values of so many bits."""
    data.BitsAllocated = 16
    data.BitsStored = bits
    data.HighBit = bits - 1
    data.PixelRepresentation = int(signed)

    unsigned_bits = (1 << bits) - 1
    kept_bits = 0xFFFF if signed else unsigned_bits
    values = np.asarray(stored).astype(np.int64)
    words = (values & kept_bits).astype("<u2")
    data.add_new("PixelData", "OW", words.tobytes())


def _decimal(value: float) -> str:
    """Return a number as DICOM's decimal string, of at most 16 characters."""
    number = float(value)
    exact = f"{number:.16g}"
    if len(exact) <= 16:
        return exact

    return f"{number:.9e}"[:16]


def _decimals(values: Iterable[float]) -> list[str]:
    return [_decimal(value) for value in values]


def chest_series(
    seed: int, slices: int, size: int, spacing_mm: tuple[float, float, float], nodules: int = 0
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return a chest CT in HU (slice, row, column), foot to head.

    With it come its nodules as numbers 1, 2, ..., and positions (n, 3). ``spacing_mm`` is
    (slice, row, column).
    """
    slice_mm, row_mm, column_mm = spacing_mm
    generator = np.random.default_rng([seed, 44])
    levels = np.linspace(-0.6, 0.6, slices)
    body = thorax(generator, (slices, size, size), levels)
    label = np.zeros(body.hu.shape, np.uint8)
    for number in range(1, nodules + 1):
        nodule = add_nodule(body, generator, spacing_mm, 7 * row_mm)
        is_new = (nodule > 0) & (label == 0)
        label[is_new] = number

    hu = scanned_int16(generator, body.hu)[::-1]
    label = np.ascontiguousarray(label[::-1])

    positions_mm = np.empty((slices, 3))
    positions_mm[:, 0] = -column_mm * (size - 1) / 2
    positions_mm[:, 1] = -row_mm * (size - 1) / 2
    positions_mm[:, 2] = -200 + slice_mm * np.arange(slices)

    return hu, label, positions_mm
