"""A generated domain shift, as nnU-Net raw data: one anatomy, seen by two scanners.

The source is CT-like: grey follows density. The target's contrast is not monotonic: fat is the
brightest tissue, bone and air are dark, and aerated lung is brighter than air by far. Texture,
noise, sharpness and illumination differ, too, and so do number, size and density of the lesions.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy import ndimage

from dataset_conversion.phantoms.anatomy import (
    Thorax,
    as_grey,
    chest_slice,
    noise_in_slices,
    smooth_noise,
)
from dataset_conversion.reading.pictures import write_png
from nnunet_ext.files.atomic_json import write_json

SOURCE = "Dataset501_PhantomSource"
TARGET = "Dataset502_PhantomTarget"
UNLABELED_TARGET = "Dataset503_PhantomTargetUnlabeled"
LABELS = {"background": 0, "lesion": 1}
HEIGHT = 5 / 6  # of a slice, as share of its width

LabelledSlice = tuple[np.ndarray, np.ndarray]
"""Grey values (row, column), uint8, and label 0 or 1."""


@dataclass(frozen=True)
class Domain:
    """What a scanner and its patients look like; lengths are shares of half the field of view."""

    contrast: tuple[tuple[float, float], ...]  # (HU, grey 0..255), linear between
    texture_hu: float  # standard deviation of the lung's own texture
    texture_size: float
    noise_grey: float  # standard deviation
    noise_pixels: float  # its correlation
    blur_pixels: float
    illumination: float  # standard deviation of a slow factor
    lesions: tuple[int, int]  # fewest, most
    radius: tuple[float, float]
    lesion_hu: tuple[float, float]


SOURCE_DOMAIN = Domain(
    contrast=((-1000, 5), (-850, 35), (-500, 110), (-100, 190), (45, 215), (450, 250)),
    texture_hu=15,
    texture_size=0.05,
    noise_grey=4,
    noise_pixels=0.6,
    blur_pixels=0.4,
    illumination=0,
    lesions=(1, 3),
    radius=(0.12, 0.26),
    lesion_hu=(-600, -250),
)
TARGET_DOMAIN = Domain(
    contrast=((-1000, 10), (-850, 70), (-500, 130), (-100, 240), (45, 160), (450, 30)),
    texture_hu=45,
    texture_size=0.02,
    noise_grey=10,
    noise_pixels=0.9,
    blur_pixels=0.8,
    illumination=0.12,
    lesions=(2, 5),
    radius=(0.08, 0.18),
    lesion_hu=(-550, -350),
)


def write_domain_pair(
    raw: Path,
    *,
    seed: int = 0,
    n_source: int = 60,
    n_target: int = 60,
    n_test: int = 40,
    size: int = 96,
) -> None:
    """Write three raw data sets: source, target with a test set, target images without labels.

    Args:
        raw: nnU-Net's folder of raw data sets.
        seed: of everything; equal arguments give equal files.
        n_source: labelled slices of the source.
        n_target: training slices of the target.
        n_test: test slices of the target, in imagesTs and labelsTs.
        size: width in pixels; a slice is 5/6 as high.
    """
    first_test = n_source + n_target
    patients = range(first_test + n_test)  # no patient is in two sets
    of_source = patients[:n_source]
    of_target = patients[n_source:first_test]
    of_test = patients[first_test:]
    source = domain_slices(SOURCE_DOMAIN, seed, of_source, size)
    target = domain_slices(TARGET_DOMAIN, seed, of_target, size)
    test = domain_slices(TARGET_DOMAIN, seed, of_test, size)

    labelled = raw / SOURCE
    write_cases(labelled, "Tr", "source", source)
    write_dataset_json(labelled, n_source)

    adapted = raw / TARGET
    write_cases(adapted, "Tr", "target", target)
    write_cases(adapted, "Ts", "test", test)
    write_dataset_json(adapted, n_target)

    unlabelled = raw / UNLABELED_TARGET
    write_images(unlabelled, "Un", "target", target)
    write_dataset_json(unlabelled, 0)


def domain_slices(
    domain: Domain, seed: int, patients: Iterable[int], size: int
) -> list[LabelledSlice]:
    """Return a slice and its label of each patient, see :func:`domain_slice`."""
    drawn = []
    for patient in patients:
        image_and_label = domain_slice(domain, seed, patient, size)
        drawn.append(image_and_label)

    return drawn


def domain_slice(domain: Domain, seed: int, patient: int, size: int) -> LabelledSlice:
    """Return one slice (row, column) uint8 0..255 and its label: 0, 1 lesion."""
    generator = np.random.default_rng([seed, patient])
    level = generator.uniform(-0.4, 0.6)
    rows = round(HEIGHT * size)
    body = chest_slice(generator, rows, size, level)
    texture_pixels = domain.texture_size * size / 2
    texture = noise_in_slices(generator, body.hu.shape, texture_pixels)
    body.hu += domain.texture_hu * body.lung * texture

    label = _add_lesions(body, generator, domain)
    grey = _scanned(body.hu[0], generator, domain)

    return grey, label[0]


def _add_lesions(body: Thorax, generator: np.random.Generator, domain: Domain) -> np.ndarray:
    """Blend soft-edged lesions of irregular outline into the lungs; return their label."""
    shape = body.hu.shape
    label = np.zeros(shape, np.uint8)
    is_lung = body.lung[0] > 0.5
    beside_mediastinum = np.abs(body.x[0]) > 0.2
    possible = np.argwhere(is_lung & beside_mediastinum)
    fewest, most = domain.lesions
    count = generator.integers(fewest, most + 1)
    for _ in range(int(count)):
        chosen = generator.integers(len(possible))
        outline = _lesion_outline(body, generator, domain, possible[chosen])
        sharpened = np.clip(outline / 0.12, -40, 40)
        share = body.lung / (1 + np.exp(-sharpened))
        lesion_hu = generator.uniform(*domain.lesion_hu)
        texture = 40 * noise_in_slices(generator, shape, 1.5)
        density = lesion_hu + texture
        is_denser = body.hu < density  # vessels stay visible
        body.blend(share * is_denser, density)
        label[share > 0.5] = 1

    return label


def _lesion_outline(
    body: Thorax, generator: np.random.Generator, domain: Domain, centre: np.ndarray
) -> np.ndarray:
    """Return a map that is positive inside an ellipse with dents and bulges."""
    row, column = centre
    shape = body.hu.shape
    radius = generator.uniform(*domain.radius)
    elongation = generator.uniform(0.7, 1.4)
    down = (body.y - body.y[0, row, column]) * elongation
    across = (body.x - body.x[0, row, column]) / elongation
    distance = np.hypot(down, across) / radius
    wobble_pixels = 0.35 * radius * shape[2] / 2
    wobble = 0.25 * noise_in_slices(generator, shape, wobble_pixels)

    return 1 - distance + wobble


def _scanned(hu: np.ndarray, generator: np.random.Generator, domain: Domain) -> np.ndarray:
    """Turn densities (row, column) into the domain's grey values."""
    knots, greys = zip(*domain.contrast, strict=True)
    blurred = ndimage.gaussian_filter(hu, domain.blur_pixels)
    grey = np.interp(blurred, knots, greys)

    _, columns = hu.shape
    slow = smooth_noise(generator, hu.shape, 0.25 * columns)
    noise = smooth_noise(generator, hu.shape, domain.noise_pixels)
    lit = grey * (1 + domain.illumination * slow)

    return as_grey(lit + domain.noise_grey * noise)


def write_cases(dataset: Path, part: str, prefix: str, cases: Sequence[LabelledSlice]) -> None:
    """Write images and labels of one part, ``Tr`` or ``Ts``, numbered after ``prefix``."""
    write_images(dataset, part, prefix, cases)

    folder = dataset / f"labels{part}"
    folder.mkdir(parents=True, exist_ok=True)
    for number, (_, label) in enumerate(cases):
        name = f"{prefix}_{number:03d}.png"
        write_png(folder / name, label)


def write_images(dataset: Path, part: str, prefix: str, cases: Sequence[LabelledSlice]) -> None:
    """Write the images of one part, ``Tr``, ``Ts`` or ``Un``, numbered after ``prefix``."""
    folder = dataset / f"images{part}"
    folder.mkdir(parents=True, exist_ok=True)
    for number, (image, _) in enumerate(cases):
        name = f"{prefix}_{number:03d}_0000.png"
        write_png(folder / name, image)


def write_dataset_json(dataset: Path, training: int) -> None:
    """Write ``dataset.json`` for a number of labelled training cases."""
    content = {
        "channel_names": {"0": "generated"},
        "labels": LABELS,
        "numTraining": training,
        "file_ending": ".png",
        "licence": "Apache-2.0",
        "description": "generated by nnunet_ext; no patient's data is in it",
    }
    write_json(content, dataset / "dataset.json")
