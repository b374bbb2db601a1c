"""Generated miniatures of public data sets of CT volumes, in the layout of their downloads.

Each has the traps of the real download: orientations, units, names, lost voxel sizes, hidden files.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from dataset_conversion.phantoms.anatomy import NOISE_HU, scanned_int16, thorax, windowed
from dataset_conversion.phantoms.lesions import add_infection
from dataset_conversion.phantoms.slice_downloads import infected_slice
from dataset_conversion.phantoms.small_files import (
    APPLE_DOUBLE,
    as_nifti_axes,
    axes_of,
    write_bytes,
    write_hidden_companion,
)

Shape = tuple[int, int, int]
SHAPE: Shape = (48, 44, 8)
PUBLISHED_WINDOW_HU = (-1250.0, 250.0)
FOUR_SCANS = (
    *("coronacases_001", "coronacases_002"),
    *("radiopaedia_10_85902_1", "radiopaedia_10_85902_3"),
)


def infected_volume(
    seed: int, index: int, shape: Shape = SHAPE, noise_hu: float = NOISE_HU
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return a chest CT (x, y, z) int16 in HU, axes to the right, front and head.

    With it come the lungs (1 left, 2 right) and the infection (1, 2).
    """
    generator = np.random.default_rng([seed, index, 19])
    columns, rows, slices = shape
    levels = np.linspace(-0.5, 0.6, slices)
    body = thorax(generator, (slices, rows, columns), levels)
    sides = np.where(body.x > 0, 1, 2)
    is_lung = body.lung > 0.5
    lungs = np.where(is_lung, sides, 0).astype(np.uint8)
    infection = add_infection(body, generator, "usual")
    hu = scanned_int16(generator, body.hu, noise_hu)

    return as_nifti_axes(hu), as_nifti_axes(lungs), as_nifti_axes(infection)


def write_mosmed(
    folder: Path,
    *,
    seed: int = 0,
    n_masked: int = 2,
    n_unmasked: int = 2,
    shape: Shape = SHAPE,
    noise_hu: float = NOISE_HU,
) -> Path:
    """Write MosMedData's tree: ``studies/CT-1``, ``masks``, and a registry.

    The registry has a byte order mark; volumes are LAS, with slices of 8 mm.

    Args:
        folder: made if absent.
        seed: of everything.
        n_masked: volumes with a mask.
        n_unmasked: volumes without.
        shape: (x, y, z) voxels.
        noise_hu: its standard deviation.
    """
    spacing_mm = (8.0, 8.0, 8.0)
    rows = ["study_id,category,study_file,mask_file"]
    for index in range(n_masked):
        number = 255 + index
        image, _, infection = infected_volume(seed, index, shape, noise_hu)
        study = f"studies/CT-1/study_{number:04d}.nii.gz"
        mask = f"masks/study_{number:04d}_mask.nii.gz"
        is_infected = infection > 0
        save_nifti(folder / study, image, spacing_mm, "LAS")
        save_nifti(folder / mask, is_infected.astype(np.int16), spacing_mm, "LAS")
        rows.append(f"{number},CT-1,/{study},/{mask}")

    for index in range(n_masked, n_masked + n_unmasked):
        number = 1110 - index
        image, _, _ = infected_volume(seed, index, shape, noise_hu)
        study = f"studies/CT-4/study_{number:04d}.nii.gz"
        save_nifti(folder / study, image, spacing_mm, "LAS")
        rows.append(f"{number},CT-4,/{study},")

    registry = folder / "dataset_registry.csv"
    registry.write_text("\n".join(rows) + "\n", encoding="utf-8-sig")

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
    spacing_mm = (8.0, 8.0, 10.0)
    for index, name in enumerate(scans or FOUR_SCANS):
        image, lungs, infection = infected_volume(seed, index, shape)
        if name.startswith("radiopaedia"):
            image = windowed(image, PUBLISHED_WINDOW_HU).astype(np.int16)

        is_infected = infection > 0
        mask = is_infected.astype(np.uint8)
        if index == 0:  # it was resampled by its publisher, and has values between 0 and 1
            mask = np.clip(is_infected + 0.004, 0, 1).astype(np.float32)

        both = np.where(is_infected, 3, lungs)
        volumes = {
            "COVID-19-CT-Seg_20cases": image,
            "Infection_Mask": mask,
            "Lung_Mask": lungs,
            "Lung_and_Infection_Mask": both.astype(np.uint8),
        }
        for kind, voxels in volumes.items():
            file = folder / kind / f"{name}.nii.gz"
            save_nifti(file, voxels, spacing_mm, "LPS")

    return folder


def write_sirm(
    folder: Path, *, seed: int = 0, n_slices: int = 5, n_volumes: int = 2, size: int = 48
) -> Path:
    """Write stacks of unrelated slices (``tr_im``, ``val_im``) and volumes (``rp_im``), with masks.

    Intensities are floats like HU. ``val_im`` has lost its ending, and volume 1 was unpacked to a
    folder.
    """
    stack, masks = _sirm_stacks(seed, n_slices + 2, size)
    one_mm = (1.0, 1.0, 1.0)
    save_nifti(folder / "tr_im.nii.gz", stack[..., :n_slices], one_mm, "RAS")
    save_nifti(folder / "tr_mask.nii.gz", masks[..., :n_slices], one_mm, "RAS")

    validation = folder / "val_im.nii.gz"
    save_nifti(validation, stack[..., n_slices:], one_mm, "RAS")
    validation.rename(folder / "val_im")

    spacing_mm = (8.0, 8.0, 10.0)
    for number in range(1, n_volumes + 1):
        image, _, infection = infected_volume(seed, 50 + number)
        is_unpacked = number == 1
        place = "rp_im/1.nii/1.nii" if is_unpacked else f"rp_im/{number}.nii.gz"
        mask = f"rp_msk/{number}.nii.gz"
        save_nifti(folder / place, image.astype(np.float32) + 0.25, spacing_mm, "LPS")
        save_nifti(folder / mask, infection.astype(np.float32), spacing_mm, "LPS")

    return folder


def _sirm_stacks(seed: int, count: int, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Return slices of unrelated patients and their masks, float32 (column, row, slice)."""
    stack = np.zeros((size, size, count), np.float32)
    masks = np.zeros((size, size, count), np.float32)
    for index in range(count):
        grey, label = infected_slice(seed, index, size)
        rows, columns = grey.shape
        hu = grey.T * (1400.0 / 255) - 1150.5
        stack[:columns, :rows, index] = hu
        masks[:columns, :rows, index] = label.T
    masks[2:5, 2:5, 0] = 3  # pleural effusion

    return stack, masks


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
        place = folder / batch
        save_nifti(place / f"volume-{number}.nii", image, spacing, codes)
        save_nifti(place / f"segmentation-{number}.nii", label, spacing, codes)

    image, _ = liver_volume(seed, 1000)
    test = folder / "LITS-Challenge-Test-Data/test-volume-0.nii"
    save_nifti(test, image.astype(np.float32), spacing_mm, "LPS")

    return folder


def liver_volume(seed: int, index: int, shape: Shape = SHAPE) -> tuple[np.ndarray, np.ndarray]:
    """Return a trunk (x, y, z) int16 in HU, padded with -3024 outside, and its label.

    The label is 1 in the liver, 2 in a tumour.
    """
    generator = np.random.default_rng([seed, index, 3])
    x, y, z = axes_of(shape)
    from_liver = x - 0.3
    in_trunk = (x / 0.9) ** 2 + (y / 0.8) ** 2 < 1
    in_liver = (from_liver / 0.4) ** 2 + (y / 0.5) ** 2 + (z / 0.9) ** 2 < 1
    squared_radius = generator.uniform(0.01, 0.03)
    in_tumour = from_liver**2 + y**2 + (z / 2) ** 2 < squared_radius
    label = in_liver.astype(np.uint8)
    label[in_liver & in_tumour] = 2

    hu = np.full(shape, -1000.0)
    hu[in_trunk] = 40.0
    hu[label == 1] = 110.0
    hu[label == 2] = 60.0
    hu += generator.normal(0, 12, shape)
    outside_scan = x**2 + y**2 > 1.6
    hu[outside_scan] = -3024
    whole = np.round(hu)

    return whole.astype(np.int16), label


def write_covid_19_20(folder: Path, *, seed: int = 0) -> Path:
    """Write ``COVID-19-20_v2``: two scans of one patient, and Validation without labels.

    One label lies in another orientation than its image.
    """
    spacing_mm = (8.0, 8.0, 5.0)
    root = folder / "COVID-19-20_v2"
    training = (("0003", "LPS"), ("0047", "LPS"), ("0047_1", "LPI"))
    for index, (scan, codes) in enumerate(training):
        image, _, infection = infected_volume(seed, index)
        stem = f"Train/volume-covid19-A-{scan}"
        save_nifti(root / f"{stem}_ct.nii.gz", image, spacing_mm, codes)
        save_nifti(root / f"{stem}_seg.nii.gz", infection > 0, spacing_mm, "LPS")

    image, _, _ = infected_volume(seed, len(training))
    validation = root / "Validation/volume-covid19-A-0180_0_ct.nii.gz"
    save_nifti(validation, image, spacing_mm, "LPS")

    return folder


def write_synthetic(folder: Path, *, seed: int = 0, n: int = 3, size: int = 40) -> Path:
    """Write pictures ``img`` and maps ``map`` of grey class values."""
    from PIL import Image

    images = folder / "img"
    maps = folder / "map"
    images.mkdir(parents=True)
    maps.mkdir()
    class_greys = np.array([0, 128, 255], np.uint8)
    for index in range(n):
        image, label = infected_slice(seed, index, size)
        classes = class_greys[label]
        is_dark = image < 60  # lung, and air outside
        classes[is_dark & (label == 0)] = 64
        name = f"{index}.png"
        Image.fromarray(image).save(images / name)
        Image.fromarray(classes).save(maps / name)

    write_bytes(maps / ".DS_Store", APPLE_DOUBLE)

    return folder


def write_generic(folder: Path, *, seed: int = 0, n: int = 2) -> Path:
    """Write volumes ``scans/a0_ct.nii.gz`` and masks ``masks/a0_seg.nii.gz`` of values 0, 1, 5."""
    spacing_mm = (8.0, 8.0, 5.0)
    mask_values = np.array([0, 1, 5], np.uint8)
    for index in range(n):
        image, lungs, _ = infected_volume(seed, index)
        values = mask_values[lungs]
        save_nifti(folder / f"scans/a{index}_ct.nii.gz", image, spacing_mm, "LPS")
        save_nifti(folder / f"masks/a{index}_seg.nii.gz", values, spacing_mm, "LPS")

    notes = json.dumps({"reader": 1})
    (folder / "masks/notes.json").write_text(notes)

    return folder


def save_nifti(
    path: Path, voxels: np.ndarray, spacing_mm: tuple[float, float, float], codes: str
) -> None:
    """Write voxels (x, y, z) whose axes run to the right, front and head.

    They are stored along the axes of ``codes``, e.g. ``LPS``.
    """
    import nibabel
    from nibabel.orientations import axcodes2ornt, ornt_transform

    stored = voxels
    if voxels.dtype == bool:
        stored = voxels.astype(np.uint8)
    affine_mm = np.diag([*spacing_mm, 1.0])
    volume = nibabel.Nifti1Image(stored, affine_mm)

    now = axcodes2ornt("RAS")
    wanted = axcodes2ornt(tuple(codes))
    turned = volume.as_reoriented(ornt_transform(now, wanted))
    folder = path.parent
    folder.mkdir(parents=True, exist_ok=True)
    nibabel.save(turned, path)
    write_hidden_companion(path)
