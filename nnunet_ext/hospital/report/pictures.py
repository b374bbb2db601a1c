"""Slices and their labels as small pictures that a browser turns back into values.

A CT slice of 16 bits is too large for a page of 300 slices. So values become codes of 8 bits on a
scale with fine steps where soft tissue lies and coarse ones elsewhere; a browser applies any window
to them. Pictures are stored without loss where the page stays small, otherwise with as little loss
as fits.
"""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

LARGEST_CODE = 255
HU_KNOTS = ((-1024.0, 0.0), (-150.0, 66.0), (0.0, 96.0), (100.0, 176.0), (250.0, 206.0))
BRIGHTEST_HU = 2000.0
USUAL_PERCENTILES = (0.1, 99.9)
LARGEST_TOTAL_BYTES = 26_000_000  # of all pictures, so that a page stays below 30 MB
SAMPLED_SLICES = 8
LARGEST_LABEL = (1 << 16) - 1


class Window(NamedTuple):
    """What is shown between black and white: ``centre`` minus and plus half the ``width``."""

    name: str
    centre: float
    width: float


class Encoding(NamedTuple):
    """How slices are stored: without loss (``quality`` 0) or as JPEG, every ``step``-th pixel."""

    quality: int
    step: int

    @property
    def media_type(self) -> str:
        """Return what the browser is told."""
        return "image/jpeg" if self.quality else "image/png"

    def describe(self) -> str:
        """Return what a reader should know about the pictures."""
        if not self.quality:
            return "without compression loss"
        size = "" if self.step == 1 else f", at 1/{self.step} of their resolution"
        return f"compressed (JPEG, quality {self.quality}){size}"


ENCODINGS = (
    Encoding(0, 1),
    Encoding(92, 1),
    Encoding(85, 1),
    Encoding(75, 1),
    Encoding(60, 1),
    Encoding(80, 2),
    Encoding(60, 2),
    Encoding(60, 4),
)
"""The best first."""

CT_WINDOWS = (
    Window("Lung", -600, 1500),
    Window("Soft tissue", 40, 400),
    Window("Bone", 400, 1800),
    Window("Brain", 40, 80),
    Window("Liver", 60, 160),
)


@dataclass(frozen=True)
class GreyScale:
    """How values become codes: linear between ``knots``, which are (value, code) in rising order.

    The first of ``windows`` is shown when the page opens.
    """

    knots: tuple[tuple[float, float], ...]
    windows: tuple[Window, ...]
    unit: str

    def codes(self, values: np.ndarray) -> np.ndarray:
        """Return the codes of values of any shape, uint8."""
        points, codes = zip(*self.knots, strict=True)
        return np.round(np.interp(values, points, codes)).astype(np.uint8)


@dataclass(frozen=True)
class Pictures:
    """Base64 texts of all slices, and of the labels of those slices that show any."""

    grey: tuple[str, ...]
    labels: dict[int, str]
    encoding: Encoding


def grey_scale(values: np.ndarray, unit: str) -> GreyScale:
    """Return the scale for the values of a scan.

    Args:
        values: (n, row, column).
        unit: ``HU``, or another of which nothing is known.
    """
    if unit == "HU":
        brightest = max(BRIGHTEST_HU, min(float(values.max()), 4 * BRIGHTEST_HU))
        return GreyScale((*HU_KNOTS, (brightest, float(LARGEST_CODE))), CT_WINDOWS, "HU")

    some_slices = values[:: max(1, len(values) // 20)]
    low, high = map(float, np.percentile(some_slices, USUAL_PERCENTILES))
    high = max(high, low + 1)
    width = high - low
    windows = (
        Window("Full range", (low + high) / 2, width),
        Window("Dark half", low + width / 4, width / 2),
        Window("Bright half", high - width / 4, width / 2),
    )
    return GreyScale(((low, 0.0), (high, float(LARGEST_CODE))), windows, "")


def pictures_of(
    values: np.ndarray,
    mask: np.ndarray,
    scale: GreyScale,
    largest_bytes: int = LARGEST_TOTAL_BYTES,
) -> Pictures:
    """Return slices and labels as pictures, which together stay below a size where possible.

    Args:
        values: (n, row, column) of the slices.
        mask: (n, row, column) label values, at most :data:`LARGEST_LABEL`.
        scale: from :func:`grey_scale`.
        largest_bytes: of all texts together.
    """
    labels = {}
    for index, layer in enumerate(mask):
        if layer.any():
            labels[index] = _text(_label_picture(layer))

    room = largest_bytes - sum(map(len, labels.values()))
    encoding = _fitting(values, scale, room)
    grey = tuple(_text(_grey_picture(scale.codes(layer), encoding)) for layer in values)
    return Pictures(grey, labels, encoding)


def _fitting(values: np.ndarray, scale: GreyScale, room: int) -> Encoding:
    """Return the best encoding with which some slices promise that all fit into the room."""
    sampled = values[:: max(1, len(values) // SAMPLED_SLICES)]
    codes = scale.codes(sampled)
    for encoding in ENCODINGS:
        sampled_bytes = sum(len(_text(_grey_picture(layer, encoding))) for layer in codes)
        if sampled_bytes * len(values) <= room * len(sampled):
            return encoding
    return ENCODINGS[-1]


def _grey_picture(codes: np.ndarray, encoding: Encoding) -> bytes:
    from PIL import Image

    picture = Image.fromarray(codes)
    if encoding.step > 1:
        picture = picture.reduce(encoding.step)

    stream = io.BytesIO()
    if encoding.quality:
        picture.save(stream, "JPEG", quality=encoding.quality)
    else:
        picture.save(stream, "PNG")
    return stream.getvalue()


def _label_picture(labels: np.ndarray) -> bytes:
    """Return labels as a picture without loss: red is the low byte, green the high one."""
    from PIL import Image

    colours = np.zeros((*labels.shape, 3), np.uint8)
    colours[..., 0] = labels & 0xFF
    colours[..., 1] = labels >> 8 if labels.dtype.itemsize > 1 else 0
    stream = io.BytesIO()
    Image.fromarray(colours).save(stream, "PNG")
    return stream.getvalue()


def _text(picture: bytes) -> str:
    return base64.b64encode(picture).decode("ascii")
