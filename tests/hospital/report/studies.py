"""A generated study whose segments and lesions are known, as the page takes it."""

from pathlib import Path
from typing import Any

import numpy as np

from dataset_conversion.phantoms.dicom_series import write_series
from nnunet_ext.dicom.writing.measurements import measure
from nnunet_ext.dicom.writing.segments import Model, segments_of
from nnunet_ext.dicom.writing.source import read_source
from nnunet_ext.hospital.report.page import Study
from tests.dicom.writing.geometries import acquisition_below
from tests.hospital.conftest import stacked

SLICES, SIZE, STEP_MM = 12, 48, 2.0
LABELS = {"background": 0, "lung": 1, "lesion": 2}
MODEL = Model("Dataset006 nnUNetTrainer 3d_fullres", "0.1.0", serial="0123456789abcdef")
LUNG_HU, LESION_HU, TISSUE_HU = -850, 20, 45


def labels() -> np.ndarray:
    """Label values (n, row, column): a lung with lesions of 3 x 6 x 5 voxels and of one."""
    mask = np.zeros((SLICES, SIZE, SIZE), np.uint8)
    mask[1:11, 8:40, 6:42] = 1
    mask[3:6, 12:18, 10:15] = 2
    mask[8, 30, 33] = 2
    return mask


def intensities(mask: np.ndarray) -> np.ndarray:
    """HU (n, row, column) in which every label has one value."""
    hu = np.full(mask.shape, TISSUE_HU, np.int16)
    hu[:, :3] = -1000
    hu[mask == 1] = LUNG_HU
    hu[mask == 2] = LESION_HU
    return hu


def write_study(
    folder: Path,
    *,
    mask: np.ndarray | None = None,
    names: dict[str, Any] | None = None,
    fractions: np.ndarray | None = None,
    **series: Any,
) -> Study:
    """Write a series, and return the study with its measurements."""
    mask = labels() if mask is None else mask
    values = intensities(mask)
    write_series(folder, values, stacked(len(mask), STEP_MM), **series)
    source = read_source(acquisition_below(folder))
    segments = segments_of(names or LABELS)
    measurements = measure(mask, source.acquisition, segments, values)
    return Study("case-1f0c", source, mask, values, "HU", segments, measurements, MODEL, fractions)
