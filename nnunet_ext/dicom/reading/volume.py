"""An acquisition as a volume on a right-angled grid, and the way back to its slices."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from nnunet_ext.dicom.reading.geometry import Grid, grid_of, slice_places
from nnunet_ext.dicom.reading.headers import Slice
from nnunet_ext.dicom.reading.pixels import read_pixels
from nnunet_ext.dicom.reading.series import Acquisition, Rules, acquisitions_of
from nnunet_ext.errors import InputError
from nnunet_ext.hounsfield import AIR_SHOWS_BELOW_HU, FILL_HU


@dataclass(frozen=True)
class Volume:
    """An acquisition in memory.

    ``voxels`` is (x, y, z), int16 or float32, in ``unit`` (``HU`` for CT); ``grid`` places it.
    ``transforms`` say what was done to it, ``warnings`` what is unusual.
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
    stack = acquisition.stack
    grid = grid_of(stack)

    warnings: list[str] = []
    if stack.kind == "missing":
        warnings += stack.describe()
    if _lacks_air(slices, unit):
        warnings.append(f"no value lies below {AIR_SHOWS_BELOW_HU}: perhaps not HU")
        unit = "unknown"

    if not stack.is_grid:
        fill = FILL_HU if unit == "HU" else slices.min()
        places = slice_places(stack, grid)
        slices = _resampled(slices, places, grid.shape, float(fill))

    transforms = (*acquisition.remarks, *remarks)
    voxels = slices.transpose(2, 1, 0)
    return Volume(acquisition, voxels, grid, unit, transforms, tuple(warnings))


def read_slices(acquisition: Acquisition) -> tuple[np.ndarray, str]:
    """Return the values (n, row, column) of the slices, never resampled, and their unit.

    The unit is that of :func:`read_volume`.

    Raises:
        InputError: as :func:`read_volume`.
    """
    slices, unit, _ = _read_slices(acquisition)
    if _lacks_air(slices, unit):
        unit = "unknown"
    return slices, unit


def slices_on_grid(arrays: np.ndarray, acquisition: Acquisition) -> np.ndarray:
    """Return a mask drawn on the slices as a mask on the volume's grid; nearest slice and pixel.

    Args:
        arrays: (n, row, column) integers, in the order of ``acquisition.slices``.

    Returns:
        (x, y, z), zero where no slice covers the grid.
    """
    stack = acquisition.stack
    grid = grid_of(stack)
    if stack.is_grid:
        return np.ascontiguousarray(arrays.transpose(2, 1, 0))

    places = slice_places(stack, grid)
    columns, rows, layers = grid.shape
    result = np.zeros(grid.shape, arrays.dtype)
    height, width = arrays.shape[1:]
    for layer in range(layers):
        distances = np.abs(places[:, 2] - layer)
        nearest = int(distances.argmin())
        x, y = np.round(places[nearest, :2]).astype(int)
        covered = arrays[nearest].T[: columns - x, : rows - y]
        result[x : x + width, y : y + height, layer] = covered
    return result


def grid_on_slices(mask: np.ndarray, acquisition: Acquisition) -> np.ndarray:
    """Return a mask on the volume's grid as a mask on the original slices: the way back.

    It is sampled at the true place of every original pixel (nearest voxel).

    Args:
        mask: (x, y, z) on the grid of the volume.

    Returns:
        (n, row, column) in the order of ``acquisition.slices``.

    Raises:
        InputError: the mask has another shape than the volume.
    """
    stack = acquisition.stack
    grid = grid_of(stack)
    if mask.shape != grid.shape:
        raise InputError(
            f"mask has shape {mask.shape}, the volume {grid.shape}; predict on the exported image"
        )
    if stack.is_grid:
        return np.ascontiguousarray(mask.transpose(2, 1, 0))

    places = np.round(slice_places(stack, grid)).astype(int)
    last = np.array(grid.shape) - 1
    all_columns = np.arange(stack.columns)
    all_rows = np.arange(stack.rows)
    result = np.empty((len(places), stack.rows, stack.columns), mask.dtype)
    for index, (x, y, z) in enumerate(places):
        columns = np.clip(x + all_columns, 0, last[0])
        rows = np.clip(y + all_rows, 0, last[1])
        layer = np.clip(z, 0, last[2])
        sampled = mask[:, :, layer][np.ix_(columns, rows)]
        result[index] = sampled.T
    return result


def acquisition_in(
    slices: Sequence[Slice], rules: Rules | None = None, index: int = 1
) -> Acquisition:
    """Return the acquisition that the slices form; of several the one of that index.

    Raises:
        InputError: there is none, with the reason.
    """
    accepted, rejected = acquisitions_of(slices, rules)
    for acquisition in accepted:
        if len(accepted) == 1 or acquisition.index == index:
            return acquisition

    if not rejected:
        raise InputError("the series has no such acquisition")
    reasons = sorted({item.reason for item in rejected})
    raise InputError(f"the series {'; '.join(reasons)}")


def _lacks_air(slices: np.ndarray, unit: str) -> bool:
    """Return whether values that should be Hounsfield units cannot be those of a patient."""
    if unit != "HU":
        return False
    return bool(slices.min() >= AIR_SHOWS_BELOW_HU)


def _read_slices(acquisition: Acquisition) -> tuple[np.ndarray, str, list[str]]:
    """Return the values (n, row, column) of all slices, their one unit, and remarks.

    The values are int16 where they are whole numbers of that range.
    """
    stack = acquisition.stack
    total = len(acquisition.slices)
    result = np.empty((total, stack.rows, stack.columns), np.int16)
    units: Counter[str] = Counter()
    remarks: Counter[str] = Counter()

    for index, item in enumerate(acquisition.slices):
        pixels = read_pixels(item)
        if result.dtype == np.int16 and not _fits_int16(pixels.values):
            result = result.astype(np.float32)
        result[index] = pixels.values
        units[pixels.unit] += 1
        remarks.update(pixels.remarks)

    if len(units) > 1:
        file = acquisition.slices[0].path
        raise InputError(
            f"{file}: slices of its series have different units ({', '.join(units)}); remove the "
            "series"
        )

    words = []
    for text, count in remarks.items():
        if count < total:
            text += f" ({count} of {total} slices)"
        words.append(text)
    (unit,) = units
    return result, unit, words


def _fits_int16(values: np.ndarray) -> bool:
    if values.dtype.kind != "i":
        return False
    limits = np.iinfo(np.int16)
    return bool(limits.min <= values.min() and values.max() <= limits.max)


def _resampled(
    slices: np.ndarray, places: np.ndarray, shape: tuple[int, int, int], fill: float
) -> np.ndarray:
    """Return layers (z, row, column) of the grid, linear between the slices.

    Args:
        slices: (n, row, column).
        places: (n, 3) fractional grid indices of the slices.
        shape: of the grid.
        fill: what stands where no slice is.
    """
    result = np.empty(shape[::-1], slices.dtype)
    heights = places[:, 2]
    for layer in range(shape[2]):
        above = int(np.searchsorted(heights, layer))
        above = min(above, len(places) - 1)
        below = max(above - 1, 0)
        distance = heights[above] - heights[below]
        weight = 1.0
        if distance != 0:
            share_of_way = (layer - heights[below]) / distance
            weight = float(np.clip(share_of_way, 0, 1))

        values = np.zeros(shape[1::-1])
        for index, share in ((below, 1 - weight), (above, weight)):
            if share > 1e-9:
                shifted = _shifted(slices[index], places[index, :2], shape, fill)
                values += share * shifted
        if slices.dtype.kind == "i":
            values = np.round(values)
        result[layer] = values
    return result


def _shifted(
    values: np.ndarray, place: np.ndarray, shape: tuple[int, int, int], fill: float
) -> np.ndarray:
    """Return a slice (row, column) at a fractional place of the grid's plane."""
    from scipy import ndimage

    # rounded, or noise of the last digit would put a slice's border outside of it
    offset = -np.round(place[::-1], 3)
    return ndimage.affine_transform(
        values.astype(np.float64),
        matrix=np.ones(2),
        offset=offset,
        output_shape=shape[1::-1],
        order=1,
        cval=fill,
    )
