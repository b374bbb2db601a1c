"""Labels read from DICOM objects, ours and those that other programs would write."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pydicom
import pytest

from nnunet_ext.dicom.labels.contours import masks_of_contours
from nnunet_ext.dicom.labels.segmentations import (
    masks_of_segmentation,
    referenced_images,
    referenced_series,
)
from nnunet_ext.dicom.writing.contours import write_contours
from nnunet_ext.dicom.writing.segmentation import SegmentationKind, write_segmentation
from nnunet_ext.dicom.writing.segments import Segment
from nnunet_ext.dicom.writing.source import Source
from nnunet_ext.errors import InputError
from tests.dicom.writing.geometries import MODEL, SPACING_MM

Segments = tuple[Segment, ...]
ROW_MM, COLUMN_MM = SPACING_MM


@pytest.mark.parametrize("kind", get_args(SegmentationKind))
def test_segmentations_give_the_mask_back(
    tmp_path: Path, source: Source, mask: np.ndarray, segments: Segments, kind: SegmentationKind
) -> None:
    file = tmp_path / "seg.dcm"
    write_segmentation(file, mask, source, segments, MODEL, series_number=1001, kind=kind)
    masks = masks_of_segmentation(file, source.acquisition)
    assert masks.keys() == {"lung", "lesion"}
    for segment in segments:
        assert np.array_equal(masks[segment.label], segment.of(mask))
    data = pydicom.dcmread(file)
    assert referenced_series(data) == {source.first.SeriesInstanceUID}
    assert referenced_images(data) == {header.SOPInstanceUID for header in source.headers}


def edited_segmentation(
    folder: Path, source: Source, mask: np.ndarray, segments: Segments, edit: Callable[[Any], None]
) -> Path:
    file = folder / "edited.dcm"
    write_segmentation(file, mask, source, segments, MODEL, series_number=1, kind="fractional")
    data = pydicom.dcmread(file)
    data.decompress()
    edit(data)
    data.save_as(file)
    return file


def repixelled(data: Any, change: Callable[[np.ndarray], np.ndarray]) -> None:
    pixels = change(data.pixel_array)
    data.Rows, data.Columns = pixels.shape[1:]
    data.PixelData = np.ascontiguousarray(pixels).tobytes()


def shifted(data: Any, offset_mm: tuple[float, float, float]) -> None:
    for group in data.PerFrameFunctionalGroupsSequence:
        position = group.PlanePositionSequence[0]
        position.ImagePositionPatient = [
            float(value) + step
            for value, step in zip(position.ImagePositionPatient, offset_mm, strict=True)
        ]


def mirrored(data: Any) -> None:
    """Rows from the back to the front, as programs write that know NIfTI's axes only."""
    rows = data.Rows
    repixelled(data, lambda pixels: pixels[:, ::-1])
    shared = data.SharedFunctionalGroupsSequence[0]
    shared.PlaneOrientationSequence[0].ImageOrientationPatient = [1, 0, 0, 0, -1, 0]
    shifted(data, (0, (rows - 1) * ROW_MM, 0))


def swapped(data: Any) -> None:
    """Columns in place of rows."""
    repixelled(data, lambda pixels: pixels.transpose(0, 2, 1))
    shared = data.SharedFunctionalGroupsSequence[0]
    shared.PlaneOrientationSequence[0].ImageOrientationPatient = [0, 1, 0, 1, 0, 0]
    shared.PixelMeasuresSequence[0].PixelSpacing = [COLUMN_MM, ROW_MM]


def cropped(data: Any) -> None:
    repixelled(data, lambda pixels: pixels[:, 3:, 2:])
    shifted(data, (2 * COLUMN_MM, 3 * ROW_MM, 0))


def larger(data: Any) -> None:
    repixelled(data, lambda pixels: np.pad(pixels, ((0, 0), (4, 0), (5, 1))))
    shifted(data, (-5 * COLUMN_MM, -4 * ROW_MM, 0))


@pytest.mark.parametrize("edit", [mirrored, swapped, cropped, larger])
def test_frames_of_other_programs_are_placed(
    tmp_path: Path,
    regular: Source,
    mask: np.ndarray,
    segments: Segments,
    edit: Callable[[Any], None],
) -> None:
    mask[:, :3] = mask[:, :, :2] = 0  # what cropping leaves out
    file = edited_segmentation(tmp_path, regular, mask, segments, edit)
    masks = masks_of_segmentation(file, regular.acquisition)
    for segment in segments:
        assert np.array_equal(masks[segment.label], segment.of(mask))


def inclined(data: Any) -> None:
    shared = data.SharedFunctionalGroupsSequence[0]
    shared.PlaneOrientationSequence[0].ImageOrientationPatient = [1, 0, 0, 0, 0, -1]


def finer(data: Any) -> None:
    data.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0].PixelSpacing = [0.4, 0.3]


def undescribed(data: Any) -> None:
    del data.SegmentSequence[-1]


def placeless(data: Any) -> None:
    del data.PerFrameFunctionalGroupsSequence[2].PlanePositionSequence


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda data: shifted(data, (0, 0, 1.25)), "lies 1.25 mm off the nearest image"),
        (lambda data: shifted(data, (0.3, 0, 0)), "lies between the pixels"),
        (inclined, "is inclined to the images"),
        (finer, "has other pixels than the images"),
        (undescribed, "shows segment 2, which it does not describe"),
        (placeless, "has no place or no segment"),
        (
            lambda data: data.PerFrameFunctionalGroupsSequence.pop(),
            "has 18 frames but describes 17",
        ),
    ],
)
def test_segmentations_of_other_images_are_refused(
    tmp_path: Path,
    regular: Source,
    mask: np.ndarray,
    segments: Segments,
    edit: Callable[[Any], None],
    message: str,
) -> None:
    file = edited_segmentation(tmp_path, regular, mask, segments, edit)
    with pytest.raises(InputError, match=message) as caught:
        masks_of_segmentation(file, regular.acquisition)
    assert str(file) in str(caught.value)


def test_half_counts_as_inside(
    tmp_path: Path, regular: Source, mask: np.ndarray, segments: Segments
) -> None:
    def edit(data: Any) -> None:
        repixelled(data, lambda pixels: np.where(pixels > 0, 128, 127).astype(np.uint8))

    file = edited_segmentation(tmp_path, regular, mask, segments, edit)
    masks = masks_of_segmentation(file, regular.acquisition)
    assert np.array_equal(masks["lung"], mask == 1)


def contour_file(
    folder: Path, source: Source, segments: Segments, edit: Callable[[Any], None]
) -> Path:
    mask = np.zeros((9, 24, 20), np.uint8)
    mask[4, 10:13, 5:11] = 2
    file = folder / "rt.dcm"
    write_contours(file, mask, source, segments, MODEL, series_number=1)
    data = pydicom.dcmread(file)
    edit(data.ROIContourSequence[1].ContourSequence[0])
    data.save_as(file)
    return file


def moved(contour: Any, offset_mm: tuple[float, float, float]) -> None:
    points_mm = np.array(contour.ContourData, float).reshape(-1, 3) + offset_mm
    contour.ContourData = [f"{value:.3f}" for value in points_mm.ravel()]


def open_ended(contour: Any) -> None:
    contour.ContourGeometricType = "OPEN_PLANAR"


def twisted(contour: Any) -> None:
    points_mm = np.array(contour.ContourData, float).reshape(-1, 3)
    points_mm[0, 2] += 2
    contour.ContourData = [f"{value:.3f}" for value in points_mm.ravel()]


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (
            lambda contour: moved(contour, (0, 0, 1)),
            "a contour of 'lesion' lies 1.00 mm off the nearest image",
        ),
        (
            lambda contour: moved(contour, (0, 0, 2.5)),
            "names another image than the one at its place",
        ),
        (twisted, "is inclined to the images"),
        (lambda contour: setattr(contour, "ContourData", ["1", "2"]), "holds no list of points"),
    ],
)
def test_contours_of_other_images_are_refused(
    tmp_path: Path, regular: Source, segments: Segments, edit: Callable[[Any], None], message: str
) -> None:
    file = contour_file(tmp_path, regular, segments, edit)
    with pytest.raises(InputError, match=message) as caught:
        masks_of_contours(file, regular.acquisition)
    assert str(file) in str(caught.value)


def test_open_contours_enclose_nothing(tmp_path: Path, regular: Source, segments: Segments) -> None:
    file = contour_file(tmp_path, regular, segments, open_ended)
    assert masks_of_contours(file, regular.acquisition) == {}


def test_contours_through_pixel_centres_hold_them(
    tmp_path: Path, regular: Source, segments: Segments
) -> None:
    """As programs write that take an outline from OpenCV."""

    def edit(contour: Any) -> None:
        _, _, z = np.array(contour.ContourData, float).reshape(-1, 3)[0]
        corners = [(5, 10), (10, 10), (10, 12), (5, 12)]
        points_mm = [
            (-10.25 + COLUMN_MM * column, -20.5 + ROW_MM * row, z) for column, row in corners
        ]
        contour.ContourData = [f"{value:.2f}" for point in points_mm for value in point]
        contour.NumberOfContourPoints = 4

    file = contour_file(tmp_path, regular, segments, edit)
    expected = np.zeros((9, 24, 20), bool)
    expected[4, 10:13, 5:11] = True
    assert np.array_equal(masks_of_contours(file, regular.acquisition)["lesion"], expected)


def test_damaged_files_are_refused(tmp_path: Path, regular: Source) -> None:
    file = tmp_path / "seg.dcm"
    file.write_bytes(b"\0" * 128 + b"DICM\x02\x00")
    for read in (masks_of_segmentation, masks_of_contours):
        with pytest.raises(InputError, match=r"seg\.dcm"):
            read(file, regular.acquisition)
