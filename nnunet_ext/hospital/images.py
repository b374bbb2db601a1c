"""A case as nnU-Net's input: one image file per channel, all on one grid.

The files hold no text of a header. Arrays are (x, y, z), affines in DICOM's coordinates in mm
(left, posterior, head).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from nnunet_ext.dicom.reading.geometry import Grid, grid_of
from nnunet_ext.dicom.reading.volume import Volume, read_volume
from nnunet_ext.errors import InputError
from nnunet_ext.files.whole_file import whole_file
from nnunet_ext.hospital.survey import Case
from nnunet_ext.hounsfield import FILL_HU

AS_SCANNED = "as-scanned"
LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
GRID_TOLERANCE_VOXEL = 1e-2  # NIfTI headers store float32


@dataclass(frozen=True)
class WrittenCase:
    """What the manifest says of a case.

    These are the images' grid, and of each channel its file and what was done to it.
    """

    shape: tuple[int, ...]
    affine_lps_mm: np.ndarray
    channels: tuple[dict[str, Any], ...]

    def as_json(self) -> dict[str, Any]:
        """Return the entry of the manifest."""
        affine = np.round(self.affine_lps_mm, 6)
        return {
            "shape": list(self.shape),
            "affine_lps_mm": affine.tolist(),
            "channels": list(self.channels),
        }


def write_images(
    case: Case, folder: Path, ending: str, orientation: str = AS_SCANNED
) -> WrittenCase:
    """Write ``NAME_0000`` and so on into a folder.

    Args:
        case: to read.
        folder: existing.
        ending: ``.nii.gz`` or another of SimpleITK's.
        orientation: ``as-scanned``, or three letters such as ``RAS``: the directions in which the
            array's axes increase, as nibabel names them; axes are turned and flipped, nothing is
            resampled.

    Raises:
        InputError: a slice cannot be read, or channels have different frames.
    """
    grid: Grid | None = None
    written = Grid((0, 0, 0), np.eye(4))
    channels = []
    for index, acquisition in enumerate(case.channels):
        volume = read_volume(acquisition)
        transforms = list(volume.transforms)
        voxels = volume.voxels
        if grid is None:
            grid = volume.grid
        if not same_grid(volume.grid, grid):
            voxels = _on_grid(volume, grid)
            transforms.append("resampled to the grid of the first channel")

        turned, written = oriented(voxels, grid, orientation)
        file = f"{case.name}_{index:04d}{ending}"
        write_volume(turned, written, folder / file)
        channel = _channel(file, volume, transforms)
        channels.append(channel)

    return WrittenCase(written.shape, written.affine_lps_mm, tuple(channels))


def _channel(file: str, volume: Volume, transforms: list[str]) -> dict[str, Any]:
    """Return what the manifest says of a channel."""
    slices = volume.acquisition.slices
    stack = volume.acquisition.stack
    return {
        "file": file,
        "modality": slices[0].modality,
        "unit": volume.unit,
        "slices": len(slices),
        "kind": stack.kind,
        "tilt_degrees": round(stack.tilt_degrees, 3),
        "transforms": transforms,
        "warnings": list(volume.warnings),
    }


def require_orientation(orientation: str) -> None:
    """Check an orientation before anything is read.

    Raises:
        InputError: as :func:`oriented`.
    """
    voxel = np.zeros((1, 1, 1), np.uint8)
    grid = Grid((1, 1, 1), np.eye(4))
    oriented(voxel, grid, orientation)


def oriented(voxels: np.ndarray, grid: Grid, orientation: str) -> tuple[np.ndarray, Grid]:
    """Return voxels and their grid with axes turned towards an orientation.

    Raises:
        InputError: not three letters of R or L, A or P, S or I.
    """
    if orientation == AS_SCANNED:
        return voxels, grid
    from nibabel import orientations

    try:
        target = orientations.axcodes2ornt(tuple(orientation.upper()))
        return _turned(voxels, grid, target)
    except (ValueError, KeyError) as error:
        raise InputError(
            f"--orientation {orientation}: is not an orientation; give {AS_SCANNED}, LPS, RAS ..."
        ) from error


def _turned(voxels: np.ndarray, grid: Grid, target: np.ndarray) -> tuple[np.ndarray, Grid]:
    """Return voxels and their grid with axes turned and flipped to nibabel's ``target``."""
    from nibabel import orientations

    current = orientations.io_orientation(grid.affine_ras_mm)
    change = orientations.ornt_transform(current, target)
    turned = orientations.apply_orientation(voxels, change)
    to_former_axes = orientations.inv_ornt_aff(change, voxels.shape)
    affine_ras_mm = grid.affine_ras_mm @ to_former_axes
    affine_lps_mm = LPS_TO_RAS @ affine_ras_mm
    return turned, Grid(turned.shape, affine_lps_mm)


def read_mask(path: Path, case: Case) -> np.ndarray:
    """Read a prediction and return it (x, y, z) on the grid of the case's first channel.

    Axes that were turned for the model are turned back, as the affine of the file tells.

    Raises:
        InputError: unreadable, not whole numbers, or on another grid.
    """
    voxels, grid = _read(path)
    reference = grid_of(case.reference.stack)
    voxels = on_reference(voxels, grid, reference, path)
    if voxels.dtype.kind == "f":
        whole = np.round(voxels)
        if not np.array_equal(voxels, whole):
            raise InputError(
                f"{path}: holds values that are not labels; give predicted segmentations"
            )

    highest = voxels.max(initial=0)
    kind = np.uint16 if highest > 255 else np.uint8
    return voxels.astype(kind)


def on_reference(voxels: np.ndarray, grid: Grid, reference: Grid, path: Path) -> np.ndarray:
    """Turn voxels onto a reference grid that differs from theirs by turned or flipped axes at most.

    Raises:
        InputError: it differs by more.
    """
    from nibabel import orientations

    target = orientations.io_orientation(reference.affine_ras_mm)
    turned, turned_grid = _turned(voxels, grid, target)
    if not same_grid(turned_grid, reference):
        raise InputError(
            f"{path}: is not on the grid of its series ({_size(turned.shape)} voxels, expected "
            f"{_size(reference.shape)}); predict the images that dicom_to_nnunet wrote from this "
            "export"
        )
    return np.ascontiguousarray(turned)


def same_grid(first: Grid, second: Grid) -> bool:
    """Return whether two grids have one shape and their corners nearly coincide.

    They differ by less than a hundredth of a voxel at every corner.
    """
    if tuple(first.shape) != tuple(second.shape):
        return False

    to_second = np.linalg.inv(second.affine_lps_mm)
    difference = to_second @ first.affine_lps_mm - np.eye(4)
    far_corner = np.append(np.array(first.shape, float), 1.0)
    distances_voxel = np.abs(difference[:3]) @ far_corner
    return bool(distances_voxel.max() < GRID_TOLERANCE_VOXEL)


def _on_grid(volume: Volume, grid: Grid) -> np.ndarray:
    """Return a further channel on the grid of the first one, interpolated linearly.

    Beyond it lies air, or the lowest value.
    """
    import SimpleITK

    fill = FILL_HU if volume.unit == "HU" else volume.voxels.min()
    image = _image(volume.voxels, volume.grid)
    like = _image(np.zeros(grid.shape, np.uint8), grid)
    resampled = SimpleITK.Resample(
        image,
        like,
        SimpleITK.Transform(),
        SimpleITK.sitkLinear,
        float(fill),
    )
    array = SimpleITK.GetArrayFromImage(resampled)
    return np.asarray(array).transpose(2, 1, 0)


def _image(voxels: np.ndarray, grid: Grid) -> Any:
    import SimpleITK

    columns = grid.affine_lps_mm[:3, :3]
    origin_mm = grid.affine_lps_mm[:3, 3]
    spacing_mm = np.linalg.norm(columns, axis=0)
    directions = columns / spacing_mm

    slowest_first = np.ascontiguousarray(voxels.transpose(2, 1, 0))
    image = SimpleITK.GetImageFromArray(slowest_first)
    image.SetSpacing(spacing_mm.tolist())
    image.SetDirection(directions.ravel().tolist())
    image.SetOrigin(origin_mm.tolist())
    return image


def write_volume(voxels: np.ndarray, grid: Grid, path: Path) -> None:
    """Write voxels (x, y, z) whole, with their grid and without any text.

    Raises:
        InputError: the file cannot be written.
    """
    import SimpleITK

    compressed = path.suffix != ".nii"
    try:
        with whole_file(path) as unfinished:
            image = _image(voxels, grid)
            SimpleITK.WriteImage(image, str(unfinished), useCompression=compressed)
    except (OSError, RuntimeError) as error:
        raise InputError(f"{path}: cannot be written; is the disk full?") from error


def read_grid(path: Path) -> Grid:
    """Return the grid of an image file.

    Raises:
        InputError: unreadable, or not a volume.
    """
    _, grid = _read(path)
    return grid


def _read(path: Path) -> tuple[np.ndarray, Grid]:
    """Read an image file as voxels (x, y, z) and their grid."""
    import SimpleITK

    try:
        image = SimpleITK.ReadImage(str(path))
    except RuntimeError as error:
        raise InputError(f"{path}: is not a readable image; predict it again") from error
    if image.GetDimension() != 3 or image.GetNumberOfComponentsPerPixel() != 1:
        raise InputError(f"{path}: is not a volume of labels; give predicted segmentations")

    directions = np.array(image.GetDirection()).reshape(3, 3)
    spacing_mm = np.array(image.GetSpacing())
    affine = np.eye(4)
    affine[:3, :3] = directions * spacing_mm
    affine[:3, 3] = image.GetOrigin()

    slowest_first = np.asarray(SimpleITK.GetArrayFromImage(image))
    voxels = slowest_first.transpose(2, 1, 0)
    return voxels, Grid(image.GetSize(), affine)


def _size(shape: Sequence[int]) -> str:
    sizes = map(str, shape)
    return "x".join(sizes)
