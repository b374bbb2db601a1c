"""Colour pictures of the slices with the result on them, for viewers that show nothing else."""

from __future__ import annotations

import datetime
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from nnunet_ext.dicom.writing.measurements import Measurement
from nnunet_ext.dicom.writing.segments import Model, Segment, ascii_text
from nnunet_ext.dicom.writing.source import (
    Source,
    new_object,
    reference_to,
    require_mask,
    text_of,
    write_object,
)
from nnunet_ext.errors import InputError
from nnunet_ext.files.folders import make_folder

if TYPE_CHECKING:
    from PIL.Image import Image
    from pydicom.dataset import Dataset

SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"
NOTICE = "RESEARCH USE ONLY"
SMALLEST_SIDE_PX = 512  # pictures are enlarged until letters can be read
PANEL_PX = 300  # width of the text beside the picture
FONT_PX, LINE_PX = 15, 20
LINE_LETTERS = 34
FILL = 0.3  # share of a segment's colour inside its outline
USUAL_PERCENTILES = (2, 98)  # of the values, where no window is known
TEXT_RGB, NOTICE_RGB = (225, 225, 225), (255, 200, 0)

Lines = list[tuple[str, tuple[int, int, int]]]


def write_captures(  # noqa: PLR0913 - optional ones by keyword
    folder: Path,
    mask: np.ndarray,
    values: np.ndarray,
    source: Source,
    segments: Sequence[Segment],
    measurements: Sequence[Measurement],
    model: Model,
    *,
    series_number: int,
    window: tuple[float, float] | None = None,
    every_slice: bool = False,
) -> list[Path]:
    """Write a secondary-capture series: a page with the measurements, then slices with segments.

    Volumes, the notice :data:`NOTICE`, the model and the date are burnt into every picture; nothing
    of the patient is.

    Args:
        folder: made if absent; receives ``0001.dcm``, ``0002.dcm`` and so on.
        mask: (n, row, column) label values on the slices.
        values: (n, row, column) of the same slices.
        source: the images.
        segments: what the values of the mask mean.
        measurements: of the mask.
        model: what made the mask.
        series_number: of the new series.
        window: centre and width of the grey values; default: as the images say, else by their
            values.
        every_slice: also slices without a segment.

    Raises:
        InputError: mask or values do not fit the slices, or a file cannot be written.
    """
    require_mask(mask, source.acquisition, segments)
    if values.shape != mask.shape:
        raise InputError(f"the values have shape {values.shape}, the mask {mask.shape}")
    make_folder(folder, "choose another one")

    grey_range = _grey_range(values, source, window)
    size = size_of_pictures_px(source)
    series = _Series(source, model, series_number)
    middle = _fullest_slice(mask)
    picture = picture_with_segments(values[middle], mask[middle], segments, grey_range, size)
    heading = _heading(model)
    details = _details(measurements)
    overview = folder / "0001.dcm"
    series.write(overview, _with_panel(picture, [*heading, *details]), 1, middle)

    files = [overview]
    volumes = _volumes(segments, measurements)
    shown = [index for index in range(len(mask)) if every_slice or mask[index].any()]
    for number, index in enumerate(shown, start=2):
        picture = picture_with_segments(values[index], mask[index], segments, grey_range, size)
        place = f"Slice {index + 1} of {len(mask)}"
        lines = [*heading, *volumes, ("", TEXT_RGB), (place, TEXT_RGB)]
        file = folder / f"{number:04d}.dcm"
        series.write(file, _with_panel(picture, lines), number, index)
        files.append(file)
    return files


def _fullest_slice(mask: np.ndarray) -> int:
    """Return the index of the slice with most labelled pixels; the middle one without any."""
    if not mask.any():
        return len(mask) // 2
    labelled = (mask > 0).sum(axis=(1, 2))
    return int(np.argmax(labelled))


@dataclass
class _Series:
    """What all pictures of one series share."""

    source: Source
    model: Model
    series_number: int

    def __post_init__(self) -> None:
        from pydicom.uid import generate_uid

        self.uid = generate_uid()

    def write(self, file: Path, picture: Image, number: int, index: int) -> None:
        """Write one picture of the slice ``index``."""
        data = self._object(number, index)
        _set_pixels(data, np.asarray(picture))
        write_object(file, data, self.source)

    def _object(self, number: int, index: int) -> Dataset:
        """Return everything but the pixels (PS3.3 A.8.1)."""
        from pydicom.uid import RLELossless

        data = new_object(
            SECONDARY_CAPTURE, RLELossless, "OT", self.model, self.uid, self.series_number
        )
        data.ConversionType = "WSD"
        data.InstanceNumber = number
        data.SeriesDescription = "Automatic segmentation, research use only"
        data.ImageType = ["DERIVED", "SECONDARY", "OTHER"]
        data.BurnedInAnnotation = "YES"
        data.PatientOrientation = orientation_letters(self.source)
        data.Laterality = ""
        data.ContentDate = data.DateOfSecondaryCapture = data.InstanceCreationDate
        data.ContentTime = data.TimeOfSecondaryCapture = data.InstanceCreationTime
        data.SourceImageSequence = [reference_to(self.source, index)]
        return data


def orientation_letters(source: Source) -> list[str]:
    """Return where rows and columns of the pictures run to.

    As in DICOM's PatientOrientation, e.g. ``["L", "P"]``.
    """
    letters = []
    for direction in source.acquisition.stack.directions[:2]:
        axis = int(np.abs(direction).argmax())
        runs_forward = direction[axis] > 0
        names = "LPH" if runs_forward else "RAF"
        letters.append(names[axis])
    return letters


def _set_pixels(data: Dataset, pixels: np.ndarray) -> None:
    """Give a data set the pixels (row, column, 3) of a colour picture, compressed without loss."""
    from pydicom.encaps import encapsulate
    from pydicom.pixels import get_encoder

    data.Rows, data.Columns = pixels.shape[:2]
    data.SamplesPerPixel = 3
    data.PhotometricInterpretation = "RGB"
    data.PlanarConfiguration = 0
    data.BitsAllocated = data.BitsStored = 8
    data.HighBit = 7
    data.PixelRepresentation = 0
    encoder = get_encoder(data.file_meta.TransferSyntaxUID)
    frame = encoder.encode(
        np.ascontiguousarray(pixels),
        rows=data.Rows,
        columns=data.Columns,
        samples_per_pixel=3,
        photometric_interpretation="RGB",
        bits_allocated=8,
        bits_stored=8,
        pixel_representation=0,
        planar_configuration=0,
        number_of_frames=1,
    )
    data.add_new("PixelData", "OB", encapsulate([frame]))
    data["PixelData"].is_undefined_length = True


def _grey_range(
    values: np.ndarray, source: Source, window: tuple[float, float] | None
) -> tuple[float, float]:
    """Return the values shown as black and as white."""
    if window is None:
        window = _window_of(source)
    if window is not None and window[1] > 0:
        centre, width = window
        half = width / 2
        return centre - half, centre + half

    step = max(1, len(values) // 20)
    some_slices = values[::step]
    low, high = np.percentile(some_slices, USUAL_PERCENTILES)
    high = max(high, low + 1)
    return float(low), float(high)


def _window_of(source: Source) -> tuple[float, float] | None:
    """Return centre and width as the first image says."""
    numbers = []
    for name in ("WindowCenter", "WindowWidth"):
        text = text_of(source.first, name).strip("[]").partition(",")[0]
        try:
            numbers.append(float(text))
        except ValueError:
            return None
    return numbers[0], numbers[1]


def size_of_pictures_px(source: Source) -> tuple[int, int]:
    """Return width and height of the pictures: square pixels, and large enough for letters."""
    stack = source.acquisition.stack
    pixels = np.array([stack.columns, stack.rows])
    size_mm = pixels * np.array(stack.spacing_mm)
    square_px = size_mm / min(stack.spacing_mm)
    scale = max(1.0, SMALLEST_SIDE_PX / square_px.max())

    scaled_px = np.round(square_px * scale)
    width, height = np.maximum(scaled_px, 1)
    return int(width), int(height)


def picture_with_segments(
    values: np.ndarray,
    mask: np.ndarray,
    segments: Sequence[Segment],
    grey_range: tuple[float, float],
    size_px: tuple[int, int],
) -> np.ndarray:
    """Return a slice in grey with its segments in colour, (row, column, 3) uint8."""
    from PIL import Image
    from scipy import ndimage

    low, high = grey_range
    above_low = values.astype(np.float32) - low
    shares = np.clip(above_low / (high - low), 0, 1)
    grey_levels = np.round(255 * shares).astype(np.uint8)
    enlarged = Image.fromarray(grey_levels).resize(size_px, Image.Resampling.BILINEAR)
    grey = np.asarray(enlarged, np.float32)
    colours = np.stack([grey, grey, grey], axis=2)

    for segment in segments:
        inside = segment.of(mask)
        if not inside.any():
            continue
        shown = Image.fromarray(inside.astype(np.uint8))
        shown = shown.resize(size_px, Image.Resampling.NEAREST)
        area = np.asarray(shown) > 0
        outline = area & ~ndimage.binary_erosion(area)
        colour = np.array(segment.colour_rgb, np.float32)
        below = colours[area]
        colours[area] = (1 - FILL) * below + FILL * colour
        colours[outline] = colour

    return np.round(colours).astype(np.uint8)


def _heading(model: Model) -> Lines:
    """Return the first lines of every picture: notice, model, date."""
    today = datetime.datetime.now().date()
    name = ascii_text(f"{model.name} {model.version}", longest=4 * LINE_LETTERS)
    name_lines = textwrap.wrap(name, LINE_LETTERS)

    lines: Lines = [(NOTICE, NOTICE_RGB)]
    for text in ("Automatic segmentation", *name_lines, today.isoformat(), ""):
        lines.append((text, TEXT_RGB))
    return lines


def _volumes(segments: Sequence[Segment], measurements: Sequence[Measurement]) -> Lines:
    """Return the volume of every segment in its colour."""
    volumes_ml = {}
    for item in measurements:
        if item.lesion == 0:
            volumes_ml[item.segment.number] = item.volume_ml

    lines: Lines = []
    for segment in segments:
        volume = volume_text(volumes_ml.get(segment.number, 0.0))
        lines.append((f"{segment.label[:22]}: {volume}", segment.colour_rgb))
    return lines


def volume_text(volume_ml: float) -> str:
    """Return a volume with as many digits as a reader needs.

    >>> volume_text(0.0), volume_text(0.0317), volume_text(2.34), volume_text(1234.5)
    ('0 ml', '0.032 ml', '2.3 ml', '1234 ml')
    """
    if volume_ml == 0:
        return "0 ml"
    if volume_ml < 1:
        return f"{volume_ml:.2g} ml"
    if volume_ml < 100:
        return f"{volume_ml:.1f} ml"
    return f"{volume_ml:.0f} ml"


def _details(measurements: Sequence[Measurement]) -> Lines:
    """Return what is measured of every segment and lesion."""
    lines: Lines = []
    for item in measurements:
        volume = volume_text(item.volume_ml)
        lines.append((f"{item.tracking_id[:22]}: {volume}", item.segment.colour_rgb))
        if not item.volume_ml:
            continue
        text = f"   diameter {item.diameter_mm:.1f} mm"
        if item.mean is not None:
            text += f", mean {item.mean:.0f} HU"
        lines.append((text, TEXT_RGB))
    return lines


def _with_panel(picture: np.ndarray, lines: Lines) -> Image:
    """Return a picture with text at its right; the last line counts those that find no room."""
    from PIL import Image, ImageDraw, ImageFont

    height, width = picture.shape[:2]
    height = max(height, SMALLEST_SIDE_PX)
    canvas = Image.new("RGB", (width + PANEL_PX, height))
    canvas.paste(Image.fromarray(picture), (0, 0))

    room = (height - LINE_PX) // LINE_PX
    if len(lines) > room:
        shown = lines[: room - 1]
        left_out = len(lines) - len(shown)
        lines = [*shown, (f"and {left_out} more lines", TEXT_RGB)]

    font: Any = ImageFont.load_default(FONT_PX)
    draw = ImageDraw.Draw(canvas)
    margin = LINE_PX // 2
    x = width + margin
    for number, (text, colour) in enumerate(lines):
        y = margin + number * LINE_PX
        draw.text((x, y), text, fill=colour, font=font)
    return canvas
