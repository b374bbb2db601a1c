"""Where the slices of a stack lie, what kind of stack they form, and the grid that holds them.

All coordinates are DICOM's patient coordinates in mm (left, posterior, head). Arrays of a volume
are (x, y, z): column, row, and position along the normal of the slices, which is the cross product
of the row and column directions.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from nnunet_ext.errors import InputError
from nnunet_ext.printable import counted

# of the orientation vectors' lengths and right angle; texts in the header are rounded
UNIT_TOLERANCE = 1e-2
ALONG_TOLERANCE = 0.05  # of the distance between slices: how far a slice may lie off a regular grid
IN_PLANE_TOLERANCE = 0.1  # of a pixel: how far a slice may be shifted in its plane
# of the distance between slices or pixels: beyond, rounded positions prove nothing
LARGEST_ROUNDING = 0.2
# of half the last digit: how far rounded positions may lie off the line that fits them best
FIT_OF_ROUNDED = 1.5
SAME_POSITION_MM = 1e-3
TILT_DEGREES = 0.5  # from here on a drift of the slices in their plane is called a tilt
GAP_STEPS, GAP_MM = 4.5, 20.0  # a gap beyond both divides a series into two stacks
MOST_LAYERS_PER_SLICE = 2
MOST_UNEVEN_LAYERS_PER_SLICE = 10  # real heads have slices 1 to 7 mm apart in one series
LARGEST_VOXELS = 1 << 31

Kind = Literal["single", "regular", "missing", "uneven"]


@dataclass(frozen=True)
class Stack:
    """Parallel slices of one size, sorted along their normal, at different positions.

    ``directions`` is (3, 3): unit vectors of increasing column, increasing row, and the normal, as
    rows. ``spacing_mm`` is between columns, then rows. ``offsets_mm`` is (n, 3): the first pixel of
    each slice, in the coordinates of ``directions``. ``tilt_degrees`` is the angle between the line
    through the slices and their normal.
    """

    directions: np.ndarray
    spacing_mm: tuple[float, float]
    offsets_mm: np.ndarray
    columns: int
    rows: int
    kind: Kind
    step_mm: float
    tilt_degrees: float
    shifted: bool

    @property
    def is_grid(self) -> bool:
        """Return whether the slices themselves are the layers of a right-angled grid.

        Then nothing is resampled.
        """
        is_even = self.kind in ("single", "regular")
        return is_even and not self.shifted

    def describe(self) -> tuple[str, ...]:
        """Return what is unusual, in words."""
        steps_mm = np.diff(self.offsets_mm[:, 2])
        words = []
        if self.kind == "missing":
            layers = np.round(steps_mm / self.step_mm)
            missing = int(layers.sum()) - len(steps_mm)
            words.append(f"{counted(missing, 'slice')} missing, interpolated")

        if self.kind == "uneven":
            words.append(
                f"slices {steps_mm.min():.3g} to {steps_mm.max():.3g} mm apart, resampled to "
                f"{self.step_mm:.3g} mm"
            )

        if self.tilt_degrees > TILT_DEGREES:
            words.append(f"gantry tilt {self.tilt_degrees:.1f} degrees, resampled")
        elif self.shifted:
            words.append("slices shifted in their plane, resampled")
        return tuple(words)


@dataclass(frozen=True)
class Grid:
    """A right-angled grid.

    ``shape`` is (x, y, z); ``affine_lps_mm`` (4, 4) leads from voxel indices to patient
    coordinates.
    """

    shape: tuple[int, int, int]
    affine_lps_mm: np.ndarray

    @property
    def affine_ras_mm(self) -> np.ndarray:
        """Return the affine in NIfTI's world (right, anterior, head)."""
        lps_to_ras = np.diag([-1.0, -1.0, 1.0, 1.0])
        return lps_to_ras @ self.affine_lps_mm


def directions_of(orientation: Sequence[float]) -> np.ndarray:
    """Return row direction, column direction and normal of ImageOrientationPatient.

    They are (3, 3), exactly orthonormal.

    Raises:
        InputError: not two unit vectors at a right angle.
    """
    row = np.array(orientation[:3])
    column = np.array(orientation[3:])
    deviations = np.array(
        [
            row @ row - 1,
            column @ column - 1,
            row @ column,
        ]
    )
    if np.abs(deviations).max() > UNIT_TOLERANCE:
        raise InputError("its orientation is not two unit vectors at a right angle")

    row = row / np.linalg.norm(row)
    along_row = (column @ row) * row
    column = column - along_row
    column = column / np.linalg.norm(column)
    normal = np.cross(row, column)
    return np.stack([row, column, normal])


def stack_of(
    positions_mm: np.ndarray,
    directions: np.ndarray,
    spacing_mm: tuple[float, float],
    columns: int,
    rows: int,
    thickness_mm: float | None = None,
    rounding_mm: Sequence[float] | np.ndarray = (0.0, 0.0, 0.0),
) -> Stack:
    """Classify sorted slices.

    The distance between slices comes from their positions, never from a header field; only a single
    slice takes its thickness (1 mm where the header gives none).

    Args:
        positions_mm: (n, 3), sorted along the normal, patient coordinates.
        directions: from :func:`directions_of`.
        spacing_mm: between columns, then rows.
        columns: pixels per row.
        rows: pixels per column.
        thickness_mm: of a slice, for a stack of one.
        rounding_mm: how far positions may be rounded along rows, columns and the normal; this much
            is not unevenness.

    Raises:
        InputError: impossible pixel size, repeated positions, a gap that only two stacks explain,
            or slices so close that most layers of a regular grid would be interpolated.
    """
    if min(spacing_mm) <= 0:
        raise InputError("its pixel spacing is not positive")

    offsets_mm = positions_mm @ directions.T
    grid = (directions, spacing_mm, offsets_mm, columns, rows)
    if len(offsets_mm) == 1:
        step_mm = 1.0
        if thickness_mm and thickness_mm > 0:
            step_mm = thickness_mm
        return Stack(*grid, kind="single", step_mm=step_mm, tilt_degrees=0.0, shifted=False)

    steps_mm = np.diff(offsets_mm[:, 2])
    if steps_mm.min() <= SAME_POSITION_MM:
        raise InputError("several slices have the same position")
    kind, step_mm = step_of(offsets_mm[:, 2], rounding_mm[2])
    _require_one_stack(steps_mm, kind, step_mm)

    return Stack(
        *grid,
        kind,
        step_mm,
        tilt_degrees=_tilt_degrees(offsets_mm),
        shifted=_are_shifted(offsets_mm[:, :2], spacing_mm, rounding_mm),
    )


def _tilt_degrees(offsets_mm: np.ndarray) -> float:
    """Return the angle between the line through the slices and their normal."""
    first_mm = offsets_mm[0]
    last_mm = offsets_mm[-1]
    drift_mm = np.linalg.norm(last_mm[:2] - first_mm[:2])
    length_mm = last_mm[2] - first_mm[2]
    tilt = np.arctan2(drift_mm, length_mm)
    return float(np.degrees(tilt))


def _are_shifted(
    in_plane_mm: np.ndarray,
    spacing_mm: tuple[float, float],
    rounding_mm: Sequence[float] | np.ndarray,
) -> bool:
    """Return whether a slice lies noticeably beside the first one.

    Args:
        in_plane_mm: (n, 2) first pixels along rows and columns.
        spacing_mm: between columns, then rows.
        rounding_mm: how far positions may be rounded along rows and columns.
    """
    rounded_mm = [_believable(rounding_mm[axis], spacing_mm[axis]) for axis in (0, 1)]
    both_rounded_mm = 2 * np.array(rounded_mm)  # this slice and the first one
    tolerance_mm = IN_PLANE_TOLERANCE * np.array(spacing_mm)
    allowed_mm = tolerance_mm + both_rounded_mm

    shifts_mm = np.abs(in_plane_mm - in_plane_mm[0])
    is_beyond = shifts_mm > allowed_mm
    return bool(is_beyond.any())


def _require_one_stack(steps_mm: np.ndarray, kind: Kind, step_mm: float) -> None:
    """Refuse slices that are two stacks, or too few for the grid that suits them."""
    largest_mm = float(steps_mm.max())
    if largest_mm > GAP_STEPS * step_mm and largest_mm > GAP_MM:
        raise InputError(f"a gap of {largest_mm:.0f} mm divides it into two stacks")

    slices = len(steps_mm) + 1
    layers = 1 + round(float(steps_mm.sum()) / step_mm)
    most_per_slice = MOST_UNEVEN_LAYERS_PER_SLICE
    if kind == "missing":
        most_per_slice = MOST_LAYERS_PER_SLICE
    if layers > most_per_slice * slices:
        raise InputError(
            f"its {slices} slices fill only a part of {layers} regular places; most of them would "
            "be invented"
        )


def _believable(rounding_mm: float, size_mm: float) -> float:
    """Return the rounding, or 0 if it is so large beside the size that it could hide unevenness."""
    largest_mm = LARGEST_ROUNDING * size_mm
    return rounding_mm if rounding_mm <= largest_mm else 0.0


def step_of(along_mm: np.ndarray, rounding_mm: float = 0.0) -> tuple[Kind, float]:
    """Return the kind of a stack, and the distance between the layers of the grid that suits it.

    Args:
        along_mm: (n,) sorted positions along the normal, all different.
        rounding_mm: half a unit of their last written digit.
    """
    steps_mm = np.diff(along_mm)
    typical_mm = float(np.median(steps_mm))
    whole_steps = np.round(steps_mm / typical_mm)
    layers = np.concatenate([[0], np.cumsum(whole_steps)])
    if np.diff(layers).min() <= 0:
        return "uneven", typical_mm

    slope_mm, first_mm = np.polyfit(layers, along_mm, 1)
    step_mm = round(float(slope_mm), 6)
    rounded_mm = FIT_OF_ROUNDED * _believable(rounding_mm, step_mm)
    allowed_mm = max(ALONG_TOLERANCE * step_mm, rounded_mm)
    line_mm = first_mm + step_mm * layers
    deviations_mm = np.abs(line_mm - along_mm)
    if deviations_mm.max() > allowed_mm:
        return "uneven", typical_mm

    is_complete = layers[-1] == len(along_mm) - 1
    return "regular" if is_complete else "missing", step_mm


def grid_of(stack: Stack) -> Grid:
    """Return the right-angled grid that holds all slices; a regular stack's layers are its slices.

    Its axes are those of the slices, its pixels theirs. Where slices are shifted (a tilted gantry),
    it is wider.

    Raises:
        InputError: too large to be an image.
    """
    begin_mm = stack.offsets_mm.min(axis=0)
    end_mm = stack.offsets_mm.max(axis=0)
    extent_mm = end_mm - begin_mm
    steps = extent_mm[2] / stack.step_mm
    whole_steps = np.round(steps)
    if stack.kind == "uneven":
        whole_steps = np.ceil(steps - ALONG_TOLERANCE)

    wider = np.zeros(2, int)
    if stack.shifted:
        shifts = extent_mm[:2] / np.array(stack.spacing_mm)
        wider = np.ceil(shifts - 1e-6).astype(int)
    else:
        begin_mm[:2] = stack.offsets_mm[:, :2].mean(axis=0)
    if stack.kind in ("regular", "missing"):
        begin_mm[2] = _best_first_layer_mm(stack)

    width = stack.columns + int(wider[0])
    height = stack.rows + int(wider[1])
    layers = 1 + int(whole_steps)
    shape = (width, height, layers)
    if math.prod(shape) > LARGEST_VOXELS:
        size = "x".join(map(str, shape))
        raise InputError(f"its slices span {size} voxels, too many for one image")

    voxel_mm = np.array([*stack.spacing_mm, stack.step_mm])
    affine = np.eye(4)
    affine[:3, :3] = stack.directions.T * voxel_mm
    affine[:3, 3] = begin_mm @ stack.directions
    return Grid(shape, affine)


def _best_first_layer_mm(stack: Stack) -> float:
    """Return where the first layer lies if all layers fit their slices best."""
    along_mm = stack.offsets_mm[:, 2]
    layer_of_slice = np.round((along_mm - along_mm.min()) / stack.step_mm)
    first_by_slice_mm = along_mm - layer_of_slice * stack.step_mm
    return float(np.mean(first_by_slice_mm))


def slice_places(stack: Stack, grid: Grid) -> np.ndarray:
    """Return the grid indices (n, 3) of the first pixel of each slice.

    They are fractional where slice and grid differ noticeably.
    """
    origin_mm = grid.affine_lps_mm[:3, 3] @ stack.directions.T
    voxel_mm = np.array([*stack.spacing_mm, stack.step_mm])
    places = (stack.offsets_mm - origin_mm) / voxel_mm
    if not stack.shifted:
        places[:, :2] = 0
    if stack.kind in ("regular", "missing"):
        places[:, 2] = np.round(places[:, 2])
    return places
