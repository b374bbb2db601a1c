"""Measure the segments of a mask on the original slices, and their lesions.

Volume, mean and largest diameter are measured.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from nnunet_ext.boxes import bounding_box
from nnunet_ext.dicom.reading.geometry import Stack, grid_of, slice_places
from nnunet_ext.dicom.reading.series import Acquisition
from nnunet_ext.dicom.writing.segments import Segment
from nnunet_ext.dicom.writing.source import require_mask

MM3_PER_ML = 1000.0
MOST_LESIONS = 50  # of a segment that are measured on their own; a scattered mask has thousands
# of a pixel: the middles of its sides
EDGES = np.array([(0.0, 0.5), (0.0, -0.5), (0.5, 0.0), (-0.5, 0.0)])


@dataclass(frozen=True)
class Measurement:
    """What is measured of a segment or of one of its lesions.

    ``lesion`` is 0 for the segment, and counts its lesions from 1, the largest first. ``mean`` is
    in the unit of the values that were given, None without values or without voxels.
    ``diameter_mm`` is the largest distance within one slice between two points of the outline of
    one connected component, found on slice ``slice_index``; the outline runs through the middles of
    pixel sides, so that a row of k pixels of s mm measures k * s mm.
    """

    segment: Segment
    lesion: int
    volume_ml: float
    mean: float | None
    diameter_mm: float
    slice_index: int | None
    tracking_id: str
    tracking_uid: str


def measure(
    mask: np.ndarray,
    acquisition: Acquisition,
    segments: Sequence[Segment],
    values: np.ndarray | None = None,
) -> list[Measurement]:
    """Measure every segment, and the lesions of those that have them.

    A slice stands for half the way to each of its neighbours, so that gaps and uneven distances
    count as they lie.

    Args:
        mask: (n, row, column) label values on the slices.
        acquisition: the slices.
        segments: what the values mean.
        values: (n, row, column) of the same slices, in Hounsfield units; only then a mean is given.

    Returns:
        For each segment itself, then its largest lesions (at most :data:`MOST_LESIONS`).

    Raises:
        InputError: the mask does not fit the slices or the segments.
    """
    require_mask(mask, acquisition, segments)
    result = []
    for segment in segments:
        components = lesions_of(segment.of(mask), acquisition)
        parts = list(_parts(components, acquisition.stack, values))
        result.append(_whole(segment, parts))
        if segment.lesions:
            for number, part in enumerate(parts[:MOST_LESIONS], start=1):
                result.append(_measurement(segment, number, part))
    return result


def lesions_of(mask: np.ndarray, acquisition: Acquisition) -> np.ndarray:
    """Return the connected components of a boolean mask (n, row, column), numbered from 1.

    The largest volume comes first. Voxels are connected by faces, edges and corners (26
    neighbours). Slices that are shifted in their plane, as by a tilted gantry, are moved by whole
    pixels to where they lie before neighbours are sought.
    """
    import cc3d

    result = np.zeros(mask.shape, np.uint32)
    if not mask.any():
        return result

    stack = acquisition.stack
    box = bounding_box(mask)
    slices = box[0]
    inside = mask[box]
    shifts = _shifts_px(stack)[slices]
    layers, rows, columns = inside.shape
    width, height = shifts.max(axis=0)
    aligned = np.zeros((layers, rows + height, columns + width), np.uint8)
    for layer, (x, y), pixels in zip(aligned, shifts, inside, strict=True):
        layer[y : y + rows, x : x + columns] = pixels

    components = cc3d.connected_components(aligned, connectivity=26)
    numbers = _numbers_by_volume(components, heights_mm(stack)[slices])
    for layer, (x, y), pixels in zip(components, shifts, result[box], strict=True):
        moved_back = layer[y : y + rows, x : x + columns]
        pixels[:] = numbers[moved_back]
    return result


def _numbers_by_volume(components: np.ndarray, layer_heights_mm: np.ndarray) -> np.ndarray:
    """Return the new number of each component (0 stays), the largest volume first."""
    volumes = np.zeros(int(components.max()) + 1)
    for layer, height_mm in zip(components, layer_heights_mm, strict=True):
        voxels = np.bincount(layer.ravel(), minlength=len(volumes))
        volumes += height_mm * voxels

    without_background = volumes[1:]
    order = 1 + np.argsort(-without_background, kind="stable")
    numbers = np.zeros(len(volumes), np.uint32)
    numbers[order] = np.arange(1, len(volumes))
    return numbers


def voxel_volumes_mm3(stack: Stack) -> np.ndarray:
    """Return for each slice the volume that one of its pixels stands for."""
    column_mm, row_mm = stack.spacing_mm
    volumes_mm3: np.ndarray = heights_mm(stack) * column_mm * row_mm
    return volumes_mm3


def heights_mm(stack: Stack) -> np.ndarray:
    """Return how much of the normal each slice stands for, (n,).

    It is half the way to each neighbour, and half a step at the ends.
    """
    along_mm = stack.offsets_mm[:, 2]
    if len(along_mm) == 1:
        return np.array([stack.step_mm])

    half_steps_mm = np.diff(along_mm) / 2
    end_mm = [stack.step_mm / 2]
    before_mm = np.concatenate([end_mm, half_steps_mm])
    after_mm = np.concatenate([half_steps_mm, end_mm])
    return before_mm + after_mm


def largest_diameter_mm(pixels: np.ndarray, spacing_mm: tuple[float, float]) -> float:
    """Return the largest distance between two outline points of a picture (row, column).

    It is 0 for an empty picture. The outline runs through the middles of pixel sides.

    Args:
        pixels: boolean.
        spacing_mm: between columns, then rows.

    >>> float(largest_diameter_mm(np.ones((1, 4), bool), (0.5, 2.0)))
    2.5
    """
    from scipy.spatial import ConvexHull
    from scipy.spatial.distance import pdist

    rows = np.flatnonzero(pixels.any(axis=1))
    if not len(rows):
        return 0.0

    lines = pixels[rows]
    first = lines.argmax(axis=1)
    from_right = lines[:, ::-1].argmax(axis=1)
    last = lines.shape[1] - 1 - from_right
    left = np.stack([first, rows], axis=1)
    right = np.stack([last, rows], axis=1)
    centres = np.concatenate([left, right])

    points = (centres[:, None] + EDGES).reshape(-1, 2)
    points_mm = points * spacing_mm
    hull = ConvexHull(points_mm)
    distances_mm = pdist(points_mm[hull.vertices])
    return float(distances_mm.max())


@dataclass(frozen=True)
class _Part:
    """A connected component; ``weighted`` is the sum of its values times volume."""

    volume_mm3: float
    weighted: float | None
    diameter_mm: float
    slice_index: int | None


def _parts(components: np.ndarray, stack: Stack, values: np.ndarray | None) -> Iterator[_Part]:
    """Yield each component in the order of its number.

    The diameter is sought of those that are reported, and of others only where their box could hold
    a larger one.
    """
    from scipy import ndimage

    volumes_mm3, sums = _totals(components, stack, values)
    boxes = ndimage.find_objects(components.astype(np.int32))
    widest_mm = 0.0
    for number, box in enumerate(boxes, start=1):
        diameter_mm, slice_index = 0.0, box[0].start
        if number <= MOST_LESIONS or _diagonal_mm(box, stack) > widest_mm:
            inside = components[box] == number
            diameter_mm, layer = _widest_layer(inside, stack)
            slice_index += layer
            widest_mm = max(widest_mm, diameter_mm)

        volume_mm3 = float(volumes_mm3[number])
        weighted = None if values is None else float(sums[number])
        yield _Part(volume_mm3, weighted, diameter_mm, slice_index)


def _widest_layer(inside: np.ndarray, stack: Stack) -> tuple[float, int]:
    """Return the largest diameter of a component within one layer, and the layer's index."""
    diameters_mm = []
    for pixels in inside:
        diameters_mm.append(largest_diameter_mm(pixels, stack.spacing_mm))
    widest = int(np.argmax(diameters_mm))
    return diameters_mm[widest], widest


def _totals(
    components: np.ndarray, stack: Stack, values: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray]:
    """Return volume in mm3, and sum of values times volume, of each component by its number."""
    count = int(components.max()) + 1
    volumes_mm3 = np.zeros(count)
    sums = np.zeros(count)
    voxels_mm3 = voxel_volumes_mm3(stack)
    for index, layer in enumerate(components):
        voxel_mm3 = voxels_mm3[index]
        numbers = layer.ravel()
        voxels = np.bincount(numbers, minlength=count)
        volumes_mm3 += voxel_mm3 * voxels
        if values is not None:
            weights = values[index].ravel()
            of_values = np.bincount(numbers, weights=weights, minlength=count)
            sums += voxel_mm3 * of_values
    return volumes_mm3, sums


def _diagonal_mm(box: tuple[slice, ...], stack: Stack) -> float:
    """Return the diagonal of a box (slice, row, column) within its slices."""
    _, rows, columns = box
    column_mm, row_mm = stack.spacing_mm
    width_mm = (columns.stop - columns.start) * column_mm
    height_mm = (rows.stop - rows.start) * row_mm
    return float(np.hypot(width_mm, height_mm))


def _whole(segment: Segment, parts: Sequence[_Part]) -> Measurement:
    """Return the measurement of a segment, of which the parts are the components."""
    volume_mm3 = sum(part.volume_mm3 for part in parts)
    sums = [part.weighted for part in parts if part.weighted is not None]
    weighted = sum(sums) if sums else None

    widest = _Part(0.0, None, 0.0, None)
    if parts:
        widest = max(parts, key=lambda part: part.diameter_mm)
    whole = _Part(volume_mm3, weighted, widest.diameter_mm, widest.slice_index)
    return _measurement(segment, 0, whole)


def _measurement(segment: Segment, lesion: int, part: _Part) -> Measurement:
    from pydicom.uid import generate_uid

    mean = None
    if part.weighted is not None and part.volume_mm3:
        mean = part.weighted / part.volume_mm3

    return Measurement(
        segment=segment,
        lesion=lesion,
        volume_ml=part.volume_mm3 / MM3_PER_ML,
        mean=mean,
        diameter_mm=part.diameter_mm,
        slice_index=part.slice_index,
        tracking_id=f"{segment.label} {lesion}" if lesion else segment.label,
        tracking_uid=str(generate_uid()),
    )


def _shifts_px(stack: Stack) -> np.ndarray:
    """Return how far each slice lies from the corner of all, (n, 2) whole columns and rows."""
    if not stack.shifted:
        return np.zeros((len(stack.offsets_mm), 2), int)

    grid = grid_of(stack)
    places = slice_places(stack, grid)
    return np.round(places[:, :2]).astype(int)
