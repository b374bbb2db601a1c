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
    data = new_object(
        STRUCTURE_SET, ExplicitVRLittleEndian, "RTSTRUCT", model, generate_uid(), series_number
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

    cropped = pixels[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    padded = np.pad(cropped.astype(np.float32), 1)
    corner = np.array([columns[0], rows[0]]) - 1

    outer: list[np.ndarray] = []
    holes: list[np.ndarray] = []
    for contour in find_contours(padded, 0.5):
        points = _without_straight_points(contour[:-1, ::-1] + corner)
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
    distances = np.linalg.norm(points[:, None] - hole[None], axis=2)
    here, there = np.unravel_index(int(distances.argmin()), distances.shape)
    turned = np.roll(hole, -there, axis=0)
    return np.concatenate([points[: here + 1], turned, turned[:1], points[here:]])


def _signed_area(points: np.ndarray) -> float:
    x, y = points.T
    return float(x @ np.roll(y, -1) - y @ np.roll(x, -1)) / 2


def _without_straight_points(points: np.ndarray) -> np.ndarray:
    """Return the points at which an outline turns."""
    before = points - np.roll(points, 1, axis=0)
    after = np.roll(points, -1, axis=0) - points
    cross_products = before[:, 0] * after[:, 1] - before[:, 1] * after[:, 0]
    return points[np.abs(cross_products) > 1e-9]


def _in_patient_mm(points: np.ndarray, stack: Stack, index: int) -> np.ndarray:
    """Return columns and rows (k, 2) of a slice as patient coordinates (k, 3)."""
    in_plane_mm = points * np.array(stack.spacing_mm) + stack.offsets_mm[index, :2]
    along_mm = np.full((len(points), 1), stack.offsets_mm[index, 2])
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

    text = "\\".join(f"{value:.{DECIMALS}f}" for value in points_mm.ravel().tolist())
    return DataElement("ContourData", "DS", text, already_converted=True)


def _observation(segment: Segment) -> Dataset:
    from pydicom.dataset import Dataset

    result = Dataset()
    result.ObservationNumber = segment.number
    result.ReferencedROINumber = segment.number
    result.RTROIInterpretedType = ""
    result.ROIInterpreter = ""
    return result
