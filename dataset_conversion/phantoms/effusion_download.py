"""A generated miniature of NSCLC-Radiomics with PleThora's masks, with its traps.

Everything is computed, nothing comes from a patient. Equal arguments give equal files.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from dataset_conversion.phantoms.anatomy import scanned_int16, thorax
from dataset_conversion.phantoms.dicom_series import uid, write_series
from dataset_conversion.phantoms.small_files import METADATA, write_text

NSCLC_PATIENTS = ("LUNG1-001", "LUNG1-005", "LUNG1-008", "LUNG1-010")
NSCLC_SHAPE = (12, 56, 56)
NSCLC_SPACING_MM = (3.0, 1.5, 1.5)


def write_nsclc(folder: Path, *, seed: int = 0) -> Path:
    """Write NSCLC-Radiomics with PleThora's masks: four patients, one without an effusion.

    The masks' arrays run against the rows of the CT. The header of LUNG1-001 says so; LUNG1-005's
    does not fit the CT at all; LUNG1-008 has two reviewers, whose values are not quite binary;
    LUNG1-010 has no effusion. Beside each CT lies an RTSTRUCT.

    Returns:
        The folder to give to ``nnUNetv2_ext_convert NSCLC-PleuralEffusion -i``.
    """
    for number, patient in enumerate(NSCLC_PATIENTS):
        hu, cavity, effusion, positions_mm = effusion_chest(seed + number)
        study = folder / f"NSCLC-Radiomics/{patient}/09-18-2008-StudyID-NA-69331"
        write_series(
            study / "0.000000-NA-82046",
            hu,
            positions_mm,
            spacing_mm=NSCLC_SPACING_MM[1:],
            patient=patient,
            order=range(len(hu))[::-1],
        )
        _write_structure_set(study / "0.000000-NA-58228", patient)

        affine_mm = np.eye(4)
        if patient != "LUNG1-005":
            affine_mm = _affine_against_rows(positions_mm, rows=hu.shape[1])
        masks = _reviewed_masks(patient, cavity, effusion)
        for name, mask in masks.items():
            file = folder / f"{name}.nii.gz"
            _write_against_rows(file, mask, affine_mm)

    write_text(folder / "metadata.csv", METADATA)

    return folder


def _reviewed_masks(
    patient: str, cavity: np.ndarray, effusion: np.ndarray
) -> dict[str, np.ndarray]:
    """Return the masks of a patient by their files' names, without ending."""
    masks = {f"Thoracic_Cavities/{patient}/{patient}_thor_cav_primary_reviewer": cavity}
    effusions = f"Effusions/{patient}/{patient}_effusion"
    if patient != "LUNG1-010":
        masks[f"{effusions}_first_reviewer"] = effusion
    if patient == "LUNG1-008":
        masks[f"{effusions}_second_reviewer"] = _softened(effusion)

    return masks


def _softened(mask: np.ndarray) -> np.ndarray:
    """Return a mask of values that are not quite 0 and 1, without its lowest slice."""
    softened = np.where(mask, 0.98, 0.01)
    slices, _, _ = np.nonzero(mask)
    softened[slices.min()] = 0

    return softened


def _write_structure_set(folder: Path, patient: str) -> None:
    """Write a file that is an RTSTRUCT by its header."""

    def edit(_: int, data: Any) -> None:
        data.SOPClassUID = "1.2.840.10008.5.1.4.1.1.481.3"

    pixels = np.zeros((1, 4, 4), int)
    positions_mm = np.zeros((1, 3))
    write_series(
        folder,
        pixels,
        positions_mm,
        patient=patient,
        series=uid(patient, "rtstruct"),
        modality="RTSTRUCT",
        edit=edit,
    )


def _affine_against_rows(positions_mm: np.ndarray, rows: int) -> np.ndarray:
    """Return the affine of an array whose second axis runs against the rows of the CT."""
    slice_mm, row_mm, column_mm = NSCLC_SPACING_MM
    x_mm, y_mm, z_mm = positions_mm[0]
    last_row_mm = y_mm + row_mm * (rows - 1)
    affine_mm = np.diag([-column_mm, row_mm, slice_mm, 1.0])
    affine_mm[:3, 3] = (-x_mm, -last_row_mm, z_mm)

    return affine_mm


def _write_against_rows(path: Path, mask: np.ndarray, affine_mm: np.ndarray) -> None:
    """Write a mask (slice, row, column) whose rows are stored from the last to the first."""
    import nibabel

    from_last_row = mask[:, ::-1]
    array = from_last_row.transpose(2, 1, 0).astype(np.float32)
    folder = path.parent
    folder.mkdir(parents=True, exist_ok=True)
    volume = nibabel.Nifti1Image(array, affine_mm)
    nibabel.save(volume, path)


def effusion_chest(seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return a chest with fluid in the back of one lung.

    Returns:
        HU, cavity and effusion (slice, row, column), foot to head, and positions.
    """
    generator = np.random.default_rng([seed, 45])
    slices, rows, columns = NSCLC_SHAPE
    levels = np.linspace(-0.4, 0.4, slices)
    body = thorax(generator, NSCLC_SHAPE, levels)
    cavity = body.lung > 0.5
    is_left = body.x > 0
    is_back = body.y > 0.15
    effusion = cavity & is_left & is_back
    effusion[:2] = False  # the fluid ends below the apex
    body.hu[effusion] = 15
    hu = scanned_int16(generator, body.hu)

    slice_mm, row_mm, column_mm = NSCLC_SPACING_MM
    positions_mm = np.empty((slices, 3))
    positions_mm[:, 0] = -column_mm * (columns - 1) / 2
    positions_mm[:, 1] = -row_mm * (rows - 1) / 2
    positions_mm[:, 2] = -300 + slice_mm * np.arange(slices)

    return hu[::-1], cavity[::-1], effusion[::-1], positions_mm
