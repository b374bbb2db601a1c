"""Random stacks, written as files and read back: every voxel lies where the slices' own headers
say.
"""

import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dataset_conversion.phantoms.dicom_series import write_series
from nnunet_ext.dicom.reading.folder_scan import scan
from nnunet_ext.dicom.reading.geometry import Stack, directions_of, grid_of, slice_places, stack_of
from nnunet_ext.dicom.reading.series import Acquisition, Rules, acquisitions_of
from nnunet_ext.dicom.reading.volume import grid_on_slices, read_volume, slices_on_grid
from nnunet_ext.errors import InputError

ROWS, COLUMNS = 7, 9


@dataclass(frozen=True)
class Drawn:
    """A stack as drawn: what a scanner would write, and its slices' true places."""

    positions_mm: np.ndarray  # (n, 3), foot to head
    orientation: tuple[float, ...]
    spacing_mm: tuple[float, float]  # rows, columns
    order: tuple[int, ...]
    kind: str
    tilted: bool
    step_mm: float

    def pixel_mm(self, index: int) -> np.ndarray:
        """Patient coordinates (row, column, 3) of a slice's pixels, by DICOM's own formula (PS3.3
        C.7.6.2.1.1).
        """
        along_row, along_column = np.array(self.orientation[:3]), np.array(self.orientation[3:])
        rows, columns = np.meshgrid(np.arange(ROWS), np.arange(COLUMNS), indexing="ij")
        return (
            self.positions_mm[index]
            + columns[..., None] * self.spacing_mm[1] * along_row
            + rows[..., None] * self.spacing_mm[0] * along_column
        )


@st.composite
def stacks(draw: st.DrawFn, kinds: tuple[str, ...] = ("regular", "missing", "uneven")) -> Drawn:
    generator = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    rotation = np.linalg.qr(generator.normal(size=(3, 3)))[0]
    along_row, along_column = rotation[0], rotation[1]
    normal = np.cross(along_row, along_column)
    kind, tilted = draw(st.sampled_from(kinds)), draw(st.booleans())
    step_mm = draw(st.sampled_from([0.5, 1.25, 3.0, 5.0]))
    count = draw(st.integers(5, 9))
    along_mm = step_mm * np.arange(count)
    if kind == "missing":
        along_mm = np.delete(along_mm, draw(st.integers(1, count - 2)))
    if kind == "uneven":
        along_mm = np.cumsum(step_mm * np.array([1, 1.4, 0.7, 1.3, 0.6, 1.7, 1.2, 1, 1][:count]))
    drift = generator.uniform(0.1, 0.4, 2) * generator.choice([-1, 1], 2) if tilted else np.zeros(2)
    start_mm = generator.uniform(-200, 200, 3)
    positions_mm = start_mm + along_mm[:, None] * (
        normal + drift[0] * along_row + drift[1] * along_column
    )
    spacing_mm = (draw(st.sampled_from([0.5, 0.7, 2.0])), draw(st.sampled_from([0.5, 0.9, 1.5])))
    shifts = np.abs(np.outer(along_mm, drift)).max(axis=0) / np.array(spacing_mm[::-1])
    order = tuple(int(index) for index in generator.permutation(len(along_mm)))
    orientation = tuple(np.round(np.concatenate([along_row, along_column]), 8).tolist())
    return Drawn(
        positions_mm, orientation, spacing_mm, order, kind, bool(shifts.max() > 0.15), step_mm
    )


def written(drawn: Drawn, folder: Path, hu: np.ndarray) -> Acquisition:
    write_series(
        folder,
        hu,
        drawn.positions_mm,
        orientation=drawn.orientation,
        spacing_mm=drawn.spacing_mm,
        order=drawn.order,
    )
    (acquisition,), rejected = acquisitions_of(scan(folder).slices)
    assert rejected == []
    return acquisition


def linear_field(points_mm: np.ndarray, drawn: Drawn) -> np.ndarray:
    """A linear function of the place, which linear interpolation reproduces; about 100 HU per 10
    mm.
    """
    return (points_mm - drawn.positions_mm.mean(axis=0)) @ np.array([9.0, -7.0, 11.0])


@settings(max_examples=40)
@given(drawn=stacks())
def test_voxels_lie_where_the_headers_say(drawn: Drawn) -> None:
    exact = [linear_field(drawn.pixel_mm(index), drawn) for index in range(len(drawn.positions_mm))]
    with tempfile.TemporaryDirectory() as folder:
        acquisition = written(drawn, Path(folder), np.round(exact).astype(int))
        volume = read_volume(acquisition)
    stack = acquisition.stack
    assert stack.kind == drawn.kind
    assert stack.shifted == drawn.tilted
    assert stack.step_mm == pytest.approx(
        drawn.step_mm, rel=0.4 if drawn.kind == "uneven" else 1e-5
    )
    axes = volume.grid.affine_lps_mm[:3, :3]
    assert np.allclose(axes.T @ axes, np.diag(np.diag(axes.T @ axes)), atol=1e-9)  # right-angled
    assert np.allclose(
        np.diag([-1, -1, 1, 1]) @ volume.grid.affine_lps_mm, volume.grid.affine_ras_mm
    )

    index = np.stack(np.meshgrid(*map(np.arange, volume.voxels.shape), indexing="ij"), axis=-1)
    points_mm = index @ axes.T + volume.grid.affine_lps_mm[:3, 3]
    inside = covered(drawn, points_mm)
    assert inside.sum() > 20
    error = np.abs(volume.voxels - linear_field(points_mm, drawn))[inside]
    assert (
        error.max() <= 1.01 + 0.02 * np.abs(axes).sum() * 11
    )  # rounding of pixels and of the result; grid tolerance


def covered(drawn: Drawn, points_mm: np.ndarray) -> np.ndarray:
    """Which points (..., 3) lie between two slices, inside both: slow and independent of the
    reader.
    """
    along_row, along_column = np.array(drawn.orientation[:3]), np.array(drawn.orientation[3:])
    normal = np.cross(along_row, along_column)
    heights_mm = drawn.positions_mm @ normal
    result = np.zeros(points_mm.shape[:-1], bool)
    for place in np.ndindex(result.shape):
        height_mm = points_mm[place] @ normal
        if not heights_mm[0] - 1e-3 <= height_mm <= heights_mm[-1] + 1e-3:
            continue
        near = {int(np.abs(heights_mm - height_mm).argmin())}
        if min(abs(heights_mm - height_mm)) > 1e-3:
            above = int(np.searchsorted(heights_mm, height_mm))
            near = {above - 1, above}
        inside = True
        for index in near:
            column = (
                (points_mm[place] - drawn.positions_mm[index]) @ along_row / drawn.spacing_mm[1]
            )
            row = (
                (points_mm[place] - drawn.positions_mm[index]) @ along_column / drawn.spacing_mm[0]
            )
            inside &= -1e-4 <= column <= COLUMNS - 1 + 1e-4 and -1e-4 <= row <= ROWS - 1 + 1e-4
        result[place] = inside
    return result


@settings(max_examples=30)
@given(drawn=stacks(kinds=("regular",)))
def test_regular_slices_are_kept_bit_by_bit(drawn: Drawn) -> None:
    count = len(drawn.positions_mm)
    hu = np.random.default_rng(0).integers(-1000, 1000, (count, ROWS, COLUMNS))
    with tempfile.TemporaryDirectory() as folder:
        acquisition = written(drawn, Path(folder), hu)
        volume = read_volume(acquisition)
    positions_mm = np.array([item.position_mm for item in acquisition.slices])
    assert np.allclose(positions_mm, drawn.positions_mm)
    if drawn.tilted:
        return
    assert np.array_equal(volume.voxels, hu.transpose(2, 1, 0))
    for index in range(count):
        corner = volume.grid.affine_lps_mm @ (COLUMNS - 1, ROWS - 1, index, 1)
        # Half the tolerances of the classification, at most.
        assert np.abs(corner[:3] - drawn.pixel_mm(index)[-1, -1]).max() <= 0.1 * max(
            drawn.spacing_mm
        )


@settings(max_examples=40)
@given(drawn=stacks(), seed=st.integers(0, 1000))
def test_masks_come_back_to_the_slices(drawn: Drawn, seed: int) -> None:
    count = len(drawn.positions_mm)
    with tempfile.TemporaryDirectory() as folder:
        acquisition = written(drawn, Path(folder), np.zeros((count, ROWS, COLUMNS), int))
    stack, grid = acquisition.stack, grid_of(acquisition.stack)
    drawn_mask = np.random.default_rng(seed).integers(0, 4, (count, ROWS, COLUMNS)).astype(np.uint8)
    if drawn.kind != "uneven":  # every slice is a layer of the grid, so nothing is lost on the way
        assert np.array_equal(
            grid_on_slices(slices_on_grid(drawn_mask, acquisition), acquisition), drawn_mask
        )

    # A half-space on the grid: on the slices only pixels near its face may fall on the wrong side.
    index = np.stack(np.meshgrid(*map(np.arange, grid.shape), indexing="ij"), axis=-1)
    points_mm = index @ grid.affine_lps_mm[:3, :3].T + grid.affine_lps_mm[:3, 3]
    face = np.random.default_rng(seed).normal(size=3)
    face /= np.linalg.norm(face)
    centre_mm = drawn.positions_mm.mean(axis=0)
    back = grid_on_slices(((points_mm - centre_mm) @ face > 0).astype(np.uint8), acquisition)
    reach_mm = np.linalg.norm([*stack.spacing_mm, stack.step_mm]) * 0.55
    for number in range(count):
        distance_mm = (drawn.pixel_mm(number) - centre_mm) @ face
        far = np.abs(distance_mm) > reach_mm
        assert np.array_equal(back[number][far], (distance_mm > 0)[far])


@given(drawn=stacks())
@settings(max_examples=20)
def test_places_are_the_true_ones(drawn: Drawn) -> None:
    directions = directions_of(drawn.orientation)
    stack = stack_of(drawn.positions_mm, directions, drawn.spacing_mm[::-1], COLUMNS, ROWS)
    grid = grid_of(stack)
    places = slice_places(stack, grid)
    back_mm = places @ grid.affine_lps_mm[:3, :3].T + grid.affine_lps_mm[:3, 3]
    tolerance_mm = np.linalg.norm([0.1 * max(drawn.spacing_mm), 0.05 * stack.step_mm])
    assert np.linalg.norm(back_mm - drawn.positions_mm, axis=1).max() <= tolerance_mm
    assert (
        places[:, :2].max(axis=0) + np.array((COLUMNS, ROWS)) <= np.array(grid.shape[:2]) + 1e-5
    ).all()


def stack_at(along_mm: list[float], thickness_mm: float | None = None) -> Stack:
    positions_mm = np.array([(0.0, 0.0, z) for z in along_mm])
    return stack_of(positions_mm, np.eye(3), (1.0, 1.0), 4, 4, thickness_mm)


@pytest.mark.parametrize(
    ("along_mm", "kind", "step_mm"),
    [
        ([0, 5, 10, 15], "regular", 5),
        ([0, 5, 10, 20, 25], "missing", 5),
        ([0, 5, 10, 25, 30, 35], "missing", 5),
        ([0, 1.08, 2.2, 9.2, 16.2, 23.2], "uneven", 7),  # thin and thick slices in one series
        ([0, 2.5, 5.0, 7.4, 10.0], "regular", 2.5),  # a tenth of a millimetre off
        ([0, 2.5, 5.0, 7.2, 10.0], "uneven", 2.5),
    ],
)
def test_kinds(along_mm: list[float], kind: str, step_mm: float) -> None:
    stack = stack_at(along_mm)
    assert stack.kind == kind
    assert stack.step_mm == pytest.approx(step_mm, rel=0.02)


@settings(max_examples=60)
@given(seed=st.integers(0, 2**32 - 1), missing=st.booleans())
def test_rounded_positions_keep_one_layer_per_slice(seed: int, missing: bool) -> None:
    """Slices up to 1.5 % of their distance off the grid, the outermost ones 3.5 % outwards; the fit
    adds up to 1 %.
    """
    generator = np.random.default_rng(seed)
    index = np.arange(int(generator.integers(20, 40)))
    if missing:
        index = np.delete(index, int(generator.integers(1, len(index) - 1)))
    error = generator.uniform(-0.015, 0.015, len(index))
    error[0], error[-1] = -0.035, 0.035
    stack = stack_at((2.5 * (index + error)).tolist())
    grid = grid_of(stack)
    assert stack.kind == ("missing" if missing else "regular")
    assert grid.shape[2] == index[-1] + 1
    assert np.array_equal(slice_places(stack, grid)[:, 2], index)


def test_impossible_stacks_are_refused() -> None:
    with pytest.raises(InputError, match="a gap of 60 mm divides it"):
        stack_at([0, 5, 10, 70, 75])
    with pytest.raises(InputError, match="several slices have the same position"):
        stack_at([0, 5, 5, 10])
    with pytest.raises(InputError, match="pixel spacing is not positive"):
        stack_of(np.zeros((1, 3)), np.eye(3), (0.0, 1.0), 4, 4)
    with pytest.raises(InputError, match="right angle"):
        directions_of((1, 0, 0, 0.5, 0.8, 0))
    with pytest.raises(InputError, match="right angle"):
        directions_of((0, 0, 0, 0, 0, 0))


def test_single_slice_takes_its_thickness() -> None:
    assert stack_at([3.0], 2.5).step_mm == 2.5
    assert stack_at([3.0]).step_mm == 1.0


def test_tilt_is_measured(tmp_path: Path) -> None:
    """A gantry tilted by 18.5 degrees: the slices drift by tan(18.5) of their distance; the grid
    grows by the drift.
    """
    angle, count = np.radians(18.5), 10
    orientation = (1, 0, 0, 0, np.cos(angle), -np.sin(angle))
    positions_mm = np.array(
        [(0.0, 0.0, 5.0 * index) for index in range(count)]
    )  # the table moves along the body
    drawn = Drawn(
        positions_mm,
        orientation,
        (1.0, 1.0),
        tuple(range(count)),
        "regular",
        True,
        5 * np.cos(angle),
    )
    hu = np.full((count, ROWS, COLUMNS), 40)
    hu[0] = -1000
    acquisition = written(drawn, tmp_path, hu)
    assert acquisition.stack.tilt_degrees == pytest.approx(18.5, abs=0.01)
    assert acquisition.remarks == ("gantry tilt 18.5 degrees, resampled",)
    volume = read_volume(acquisition)
    drift_pixels = 45 * np.sin(angle)
    assert volume.voxels.shape == (COLUMNS, ROWS + int(np.ceil(drift_pixels)), count)
    assert set(np.unique(volume.voxels)) == {-1024, -1000, 40}
    assert acquisitions_of([], Rules()) == ([], [])
