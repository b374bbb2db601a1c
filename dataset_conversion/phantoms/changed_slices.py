"""A domain shift on real slices: COVID-SemiSeg's as if another scanner had made them.

The change is ours: grey values along a curve that is not monotonic, another texture and sharpness,
and an uneven illumination. What is a lesion stays; how tissues look does not.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image
from scipy import ndimage

from dataset_conversion.converter import SourceCase
from dataset_conversion.datasets.covid_semiseg import CovidSemiSeg
from dataset_conversion.phantoms.anatomy import as_grey, smooth_noise
from dataset_conversion.reading.download_folder import natural_key
from dataset_conversion.reading.pictures import write_png
from nnunet_ext.errors import InputError
from nnunet_ext.files.atomic_json import write_json

CHANGED = "Dataset511_CovidChanged"
UNCHANGED = "Dataset512_CovidSlices"
UNLABELED = "Dataset513_CovidUnlabeled"
SIZE = 128  # pixels
HELD_OUT = 1 / 3  # of the labelled slices, for the test
MOST_UNLABELED = 200

# (grey of the lung window, grey of the changed slice): air outside is brighter than lung, soft
# tissue is darker than consolidation, and bone is darker than both
CURVE = ((0, 70), (45, 20), (110, 130), (180, 215), (225, 140), (255, 60))
TEXTURE_GREY = 14.0  # standard deviation of a coarse texture
TEXTURE_PIXELS = 1.6
NOISE_GREY = 6.0
BLUR_PIXELS = 0.7
ILLUMINATION = 0.12  # standard deviation of a slow factor


def write_changed_domain(download: Path, raw: Path, seed: int = 0) -> None:
    """Write three raw data sets of 128 x 128 pixels.

    Changed labelled slices (the source); the same slices unchanged with a test set (the target);
    unlabelled slices. The test set is the last third of the labelled slices in the order of their
    numbers: the download does not say whose they are, and neighbours are the likeliest to be of one
    patient.

    Args:
        download: COVID-SemiSeg as ``nnUNetv2_ext_convert COVID-SemiSeg -i`` takes it.
        raw: nnU-Net's folder of raw data sets.
        seed: of the change; equal arguments give equal files.

    Raises:
        InputError: no such download, or a damaged slice.
    """
    labelled = CovidSemiSeg(download)
    cases = _cases(labelled)
    count = round(len(cases) * (1 - HELD_OUT))
    source = raw / CHANGED
    target = raw / UNCHANGED
    for number, case in enumerate(cases):
        image, label = _resized(labelled, case)
        if number >= count:
            _write(target, "Ts", case.id, image, label)
            continue

        generator = np.random.default_rng([seed, number])
        changed_image = changed(image, generator)
        _write(source, "Tr", case.id, changed_image, label)
        _write(target, "Tr", case.id, image, label)

    _write_dataset_json(source, labelled, count)
    _write_dataset_json(target, labelled, count)
    _write_unlabelled(download, raw / UNLABELED)


def _write_unlabelled(download: Path, dataset: Path) -> None:
    unlabelled = CovidSemiSeg(download, unlabeled=True)
    cases = _cases(unlabelled)
    for case in _evenly(cases, MOST_UNLABELED):
        image, _ = _resized(unlabelled, case)
        _write(dataset, "Un", case.id, image, None)

    _write_dataset_json(dataset, unlabelled, 0)


def changed(image: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Return a slice (row, column) uint8 of a lung window as the other scanner shows it."""
    shape = image.shape
    knots, greys = zip(*CURVE, strict=True)
    blurred = ndimage.gaussian_filter(image.astype(float), BLUR_PIXELS)
    grey = np.interp(blurred, knots, greys)

    slow = smooth_noise(generator, shape, 0.25 * shape[0])
    texture = TEXTURE_GREY * smooth_noise(generator, shape, TEXTURE_PIXELS)
    noise = NOISE_GREY * generator.standard_normal(shape)
    lit = grey * (1 + ILLUMINATION * slow)

    return as_grey(lit + texture + noise)


def _cases(converter: CovidSemiSeg) -> list[SourceCase]:
    found = converter.find_cases()
    if found.problems:
        raise InputError(found.problems[0])

    cases = [case for case in found.cases if case.part != "Ts"]
    cases.sort(key=lambda case: natural_key(case.id))

    return cases


def _evenly(cases: Sequence[SourceCase], most: int) -> list[SourceCase]:
    """Return cases from all over the list, so that every patient takes part."""
    count = min(most, len(cases))
    places = np.linspace(0, len(cases) - 1, count)
    nearest = places.round().astype(int)

    return [cases[index] for index in nearest]


def _resized(converter: CovidSemiSeg, case: SourceCase) -> tuple[np.ndarray, np.ndarray | None]:
    """Return the image resized by the mean over areas, the label by the nearest pixel."""
    size = (SIZE, SIZE)
    loaded = converter.read_case(case)
    picture = Image.fromarray(loaded.image[0])
    small = picture.resize(size, Image.Resampling.BOX)
    image = np.asarray(small)
    if loaded.label is None:
        return image, None

    classes = loaded.label.astype(np.uint8)
    picture = Image.fromarray(classes)
    small = picture.resize(size, Image.Resampling.NEAREST)

    return image, np.asarray(small)


def _write(
    dataset: Path, part: str, case: str, image: np.ndarray, label: np.ndarray | None
) -> None:
    images = dataset / f"images{part}"
    images.mkdir(parents=True, exist_ok=True)
    write_png(images / f"{case}_0000.png", image)

    if label is not None:
        labels = dataset / f"labels{part}"
        labels.mkdir(exist_ok=True)
        write_png(labels / f"{case}.png", label)


def _write_dataset_json(dataset: Path, converter: CovidSemiSeg, training: int) -> None:
    content = {
        "channel_names": {"0": converter.channel_names[0]},
        "labels": converter.labels,
        "numTraining": training,
        "file_ending": ".png",
        "licence": converter.licence,
        "citation": converter.citation,
    }
    write_json(content, dataset / "dataset.json")
