"""A generated hospital export: series of every geometry, each with a SEG and an RTSTRUCT of the
same mask.
"""

from pathlib import Path

import numpy as np

from nnunet_ext.dicom.reading.folder_scan import scan
from nnunet_ext.dicom.reading.series import Acquisition, acquisitions_of
from nnunet_ext.dicom.writing.contours import write_contours
from nnunet_ext.dicom.writing.segmentation import SegmentationKind, write_segmentation
from nnunet_ext.dicom.writing.segments import segments_of
from nnunet_ext.dicom.writing.source import read_source
from tests.dicom.writing.geometries import (
    COLUMNS,
    GEOMETRIES,
    LABELS,
    MODEL,
    ROWS,
    SLICES,
    write_geometry,
)

KINDS: tuple[SegmentationKind, ...] = ("binary", "labelmap", "fractional")


def mask_of(number: int) -> np.ndarray:
    """(n, row, column) label values of a case: a box, and voxels of another label in and beside
    it.
    """
    generator = np.random.default_rng([number, 16])
    values = np.zeros((SLICES, ROWS, COLUMNS), np.uint8)
    values[2:7, 4:15, 3:12] = 1
    values[generator.random(values.shape) < 0.1] = 2
    return values


def patient_of(number: int) -> str:
    """Two series of one patient, then one of each other."""
    return f"SECRET{max(number, 1)}"


def write_labelled_export(folder: Path, geometries: tuple[str, ...] = GEOMETRIES) -> Path:
    """Write a series per geometry, and its objects into another folder."""
    for number, geometry in enumerate(geometries):
        patient = patient_of(number)
        place = folder / f"{number}"
        options = {"patient": patient, "study": f"2.25.9.{number}", "series": f"2.25.9.{number}.1"}
        write_geometry(place / "scan", geometry, **options)
        write_objects(place, mask_of(number), KINDS[number % 3])
    return folder


def write_objects(place: Path, mask: np.ndarray, kind: SegmentationKind = "binary") -> Acquisition:
    """Write a SEG and an RTSTRUCT of a mask beside the series in ``place / "scan"``."""
    (acquisition,), _ = acquisitions_of(scan(place / "scan").slices)
    source, segments = read_source(acquisition), segments_of(LABELS)
    (place / "results").mkdir()
    write_segmentation(
        place / "results/1", mask, source, segments, MODEL, series_number=1001, kind=kind
    )
    write_contours(place / "results/2", mask, source, segments, MODEL, series_number=1002)
    return acquisition
