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
from dataset_conversion.phantoms.anatomy import smooth_noise
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
    for number, case in enumerate(cases):
        image, label = _resized(labelled, case)
        assert label is not None
        is_training = number < count
        if is_training:
            generator = np.random.default_rng([seed, number])
            _write(raw / CHANGED, "Tr", case.id, changed(image, generator), label)
        _write(raw / UNCHANGED, "Tr" if is_training else "Ts", case.id, image, label)

    unlabelled = CovidSemiSeg(download, unlabeled=True)
    for case in _evenly(_cases(unlabelled), MOST_UNLABELED):
        image, _ = _resized(unlabelled, case)
        _write(raw / UNLABELED, "Un", case.id, image, None)

    for name, training in ((CHANGED, count), (UNCHANGED, count), (UNLABELED, 0)):
        _write_dataset_json(raw / name, labelled, training)


def changed(image: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Return a slice (row, column) uint8 of a lung window as the other scanner shows it."""
    knots, greys = zip(*CURVE, strict=True)
    blurred = ndimage.gaussian_filter(image.astype(float), BLUR_PIXELS)
    grey = np.interp(blurred, knots, greys)

    slow = smooth_noise(generator, image.shape, 0.25 * image.shape[0])
    texture = TEXTURE_GREY * smooth_noise(generator, image.shape, TEXTURE_PIXELS)
    noise = NOISE_GREY * generator.standard_normal(image.shape)
    grey = grey * (1 + ILLUMINATION * slow) + texture + noise

    return np.clip(np.round(grey), 0, 255).astype(np.uint8)


def _cases(converter: CovidSemiSeg) -> list[SourceCase]:
    found = converter.find_cases()
    if found.problems:
        raise InputError(found.problems[0])

    cases = [case for case in found.cases if case.part != "Ts"]
    return sorted(cases, key=lambda case: natural_key(case.id))


def _evenly(cases: Sequence[SourceCase], most: int) -> list[SourceCase]:
    """Return cases from all over the list, so that every patient takes part."""
    places = np.linspace(0, len(cases) - 1, min(most, len(cases))).round().astype(int)
    return [cases[place] for place in places]


def _resized(converter: CovidSemiSeg, case: SourceCase) -> tuple[np.ndarray, np.ndarray | None]:
    """Return the image resized by the mean over areas, the label by the nearest pixel."""
    loaded = converter.read_case(case)
    size = (SIZE, SIZE)
    image = Image.fromarray(loaded.image[0])
    resized = np.asarray(image.resize(size, Image.Resampling.BOX))
    if loaded.label is None:
        return resized, None

    label = Image.fromarray(loaded.label.astype(np.uint8))

    return resized, np.asarray(label.resize(size, Image.Resampling.NEAREST))


def _write(
    dataset: Path, part: str, case: str, image: np.ndarray, label: np.ndarray | None
) -> None:
    folder = dataset / f"images{part}"
    folder.mkdir(parents=True, exist_ok=True)
    write_png(folder / f"{case}_0000.png", image)
    if label is not None:
        folder = dataset / f"labels{part}"
        folder.mkdir(exist_ok=True)
        write_png(folder / f"{case}.png", label)


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
