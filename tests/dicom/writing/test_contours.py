"""RTSTRUCT: contours on their slices, and the mask again where they are filled."""

from pathlib import Path

import numpy as np
import pydicom
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nnunet_ext.dicom.labels.contours import filled, masks_of_contours
from nnunet_ext.dicom.writing.contours import outlines, write_contours
from nnunet_ext.dicom.writing.segments import Segment
from nnunet_ext.dicom.writing.source import Source
from tests.dicom.writing.geometries import MODEL
from tests.dicom.writing.validators import dciodvfy_errors

Segments = tuple[Segment, ...]


@settings(max_examples=80)
@given(st.integers(0, 2**32 - 1))
def test_outlines_enclose_the_pixels(seed: int) -> None:
    """Of any mask, with holes, islands in holes, pixels that touch at corners, and pixels at the
    border.
    """
    generator = np.random.default_rng(seed)
    pixels = generator.random((9, 11)) < generator.uniform(0.1, 0.95)
    result = np.zeros(pixels.shape, bool)
    for points in outlines(pixels):
        result ^= filled(points, pixels.shape)
    assert np.array_equal(result, pixels)


def test_a_hole_is_part_of_the_outline() -> None:
    pixels = np.ones((7, 7), bool)
    pixels[2:5, 2:5] = False
    pixels[3, 3] = True
    ring, island = sorted(outlines(pixels), key=len, reverse=True)
    assert len(island) == 4 and island.mean(axis=0).tolist() == [3, 3]
    assert np.array_equal(
        filled(ring, pixels.shape), pixels & (np.indices(pixels.shape) != 3).any(axis=0)
    )
    x, y = ring.T
    area = abs(x @ np.roll(y, -1) - y @ np.roll(x, -1)) / 2
    # 7 x 7 without the corners of 1/8 each, less 3 x 3 without corners
    assert area == pytest.approx((49 - 4 / 8) - (9 - 4 / 8))


def test_a_box_in_patient_coordinates(tmp_path: Path, regular: Source, segments: Segments) -> None:
    mask = np.zeros((9, 24, 20), np.uint8)
    mask[4, 10:13, 5:11] = 2
    write_contours(tmp_path / "rt.dcm", mask, regular, segments, MODEL, series_number=1004)
    lung, lesion = pydicom.dcmread(tmp_path / "rt.dcm").ROIContourSequence
    assert "ContourSequence" not in lung
    (contour,) = lesion.ContourSequence
    points_mm = np.array(contour.ContourData, float).reshape(-1, 3)
    assert set(points_mm[:, 2]) == {5 + 4 * 2.5}
    assert points_mm[:, 0].min() == pytest.approx(-10.25 + 0.6 * 4.5)
    assert points_mm[:, 0].max() == pytest.approx(-10.25 + 0.6 * 10.5)
    assert points_mm[:, 1].min() == pytest.approx(-20.5 + 0.8 * 9.5)
    assert points_mm[:, 1].max() == pytest.approx(-20.5 + 0.8 * 12.5)
    assert (
        contour.ContourImageSequence[0].ReferencedSOPInstanceUID
        == regular.acquisition.slices[4].sop_uid
    )


def test_contours_give_the_mask_back(
    tmp_path: Path, source: Source, mask: np.ndarray, segments: Segments
) -> None:
    """Voxel for voxel, scattered voxels too."""
    file = tmp_path / "rt.dcm"
    write_contours(file, mask, source, segments, MODEL, series_number=1004)
    masks = masks_of_contours(file, source.acquisition)
    assert masks.keys() == {"lung", "lesion"}
    for segment in segments:
        assert np.array_equal(masks[segment.label], segment.of(mask))


def test_a_structure_set_of_the_study(
    tmp_path: Path, source: Source, mask: np.ndarray, segments: Segments
) -> None:
    file = tmp_path / "rt.dcm"
    write_contours(file, mask, source, segments, MODEL, series_number=1004)
    data = pydicom.dcmread(file)
    assert (data.Modality, data.SeriesNumber) == ("RTSTRUCT", 1004)
    assert (data.PatientID, data.StudyInstanceUID) == ("PHANTOM-1", source.first.StudyInstanceUID)
    frame = data.ReferencedFrameOfReferenceSequence[0]
    assert frame.FrameOfReferenceUID == source.first.FrameOfReferenceUID == data.FrameOfReferenceUID
    series = frame.RTReferencedStudySequence[0].RTReferencedSeriesSequence[0]
    assert series.SeriesInstanceUID == source.first.SeriesInstanceUID
    assert len(series.ContourImageSequence) == len(source.acquisition.slices)
    regions = [
        (item.ROINumber, item.ROIName, item.ROIGenerationAlgorithm)
        for item in data.StructureSetROISequence
    ]
    assert regions == [(1, "lung", "AUTOMATIC"), (2, "lesion", "AUTOMATIC")]
    assert [list(item.ROIDisplayColor) for item in data.ROIContourSequence] == [
        list(segment.colour_rgb) for segment in segments
    ]


def test_dciodvfy_finds_no_error(
    tmp_path: Path, source: Source, mask: np.ndarray, segments: Segments
) -> None:
    file = tmp_path / "rt.dcm"
    write_contours(file, mask, source, segments, MODEL, series_number=1004)
    assert dciodvfy_errors(file) == []
