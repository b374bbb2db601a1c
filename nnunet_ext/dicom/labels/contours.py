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
    """Masks (n, row, column) of all regions, by their names; regions without closed contours are
    left out.

    A pixel belongs to a region where an odd number of its contours enclose the pixel's centre, or
    one runs through it: holes may be contours of their own or joined to the outline. Regions of one
    name are united.

    Raises:
        InputError: damaged, contours that lie between the images or are inclined to them, or a
            contour that names another image than the one at its place.
    """
    data = read_object(file, STRUCTURE_SETS)
    names = {
        int(item.ROINumber): str(item.get("ROIName") or "").strip()
        for item in _items(data, "StructureSetROI")
    }
    stack = acquisition.stack
    index_of = {
        item.sop_uid: index for index, item in enumerate(acquisition.slices) if item.frame is None
    }
    shape = (len(acquisition.slices), stack.rows, stack.columns)
    masks: dict[str, np.ndarray] = {}

    for region in _items(data, "ROIContour"):
        number = int(region.ReferencedROINumber)
        name = names.get(number) or f"ROI {number}"
        inside: np.ndarray | None = None
        for contour in _items(region, "Contour"):
            if str(contour.get("ContourGeometricType")) not in CLOSED:
                continue
            if inside is None:
                inside = np.zeros(shape, bool)
            try:
                _draw(contour, stack, index_of, inside)
            except InputError as error:
                raise InputError(f"{file}: a contour of '{name}' {error}") from error

        if inside is not None:
            masks[name] = masks[name] | inside if name in masks else inside

    return masks


def region_names(data: Dataset) -> list[str]:
    """Names of the regions that have closed contours, in their order."""
    names = {
        int(item.ROINumber): str(item.get("ROIName") or "").strip()
        for item in _items(data, "StructureSetROI")
    }
    found = []
    for region in _items(data, "ROIContour"):
        kinds = {str(contour.get("ContourGeometricType")) for contour in _items(region, "Contour")}
        if kinds & set(CLOSED):
            number = int(region.ReferencedROINumber)
            found.append(names.get(number) or f"ROI {number}")

    return list(dict.fromkeys(found))


def referenced_series(data: Dataset) -> set[str]:
    """Series that a structure set says it was drawn on."""
    return {
        str(series.SeriesInstanceUID)
        for frame in _items(data, "ReferencedFrameOfReference")
        for study in _items(frame, "RTReferencedStudy")
        for series in _items(study, "RTReferencedSeries")
        if series.get("SeriesInstanceUID")
    }


def referenced_images(data: Dataset) -> set[str]:
    """Images that contours name."""
    return {
        str(image.ReferencedSOPInstanceUID)
        for region in _items(data, "ROIContour")
        for contour in _items(region, "Contour")
        for image in _items(contour, "ContourImage")
        if image.get("ReferencedSOPInstanceUID")
    }


def _items(data: Any, name: str) -> Iterator[Any]:
    yield from data.get(f"{name}Sequence") or ()


def _draw(contour: Any, stack: Stack, index_of: Mapping[str, int], inside: np.ndarray) -> None:
    """Invert what a contour encloses."""
    try:
        points_mm = np.array(contour.ContourData, float).reshape(-1, 3)
    except (TypeError, ValueError, AttributeError) as error:
        raise InputError("holds no list of points; export it again") from error

    if len(points_mm) < 3:
        return  # a mark, which encloses nothing
    if not np.isfinite(points_mm).all():
        raise InputError("holds points that are no numbers; export it again")
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
    points = (local_mm[:, :2] - stack.offsets_mm[index, :2]) / np.array(stack.spacing_mm)
    inside[index] ^= filled(points, (stack.rows, stack.columns))


def filled(points: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Pixels (row, column) whose centres a closed outline encloses or meets, by the even-odd rule.

    Args:
        points: (k, 2) columns and rows.
        shape: of the result.
    """
    from skimage.measure import grid_points_in_poly

    points = np.round(points * SUBPIXELS) / SUBPIXELS
    result = np.zeros(shape, bool)
    low = np.maximum(np.floor(points.min(axis=0)).astype(int), 0)
    high = np.minimum(np.ceil(points.max(axis=0)).astype(int), np.array(shape[::-1]) - 1)
    width, height = high - low + 1
    if width <= 0 or height <= 0:
        return result
    inside = grid_points_in_poly((height, width), (points - low)[:, ::-1])
    result[low[1] : high[1] + 1, low[0] : high[0] + 1] = inside
    return result
