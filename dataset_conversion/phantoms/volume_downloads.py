"""Generated miniatures of public data sets of CT volumes, in the layout of their downloads.

Each has the traps of the real download: orientations, units, names, lost voxel sizes, hidden files.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from dataset_conversion.phantoms.anatomy import scanned, thorax
from dataset_conversion.phantoms.lesions import add_infection
from dataset_conversion.phantoms.slice_downloads import APPLE_DOUBLE, infected_slice

Shape = tuple[int, int, int]
SHAPE: Shape = (48, 44, 8)
PUBLISHED_WINDOW_HU = (-1250.0, 250.0)
FOUR_SCANS = (
    *("coronacases_001", "coronacases_002"),
    *("radiopaedia_10_85902_1", "radiopaedia_10_85902_3"),
)


def infected_volume(
    seed: int, index: int, shape: Shape = SHAPE
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return a chest CT (x, y, z) int16 in HU, axes to the right, front and head.

    With it come the lungs (1 left, 2 right) and the infection (1, 2).
    """
    generator = np.random.default_rng([seed, index, 19])
    columns, rows, slices = shape
    body = thorax(generator, (slices, rows, columns), np.linspace(-0.5, 0.6, slices))
    sides = np.where(body.x > 0, 1, 2)
    lungs = np.where(body.lung > 0.5, sides, 0).astype(np.uint8)
    infection = add_infection(body, generator, "usual")
    hu = np.round(scanned(generator, body.hu)).astype(np.int16)
    return _ras(hu), _ras(lungs), _ras(infection)


def write_mosmed(folder: Path, *, seed: int = 0, n_masked: int = 2, n_unmasked: int = 2) -> Path:
    """Write MosMedData's tree: ``studies/CT-1``, ``masks``, and a registry.

    The registry has a byte order mark; volumes are LAS, with slices of 8 mm.
    """
    spacing_mm = (8.0, 8.0, 8.0)
    rows = ["study_id,category,study_file,mask_file"]
    for index in range(n_masked + n_unmasked):
        has_mask = index < n_masked
        study, severity = (255 + index, "CT-1") if has_mask else (1110 - index, "CT-4")
        image, _, infection = infected_volume(seed, index)
        name = f"studies/{severity}/study_{study:04d}.nii.gz"
        save_nifti(folder / name, image, spacing_mm, "LAS")
        row = f"{study},{severity},/{name},"
        if has_mask:
            mask = f"masks/study_{study:04d}_mask.nii.gz"
            save_nifti(folder / mask, (infection > 0).astype(np.int16), spacing_mm, "LAS")
            row += f"/{mask}"
        rows.append(row)

    (folder / "dataset_registry.csv").write_text("\n".join(rows) + "\n", encoding="utf-8-sig")
    return folder


def write_covid_19_ct_seg(
    folder: Path, *, seed: int = 0, scans: tuple[str, ...] | None = None, shape: Shape = SHAPE
) -> Path:
    """Write COVID-19-CT-Seg's four folders.

    Coronacases are in HU, Radiopaedia's in grey values of a window.

    Args:
        folder: made if absent.
        seed: of everything.
        scans: their names on Zenodo; default: two of each source.
        shape: (x, y, z) voxels.
    """
    for index, name in enumerate(scans or FOUR_SCANS):
        image, lungs, infection = infected_volume(seed, index, shape)
        infected = infection > 0
        if name.startswith("radiopaedia"):
            low, high = PUBLISHED_WINDOW_HU
            share = np.clip((image - low) / (high - low), 0, 1)
            image = np.round(255 * share).astype(np.int16)

        mask = infected.astype(np.uint8)
        if index == 0:  # it was resampled by its publisher, and has values between 0 and 1
            mask = np.clip(infected + 0.004, 0, 1).astype(np.float32)
        both = np.where(infected, 3, lungs).astype(np.uint8)
        volumes = {
            "COVID-19-CT-Seg_20cases": image,
            "Infection_Mask": mask,
            "Lung_Mask": lungs,
            "Lung_and_Infection_Mask": both,
        }
        for kind, voxels in volumes.items():
            save_nifti(folder / kind / f"{name}.nii.gz", voxels, (8.0, 8.0, 10.0), "LPS")

    return folder


def write_sirm(
    folder: Path, *, seed: int = 0, n_slices: int = 5, n_volumes: int = 2, size: int = 48
) -> Path:
    """Write stacks of unrelated slices (``tr_im``, ``val_im``) and volumes (``rp_im``), with masks.

    Intensities are floats like HU. ``val_im`` has lost its ending, and volume 1 was unpacked to a
    folder.
    """
    stack, masks = np.zeros((2, size, size, n_slices + 2), np.float32)
    for index in range(n_slices + 2):
        grey, label = infected_slice(seed, index, size)
        rows, columns = grey.shape
        stack[:columns, :rows, index] = grey.T * (1400.0 / 255) - 1150.5
        masks[:columns, :rows, index] = label.T
    masks[2:5, 2:5, 0] = 3  # pleural effusion

    one_mm = (1.0, 1.0, 1.0)
    save_nifti(folder / "tr_im.nii.gz", stack[..., :n_slices], one_mm, "RAS")
    save_nifti(folder / "tr_mask.nii.gz", masks[..., :n_slices], one_mm, "RAS")
    save_nifti(folder / "val_im.nii.gz", stack[..., n_slices:], one_mm, "RAS")
    (folder / "val_im.nii.gz").rename(folder / "val_im")

    spacing_mm = (8.0, 8.0, 10.0)
    for index in range(1, n_volumes + 1):
        image, _, infection = infected_volume(seed, 50 + index)
        place = "rp_im/1.nii/1.nii" if index == 1 else f"rp_im/{index}.nii.gz"
        save_nifti(folder / place, image.astype(np.float32) + 0.25, spacing_mm, "LPS")
        mask = folder / f"rp_msk/{index}.nii.gz"
        save_nifti(mask, infection.astype(np.float32), spacing_mm, "LPS")

    return folder


def write_lits(folder: Path, *, seed: int = 0) -> Path:
    """Write LiTS's batches: unpadded numbers, ``.nii``; volume 28 has lost its voxel size."""
    spacing_mm = (8.0, 8.0, 5.0)
    volumes = (
        (2, "Training_Batch1", spacing_mm, "LPS"),
        (10, "Training_Batch1", spacing_mm, "RAS"),
        (28, "Training Batch 2", (1.0, 1.0, 1.0), "RAS"),
        (100, "Training Batch 2", spacing_mm, "LPS"),
    )
    for number, batch, spacing, codes in volumes:
        image, label = liver_volume(seed, number)
        save_nifti(folder / batch / f"volume-{number}.nii", image, spacing, codes)
        save_nifti(folder / batch / f"segmentation-{number}.nii", label, spacing, codes)

    image, _ = liver_volume(seed, 1000)
    test = folder / "LITS-Challenge-Test-Data/test-volume-0.nii"
    save_nifti(test, image.astype(np.float32), spacing_mm, "LPS")

    return folder


def liver_volume(seed: int, index: int, shape: Shape = SHAPE) -> tuple[np.ndarray, np.ndarray]:
    """Return a trunk (x, y, z) int16 in HU, padded with -3024 outside, and its label.

    The label is 1 in the liver, 2 in a tumour.
    """
    generator = np.random.default_rng([seed, index, 3])
    axes = [np.linspace(-1, 1, size) for size in shape]
    x, y, z = np.meshgrid(*axes, indexing="ij")

    trunk = (x / 0.9) ** 2 + (y / 0.8) ** 2 < 1
    liver = ((x - 0.3) / 0.4) ** 2 + (y / 0.5) ** 2 + (z / 0.9) ** 2 < 1
    tumour = (x - 0.3) ** 2 + y**2 + (z / 2) ** 2 < generator.uniform(0.01, 0.03)
    label = (liver + (liver & tumour)).astype(np.uint8)

    hu = np.select([label == 2, label == 1, trunk], [60.0, 110.0, 40.0], -1000.0)
    hu = hu + generator.normal(0, 12, shape)
    hu[x**2 + y**2 > 1.6] = -3024

    return np.round(hu).astype(np.int16), label


def write_covid_19_20(folder: Path, *, seed: int = 0) -> Path:
    """Write ``COVID-19-20_v2``: two scans of one patient, and Validation without labels.

    One label lies in another orientation than its image.
    """
    spacing_mm = (8.0, 8.0, 5.0)
    for index, scan in enumerate(("0003", "0047", "0047_1", "0180_0")):
        image, _, infection = infected_volume(seed, index)
        is_training = index < 3
        part = folder / "COVID-19-20_v2" / ("Train" if is_training else "Validation")
        stem = f"volume-covid19-A-{scan}"
        codes = "LPI" if index == 2 else "LPS"
        save_nifti(part / f"{stem}_ct.nii.gz", image, spacing_mm, codes)
        if is_training:
            save_nifti(part / f"{stem}_seg.nii.gz", infection > 0, spacing_mm, "LPS")

    return folder


def write_synthetic(folder: Path, *, seed: int = 0, n: int = 3, size: int = 40) -> Path:
    """Write pictures ``img`` and maps ``map`` of grey class values."""
    from PIL import Image

    for index in range(n):
        image, label = infected_slice(seed, index, size)
        classes = np.array([0, 128, 255], np.uint8)[label]
        classes[(label == 0) & (image < 60)] = 64  # lung, and air outside
        for place, values in (("img", image), ("map", classes)):
            (folder / place).mkdir(parents=True, exist_ok=True)
            Image.fromarray(values).save(folder / place / f"{index}.png")

    (folder / "map/.DS_Store").write_bytes(APPLE_DOUBLE)
    return folder


def write_generic(folder: Path, *, seed: int = 0, n: int = 2) -> Path:
    """Write volumes ``scans/a0_ct.nii.gz`` and masks ``masks/a0_seg.nii.gz`` of values 0, 1, 5."""
    spacing_mm = (8.0, 8.0, 5.0)
    for index in range(n):
        image, lungs, _ = infected_volume(seed, index)
        save_nifti(folder / f"scans/a{index}_ct.nii.gz", image, spacing_mm, "LPS")
        values = np.array([0, 1, 5], np.uint8)[lungs]
        save_nifti(folder / f"masks/a{index}_seg.nii.gz", values, spacing_mm, "LPS")

    (folder / "masks/notes.json").write_text(json.dumps({"reader": 1}))
    return folder


def save_nifti(
    path: Path, voxels: np.ndarray, spacing_mm: tuple[float, float, float], codes: str
) -> None:
    """Write voxels (x, y, z) whose axes run to the right, front and head.

    They are stored along the axes of ``codes``, e.g. ``LPS``.
    """
    import nibabel
    from nibabel.orientations import axcodes2ornt, ornt_transform

    path.parent.mkdir(parents=True, exist_ok=True)
    stored = voxels.astype(np.uint8) if voxels.dtype == bool else voxels
    volume = nibabel.Nifti1Image(stored, np.diag([*spacing_mm, 1.0]))
    turn = ornt_transform(axcodes2ornt("RAS"), axcodes2ornt(tuple(codes)))
    nibabel.save(volume.as_reoriented(turn), path)
    path.with_name(f"._{path.name}").write_bytes(APPLE_DOUBLE)


def _ras(volume: np.ndarray) -> np.ndarray:
    """Turn (slice, row, column), head first and front up, to axes to the right, front and head."""
    turned = volume[::-1, ::-1, ::-1].transpose(2, 1, 0)
    return np.ascontiguousarray(turned)
