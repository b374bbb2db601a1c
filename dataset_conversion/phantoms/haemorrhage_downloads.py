"""Generated miniatures of three collections of head CT with haemorrhages, with their traps.

Everything is computed, nothing comes from a patient. Equal arguments give equal files.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dataset_conversion.phantoms.dicom_series import AXIAL, Edit, set_pixels, uid, write_series
from dataset_conversion.phantoms.small_files import axes_of, write_text

ICH_SIZE = 40
ICH_PIXEL_MM = 5.0
CT_ICH_FOLDER = (
    "computed-tomography-images-for-intracranial-hemorrhage-detection-and-segmentation-1.3.1"
)


def head(seed: int, slices: int) -> tuple[np.ndarray, np.ndarray]:
    """Return a head CT (slice, row, column) int16 in HU, foot to head, and its haemorrhages.

    Their values are BHSD's, 0..5.
    """
    generator = np.random.default_rng([seed, 46])
    shape = (slices, ICH_SIZE, ICH_SIZE)
    y, x = axes_of(shape[1:])
    radius = np.sqrt((x / 0.7) ** 2 + (y / 0.85) ** 2)
    clean = np.full(radius.shape, -1000.0)
    clean[radius < 1] = 900.0
    clean[radius < 0.88] = 35.0

    label = np.zeros(shape, np.uint8)
    types = np.arange(1, 6)
    for value in generator.choice(types, 2, replace=False):
        centre_x, centre_y = generator.uniform(-0.35, 0.35, 2)
        layer = generator.integers(0, slices)
        squares = (x - centre_x) ** 2 + (y - centre_y) ** 2
        label[layer, squares < 0.03] = value

    noise = generator.normal(0, 5, shape)
    blood = 40 * (label > 0)
    measured = np.maximum(clean + noise + blood, -1000)

    return np.round(measured).astype(np.int16), label


def ich_id(*parts: int | str) -> str:
    """Return an identifier as the challenge uses in place of UIDs."""
    digits = uid(*parts).rpartition(".")[2]
    return f"ID_{digits:0>9.9}"


def write_rsna(folder: Path, *, seed: int = 0) -> Path:
    """Write the challenge's folders and tables: four series, each with a trap.

    Series 0 is regular, signed, with padding of -2000. Series 1 is tilted and holds 12-bit values
    without their sign. Series 2 holds three positions twice, and nothing tells the slices apart.
    Series 3 (test) is foot first. Files have no InstanceNumber, no thickness, no valid UID.

    Returns:
        The folder to give to ``nnUNetv2_ext_convert RSNA-ICH -i``.
    """
    rows = [("ID", "Label")]
    for number in range(3):
        hu, label = head(seed + number, 6)
        ids = _ids_of_exam(number)
        _write_exam(folder / "stage_2_train", number, hu, ids)
        for image, slice_label in zip(ids[:6], label, strict=True):
            rows += _types_in(image, slice_label)

    rows += rows[1:7]  # four images of the real table occur twice
    _write_table(folder / "stage_2_train.csv", rows)

    hu, _ = head(seed + 3, 6)
    ids = _ids_of_exam(3)
    _write_exam(folder / "stage_2_test", 3, hu, ids)
    submission = [("ID", "Label"), (f"{ids[0]}_any", "0.5")]
    _write_table(folder / "stage_2_sample_submission.csv", submission)

    return folder


def _ids_of_exam(number: int) -> list[str]:
    """Return an identifier for every slice of the challenge's longest series."""
    return [ich_id(number, index) for index in range(9)]


def _types_in(image: str, label: np.ndarray) -> list[tuple[str, str]]:
    """Return the rows of the table for one image."""
    rows = []
    for value, name in enumerate(ICH_TYPES, start=1):
        has_type = (label == value).any()
        rows.append((f"{image}_{name}", "1" if has_type else "0"))
    has_any = label.any()
    rows.append((f"{image}_any", "1" if has_any else "0"))

    return rows


ICH_ABSENT_FIELDS = (
    *("InstanceNumber", "SliceThickness", "SeriesNumber"),
    *("FrameOfReferenceUID", "ImageType"),
)
ICH_TYPES = ("epidural", "intraparenchymal", "intraventricular", "subarachnoid", "subdural")


def _write_exam(folder: Path, number: int, hu: np.ndarray, ids: Sequence[str]) -> None:
    count = len(hu)
    positions_mm = np.zeros((count, 3))
    positions_mm[:, :2] = -95.0
    positions_mm[:, 2] = 5.0 * np.arange(count)

    orientation: Sequence[float] = AXIAL
    if number == 1:
        angle = np.radians(15)
        orientation = (1, 0, 0, 0, np.cos(angle), np.sin(angle))

    order = np.arange(count)
    if number == 2:
        order = np.append(order, [1, 2, 3])

    write_series(
        folder,
        hu[order],
        positions_mm[order],
        orientation=orientation,
        spacing_mm=(ICH_PIXEL_MM, ICH_PIXEL_MM),
        patient=ich_id("patient", number),
        study=ich_id("study", number),
        series=ich_id("series", number),
        names=lambda position: f"{ids[position - 1]}.dcm",
        edit=_as_challenge_writes_it(number, hu, order, ids),
    )


def _as_challenge_writes_it(
    number: int, hu: np.ndarray, order: np.ndarray, ids: Sequence[str]
) -> Edit:
    """Return the edit that gives a series' files what sets this series apart."""

    def edit(index: int, data: Any) -> None:
        for name in ICH_ABSENT_FIELDS:
            delattr(data, name)
        data.SOPInstanceUID = ids[index]
        data.file_meta.MediaStorageSOPInstanceUID = ids[index]

        values = hu[order[index]].astype(int)
        is_second_image = index >= len(hu)
        if is_second_image:
            values += 5
        if number == 0:
            values[:2] = -2000
            data.RescaleIntercept = "0"
            set_pixels(data, values, bits=16, signed=True)
        elif number == 1:
            wrapped = np.where(values < 0, values + 4096, values)
            data.RescaleIntercept = "0"
            set_pixels(data, wrapped, bits=12, signed=False)
        else:
            set_pixels(data, values + 1024, bits=12, signed=False)

    return edit


def _write_table(path: Path, rows: Sequence[tuple[str, str]]) -> None:
    text = ""
    for name, value in rows:
        text += f"{name},{value}\n"
    path.write_text(text, encoding="utf-8")


def write_bhsd(folder: Path, *, seed: int = 0) -> Path:
    """Write BHSD: ``label_192/images`` and ``label_192/ground truths``, two volumes."""
    root = folder / "label_192"
    for number in range(2):
        patient = ich_id("patient", number)
        study = ich_id("study", number)
        name = f"{patient}_{study}.nii.gz"
        hu, label = head(seed + number, 6)
        _save_volume(root / "images" / name, hu)
        _save_volume(root / "ground truths" / name, label)

    return folder


def write_ct_ich(folder: Path, *, seed: int = 0) -> Path:
    """Write PhysioNet's ct-ich: ``ct_scans`` and ``masks``; the second has no haemorrhage."""
    root = folder / CT_ICH_FOLDER
    for number, scan in enumerate(("049", "066")):
        hu, label = head(seed + number, 6)
        has_haemorrhage = number == 0
        mask = 255 * (label > 0) * has_haemorrhage
        name = f"{scan}.nii"
        _save_volume(root / "ct_scans" / name, hu)
        _save_volume(root / "masks" / name, mask)

    demographics = '"Patient\nNumber",Unnamed: 4\n49,\n'
    write_text(root / "Patient_demographics.csv", demographics)

    return folder


def _save_volume(path: Path, values: np.ndarray) -> None:
    """Write values (slice, row, column) as int16 NIfTI."""
    import nibabel

    affine_mm = np.diag([ICH_PIXEL_MM, -ICH_PIXEL_MM, 5.0, 1.0])
    turned = values.transpose(2, 1, 0)
    stored = np.ascontiguousarray(turned).astype(np.int16)
    folder = path.parent
    folder.mkdir(parents=True, exist_ok=True)
    volume = nibabel.Nifti1Image(stored, affine_mm)
    nibabel.save(volume, path)
