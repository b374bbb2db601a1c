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


def infected_volume(
    seed: int, index: int, shape: Shape = SHAPE
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A chest CT (x, y, z) int16 in HU, axes to the right, front and head; lungs 1 left, 2 right;
    infection 1, 2.
    """
    generator = np.random.default_rng([seed, index, 19])
    body = thorax(generator, (shape[2], shape[1], shape[0]), np.linspace(-0.5, 0.6, shape[2]))
    lungs = np.where(body.lung > 0.5, np.where(body.x > 0, 1, 2), 0).astype(np.uint8)
    infection = add_infection(body, generator, "usual")
    hu = np.round(scanned(generator, body.hu)).astype(np.int16)
    return _ras(hu), _ras(lungs), _ras(infection)


def write_mosmed(folder: Path, *, seed: int = 0, n_masked: int = 2, n_unmasked: int = 2) -> Path:
    """Write MosMedData's tree: ``studies/CT-1``, ``masks``, a registry with a byte order mark; LAS,
    8 mm slices.
    """
    rows = ["study_id,category,study_file,mask_file"]
    for index in range(n_masked + n_unmasked):
        study, severity = (255 + index, "CT-1") if index < n_masked else (1110 - index, "CT-4")
        image, _, infection = infected_volume(seed, index)
        name = f"studies/{severity}/study_{study:04d}.nii.gz"
        save_nifti(folder / name, image, (8.0, 8.0, 8.0), "LAS")
        mask = f"masks/study_{study:04d}_mask.nii.gz" if index < n_masked else ""
        if mask:
            save_nifti(folder / mask, (infection > 0).astype(np.int16), (8.0, 8.0, 8.0), "LAS")
        rows.append(f"{study},{severity},/{name},{'/' + mask if mask else ''}")
    (folder / "dataset_registry.csv").write_text("\n".join(rows) + "\n", encoding="utf-8-sig")
    return folder


def write_covid_19_ct_seg(
    folder: Path, *, seed: int = 0, scans: tuple[str, ...] | None = None, shape: Shape = SHAPE
) -> Path:
    """Write COVID-19-CT-Seg's four folders; coronacases are in HU, Radiopaedia's in grey values of
    a window.

    Args:
        folder: made if absent.
        seed: of everything.
        scans: their names on Zenodo; default: two of each source.
        shape: (x, y, z) voxels.
    """
    names = scans or (
        "coronacases_001",
        "coronacases_002",
        "radiopaedia_10_85902_1",
        "radiopaedia_10_85902_3",
    )
    for index, name in enumerate(names):
        image, lungs, infection = infected_volume(seed, index, shape)
        infected = infection > 0
        if name.startswith("radiopaedia"):
            low, high = PUBLISHED_WINDOW_HU
            image = np.round(255 * np.clip((image - low) / (high - low), 0, 1)).astype(np.int16)
        both = np.where(infected, 3, lungs).astype(np.uint8)
        spacing = (8.0, 8.0, 10.0)
        # One infection mask was resampled by its publisher, and has values between 0 and 1.
        mask = (
            np.clip(infected + 0.004, 0, 1).astype(np.float32)
            if index == 0
            else infected.astype(np.uint8)
        )
        for kind, voxels in (
            ("COVID-19-CT-Seg_20cases", image),
            ("Infection_Mask", mask),
            ("Lung_Mask", lungs),
            ("Lung_and_Infection_Mask", both),
        ):
            save_nifti(folder / kind / f"{name}.nii.gz", voxels, spacing, "LPS")
    return folder


def write_sirm(
    folder: Path, *, seed: int = 0, n_slices: int = 5, n_volumes: int = 2, size: int = 48
) -> Path:
    """Write the stacks ``tr_im``, ``tr_mask``, ``val_im`` of unrelated slices, and ``rp_im``,
    ``rp_msk`` of volumes.

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
    save_nifti(folder / "tr_im.nii.gz", stack[..., :n_slices], (1.0, 1.0, 1.0), "RAS")
    save_nifti(folder / "tr_mask.nii.gz", masks[..., :n_slices], (1.0, 1.0, 1.0), "RAS")
    save_nifti(folder / "val_im.nii.gz", stack[..., n_slices:], (1.0, 1.0, 1.0), "RAS")
    (folder / "val_im.nii.gz").rename(folder / "val_im")
    for index in range(1, n_volumes + 1):
        image, _, infection = infected_volume(seed, 50 + index)
        place = "rp_im/1.nii/1.nii" if index == 1 else f"rp_im/{index}.nii.gz"
        save_nifti(folder / place, image.astype(np.float32) + 0.25, (8.0, 8.0, 10.0), "LPS")
        save_nifti(
            folder / f"rp_msk/{index}.nii.gz", infection.astype(np.float32), (8.0, 8.0, 10.0), "LPS"
        )
    return folder


def write_lits(folder: Path, *, seed: int = 0) -> Path:
    """Write LiTS's batches: unpadded numbers, ``.nii``; volume 28 has lost its voxel size, 10 has
    its table left.
    """
    for number, batch, spacing, codes in (
        (2, "Training_Batch1", (8.0, 8.0, 5.0), "LPS"),
        (10, "Training_Batch1", (8.0, 8.0, 5.0), "RAS"),
        (28, "Training Batch 2", (1.0, 1.0, 1.0), "RAS"),
        (100, "Training Batch 2", (8.0, 8.0, 5.0), "LPS"),
    ):
        image, label = liver_volume(seed, number)
        save_nifti(folder / batch / f"volume-{number}.nii", image, spacing, codes)
        save_nifti(folder / batch / f"segmentation-{number}.nii", label, spacing, codes)
    image, _ = liver_volume(seed, 1000)
    save_nifti(
        folder / "LITS-Challenge-Test-Data/test-volume-0.nii",
        image.astype(np.float32),
        (8.0, 8.0, 5.0),
        "LPS",
    )
    return folder


def liver_volume(seed: int, index: int, shape: Shape = SHAPE) -> tuple[np.ndarray, np.ndarray]:
    """A trunk (x, y, z) int16 in HU, padded with -3024 outside, and its label: 1 liver, 2
    tumour.
    """
    generator = np.random.default_rng([seed, index, 3])
    x, y, z = np.meshgrid(*(np.linspace(-1, 1, n) for n in shape), indexing="ij")
    hu = np.where((x / 0.9) ** 2 + (y / 0.8) ** 2 < 1, 40.0, -1000.0)
    liver = ((x - 0.3) / 0.4) ** 2 + (y / 0.5) ** 2 + (z / 0.9) ** 2 < 1
    tumour = (x - 0.3) ** 2 + y**2 + (z / 2) ** 2 < generator.uniform(0.01, 0.03)
    label = (liver + (liver & tumour)).astype(np.uint8)
    hu = np.select([label == 2, label == 1], [60.0, 110.0], hu) + generator.normal(0, 12, shape)
    hu[x**2 + y**2 > 1.6] = -3024
    return np.round(hu).astype(np.int16), label


def write_covid_19_20(folder: Path, *, seed: int = 0) -> Path:
    """Write ``COVID-19-20_v2``: ids of four digits, of which one patient has two scans; no labels
    in Validation.
    """
    for index, scan in enumerate(("0003", "0047", "0047_1", "0180_0")):
        image, _, infection = infected_volume(seed, index)
        train = index < 3
        stem = (
            folder
            / "COVID-19-20_v2"
            / ("Train" if train else "Validation")
            / f"volume-covid19-A-{scan}"
        )
        save_nifti(
            stem.with_name(f"{stem.name}_ct.nii.gz"),
            image,
            (8.0, 8.0, 5.0),
            "LPI" if index == 2 else "LPS",
        )
        if train:  # one label in another orientation than its image
            save_nifti(
                stem.with_name(f"{stem.name}_seg.nii.gz"), infection > 0, (8.0, 8.0, 5.0), "LPS"
            )
    return folder


def write_synthetic(folder: Path, *, seed: int = 0, n: int = 3, size: int = 40) -> Path:
    """Write pictures ``img`` and maps ``map`` of grey class values, as the synthetic COVID-19 CT
    may have them.
    """
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
    """Write volumes ``scans/a0_ct.nii.gz`` and masks ``masks/a0_seg.nii.gz`` with values 0, 1 and
    5.
    """
    for index in range(n):
        image, lungs, _ = infected_volume(seed, index)
        save_nifti(folder / f"scans/a{index}_ct.nii.gz", image, (8.0, 8.0, 5.0), "LPS")
        values = np.array([0, 1, 5], np.uint8)[lungs]
        save_nifti(folder / f"masks/a{index}_seg.nii.gz", values, (8.0, 8.0, 5.0), "LPS")
    (folder / "masks/notes.json").write_text(json.dumps({"reader": 1}))
    return folder


def save_nifti(
    path: Path, voxels: np.ndarray, spacing_mm: tuple[float, float, float], codes: str
) -> None:
    """Write voxels (x, y, z) whose axes run to the right, front and head, stored along other axes,
    e.g. ``LPS``.
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
    """From (slice, row, column), head first and front up, to axes that run to the right, front and
    head.
    """
    return np.ascontiguousarray(volume[::-1, ::-1, ::-1].transpose(2, 1, 0))
