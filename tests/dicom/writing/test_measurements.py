"""Measurements against values that a reader can compute by hand."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nnunet_ext.dicom.reading.volume import read_slices, read_volume
from nnunet_ext.dicom.writing.measurements import (
    MOST_LESIONS,
    heights_mm,
    largest_diameter_mm,
    lesions_of,
    measure,
)
from nnunet_ext.dicom.writing.segments import Segment, segments_of
from nnunet_ext.dicom.writing.source import Source
from tests.dicom.writing.geometries import (
    COLUMNS,
    ROWS,
    SLICES,
    SPACING_MM,
    STEP_MM,
    acquisition_below,
    places_mm,
    write_geometry,
)

Segments = tuple[Segment, ...]
ROW_MM, COLUMN_MM = SPACING_MM


def empty() -> np.ndarray:
    return np.zeros((SLICES, ROWS, COLUMNS), np.uint8)


def test_two_boxes(regular: Source, segments: Segments) -> None:
    mask = empty()
    mask[2:5, 3:7, 2:12] = 2  # 3 slices of 4 x 10 pixels
    mask[6, 20, 15:18] = 2  # 3 pixels
    values = np.full(mask.shape, -900.0)
    values[2:5, 3:7, 2:12] = 40
    values[6, 20, 15:18] = (10, 20, 30)
    lung, whole, first, second = measure(mask, regular.acquisition, segments, values)
    voxel_ml = STEP_MM * ROW_MM * COLUMN_MM / 1000

    assert (lung.volume_ml, lung.mean, lung.diameter_mm, lung.slice_index) == (0, None, 0, None)
    assert whole.volume_ml == pytest.approx(123 * voxel_ml)
    assert whole.mean == pytest.approx((120 * 40 + 60) / 123)
    assert first.volume_ml == pytest.approx(120 * voxel_ml) and first.mean == pytest.approx(40)
    assert second.volume_ml == pytest.approx(3 * voxel_ml) and second.mean == pytest.approx(20)
    assert second.diameter_mm == pytest.approx(3 * COLUMN_MM) and second.slice_index == 6
    # between the middle of the first pixel's left side and that of the last pixel's right side
    assert first.diameter_mm == pytest.approx(np.hypot(10 * COLUMN_MM, 3 * ROW_MM))
    assert whole.diameter_mm == first.diameter_mm and first.slice_index in (2, 3, 4)
    assert [item.tracking_id for item in (lung, whole, first, second)] == [
        "lung",
        "lesion",
        "lesion 1",
        "lesion 2",
    ]
    assert len({item.tracking_uid for item in (lung, whole, first, second)}) == 4


def test_an_organ_has_no_lesions(regular: Source, mask: np.ndarray) -> None:
    measurements = measure(mask, regular.acquisition, segments_of({"lung": 1, "liver": 2}))
    assert [(item.segment.label, item.lesion, item.mean) for item in measurements] == [
        ("lung", 0, None),
        ("liver", 0, None),
    ]


@pytest.mark.parametrize(
    ("geometry", "slice_index", "height_mm"),
    [
        ("regular", 0, STEP_MM),
        ("tilted", 4, STEP_MM),
        ("feet first prone", 8, STEP_MM),
        ("gappy", 2, 1.5 * STEP_MM),  # beside a missing slice, of which it gets half
        ("gappy", 0, STEP_MM),
    ],
)
def test_a_slice_stands_for_half_the_way_to_its_neighbours(
    tmp_path: Path, geometry: str, slice_index: int, height_mm: float
) -> None:
    write_geometry(tmp_path, geometry)
    acquisition = acquisition_below(tmp_path)
    mask = empty()
    mask[slice_index, 5:9, 5:9] = 1
    (whole,) = measure(mask, acquisition, segments_of({"lung": 1}))
    assert whole.volume_ml == pytest.approx(16 * ROW_MM * COLUMN_MM * height_mm / 1000)


def test_heights_of_all_slices_add_up(source: Source) -> None:
    stack = source.acquisition.stack
    along_mm = stack.offsets_mm[:, 2]
    assert heights_mm(stack).sum() == pytest.approx(along_mm[-1] - along_mm[0] + stack.step_mm)


def test_lesions_of_a_tilted_stack_hang_together(tmp_path: Path) -> None:
    """A column along the gantry's axis is one lesion, though its pixels wander from slice to
    slice.
    """
    write_geometry(tmp_path, "tilted")
    acquisition = acquisition_below(tmp_path)
    mask = empty()
    rows = (
        np.round((places_mm("tilted")[0, 1] - places_mm("tilted")[:, 1]) / ROW_MM).astype(int) + 10
    )
    mask[np.arange(SLICES), rows, 4] = 1
    assert rows[0] - rows[-1] == round(0.3 * STEP_MM * (SLICES - 1) / ROW_MM)
    assert lesions_of(mask > 0, acquisition).max() == 1
    two = empty()
    two[0, 12, 4] = two[1, 16, 4] = 1
    assert lesions_of(two > 0, acquisition).max() == 2


def test_lesions_are_ordered_by_volume(source: Source) -> None:
    mask = np.random.default_rng(1).random((SLICES, ROWS, COLUMNS)) < 0.008
    lesions = lesions_of(mask, source.acquisition)
    assert np.array_equal(lesions > 0, mask)
    volumes = [
        heights_mm(source.acquisition.stack) @ (lesions == number).sum(axis=(1, 2))
        for number in range(1, int(lesions.max()) + 1)
    ]
    assert volumes == sorted(volumes, reverse=True)
    parts = measure(mask.astype(np.uint8), source.acquisition, segments_of({"lesion": 1}))
    assert len(parts) == 1 + len(volumes) <= 1 + MOST_LESIONS
    assert sum(item.volume_ml for item in parts[1:]) == pytest.approx(parts[0].volume_ml)


@settings(max_examples=60)
@given(st.integers(0, 2**32 - 1))
def test_diameter_is_that_of_all_pairs_of_points(seed: int) -> None:
    generator = np.random.default_rng(seed)
    pixels = generator.random((6, 7)) < generator.uniform(0.05, 0.6)
    points_mm = [
        (0.7 * (column + x), 1.3 * (row + y))
        for row, column in np.argwhere(pixels)
        for x, y in ((0.5, 0), (-0.5, 0), (0, 0.5), (0, -0.5))
    ]
    expected = max(
        (np.hypot(a[0] - b[0], a[1] - b[1]) for a in points_mm for b in points_mm), default=0
    )
    assert largest_diameter_mm(pixels, (0.7, 1.3)) == pytest.approx(expected)


def test_a_disc() -> None:
    y, x = np.ogrid[-20:21, -20:21]
    assert largest_diameter_mm(x**2 + y**2 <= 15.2**2, (1.0, 1.0)) == pytest.approx(31, abs=0.6)


def test_values_of_the_slices_are_not_resampled(source: Source) -> None:
    values, unit = read_slices(source.acquisition)
    assert unit == "HU" and values.shape == (SLICES, ROWS, COLUMNS)
    expected = np.arange(SLICES * ROWS * COLUMNS).reshape(SLICES, ROWS, COLUMNS) % 3000 - 1000
    slices = source.acquisition.slices
    if slices[0].orientation[4] > 0:
        assert np.array_equal(values, expected)
    assert read_volume(source.acquisition).unit == unit
