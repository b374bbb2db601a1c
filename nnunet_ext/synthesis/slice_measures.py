"""Read the slices of raw data sets, and measure what the matching compares.

The matching compares fingerprints and lesion sizes.
"""

from __future__ import annotations

import functools
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy import ndimage

from nnunet_ext.errors import InputError, first_line
from nnunet_ext.stock.files import read_dataset_json
from nnunet_ext.stock.readers import reader_class
from nnunet_ext.synthesis.fingerprints import fingerprint
from nnunet_ext.synthesis.label_values import lesion_mask
from nnunet_ext.synthesis.matching import Slices, pixels_at_scale
from nnunet_ext.training.streams.raw_cases import RawCase, labelled_cases, raw_cases
from nnunet_ext.worker_processes import in_worker_processes

BRAIN_WINDOW_HU = (0.0, 80.0)
HAEMORRHAGE_HU = (50.0, 100.0)  # fresh blood; white and grey matter lie at 20 to 40 HU
SAMPLED_SLICES = 200  # at most so many for a percentile
NARROWEST_LESION = 1 / 80  # of the image: 3 mm where it shows 240 mm
SHOWN_ERRORS = 3


@dataclass(frozen=True)
class SliceFiles:
    """A raw data set of single slices.

    ``is_hu`` says whether its channel is called CT, nnU-Net's name for Hounsfield units; ``labels``
    are those of its dataset.json.
    """

    dataset: str
    cases: tuple[RawCase, ...]
    reader: type
    is_hu: bool
    labels: Mapping[str, Any]

    def read(self, case: RawCase) -> np.ndarray:
        """Return the image ``(height, width)``.

        Raises:
            InputError: unreadable, a volume, or not finite.
        """
        file = case.images[0]
        reader = self.reader()
        read = functools.partial(reader.read_images, case.images)
        values, _ = _guarded(file, read)
        return _single_slice(values, file)

    def read_lesion(self, case: RawCase) -> np.ndarray:
        """Return where any lesion is labelled, bool ``(height, width)``; ignored pixels are none.

        Raises:
            InputError: unreadable, or a volume.
        """
        file = case.label
        assert file is not None
        reader = self.reader()
        read = functools.partial(reader.read_seg, file)
        values, _ = _guarded(file, read)
        label = _single_slice(values, file)
        return lesion_mask(label, self.labels)


@dataclass(frozen=True)
class LesionBand:
    """A rough segmentation of lesions without labels: values from ``low`` to ``high``.

    Noise and the thin remainder of the skull also have the values of blood, and together they are
    larger than most haemorrhages. The image is therefore smoothed, and anything narrower than 1/80
    of it does not count. The paper (section 3.1) takes the pixels as they are.
    """

    low: float
    high: float

    def __call__(self, image: np.ndarray) -> np.ndarray:
        """Return where the values of an image ``(height, width)`` lie in the band."""
        shortest_edge = min(image.shape)
        width = round(shortest_edge * NARROWEST_LESION)
        if width <= 1:
            return self._contains(image)

        values = np.asarray(image, np.float32)
        smooth = ndimage.gaussian_filter(values, width / 3)
        in_band = self._contains(smooth)
        square = np.ones((width, width), bool)
        return ndimage.binary_opening(in_band, square)

    def _contains(self, values: np.ndarray) -> np.ndarray:
        return (values >= self.low) & (values <= self.high)


@dataclass(frozen=True)
class Measuring:
    """How a slice is measured. Without a ``band`` its label says what is lesion."""

    files: SliceFiles
    window: tuple[float, float] | None
    band: LesionBand | None


def slices_with_labels(dataset: str, raw: Path) -> SliceFiles:
    """Return the labelled slices of a raw data set, its imagesTr.

    Raises:
        InputError: not such a data set.
    """
    folder = raw / dataset
    dataset_json = _dataset_json(folder)
    cases = labelled_cases(folder, dataset_json)
    return _slice_files(dataset, dataset_json, cases)


def slices_without_labels(dataset: str, raw: Path) -> SliceFiles:
    """Return the slices in imagesUn, or else those in imagesTr; their labels are not read.

    Raises:
        InputError: not such a data set.
    """
    folder = raw / dataset
    dataset_json = _dataset_json(folder)
    cases = raw_cases("target_domain", folder, dataset_json)
    return _slice_files(dataset, dataset_json, cases)


def _dataset_json(folder: Path) -> dict[str, Any]:
    """Return the description of a data set with one channel."""
    file = folder / "dataset.json"
    if not file.is_file():
        raise InputError(f"{folder}: has no dataset.json; convert the data set first")

    dataset_json = read_dataset_json(file, "convert the data set again")
    channels = list(dataset_json["channel_names"].values())
    if len(channels) != 1:
        names = ", ".join(channels)
        raise InputError(
            f"{folder}: has {len(channels)} channels ({names}); slices are matched by one"
        )
    return dataset_json


def _slice_files(
    dataset: str, dataset_json: dict[str, Any], cases: Sequence[RawCase]
) -> SliceFiles:
    first_image = cases[0].images[0]
    [channel] = dataset_json["channel_names"].values()
    return SliceFiles(
        dataset=dataset,
        cases=tuple(cases),
        reader=reader_class(dataset_json, first_image),
        is_hu=channel.casefold() == "ct",
        labels=dataset_json["labels"],
    )


def _guarded(path: str, read: Callable[[], Any]) -> Any:
    """Call one of nnU-Net's readers, which raise exceptions of many kinds."""
    try:
        return read()
    except Exception as error:
        raise InputError(
            f"{path}: cannot be read ({first_line(error)}); convert the data set again"
        ) from error


def _single_slice(values: np.ndarray, path: str) -> np.ndarray:
    """Return ``(height, width)`` of nnU-Net's ``(channel, slice, height, width)``."""
    slices = values.shape[1]
    if slices != 1:
        raise InputError(
            f"{path}: has {slices} slices; convert the data set with --slices all or lesion"
        )
    if not np.isfinite(values).all():
        raise InputError(f"{path}: contains values that are not finite; repair the file")
    return np.asarray(values[0, 0])


def parse_target_lesion(text: str, target: SliceFiles) -> LesionBand:
    """Return the band that ``LOW:HIGH`` or ``P%`` means in a data set.

    ``P%`` is everything above that percentile of the pixels above background, measured on up to 200
    slices.

    Raises:
        InputError: something else.
    """
    if text.endswith("%"):
        percentile = _number(text[:-1], text)
        if not 0 < percentile < 100:
            raise InputError(f"--target-lesion {text}: a percentile lies between 0 and 100")
        lowest = _percentile(target, percentile)
        return LesionBand(lowest, math.inf)

    low_text, separator, high_text = text.partition(":")
    low = _number(low_text, text)
    high = _number(high_text, text)
    if not separator or not low < high:
        raise InputError(
            f"--target-lesion {text}: write LOW:HIGH with the lower value first, e.g. 50:100, or P%"
        )
    return LesionBand(low, high)


def _number(word: str, option: str) -> float:
    try:
        return float(word)
    except ValueError:
        raise InputError(
            f"--target-lesion {option}: write LOW:HIGH, e.g. 50:100, or P%, e.g. 98%"
        ) from None


def _percentile(files: SliceFiles, percentile: float) -> float:
    """Return a percentile of the pixels above background in a sample of slices."""
    step = math.ceil(len(files.cases) / SAMPLED_SLICES)
    sample = files.cases[::step]

    tissue = []
    for case in sample:
        image = files.read(case)
        background = image.min()
        tissue.append(image[image > background])

    values = np.concatenate(tissue)
    if not len(values):
        raise InputError(f"{files.dataset}: all its images are empty")
    limit = np.percentile(values, percentile)
    return float(limit)


def above_background(image: np.ndarray, window: tuple[float, float] | None) -> np.ndarray:
    """Return an image with background 0: the window scaled to [0, 1], or minus the lowest value."""
    if window is None:
        return image - image.min()

    low, high = window
    width = high - low
    scaled = (image - low) / width
    return np.clip(scaled, 0, 1)


def measure_slices(measuring: Measuring, processes: int) -> Slices:
    """Read and measure all slices in worker processes, with a progress bar.

    Raises:
        InputError: slices that cannot be read; the message names the first of them.
    """
    from tqdm import tqdm

    cases = measuring.files.cases
    dataset = measuring.files.dataset
    is_quiet = not sys.stderr.isatty()
    work = functools.partial(_attempt, measuring)
    outcomes = in_worker_processes(work, cases, processes)

    progress = tqdm(
        outcomes,
        total=len(cases),
        desc=dataset,
        unit="slice",
        disable=is_quiet,
    )

    measured: dict[str, tuple[int, float]] = {}
    errors: list[str] = []
    for case, outcome in progress:
        if isinstance(outcome, str):
            errors.append(outcome)
        else:
            measured[case.name] = outcome
    _require_no_errors(errors, len(cases))

    names = tuple(case.name for case in cases)
    in_order = [measured[name] for name in names]
    fingerprints, lesion_pixels = zip(*in_order, strict=True)
    return Slices(
        names=names,
        fingerprints=np.array(fingerprints, np.uint64),
        lesion_pixels=np.array(lesion_pixels),
    )


def _require_no_errors(errors: Sequence[str], cases: int) -> None:
    if not errors:
        return
    in_order = sorted(errors)
    shown = "; ".join(in_order[:SHOWN_ERRORS])
    raise InputError(f"{len(errors)} of {cases} slices cannot be used: {shown}")


def _attempt(measuring: Measuring, case: RawCase) -> tuple[int, float] | str:
    """Return fingerprint and lesion size of a slice, or what is wrong with it."""
    try:
        image = measuring.files.read(case)
        if measuring.band is None:
            lesion = measuring.files.read_lesion(case)
        else:
            lesion = measuring.band(image)
    except InputError as error:
        return str(error)

    if lesion.shape != image.shape:
        return (
            f"{case.label}: shape {lesion.shape}, its image has {image.shape}; convert the data "
            "set again"
        )
    shown = above_background(image, measuring.window)
    own_fingerprint = int(fingerprint(shown))
    lesion_pixels = int(lesion.sum())
    return own_fingerprint, pixels_at_scale(lesion_pixels, *image.shape)
