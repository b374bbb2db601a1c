"""Generated MR-like tumours with labels and CT-like haemorrhages, as nnU-Net raw data.

The MR is FLAIR-like: the skull is dark, the scalp bright, fluid dark, and a tumour is a bright
oedema around a dark core; bright spots without a core are not tumours. The CT is in Hounsfield
units: the skull is bright, a haemorrhage of 55 to 80 HU has a thin dark rim of oedema, and
calcifications are brighter than blood. Lesions of both diseases have outlines of one kind; tumours
vary more in size, and MR covers more of the head than CT, so that some MR slices resemble CT slices
and others do not.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy import ndimage

from dataset_conversion.phantoms.anatomy import sigmoid, smooth_noise
from dataset_conversion.phantoms.heads import (
    FIELD_OF_VIEW_MM,
    Head,
    LesionKind,
    head_slice,
    lesion_outlines,
    painted,
)
from dataset_conversion.reading.volumes import write_volume
from dataset_conversion.shaping.choices import slice_affine
from nnunet_ext.files.atomic_json import write_json
from nnunet_ext.synthesis.skull import without_skull

MR = "Dataset511_PhantomMR"
CT = "Dataset512_PhantomCT"
UNLABELED_CT = "Dataset513_PhantomCTUnlabeled"
MR_WITH_SKULL = "Dataset514_PhantomMRWithSkull"
UNLABELED_CT_WITH_SKULL = "Dataset515_PhantomCTWithSkullUnlabeled"
LABELS = {"background": 0, "lesion": 1}
BACKGROUND_HU = 0.0  # outside the brain: the low end of the brain window

MR_GREY = (0, 330, 30, 50, 240, 190, 80)  # air, scalp, bone, fluid, grey matter, white matter, falx
CT_HU = (-1000, 15, 900, 8, 38, 28, 48)
TUMOUR = LesionKind(number=(1, 2), radius_mm=(8, 30))
HAEMORRHAGE = LesionKind(number=(1, 2), radius_mm=(8, 22))
AGE_SPOTS = LesionKind(number=(2, 5), radius_mm=(5, 12))  # bright in FLAIR, common, not tumours
CALCIFICATIONS = LesionKind(number=(0, 3), radius_mm=(2, 5))  # brighter than blood
MR_LEVELS = (0.0, 1.0)
CT_LEVELS = (0.1, 0.7)


@dataclass(frozen=True)
class BrainSlice:
    """A slice of either modality: image, label 0 or 1, and inside of the skull, (row, column)."""

    image: np.ndarray
    label: np.ndarray
    brain: np.ndarray


def write_brain_sets(
    raw: Path,
    *,
    seed: int = 0,
    n_mr: int = 90,
    n_ct: int = 60,
    n_test: int = 40,
    size: int = 96,
    with_skulls: bool = True,
) -> None:
    """Write five raw data sets: MR, CT with a test set, CT without labels; and two with skulls.

    The first three show the brain alone: MR by the true mask, as public data sets of brain tumours
    are published, and CT by :func:`~nnunet_ext.synthesis.skull.without_skull`. The others are the
    same slices as they are scanned.

    Args:
        raw: nnU-Net's folder of raw data sets.
        seed: of everything; equal arguments give equal files.
        n_mr: labelled MR slices.
        n_ct: training slices of CT.
        n_test: test slices of CT, in imagesTs and labelsTs.
        size: rows and columns.
        with_skulls: write the two with skulls as well.
    """
    first_test = n_mr + n_ct
    patients = range(first_test + n_test)  # no patient is in two sets
    mr = [mr_slice(seed, patient, size) for patient in patients[:n_mr]]
    ct = [ct_slice(seed, patient, size) for patient in patients[n_mr:first_test]]
    test = [ct_slice(seed, patient, size) for patient in patients[first_test:]]

    _write_mr(raw / MR, mr, _masked)
    target = raw / CT
    _write_cases(target, "Tr", "ct", ct, _stripped)
    _write_cases(target, "Ts", "test", test, _stripped)
    _write_dataset_json(target, "CT", n_ct)
    _write_unlabeled_ct(raw / UNLABELED_CT, ct, _stripped)

    if with_skulls:
        _write_mr(raw / MR_WITH_SKULL, mr, _as_scanned)
        _write_unlabeled_ct(raw / UNLABELED_CT_WITH_SKULL, ct, _as_scanned)


def mr_slice(seed: int, patient: int, size: int) -> BrainSlice:
    """Return one FLAIR-like slice with skull, int16 from 0, with the label of the whole tumour."""
    generator = np.random.default_rng([seed, patient])
    level = generator.uniform(*MR_LEVELS)
    head = head_slice(generator, size, level)
    grey = painted(head, MR_GREY)
    in_brain = head.depth_mm > 0
    for outline in lesion_outlines(head, generator, AGE_SPOTS):
        spot = _share(outline, 0.15) * in_brain
        spot_grey = generator.uniform(300, 380)
        grey = _blended(grey, spot, spot_grey)

    label = np.zeros(grey.shape, np.uint8)
    for outline in lesion_outlines(head, generator, TUMOUR):
        oedema = _share(outline, 0.08) * in_brain
        core_depth = generator.uniform(0.3, 0.5)
        core = _share(outline - core_depth, 0.08) * in_brain
        oedema_grey = generator.uniform(330, 420)
        core_grey = generator.uniform(60, 200)
        grey = _blended(grey, oedema, oedema_grey)
        grey = _blended(grey, core, core_grey)
        label[oedema > 0.5] = 1

    return BrainSlice(
        image=_scanned_mr(grey, generator),
        label=label,
        brain=head.inside_skull,
    )


def _scanned_mr(grey: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Return what a scanner makes of it: uneven brightness, blur and Rician noise, int16."""
    shape = grey.shape
    uneven = smooth_noise(generator, shape, 0.3 * shape[0])
    bias = 1 + 0.1 * uneven
    real = 12 * smooth_noise(generator, shape, 0.5)
    imaginary = 12 * smooth_noise(generator, shape, 0.5)
    blurred = ndimage.gaussian_filter(grey, 0.5)
    magnitude = np.hypot(blurred * bias + real, imaginary)
    gain = generator.uniform(0.8, 1.3)
    measured = np.round(gain * magnitude)

    return measured.astype(np.int16)


def ct_slice(seed: int, patient: int, size: int) -> BrainSlice:
    """Return one CT-like slice with skull, int16 in HU, with the label of the haemorrhage."""
    generator = np.random.default_rng([seed, patient])
    level = generator.uniform(*CT_LEVELS)
    head = head_slice(generator, size, level)
    hu = painted(head, CT_HU)
    in_brain = head.depth_mm > 0
    for outline in lesion_outlines(head, generator, CALCIFICATIONS):
        calcification = _share(outline, 0.2) * in_brain
        density_hu = generator.uniform(90, 180)
        hu = _blended(hu, calcification, density_hu)

    label = np.zeros(hu.shape, np.uint8)
    for outline in lesion_outlines(head, generator, HAEMORRHAGE):
        rim = generator.uniform(0.1, 0.3)
        oedema = _share(outline + rim, 0.05) * in_brain
        blood = _share(outline, 0.06) * in_brain
        is_tissue = hu > 20
        hu = _blended(hu, oedema * is_tissue, 20)

        density_hu = generator.uniform(55, 80)
        texture = 4 * smooth_noise(generator, hu.shape, 1.5)
        hu = _blended(hu, blood, density_hu + texture)
        label[blood > 0.5] = 1

    return BrainSlice(
        image=_scanned_ct(hu, head, generator),
        label=label,
        brain=head.inside_skull,
    )


def _scanned_ct(hu: np.ndarray, head: Head, generator: np.random.Generator) -> np.ndarray:
    """Return what a scanner makes of it: beam hardening below the skull, blur and noise, int16."""
    in_brain = head.depth_mm > 0
    depth_mm = np.clip(head.depth_mm, 0, None)
    hardening = 8 * np.exp(-depth_mm / 6) * in_brain
    noise = 5 * smooth_noise(generator, hu.shape, 0.6)
    blurred = ndimage.gaussian_filter(hu + hardening, 0.5)
    measured = np.round(blurred + noise)

    return measured.astype(np.int16)


def _blended(values: np.ndarray, share: np.ndarray, other: float | np.ndarray) -> np.ndarray:
    """Return the values with a share of another one in each pixel."""
    difference = other - values
    return values + share * difference


def _share(outline: np.ndarray, softness: float) -> np.ndarray:
    """Return the share of a lesion in each pixel: one half on the outline."""
    return sigmoid(outline / softness)


def _as_scanned(item: BrainSlice) -> np.ndarray:
    return item.image


def _masked(item: BrainSlice) -> np.ndarray:
    nothing = np.int16(0)
    return np.where(item.brain, item.image, nothing)


def _stripped(item: BrainSlice) -> np.ndarray:
    pixel_mm = FIELD_OF_VIEW_MM / len(item.image)
    spacing_mm = (pixel_mm, pixel_mm)
    brain, _ = without_skull(item.image, spacing_mm, BACKGROUND_HU)

    return brain


def _write_mr(
    dataset: Path, cases: list[BrainSlice], shown: Callable[[BrainSlice], np.ndarray]
) -> None:
    _write_cases(dataset, "Tr", "mr", cases, shown)
    _write_dataset_json(dataset, "FLAIR", len(cases))


def _write_unlabeled_ct(
    dataset: Path, cases: list[BrainSlice], shown: Callable[[BrainSlice], np.ndarray]
) -> None:
    images = map(shown, cases)
    _write_images(dataset, "Un", "ct", images)
    _write_dataset_json(dataset, "CT", 0)


def _write_cases(
    dataset: Path,
    part: str,
    prefix: str,
    cases: list[BrainSlice],
    shown: Callable[[BrainSlice], np.ndarray],
) -> None:
    images = map(shown, cases)
    _write_images(dataset, part, prefix, images)

    folder = dataset / f"labels{part}"
    for number, item in enumerate(cases):
        name = f"{prefix}_{number:03d}.nii.gz"
        _write_slice(folder / name, item.label)


def _write_images(dataset: Path, part: str, prefix: str, images: Iterable[np.ndarray]) -> None:
    folder = dataset / f"images{part}"
    for number, image in enumerate(images):
        name = f"{prefix}_{number:03d}_0000.nii.gz"
        _write_slice(folder / name, image)


def _write_slice(path: Path, values: np.ndarray) -> None:
    pixel_mm = FIELD_OF_VIEW_MM / len(values)
    spacing_mm = np.array([pixel_mm, pixel_mm])
    affine_mm = slice_affine(spacing_mm)
    folder = path.parent
    folder.mkdir(parents=True, exist_ok=True)
    write_volume(path, values.T, affine_mm)


def _write_dataset_json(dataset: Path, channel: str, training: int) -> None:
    content = {
        "channel_names": {"0": channel},
        "labels": LABELS,
        "numTraining": training,
        "file_ending": ".nii.gz",
        "licence": "Apache-2.0",
        "description": (
            "generated by dataset_conversion.phantoms.brains; no patient's data is in it"
        ),
    }
    write_json(content, dataset / "dataset.json")
