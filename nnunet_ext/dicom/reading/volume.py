"""An acquisition as a volume on a right-angled grid, and the way back to its slices."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from nnunet_ext.dicom.reading.geometry import Grid, grid_of, slice_places
from nnunet_ext.dicom.reading.headers import Slice
from nnunet_ext.dicom.reading.pixels import AIR_HU, read_pixels
from nnunet_ext.dicom.reading.series import Acquisition, Rules, acquisitions_of
from nnunet_ext.errors import InputError

NO_AIR_HU = -200  # any CT of a patient shows air below this


@dataclass(frozen=True)
class Volume:
    """An acquisition in memory.

    ``voxels`` is (x, y, z), int16 or float32, in ``unit`` (``HU`` for CT); ``grid`` places it.
    ``transforms`` say what was done to it, ``warnings`` what is odd.
    """

    acquisition: Acquisition
    voxels: np.ndarray
    grid: Grid
    unit: str
    transforms: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()


def read_volume(acquisition: Acquisition) -> Volume:
    """Read the pixels of an acquisition in its unit and put them on the grid of :func:`grid_of`.

    Regular slices become layers as they are. Otherwise every layer is interpolated linearly between
    the two slices beside it, each taken at its true place; what no slice covers is air (CT) or the
    lowest value.

    Raises:
        InputError: a slice cannot be read, or slices have different units.
    """
    slices, unit, remarks = _read_slices(acquisition)
    grid = grid_of(acquisition.stack)
    warnings = list(acquisition.stack.describe()) if acquisition.stack.kind == "missing" else []
    if _lacks_air(slices, unit):
        warnings.append(f"no value lies below {NO_AIR_HU}: perhaps not HU")
        unit = "unknown"

    if not acquisition.stack.is_grid:
        fill = AIR_HU if unit == "HU" else slices.min()
        slices = _resampled(slices, slice_places(acquisition.stack, grid), grid.shape, float(fill))

    voxels = slices.transpose(2, 1, 0)
    return Volume(
        acquisition, voxels, grid, unit, (*acquisition.remarks, *remarks), tuple(warnings)
    )


def read_slices(acquisition: Acquisition) -> tuple[np.ndarray, str]:
    """Values (n, row, column) of the slices themselves, never resampled, and their unit as
    :func:`read_volume` says.

    Raises:
        InputError: as :func:`read_volume`.
    """
    slices, unit, _ = _read_slices(acquisition)
    return slices, "unknown" if _lacks_air(slices, unit) else unit


def slices_on_grid(arrays: np.ndarray, acquisition: Acquisition) -> np.ndarray:
    """A mask drawn on the slices, as a mask on the volume's grid; nearest slice and pixel.

    Args:
        arrays: (n, row, column) integers, in the order of ``acquisition.slices``.

    Returns:
        (x, y, z), zero where no slice covers the grid.
    """
    grid = grid_of(acquisition.stack)
    if acquisition.stack.is_grid:
        return np.ascontiguousarray(arrays.transpose(2, 1, 0))
    places = slice_places(acquisition.stack, grid)
    result = np.zeros(grid.shape, arrays.dtype)
    for layer in range(grid.shape[2]):
        nearest = int(np.abs(places[:, 2] - layer).argmin())
        x, y = np.round(places[nearest, :2]).astype(int)
        height, width = arrays.shape[1:]
        result[x : x + width, y : y + height, layer] = arrays[nearest].T[
            : grid.shape[0] - x, : grid.shape[1] - y
        ]

    return result


def grid_on_slices(mask: np.ndarray, acquisition: Acquisition) -> np.ndarray:
    """The way back: a mask on the volume's grid, sampled at the true place of every original pixel
    (nearest voxel).

    Args:
        mask: (x, y, z) on the grid of the volume.

    Returns:
        (n, row, column) in the order of ``acquisition.slices``.

    Raises:
        InputError: the mask has another shape than the volume.
    """
    stack, grid = acquisition.stack, grid_of(acquisition.stack)
    if mask.shape != grid.shape:
        raise InputError(
            f"mask has shape {mask.shape}, the volume {grid.shape}; predict on the exported image"
        )

    if stack.is_grid:
        return np.ascontiguousarray(mask.transpose(2, 1, 0))
    places = np.round(slice_places(stack, grid)).astype(int)
    last = np.array(grid.shape) - 1
    result = np.empty((len(places), stack.rows, stack.columns), mask.dtype)
    for index, (x, y, z) in enumerate(places):
        columns = np.clip(x + np.arange(stack.columns), 0, last[0])
        rows = np.clip(y + np.arange(stack.rows), 0, last[1])
        result[index] = mask[:, :, min(max(z, 0), last[2])][np.ix_(columns, rows)].T

    return result


def acquisition_in(
    slices: Sequence[Slice], rules: Rules | None = None, index: int = 1
) -> Acquisition:
    """The acquisition that the slices form; the one of that index where a multi-frame file holds
    several.

    Raises:
        InputError: there is none, with the reason.
    """
    accepted, rejected = acquisitions_of(slices, rules)
    for acquisition in accepted:
        if len(accepted) == 1 or acquisition.index == index:
            return acquisition
    reasons = "; ".join(sorted({item.reason for item in rejected})) or "no such acquisition"
    raise InputError(f"the series {reasons}")


def _lacks_air(slices: np.ndarray, unit: str) -> bool:
    """Whether values that should be Hounsfield units cannot be those of a patient."""
    return unit == "HU" and bool(slices.min() >= NO_AIR_HU)


def _read_slices(acquisition: Acquisition) -> tuple[np.ndarray, str, list[str]]:
    """Values (n, row, column) of all slices in one unit, int16 where they are whole numbers of that
    range.
    """
    stack = acquisition.stack
    result = np.empty((len(acquisition.slices), stack.rows, stack.columns), np.int16)
    units: Counter[str] = Counter()
    remarks: Counter[str] = Counter()
    for index, item in enumerate(acquisition.slices):
        pixels = read_pixels(item)
        whole = (
            pixels.values.dtype.kind == "i"
            and -(1 << 15) <= pixels.values.min() <= pixels.values.max() < 1 << 15
        )
        if not whole and result.dtype == np.int16:
            result = result.astype(np.float32)
        result[index] = pixels.values
        units[pixels.unit] += 1
        remarks.update(pixels.remarks)

    if len(units) > 1:
        file = acquisition.slices[0].path
        raise InputError(
            f"{file}: slices of its series have different units ({', '.join(units)}); remove the "
            f"series"
        )

    total = len(acquisition.slices)
    words = [
        text if count == total else f"{text} ({count} of {total} slices)"
        for text, count in remarks.items()
    ]
    return result, next(iter(units)), words


def _resampled(
    slices: np.ndarray, places: np.ndarray, shape: tuple[int, int, int], fill: float
) -> np.ndarray:
    """Layers (z, row, column) of the grid, linear between slices at fractional grid indices
    ``places`` (n, 3).
    """
    result = np.empty(shape[::-1], slices.dtype)
    for layer in range(shape[2]):
        above = min(int(np.searchsorted(places[:, 2], layer)), len(places) - 1)
        below = max(above - 1, 0)
        distance = places[above, 2] - places[below, 2]
        weight = (
            1.0 if distance == 0 else float(np.clip((layer - places[below, 2]) / distance, 0, 1))
        )
        values = np.zeros(shape[1::-1])
        for index, share in ((below, 1 - weight), (above, weight)):
            if share > 1e-9:
                values += share * _shifted(slices[index], places[index, :2], shape, fill)

        result[layer] = np.round(values) if slices.dtype.kind == "i" else values

    return result


def _shifted(
    values: np.ndarray, place: np.ndarray, shape: tuple[int, int, int], fill: float
) -> np.ndarray:
    """A slice (row, column) at a fractional place of the grid's plane."""
    from scipy import ndimage

    offset = -np.round(
        place[::-1], 3
    )  # or noise of the last digit would put a slice's border outside of it
    return ndimage.affine_transform(
        values.astype(np.float64), np.ones(2), offset, output_shape=shape[1::-1], order=1, cval=fill
    )
