"""Generated series of every geometry."""

from pathlib import Path

import numpy as np

from dataset_conversion.phantoms.dicom_series import AXIAL, write_multi_frame, write_series
from nnunet_ext.dicom.reading.folder_scan import scan
from nnunet_ext.dicom.reading.series import Acquisition, acquisitions_of
from nnunet_ext.dicom.writing.segments import Model

SLICES, ROWS, COLUMNS = 9, 24, 20
SPACING_MM = (0.8, 0.6)  # rows, columns
STEP_MM = 2.5
FEET_FIRST_PRONE = (1.0, 0.0, 0.0, 0.0, -1.0, 0.0)
GEOMETRIES = ("regular", "tilted", "uneven", "gappy", "multi-frame", "feet first prone")
LABELS = {"background": 0, "lung": 1, "lesion": 2}
MODEL = Model("nnU-Net", "2.8.1", serial="abc123")


def places_mm(geometry: str) -> np.ndarray:
    """Positions (n, 3) of the slices' first pixels."""
    along_mm = STEP_MM * np.arange(SLICES)
    if geometry == "uneven":
        along_mm = np.cumsum(STEP_MM * np.array([1, 1.4, 0.7, 1.3, 0.6, 1.7, 1.2, 1, 1]))
    if geometry == "gappy":
        along_mm = np.delete(STEP_MM * np.arange(SLICES + 2), [3, 6])
    drift_mm = 0.3 * along_mm if geometry == "tilted" else np.zeros(SLICES)
    heads_mm = -along_mm if geometry == "feet first prone" else along_mm
    return np.stack([np.full(SLICES, -10.25), -20.5 + drift_mm, 5 + heads_mm], axis=1)


def write_geometry(folder: Path, geometry: str, **options: object) -> None:
    """Write a series of that geometry; no two of its voxels are equal."""
    hu = np.arange(SLICES * ROWS * COLUMNS).reshape(SLICES, ROWS, COLUMNS) % 3000 - 1000
    orientation = FEET_FIRST_PRONE if geometry == "feet first prone" else AXIAL
    order = [4, 2, 0, 6, 8, 1, 3, 5, 7]
    if geometry == "multi-frame":
        write_multi_frame(
            folder / "enhanced.dcm",
            hu,
            places_mm(geometry),
            spacing_mm=SPACING_MM,
            order=order,
            **options,
        )  # type: ignore[arg-type]
    else:
        write_series(
            folder,
            hu,
            places_mm(geometry),
            orientation=orientation,
            spacing_mm=SPACING_MM,
            order=order,
            **options,
        )  # type: ignore[arg-type]


def acquisition_below(folder: Path) -> Acquisition:
    (acquisition,), rejected = acquisitions_of(scan(folder).slices)
    assert rejected == []
    return acquisition
