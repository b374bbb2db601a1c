"""A generated export of a hospital: one patient's scan, its scout and its reconstructions.

Everything is computed, nothing comes from a patient. Equal arguments give equal files.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from dataset_conversion.phantoms.dicom_series import Edit, chest_series, uid, write_series

EXPORT_SHAPE = (24, 128)  # slices, rows and columns
EXPORT_SPACING_MM = (5.0, 2.8, 2.8)


def write_export(folder: Path, *, seed: int = 0) -> np.ndarray:
    """Write a hospital's export: a chest CT with two nodules, its scout, and thick slices.

    Returns:
        The nodules (slice, row, column), foot to head, numbered 1 and 2.
    """
    slices, size = EXPORT_SHAPE
    hu, nodules, positions_mm = chest_series(seed, slices, size, EXPORT_SPACING_MM, nodules=2)
    every_slice = np.arange(slices)
    series = (
        ("Topogram", "T20", "LOCALIZER", every_slice[:1]),
        ("Thorax 5.0 I30f", "I30f", "AXIAL", every_slice),
        ("Thorax 10.0 I70f", "I70f", "AXIAL", every_slice[::2]),
    )
    study = folder / "DOE^JOHN" / "CT Thorax"
    for number, (description, kernel, kind, chosen) in enumerate(series, start=1):
        write_series(
            study / description,
            hu[chosen],
            positions_mm[chosen],
            spacing_mm=EXPORT_SPACING_MM[1:],
            patient="DOE-1",
            series=uid("export", number),
            edit=_of_john_doe(number, description, kernel, kind),
        )

    return nodules


def _of_john_doe(number: int, description: str, kernel: str, kind: str) -> Edit:
    def edit(_: int, data: Any) -> None:
        data.PatientName = "Doe^John"
        data.PatientBirthDate = "19500101"
        data.PatientSex = "M"
        data.StudyDate = "20260102"
        data.StudyTime = "101500"
        data.AccessionNumber = "A1"
        data.SeriesDescription = description
        data.ConvolutionKernel = kernel
        data.SeriesNumber = number
        data.BodyPartExamined = "CHEST"
        data.ImageType = ["ORIGINAL", "PRIMARY", kind]

    return edit
