"""The segments of a DICOM Segmentation as masks on the slices of a series."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from nnunet_ext.dicom.labels.places import SEGMENTATIONS, read_object, slice_at
from nnunet_ext.dicom.reading.geometry import Stack, directions_of
from nnunet_ext.dicom.reading.series import Acquisition
from nnunet_ext.errors import InputError, first_line

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

DIRECTION_TOLERANCE = 1e-2  # of the components of unit vectors
SPACING_TOLERANCE = 1e-2  # of the distance between pixels
SHIFT_TOLERANCE = 0.2  # of a pixel: how far the pixels of frame and image may lie apart
PRESENT = 0.5  # of the largest value from which a fraction counts as inside


def masks_of_segmentation(file: Path, acquisition: Acquisition) -> dict[str, np.ndarray]:
    """Return the masks (n, row, column) of all segments, by their labels.

    Binary, fractional and label-map segmentations are read. Frames are placed by their own position
    and orientation; rows and columns may run the other way or be swapped, and a frame may show a
    part of the image or more. A fraction of at least a half counts as inside. Segments of one label
    are united.

    Raises:
        InputError: damaged, or frames that do not lie on the images.
    """
    data = read_object(file, SEGMENTATIONS)
    stack = acquisition.stack
    shape = (len(acquisition.slices), stack.rows, stack.columns)
    names = segment_names(data)
    masks = {name: np.zeros(shape, bool) for name in names.values()}

    for frame in _frames(file, data):
        if not frame.pixels.any():
            continue
        try:
            normal = stack.directions[2]
            along_mm = float(frame.position_mm @ normal)
            index = slice_at(along_mm, stack)
            if index is None:
                continue
            placed = _on_image(frame, stack, index)
        except InputError as error:
            raise InputError(f"{file}: a frame with a segment {error}") from error

        for number, inside in _segments_in(frame, placed, data, names):
            masks[_name(file, names, number)][index] |= inside

    return masks


def _segments_in(
    frame: _Frame, placed: np.ndarray, data: Dataset, names: dict[int, str]
) -> Iterator[tuple[int, np.ndarray]]:
    """Yield the number of each segment that a frame shows, and where it shows it.

    Args:
        frame: of the segmentation.
        placed: its values on the slice.
        data: the segmentation.
        names: of its segments.
    """
    if frame.number is not None:
        if str(data.get("SegmentationType")) == "FRACTIONAL":
            limit = PRESENT * int(data.get("MaximumFractionalValue") or 1)
            yield frame.number, placed >= limit
        else:
            yield frame.number, placed > 0
        return

    for value in np.unique(placed):  # a label map: the values are the segments
        if value and (value in names or not is_background(data, int(value))):
            yield int(value), placed == value


def segment_names(data: Dataset) -> dict[int, str]:
    """Return labels by segment number; the background of a label map is not a segment."""
    names = {}
    for segment in data.get("SegmentSequence") or ():
        number = int(segment.SegmentNumber)
        if is_background(data, number):
            continue
        label = str(segment.get("SegmentLabel") or "")
        names[number] = label.strip() or f"Segment {number}"
    return names


def is_background(data: Dataset, number: int) -> bool:
    """Return whether a value of a label map stands for the background."""
    kind = str(data.get("SegmentationType"))
    return number == 0 and kind == "LABELMAP"


def referenced_series(data: Dataset) -> set[str]:
    """Return the series that a segmentation says it was made from."""
    items = data.get("ReferencedSeriesSequence") or ()
    return {str(item.SeriesInstanceUID) for item in items}


def referenced_images(data: Dataset) -> set[str]:
    """Return the images that the segmentation, or one of its frames, names."""
    items = [*(data.get("SourceImageSequence") or ())]
    for series in data.get("ReferencedSeriesSequence") or ():
        items += series.get("ReferencedInstanceSequence") or ()
    for group in _groups(data):
        for derivation in group.get("DerivationImageSequence") or ():
            items += derivation.get("SourceImageSequence") or ()

    uids = set()
    for item in items:
        uid = item.get("ReferencedSOPInstanceUID")
        if uid:
            uids.add(str(uid))
    return uids


@dataclass(frozen=True)
class _Frame:
    """Pixels (row, column) and where they lie. ``number`` is the segment's, None in a label map."""

    pixels: np.ndarray
    number: int | None
    position_mm: np.ndarray
    directions: np.ndarray
    spacing_mm: tuple[float, float]  # between columns, rows


def _groups(data: Dataset) -> list[Any]:
    return [
        *(data.get("SharedFunctionalGroupsSequence") or ()),
        *(data.get("PerFrameFunctionalGroupsSequence") or ()),
    ]


def _frames(file: Path, data: Dataset) -> Iterator[_Frame]:
    """Yield all frames of a segmentation.

    Raises:
        InputError: the pixels or the place of a frame cannot be read.
    """
    groups = list(data.get("PerFrameFunctionalGroupsSequence") or ())
    shared_groups: list[Any] = list(data.get("SharedFunctionalGroupsSequence") or [])
    shared = shared_groups[0] if shared_groups else {}
    is_label_map = str(data.get("SegmentationType")) == "LABELMAP"
    try:
        pixels = np.asarray(data.pixel_array)
        pixels = pixels[None] if pixels.ndim == 2 else pixels
    except Exception as error:  # decoders raise a dozen kinds
        raise InputError(
            f"{file}: its pixels cannot be read ({first_line(error)}); copy it again"
        ) from error

    if len(groups) != len(pixels):
        raise InputError(
            f"{file}: has {len(pixels)} frames but describes {len(groups)}; copy it again"
        )
    for group, frame in zip(groups, pixels, strict=True):
        try:
            yield _frame(group, shared, frame, is_label_map)
        except (AttributeError, IndexError, TypeError, ValueError) as error:
            raise InputError(
                f"{file}: a frame has no place or no segment; export it again"
            ) from error


def _frame(group: Any, shared: Any, pixels: np.ndarray, label_map: bool) -> _Frame:
    def item(name: str) -> Any:
        items = group.get(name) or shared.get(name) or []
        return items[0]

    number = None
    if not label_map:
        segment = item("SegmentIdentificationSequence")
        number = int(segment.ReferencedSegmentNumber)

    measures = item("PixelMeasuresSequence")
    row_mm, column_mm = map(float, measures.PixelSpacing)
    orientation = item("PlaneOrientationSequence").ImageOrientationPatient
    cosines = [float(cosine) for cosine in orientation]
    position = item("PlanePositionSequence").ImagePositionPatient
    position_mm = np.array(position, float)
    if position_mm.shape != (3,):
        raise ValueError("a position without three coordinates")
    return _Frame(
        pixels,
        number,
        position_mm,
        directions=directions_of(cosines),
        spacing_mm=(column_mm, row_mm),
    )


def _name(file: Path, names: dict[int, str], number: int) -> str:
    if number not in names:
        raise InputError(
            f"{file}: shows segment {number}, which it does not describe; export it again"
        )
    return names[number]


def _on_image(frame: _Frame, stack: Stack, index: int) -> np.ndarray:
    """Return the frame's pixels at the pixels of a slice, zero where it shows none.

    Raises:
        InputError: the frame's pixels do not match those of the slice.
    """
    cosines = stack.directions @ frame.directions.T  # of image axes by frame axes
    turned = np.round(cosines)
    deviation = np.abs(cosines - turned).max()
    if deviation > DIRECTION_TOLERANCE or not turned[2, 2]:
        raise InputError("is inclined to the images; it was made on other images")

    pixels = frame.pixels
    spacing_mm = frame.spacing_mm
    if turned[0, 1]:  # rows are columns
        pixels = pixels.T
        spacing_mm = spacing_mm[::-1]
    if not np.allclose(spacing_mm, stack.spacing_mm, rtol=SPACING_TOLERANCE):
        raise InputError("has other pixels than the images; it was made on other images")

    corner_mm = frame.position_mm @ stack.directions.T
    offset_mm = corner_mm[:2] - stack.offsets_mm[index, :2]
    first = offset_mm / np.array(stack.spacing_mm)

    # of the image's columns and rows: 1, or -1 where the frame runs against them
    signs = turned[:2, :2].sum(axis=1)
    lengths = np.array(pixels.shape[::-1])
    last = first - (lengths - 1)
    first = np.where(signs > 0, first, last)
    begin = np.round(first).astype(int)
    shifts = np.abs(first - begin)
    if shifts.max() > SHIFT_TOLERANCE:
        raise InputError("lies between the pixels of the images; it was made on other images")

    column_sign, row_sign = map(int, signs)
    pixels = pixels[::row_sign, ::column_sign]
    return _window(pixels, begin, (stack.rows, stack.columns))


def _window(pixels: np.ndarray, begin: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Return the part of a picture of that shape; its pixels begin at ``begin`` (column, row)."""
    result = np.zeros(shape, pixels.dtype)
    rows, columns = shape
    height, width = pixels.shape
    x, y = map(int, begin)

    top = max(y, 0)
    bottom = min(y + height, rows)
    left = max(x, 0)
    right = min(x + width, columns)
    if top < bottom and left < right:
        part = pixels[top - y : bottom - y, left - x : right - x]
        result[top:bottom, left:right] = part
    return result
