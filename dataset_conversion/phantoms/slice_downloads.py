"""Generated miniatures of public data sets in the layout of the original downloads.

Everything is computed (:mod:`dataset_conversion.phantoms.anatomy`), nothing comes from a patient.
Equal arguments give equal files. The traps of the real downloads are part of the layout: hidden
files, folders with copies, sizes that vary.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from scipy import ndimage

from dataset_conversion.phantoms.anatomy import (
    NOISE_HU,
    STRONG_NOISE_HU,
    chest_slice,
    scanned,
    scanned_int16,
    smooth_noise,
    thorax,
    windowed,
)
from dataset_conversion.phantoms.lesions import add_infection, add_nodule
from dataset_conversion.phantoms.small_files import (
    APPLE_DOUBLE,
    as_nifti_axes,
    axes_of,
    write_bytes,
    write_hidden_companion,
)

LUNG_WINDOW_HU = (-1150.0, 250.0)
PALETTE = (0, 0, 0, 128, 0, 0, 0, 128, 0)
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
    is_faint: bool = False,
) -> Path:
    """Write COVID-SemiSeg's tree: ``Dataset/TrainingSet/...`` and ``Dataset/TestingSet/...``.

    Args:
        folder: made if absent.
        seed: of everything.
        n_labelled: slices in Doctor-label and MultiClassInfection-Train.
        n_test: slices in both test folders; 0 leaves TestingSet out.
        n_unlabeled: slices in Pseudo-label, of three patients.
        size: width in pixels; each slice is up to 8 pixels narrower, and lower than wide.
        is_faint: infections are hardly denser than the lung, and noise is strong.

    Returns:
        The folder to give to ``nnUNetv2_ext_convert COVID-SemiSeg -i``.
    """
    train = folder / "Dataset/TrainingSet"
    doctor = train / "LungInfection-Train/Doctor-label"
    multi = train / "MultiClassInfection-Train"
    for index in range(n_labelled):
        image, label = infected_slice(seed, index, size, is_faint)
        name = f"{index}.png"
        _write_labelled(doctor, multi, str(index), image, label)
        _save(multi / "Prior" / name, _black_and_white(label > 0))
        _save(doctor / "Edge" / name, _edge(label))

    test = folder / "Dataset/TestingSet"
    multi = test / "MultiClassInfection-Test"
    for index in range(n_labelled, n_labelled + n_test):
        image, label = infected_slice(seed, index, size, is_faint)
        name = f"{index}.png"
        _write_labelled(test / "LungInfection-Test", multi, str(index), image, label)
        _save(multi / "GT-1" / name, _black_and_white(label == 1))
        _save(multi / "GT-2" / name, _black_and_white(label == 2))

    pseudo = train / "LungInfection-Train/Pseudo-label"
    _write_unlabelled(pseudo, seed, n_unlabeled, size, is_faint)

    hidden = folder / "__MACOSX/Dataset/TrainingSet/LungInfection-Train/Doctor-label/Imgs"
    write_bytes(hidden / "._0.jpg", APPLE_DOUBLE)
    write_bytes(doctor / "Imgs/.DS_Store", APPLE_DOUBLE)
    write_bytes(doctor / "Imgs/._0.jpg", APPLE_DOUBLE)
    write_bytes(pseudo / "Imgs/Thumbs.db", APPLE_DOUBLE)

    return folder


def _write_unlabelled(folder: Path, seed: int, count: int, size: int, is_faint: bool) -> None:
    """Write slices with the soft output of a network, and copies of both in further folders."""
    copies = folder / "DataPrepare/Hybrid-label"
    for index in range(count):
        image, label = infected_slice(seed, 10_000 + index, size, is_faint)
        round_number, place = divmod(index, len(PATIENTS))
        stem = f"Data-1_{PATIENTS[place]}_{round_number + 1}"
        soft = ndimage.gaussian_filter(255.0 * (label > 0), 1.5)
        for part in (folder, copies):
            _save(part / "Imgs" / f"{stem}.jpg", image)
            _save(part / "GT" / f"{stem}.png", soft)


def infected_slice(
    seed: int, index: int, size: int, is_faint: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """Return one lung-windowed slice (row, column) uint8 0..255 and its label.

    The label is 0, 1 for ground glass, 2 for consolidation. A faint one has strong noise, too.
    """
    generator = np.random.default_rng([seed, index])
    columns = size - int(generator.integers(0, 9))
    rows = round(HEIGHT * columns)
    level = generator.uniform(-0.5, 0.7)
    body = chest_slice(generator, rows, columns, level)
    is_tiny = index % TINY_EVERY == TINY_EVERY - 1
    label = add_infection(body, generator, "tiny" if is_tiny else "usual", is_faint)
    noise_hu = STRONG_NOISE_HU if is_faint else NOISE_HU
    hu = scanned(generator, body.hu, noise_hu)
    grey = windowed(hu[0], LUNG_WINDOW_HU)

    return grey, label[0]


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
    task = MsdTask(
        name="Lung",
        modality={"0": "CT"},
        labels={"0": "background", "1": "cancer"},
        release_key="relase",
    )
    for index in range(n_train + n_test):
        number = 1 + 2 * index + index // 3
        case = f"lung_{number:03d}"
        image, label = nodule_volume(seed, index, shape, spacing)
        if index < n_train:
            task.add_training(root, case, image, label, spacing)
        else:
            task.add_test(root, case, image, spacing)

    task.write_list(root)

    return root


def nodule_volume(
    seed: int, index: int, shape: tuple[int, int, int], spacing_mm: tuple[float, float, float]
) -> tuple[np.ndarray, np.ndarray]:
    """Return a chest CT (x, y, z) int16 in HU, axes to the right, front and head.

    With it comes its label (x, y, z) uint8 0..1.
    """
    generator = np.random.default_rng([seed, index, 6])
    columns, rows, slices = shape
    column_mm, row_mm, slice_mm = spacing_mm
    levels = np.linspace(-0.75, 0.75, slices)
    body = thorax(generator, (slices, rows, columns), levels)
    label = np.zeros(body.hu.shape, np.uint8)
    count = generator.integers(1, 3)
    for _ in range(int(count)):
        diameter_mm = generator.uniform(14, 32)
        label |= add_nodule(body, generator, (slice_mm, row_mm, column_mm), diameter_mm)

    hu = scanned_int16(generator, body.hu)

    return as_nifti_axes(hu), as_nifti_axes(label)


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
    spacing_mm = (1.0, 1.0, 1.0)
    task = MsdTask(
        name="BRATS",
        modality={"0": "FLAIR", "1": "T1w", "2": "t1gd", "3": "T2w"},
        labels={
            "0": "background",
            "1": "edema",
            "2": "non-enhancing tumor",
            "3": "enhancing tumour",
        },
    )
    for index in range(n_train + n_test):
        case = f"BRATS_{1 + index:03d}"
        image, label = tumour_volume(seed, index, shape)
        if index < n_train:
            task.add_training(root, case, image, label, spacing_mm)
        else:
            task.add_test(root, case, image, spacing_mm)

    task.write_list(root)

    return root


def tumour_volume(
    seed: int, index: int, shape: tuple[int, int, int]
) -> tuple[np.ndarray, np.ndarray]:
    """Return a skull-stripped brain (x, y, z, 4) float32, 0 outside, and its label uint8 0..3."""
    generator = np.random.default_rng([seed, index, 1])
    axes = np.stack(axes_of(shape))
    x, y, z = axes
    longest = max(shape)
    folds = smooth_noise(generator, shape, longest / 24)
    radius = _ellipsoid_radius(x / 0.72, y / 0.88, z / 0.85) + 0.03 * folds
    from_ventricle = (np.abs(x) - 0.12) / 0.07
    is_ventricle = _ellipsoid_radius(from_ventricle, y / 0.3, z / 0.25) < 1
    is_grey_matter = (radius > 0.82) | (folds > 1.3)

    label = _tumour_label(generator, axes)
    is_oedema = label == 1
    label[is_ventricle & is_oedema] = 0
    label[radius > 0.97] = 0

    tissue = np.zeros(shape, int)
    tissue[is_grey_matter] = 1
    tissue[is_ventricle] = 2
    for value, number in ((1, 3), (2, 4), (3, 5)):
        tissue[label == value] = number

    channels = []
    for greys in BRAIN_CONTRAST:
        by_tissue = np.array(greys, float)
        clean = ndimage.gaussian_filter(by_tissue[tissue], 0.5)
        uneven = smooth_noise(generator, shape, longest / 4)
        bias = 1 + 0.05 * uneven
        noisy = clean * bias + generator.normal(0, 18, shape)
        channels.append(np.where(radius < 1, np.maximum(noisy, 1), 0))

    image = np.stack(channels, axis=-1)

    return image.astype(np.float32), label


def _ellipsoid_radius(x: np.ndarray, y: np.ndarray, z: np.ndarray) -> np.ndarray:
    """Return the distance from the centre, with the axes in units of the half axes."""
    squares = x**2 + y**2 + z**2
    return np.sqrt(squares)


def _tumour_label(generator: np.random.Generator, axes: np.ndarray) -> np.ndarray:
    """Return the label of a tumour: 2 in the core, 3 in the rim around it, 1 in the oedema."""
    _, *shape = axes.shape
    centre = generator.uniform(-0.35, 0.35, 3)
    offset = axes - centre[:, None, None, None]
    distance = np.sqrt((offset**2).sum(axis=0))
    reach = distance / generator.uniform(0.3, 0.42)
    reach += 0.12 * smooth_noise(generator, shape, max(shape) / 14)

    label = np.zeros(shape, np.uint8)
    label[reach < 1.0] = 1
    label[reach < 0.62] = 3
    label[reach < 0.42] = 2

    return label


def _write_labelled(
    binary: Path, multi: Path, stem: str, image: np.ndarray, label: np.ndarray
) -> None:
    """Write a slice into both labelled folders, with a black and white mask and with a palette."""
    from PIL import Image

    picture, mask = f"{stem}.jpg", f"{stem}.png"
    _save(binary / "Imgs" / picture, image)
    _save(multi / "Imgs" / picture, image)
    _save(binary / "GT" / mask, _black_and_white(label > 0))

    classes = Image.fromarray(label, mode="P")
    classes.putpalette(PALETTE)
    masks = multi / "GT"
    masks.mkdir(parents=True, exist_ok=True)
    classes.save(masks / mask)


def _black_and_white(mask: np.ndarray) -> np.ndarray:
    return 255 * mask


def _edge(label: np.ndarray) -> np.ndarray:
    """Return the outline of all lesions, black and white."""
    mask = label > 0
    inner = ndimage.binary_erosion(mask)

    return _black_and_white(mask & ~inner)


def _save(path: Path, grey: np.ndarray) -> None:
    from PIL import Image

    folder = path.parent
    folder.mkdir(parents=True, exist_ok=True)
    whole = np.asarray(grey).astype(np.uint8)
    picture = Image.fromarray(whole)
    picture.save(path, quality=92)


def _save_volume(path: Path, voxels: np.ndarray, spacing_mm: tuple[float, float, float]) -> None:
    """Write NIfTI with the hidden companion that macOS left in the publisher's archives."""
    import nibabel

    folder = path.parent
    folder.mkdir(parents=True, exist_ok=True)
    last_index = np.array(voxels.shape[:3]) - 1
    affine_mm = np.diag([*spacing_mm, 1.0])
    affine_mm[:3, 3] = -np.array(spacing_mm) * last_index / 2
    volume = nibabel.Nifti1Image(voxels, affine_mm)
    nibabel.save(volume, path)
    write_hidden_companion(path)


@dataclass
class MsdTask:
    """A task of the Decathlon that is being written; ``release_key`` is misspelt in one of them."""

    name: str
    modality: dict[str, str]
    labels: dict[str, str]
    release_key: str = "release"
    training: list[str] = field(default_factory=list)
    test: list[str] = field(default_factory=list)

    def add_training(
        self,
        root: Path,
        case: str,
        image: np.ndarray,
        label: np.ndarray,
        spacing_mm: tuple[float, float, float],
    ) -> None:
        """Write a training case, image and label."""
        file = f"{case}.nii.gz"
        _save_volume(root / "imagesTr" / file, image, spacing_mm)
        _save_volume(root / "labelsTr" / file, label, spacing_mm)
        self.training.append(file)

    def add_test(
        self, root: Path, case: str, image: np.ndarray, spacing_mm: tuple[float, float, float]
    ) -> None:
        """Write a test case, which has no label."""
        file = f"{case}.nii.gz"
        _save_volume(root / "imagesTs" / file, image, spacing_mm)
        self.test.append(file)

    def write_list(self, root: Path) -> None:
        """Write dataset.json."""
        training = []
        for file in reversed(self.training):
            entry = {
                "image": f"./imagesTr/{file}",
                "label": f"./labelsTr/{file}",
            }
            training.append(entry)
        has_channels = len(self.modality) > 1
        content = {
            "name": self.name,
            "description": "generated",
            "reference": "generated",
            "licence": "CC-BY-SA 4.0",
            self.release_key: "1.0 04/05/2018",
            "tensorImageSize": "4D" if has_channels else "3D",
            "modality": self.modality,
            "labels": self.labels,
            "numTraining": len(self.training),
            "numTest": len(self.test),
            "training": training,
            "test": [f"./imagesTs/{file}" for file in self.test],
        }
        text = json.dumps(content, indent=1)
        (root / "dataset.json").write_text(text, encoding="utf-8")
