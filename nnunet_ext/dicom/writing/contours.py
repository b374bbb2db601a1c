"""A mask on the original slices as an RT Structure Set, for programs that plan radiotherapy.

Written with pydicom alone: the libraries for it (rt_utils 1.2.7) place all slices by one affine,
which is wrong for a tilted or uneven series.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from nnunet_ext.dicom.reading.geometry import Stack
from nnunet_ext.dicom.writing.segments import Model, Segment, ascii_text
from nnunet_ext.dicom.writing.source import (
    Source,
    new_object,
    reference_to,
    require_mask,
    text_of,
    write_object,
)

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

STRUCTURE_SET = "1.2.840.10008.5.1.4.1.1.481.3"
STUDY_MANAGEMENT = "1.2.840.10008.3.1.2.3.1"  # the class by which structure sets refer to a study
LONGEST_NAME = 64
DECIMALS = 3  # of a coordinate in mm: a text of at most 16 characters


def write_contours(
    file: Path,
    mask: np.ndarray,
    source: Source,
    segments: Sequence[Segment],
    model: Model,
    *,
    series_number: int,
) -> Dataset:
    """Write the outlines of a mask as RTSTRUCT: one ROI per segment.

    Every slice that shows a segment has closed contours of it. A contour runs halfway between the
    last pixel inside and the first outside, so that pixels whose centre it encloses are the mask
    again. A hole is joined to the contour around it by a line that runs there and back (a keyhole).

    Args:
        file: to write.
        mask: (n, row, column) label values on ``source.acquisition.slices``.
        source: the images.
        segments: what the values mean.
        model: what made the mask.
        series_number: of the new series.

    Returns:
        The data set as written.

    Raises:
        InputError: the mask does not fit the slices or the segments, or the file cannot be written.

    Reference: DICOM PS3.3 A.19 and C.8.8.
    """
    from pydicom.uid import ExplicitVRLittleEndian, generate_uid

    require_mask(mask, source.acquisition, segments)
    series_uid = generate_uid()
    data = new_object(
        STRUCTURE_SET,
        ExplicitVRLittleEndian,
        "RTSTRUCT",
        model,
        series_uid,
        series_number,
    )
    data.InstanceNumber = 1
    data.SeriesDescription = "Automatic contours, research use only"
    data.OperatorsName = ""
    data.StructureSetLabel = "AUTOMATIC"
    data.StructureSetDate = data.InstanceCreationDate
    data.StructureSetTime = data.InstanceCreationTime
    data.ApprovalStatus = "UNAPPROVED"
    data.FrameOfReferenceUID = source.frame_of_reference_uid
    data.PositionReferenceIndicator = ""
    data.ReferencedFrameOfReferenceSequence = [_frame_of_reference(source)]
    data.StructureSetROISequence = [_region(segment, source) for segment in segments]
    data.ROIContourSequence = [_contours(segment, mask, source) for segment in segments]
    data.RTROIObservationsSequence = [_observation(segment) for segment in segments]
    write_object(file, data, source)
    return data


def outlines(pixels: np.ndarray) -> list[np.ndarray]:
    """Return the closed outlines of a boolean picture (row, column).

    Each is (k, 2), columns and rows without a repeated end. Holes are joined to the outline around
    them. The even-odd rule gives the picture back at the pixels' centres.
    """
    from skimage.measure import find_contours

    rows = np.flatnonzero(pixels.any(axis=1))
    columns = np.flatnonzero(pixels.any(axis=0))
    if not len(rows):
        return []

    first_row, last_row = rows[0], rows[-1]
    first_column, last_column = columns[0], columns[-1]
    cropped = pixels[first_row : last_row + 1, first_column : last_column + 1]
    padded = np.pad(cropped.astype(np.float32), 1)
    corner = np.array([first_column, first_row]) - 1

    outer: list[np.ndarray] = []
    holes: list[np.ndarray] = []
    for contour in find_contours(padded, 0.5):
        without_repeated_end = contour[:-1]
        in_cropped = without_repeated_end[:, ::-1]  # columns and rows
        points = _without_straight_points(in_cropped + corner)
        if _signed_area(points) > 0:
            outer.append(points)
        else:
            holes.append(points)
    return _joined(outer, holes)


def _joined(outer: list[np.ndarray], holes: list[np.ndarray]) -> list[np.ndarray]:
    """Return outlines with each hole joined to the smallest outline that holds it."""
    from skimage.measure import points_in_poly

    ordered = sorted(outer, key=_signed_area)
    joined = list(ordered)
    for hole in holes:
        around = 0
        while not points_in_poly(hole[:1], ordered[around])[0]:
            around += 1
        joined[around] = _with_keyhole(joined[around], hole)
    return joined


def _with_keyhole(points: np.ndarray, hole: np.ndarray) -> np.ndarray:
    """Return one outline that runs around, over to the hole, around it, and back on that line."""
    differences = points[:, None] - hole[None]
    distances = np.linalg.norm(differences, axis=2)
    nearest = int(distances.argmin())
    here, there = np.unravel_index(nearest, distances.shape)

    turned = np.roll(hole, -there, axis=0)
    there_again = turned[:1]
    before = points[: here + 1]
    after = points[here:]
    return np.concatenate([before, turned, there_again, after])


def _signed_area(points: np.ndarray) -> float:
    x, y = points.T
    next_x = np.roll(x, -1)
    next_y = np.roll(y, -1)
    doubled = x @ next_y - y @ next_x
    return float(doubled) / 2


def _without_straight_points(points: np.ndarray) -> np.ndarray:
    """Return the points at which an outline turns."""
    previous = np.roll(points, 1, axis=0)
    following = np.roll(points, -1, axis=0)
    before_x, before_y = (points - previous).T
    after_x, after_y = (following - points).T

    cross_products = before_x * after_y - before_y * after_x
    turns = np.abs(cross_products) > 1e-9
    return points[turns]


def _in_patient_mm(points: np.ndarray, stack: Stack, index: int) -> np.ndarray:
    """Return columns and rows (k, 2) of a slice as patient coordinates (k, 3)."""
    column_mm, row_mm, slice_mm = stack.offsets_mm[index]
    spacing_mm = np.array(stack.spacing_mm)
    in_plane_mm = points * spacing_mm + np.array([column_mm, row_mm])
    along_mm = np.full((len(points), 1), slice_mm)
    local_mm = np.concatenate([in_plane_mm, along_mm], axis=1)
    return np.asarray(local_mm @ stack.directions)


def _frame_of_reference(source: Source) -> Dataset:
    """Return the images to which the contours belong."""
    from pydicom.dataset import Dataset

    series = Dataset()
    series.SeriesInstanceUID = text_of(source.first, "SeriesInstanceUID")
    references = [reference_to(source, index) for index in range(len(source.acquisition.slices))]
    series.ContourImageSequence = references
    study = Dataset()
    study.ReferencedSOPClassUID = STUDY_MANAGEMENT
    study.ReferencedSOPInstanceUID = text_of(source.first, "StudyInstanceUID")
    study.RTReferencedSeriesSequence = [series]
    result = Dataset()
    result.FrameOfReferenceUID = source.frame_of_reference_uid
    result.RTReferencedStudySequence = [study]
    return result


def _region(segment: Segment, source: Source) -> Dataset:
    from pydicom.dataset import Dataset

    result = Dataset()
    result.ROINumber = segment.number
    result.ReferencedFrameOfReferenceUID = source.frame_of_reference_uid
    result.ROIName = ascii_text(segment.label, longest=LONGEST_NAME)
    result.ROIGenerationAlgorithm = "AUTOMATIC"
    return result


def _contours(segment: Segment, mask: np.ndarray, source: Source) -> Dataset:
    from pydicom.dataset import Dataset

    result = Dataset()
    result.ROIDisplayColor = list(segment.colour_rgb)
    result.ReferencedROINumber = segment.number

    contours = []
    for index, layer in enumerate(mask):
        for points in outlines(segment.of(layer)):
            contour = Dataset()
            contour.ContourImageSequence = [reference_to(source, index)]
            contour.ContourGeometricType = "CLOSED_PLANAR"
            contour.NumberOfContourPoints = len(points)
            points_mm = _in_patient_mm(points, source.acquisition.stack, index)
            contour.add(_contour_data(points_mm))
            contours.append(contour)

    if contours:
        result.ContourSequence = contours
    return result


def _contour_data(points_mm: np.ndarray) -> Any:
    """Return points (k, 3) as ContourData, in one text.

    Given numbers, pydicom would look at each of a million.
    """
    from pydicom.dataelem import DataElement

    numbers = points_mm.ravel().tolist()
    text = "\\".join(f"{value:.{DECIMALS}f}" for value in numbers)
    return DataElement("ContourData", "DS", text, already_converted=True)


def _observation(segment: Segment) -> Dataset:
    from pydicom.dataset import Dataset

    result = Dataset()
    result.ObservationNumber = segment.number
    result.ReferencedROINumber = segment.number
    result.RTROIInterpretedType = ""
    result.ROIInterpreter = ""
    return result
