"""The contours of an RT Structure Set as masks on the slices of a series."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from nnunet_ext.dicom.labels.places import STRUCTURE_SETS, read_object, slice_at, tolerance_mm
from nnunet_ext.dicom.reading.geometry import Stack
from nnunet_ext.dicom.reading.series import Acquisition
from nnunet_ext.errors import InputError

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

CLOSED = ("CLOSED_PLANAR", "CLOSEDPLANAR_XOR")
# contours are read to this part of a pixel, so that points meant for pixel centres are there
SUBPIXELS = 64


def masks_of_contours(file: Path, acquisition: Acquisition) -> dict[str, np.ndarray]:
    """Return the masks (n, row, column) of all regions with closed contours, by their names.

    A pixel belongs to a region where an odd number of its contours enclose the pixel's centre, or
    one runs through it: holes may be contours of their own or joined to the outline. Regions of one
    name are united.

    Raises:
        InputError: damaged, contours that lie between the images or are inclined to them, or a
            contour that names another image than the one at its place.
    """
    data = read_object(file, STRUCTURE_SETS)
    names = _names(data)
    index_of = {}
    for index, item in enumerate(acquisition.slices):
        if item.frame is None:
            index_of[item.sop_uid] = index

    shape = (len(acquisition.slices), *_size(acquisition.stack))
    masks: dict[str, np.ndarray] = {}
    for region in _items(data, "ROIContour"):
        name = _name_of(region, names)
        contours = _closed(region)
        if not contours:
            continue

        inside = np.zeros(shape, bool)
        for contour in contours:
            try:
                _draw(contour, acquisition.stack, index_of, inside)
            except InputError as error:
                raise InputError(f"{file}: a contour of '{name}' {error}") from error
        if name in masks:
            inside |= masks[name]
        masks[name] = inside

    return masks


def region_names(data: Dataset) -> list[str]:
    """Return the names of the regions that have closed contours, in their order."""
    names = _names(data)
    found: dict[str, None] = {}  # in their order
    for region in _items(data, "ROIContour"):
        if _closed(region):
            found[_name_of(region, names)] = None
    return list(found)


def _names(data: Dataset) -> dict[int, str]:
    """Return the names of the regions by their numbers."""
    names = {}
    for item in _items(data, "StructureSetROI"):
        name = str(item.get("ROIName") or "")
        names[int(item.ROINumber)] = name.strip()
    return names


def _name_of(region: Any, names: Mapping[int, str]) -> str:
    number = int(region.ReferencedROINumber)
    return names.get(number) or f"ROI {number}"


def _closed(region: Any) -> list[Any]:
    """Return the contours of a region that enclose something."""
    closed = []
    for contour in _items(region, "Contour"):
        if str(contour.get("ContourGeometricType")) in CLOSED:
            closed.append(contour)
    return closed


def referenced_series(data: Dataset) -> set[str]:
    """Return the series that a structure set says it was drawn on."""
    found = set()
    for frame in _items(data, "ReferencedFrameOfReference"):
        for study in _items(frame, "RTReferencedStudy"):
            for series in _items(study, "RTReferencedSeries"):
                if series.get("SeriesInstanceUID"):
                    found.add(str(series.SeriesInstanceUID))
    return found


def referenced_images(data: Dataset) -> set[str]:
    """Return the images that contours name."""
    found = set()
    for region in _items(data, "ROIContour"):
        for contour in _items(region, "Contour"):
            for image in _items(contour, "ContourImage"):
                if image.get("ReferencedSOPInstanceUID"):
                    found.add(str(image.ReferencedSOPInstanceUID))
    return found


def _items(data: Any, name: str) -> Iterator[Any]:
    yield from data.get(f"{name}Sequence") or ()


def _size(stack: Stack) -> tuple[int, int]:
    return stack.rows, stack.columns


def _draw(contour: Any, stack: Stack, index_of: Mapping[str, int], inside: np.ndarray) -> None:
    """Invert what a contour encloses."""
    points_mm = _points_mm(contour)
    if len(points_mm) < 3:
        return  # a mark, which encloses nothing
    if not np.isfinite(points_mm).all():
        raise InputError("holds points that are not numbers; export it again")

    local_mm = points_mm @ stack.directions.T
    along_mm = local_mm[:, 2]
    if along_mm.max() - along_mm.min() > 2 * tolerance_mm(stack):
        raise InputError("is inclined to the images; it was drawn on other images")

    index = slice_at(float(along_mm.mean()), stack)
    for image in _items(contour, "ContourImage"):
        named = index_of.get(str(image.get("ReferencedSOPInstanceUID")))
        if named is not None and named != index:
            raise InputError(
                "names another image than the one at its place; one of the two is wrong"
            )

    if index is None:
        return
    in_plane_mm = local_mm[:, :2] - stack.offsets_mm[index, :2]
    points = in_plane_mm / np.array(stack.spacing_mm)
    inside[index] ^= filled(points, _size(stack))


def _points_mm(contour: Any) -> np.ndarray:
    """Return the points (k, 3) of a contour in patient coordinates."""
    try:
        return np.array(contour.ContourData, float).reshape(-1, 3)
    except (TypeError, ValueError, AttributeError) as error:
        raise InputError("holds no list of points; export it again") from error


def filled(points: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Return the pixels (row, column) whose centres a closed outline encloses or meets.

    The even-odd rule decides.

    Args:
        points: (k, 2) columns and rows.
        shape: of the result.
    """
    from skimage.measure import grid_points_in_poly

    points = np.round(points * SUBPIXELS) / SUBPIXELS
    result = np.zeros(shape, bool)
    lowest = np.floor(points.min(axis=0)).astype(int)
    highest = np.ceil(points.max(axis=0)).astype(int)
    last = np.array(shape[::-1]) - 1
    low = np.maximum(lowest, 0)
    high = np.minimum(highest, last)

    width, height = high - low + 1
    if width <= 0 or height <= 0:
        return result

    first_column, first_row = low
    last_column, last_row = high
    rows_and_columns = (points - low)[:, ::-1]
    inside = grid_points_in_poly((height, width), rows_and_columns)
    result[first_row : last_row + 1, first_column : last_column + 1] = inside
    return result
