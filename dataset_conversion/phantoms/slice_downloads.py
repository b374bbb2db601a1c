"""Generated miniatures of public data sets in the layout of the original downloads.

Everything is computed (:mod:`dataset_conversion.phantoms.anatomy`), nothing comes from a patient.
Equal arguments give equal files. The traps of the real downloads are part of the layout: hidden
files, folders with copies, sizes that vary.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from scipy import ndimage

from dataset_conversion.phantoms.anatomy import scanned, smooth_noise, thorax
from dataset_conversion.phantoms.lesions import add_infection, add_nodule

LUNG_WINDOW_HU = (-1150.0, 250.0)
PALETTE = (0, 0, 0, 128, 0, 0, 0, 128, 0)
APPLE_DOUBLE = bytes.fromhex("0005160700020000") + b"Mac OS X        "
PATIENTS = (
    *("coronacases_org_001", "coronacases_org_008"),
    "radiopaedia_org_covid-19-pneumonia-7_85703_0-dcm",
)
HEIGHT = 0.82  # of a slice, as share of its width
# Rows: FLAIR, T1w, T1 with gadolinium, T2w. Columns: white matter, grey matter, fluid, oedema,
# core, enhancing rim.
BRAIN_CONTRAST = (
    (300, 380, 90, 640, 470, 560),
    (520, 400, 160, 380, 300, 360),
    (530, 410, 170, 390, 310, 820),
    (280, 380, 720, 600, 560, 500),
)
TINY_EVERY = 6  # of so many labelled slices one shows only a tiny lesion


def write_covid_semiseg(
    folder: Path,
    *,
    seed: int = 0,
    n_labelled: int = 24,
    n_test: int = 12,
    n_unlabeled: int = 40,
    size: int = 128,
) -> Path:
    """Write COVID-SemiSeg's tree: ``Dataset/TrainingSet/...`` and ``Dataset/TestingSet/...``.

    Args:
        folder: made if absent.
        seed: of everything.
        n_labelled: slices in Doctor-label and MultiClassInfection-Train.
        n_test: slices in both test folders; 0 leaves TestingSet out.
        n_unlabeled: slices in Pseudo-label, of three patients.
        size: width in pixels; each slice is up to 8 pixels narrower, and lower than wide.

    Returns:
        The folder to give to ``nnUNetv2_ext_convert COVID-SemiSeg -i``.
    """
    root = folder / "Dataset"
    train = root / "TrainingSet"
    doctor = train / "LungInfection-Train/Doctor-label"
    for index in range(n_labelled):
        image, label = infected_slice(seed, index, size)
        multi = train / "MultiClassInfection-Train"
        _write_labelled(doctor, multi, str(index), image, label)
        _save(multi / "Prior" / f"{index}.png", 255 * (label > 0))
        _save(doctor / "Edge" / f"{index}.png", _edge(label))

    test = root / "TestingSet"
    for index in range(n_labelled, n_labelled + n_test):
        image, label = infected_slice(seed, index, size)
        multi = test / "MultiClassInfection-Test"
        _write_labelled(test / "LungInfection-Test", multi, str(index), image, label)
        for value in (1, 2):
            _save(multi / f"GT-{value}" / f"{index}.png", 255 * (label == value))

    pseudo = train / "LungInfection-Train/Pseudo-label"
    _write_unlabelled(pseudo, seed, n_unlabeled, size)

    hidden = folder / "__MACOSX/Dataset/TrainingSet/LungInfection-Train/Doctor-label/Imgs/._0.jpg"
    _write_bytes(hidden, APPLE_DOUBLE)
    _write_bytes(doctor / "Imgs/.DS_Store", APPLE_DOUBLE)
    _write_bytes(doctor / "Imgs/._0.jpg", APPLE_DOUBLE)
    _write_bytes(pseudo / "Imgs/Thumbs.db", APPLE_DOUBLE)

    return folder


def _write_unlabelled(folder: Path, seed: int, count: int, size: int) -> None:
    """Write slices with the soft output of a network, and copies of both in further folders."""
    for index in range(count):
        image, label = infected_slice(seed, 10_000 + index, size)
        patient, number = PATIENTS[index % len(PATIENTS)], 1 + index // len(PATIENTS)
        stem = f"Data-1_{patient}_{number}"
        blurred = ndimage.gaussian_filter(255.0 * (label > 0), 1.5)
        for place in (folder, folder / "DataPrepare/Hybrid-label"):
            _save(place / "Imgs" / f"{stem}.jpg", image)
            _save(place / "GT" / f"{stem}.png", blurred)


def infected_slice(seed: int, index: int, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Return one lung-windowed slice (row, column) uint8 0..255 and its label.

    The label is 0, 1 for ground glass, 2 for consolidation.
    """
    generator = np.random.default_rng([seed, index])
    width = size - int(generator.integers(0, 9))
    level = generator.uniform(-0.5, 0.7)
    body = thorax(generator, (1, round(HEIGHT * width), width), np.array([level]))
    is_tiny = index % TINY_EVERY == TINY_EVERY - 1
    label = add_infection(body, generator, "tiny" if is_tiny else "usual")

    low, high = LUNG_WINDOW_HU
    hu = scanned(generator, body.hu)[0]
    grey = 255 * np.clip((hu - low) / (high - low), 0, 1)

    return np.round(grey).astype(np.uint8), label[0]


def write_msd_lung(
    folder: Path,
    *,
    seed: int = 0,
    n_train: int = 8,
    n_test: int = 2,
    shape: tuple[int, int, int] = (128, 128, 24),
    spacing: tuple[float, float, float] = (2.8, 2.8, 5.0),
) -> Path:
    """Write the Decathlon's ``Task06_Lung`` tree: chest CT in HU (int16) with solid nodules.

    Args:
        folder: made if absent; receives ``Task06_Lung``.
        seed: of everything.
        n_train: labelled volumes; ids have gaps, as the publisher's.
        n_test: volumes in imagesTs.
        shape: (x, y, z) voxels.
        spacing: (x, y, z) in mm.

    Returns:
        The task folder.
    """
    root = folder / "Task06_Lung"
    names = [f"lung_{1 + 2 * index + index // 3:03d}" for index in range(n_train + n_test)]
    train, test = names[:n_train], names[n_train:]
    for index, name in enumerate(names):
        image, label = nodule_volume(seed, index, shape, spacing)
        part = "Tr" if name in train else "Ts"
        _save_volume(root / f"images{part}" / f"{name}.nii.gz", image, spacing)
        if part == "Tr":
            _save_volume(root / "labelsTr" / f"{name}.nii.gz", label, spacing)

    labels = {"0": "background", "1": "cancer"}
    _write_msd_list(root, "Lung", {"0": "CT"}, labels, train, test, "relase")

    return root


def nodule_volume(
    seed: int, index: int, shape: tuple[int, int, int], spacing_mm: tuple[float, float, float]
) -> tuple[np.ndarray, np.ndarray]:
    """Return a chest CT (x, y, z) int16 in HU, axes to the right, front and head.

    With it comes its label (x, y, z) uint8 0..1.
    """
    generator = np.random.default_rng([seed, index, 6])
    columns, rows, slices = shape
    body = thorax(generator, (slices, rows, columns), np.linspace(-0.75, 0.75, slices))
    label = np.zeros(body.hu.shape, np.uint8)
    column_mm, row_mm, slice_mm = spacing_mm
    for _ in range(int(generator.integers(1, 3))):
        diameter_mm = generator.uniform(14, 32)
        label |= add_nodule(body, generator, (slice_mm, row_mm, column_mm), diameter_mm)
    hu = np.round(scanned(generator, body.hu)).astype(np.int16)

    return _as_nifti(hu), _as_nifti(label)


def write_msd_brain(
    folder: Path,
    *,
    seed: int = 0,
    n_train: int = 4,
    n_test: int = 1,
    shape: tuple[int, int, int] = (48, 48, 32),
) -> Path:
    """Write the Decathlon's ``Task01_BrainTumour`` tree: 4-D images of 1 mm, labels 0..3.

    Args:
        folder: made if absent; receives ``Task01_BrainTumour``.
        seed: of everything.
        n_train: labelled volumes.
        n_test: volumes in imagesTs.
        shape: (x, y, z) voxels.

    Returns:
        The task folder.
    """
    root = folder / "Task01_BrainTumour"
    names = [f"BRATS_{1 + index:03d}" for index in range(n_train + n_test)]
    train, test = names[:n_train], names[n_train:]
    one_mm = (1.0, 1.0, 1.0)
    for index, name in enumerate(names):
        image, label = tumour_volume(seed, index, shape)
        part = "Tr" if name in train else "Ts"
        _save_volume(root / f"images{part}" / f"{name}.nii.gz", image, one_mm)
        if part == "Tr":
            _save_volume(root / "labelsTr" / f"{name}.nii.gz", label, one_mm)

    labels = {"0": "background", "1": "edema", "2": "non-enhancing tumor", "3": "enhancing tumour"}
    channels = {"0": "FLAIR", "1": "T1w", "2": "t1gd", "3": "T2w"}
    _write_msd_list(root, "BRATS", channels, labels, train, test, "release")

    return root


def tumour_volume(
    seed: int, index: int, shape: tuple[int, int, int]
) -> tuple[np.ndarray, np.ndarray]:
    """Return a skull-stripped brain (x, y, z, 4) float32, 0 outside, and its label uint8 0..3."""
    generator = np.random.default_rng([seed, index, 1])
    axes = np.stack(np.meshgrid(*[np.linspace(-1, 1, size) for size in shape], indexing="ij"))
    x, y, z = axes
    size = max(shape)
    folds = smooth_noise(generator, shape, size / 24)
    radius = np.sqrt((x / 0.72) ** 2 + (y / 0.88) ** 2 + (z / 0.85) ** 2) + 0.03 * folds
    from_ventricle = ((np.abs(x) - 0.12) / 0.07) ** 2 + (y / 0.3) ** 2 + (z / 0.25) ** 2
    ventricle = np.sqrt(from_ventricle) < 1
    grey_matter = (radius > 0.82) | (folds > 1.3)

    centre = generator.uniform(-0.35, 0.35, 3)
    offset = axes - centre[:, None, None, None]
    reach = np.sqrt((offset**2).sum(axis=0)) / generator.uniform(0.3, 0.42)
    reach += 0.12 * smooth_noise(generator, shape, size / 14)
    label = np.select([reach < 0.42, reach < 0.62, reach < 1.0], [2, 3, 1], 0).astype(np.uint8)
    label[(radius > 0.97) | (ventricle & (label == 1))] = 0

    kinds = [label == 1, label == 2, label == 3, ventricle, grey_matter]
    tissue = np.select(kinds, [3, 4, 5, 2, 1], 0)
    channels = []
    for greys in BRAIN_CONTRAST:
        clean = ndimage.gaussian_filter(np.array(greys, float)[tissue], 0.5)
        bias = 1 + 0.05 * smooth_noise(generator, shape, size / 4)
        noisy = clean * bias + generator.normal(0, 18, shape)
        channels.append(np.where(radius < 1, np.maximum(noisy, 1), 0))

    return np.stack(channels, axis=-1).astype(np.float32), label


def _as_nifti(volume: np.ndarray) -> np.ndarray:
    """Turn (slice, row, column), head first and front up, to axes to the right, front and head."""
    turned = volume[::-1, ::-1, ::-1].transpose(2, 1, 0)
    return np.ascontiguousarray(turned)


def _write_labelled(
    binary: Path, multi: Path, stem: str, image: np.ndarray, label: np.ndarray
) -> None:
    """Write a slice into both labelled folders, with a black and white mask and with a palette."""
    from PIL import Image

    for place in (binary, multi):
        _save(place / "Imgs" / f"{stem}.jpg", image)
    _save(binary / "GT" / f"{stem}.png", 255 * (label > 0))

    classes = Image.fromarray(label, mode="P")
    classes.putpalette(PALETTE)
    (multi / "GT").mkdir(parents=True, exist_ok=True)
    classes.save(multi / "GT" / f"{stem}.png")


def _edge(label: np.ndarray) -> np.ndarray:
    mask = label > 0
    return 255 * (mask & ~ndimage.binary_erosion(mask))


def _save(path: Path, grey: np.ndarray) -> None:
    from PIL import Image

    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.asarray(grey).astype(np.uint8)).save(path, quality=92)


def _save_volume(path: Path, voxels: np.ndarray, spacing_mm: tuple[float, float, float]) -> None:
    """Write NIfTI with the hidden companion that macOS left in the publisher's archives."""
    import nibabel

    path.parent.mkdir(parents=True, exist_ok=True)
    affine_mm = np.diag([*spacing_mm, 1.0])
    affine_mm[:3, 3] = -np.array(spacing_mm) * (np.array(voxels.shape[:3]) - 1) / 2
    nibabel.save(nibabel.Nifti1Image(voxels, affine_mm), path)
    _write_bytes(path.with_name(f"._{path.name}"), APPLE_DOUBLE)


def _write_msd_list(
    root: Path,
    name: str,
    modality: dict[str, str],
    labels: dict[str, str],
    train: list[str],
    test: list[str],
    release: str,
) -> None:
    """Write dataset.json; ``release`` is the key, which one task misspells."""
    training = []
    for case in reversed(train):
        entry = {"image": f"./imagesTr/{case}.nii.gz", "label": f"./labelsTr/{case}.nii.gz"}
        training.append(entry)
    content = {
        "name": name,
        "description": "generated",
        "reference": "generated",
        "licence": "CC-BY-SA 4.0",
        release: "1.0 04/05/2018",
        "tensorImageSize": "4D" if len(modality) > 1 else "3D",
        "modality": modality,
        "labels": labels,
        "numTraining": len(train),
        "numTest": len(test),
        "training": training,
        "test": [f"./imagesTs/{case}.nii.gz" for case in test],
    }
    (root / "dataset.json").write_text(json.dumps(content, indent=1), encoding="utf-8")


def _write_bytes(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
