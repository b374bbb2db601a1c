"""Files of a raw data set as nnU-Net's readers see them: SimpleITK, tried first, and nibabel."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dataset_conversion.reading.nifti_headers import open_volume, states_orientation
from dataset_conversion.reading.pictures import open_picture, read_colours
from dataset_conversion.reading.volumes import (
    grid_text,
    read_voxels,
    same_grid,
    sitk_grid,
    spacing_of,
)
from nnunet_ext.errors import InputError

SIZES_APART = 1e-3  # of a voxel size, from which on two readers disagree


@dataclass(frozen=True)
class RawFile:
    """Channels of a file, of which only a colour picture has several, and its affine.

    The affine is None where the format has no geometry. ``stated`` is False where the header states
    no orientation, so that each reader assumes one.
    """

    channels: list[np.ndarray]
    affine_mm: np.ndarray | None
    stated: bool = True

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of a channel."""
        return self.channels[0].shape

    def lies_as(self, other: RawFile) -> bool:
        """Whether the voxels lie as another file's of the same shape, as far as both say so."""
        if self.affine_mm is None or other.affine_mm is None:
            return True
        if not self.stated or not other.stated:
            sizes_mm = spacing_of(self.affine_mm)
            other_sizes_mm = spacing_of(other.affine_mm)
            return np.allclose(sizes_mm, other_sizes_mm, rtol=SIZES_APART, atol=0)

        spatial_shape = (*self.shape, 1, 1)[:3]
        return same_grid(self.affine_mm, other.affine_mm, spatial_shape)


def read_raw_file(file: Path) -> RawFile:
    """Read a file of any format that nnU-Net takes.

    Other formats than NIfTI are read as SimpleITK does.

    Raises:
        InputError: unreadable, or read differently by SimpleITK and nibabel.
    """
    if file.name.endswith((".nii.gz", ".nii")):
        volume = open_volume(file)
        is_stated = states_orientation(volume)
        _require_one_view(file, volume.shape, volume.affine, is_stated)
        voxels = read_voxels(file, volume)
        return RawFile([voxels], volume.affine, is_stated)

    if file.suffix.lower() in (".png", ".bmp"):
        colours, _ = read_colours(file)
        is_grey = open_picture(file).mode in ("1", "L")
        channels = list(np.moveaxis(colours, -1, 0))
        return RawFile(channels[:1] if is_grey else channels, None)

    return _read_as_sitk(file)


def _read_as_sitk(file: Path) -> RawFile:
    import SimpleITK as sitk

    try:
        image = sitk.ReadImage(str(file))
    except RuntimeError as error:
        reason = str(error).splitlines()[-1]
        raise InputError(f"{file}: cannot be read ({reason}); convert it again") from error

    axes = image.GetDimension()
    directions = np.reshape(image.GetDirection(), (axes, axes))
    spacing_mm = np.array(image.GetSpacing())
    affine_mm = np.eye(4)
    affine_mm[:axes, :axes] = directions * spacing_mm
    affine_mm[:axes, 3] = image.GetOrigin()
    to_ras = np.diag([-1.0, -1.0, 1.0, 1.0])
    voxels = sitk.GetArrayFromImage(image).T

    return RawFile([voxels], to_ras @ affine_mm)


def _require_one_view(
    file: Path, shape: tuple[int, ...], affine_mm: np.ndarray, stated: bool
) -> None:
    """Refuse a NIfTI file that SimpleITK does not read, or reads otherwise than nibabel.

    Where a header states no orientation each reader assumes one, and only the voxel sizes are
    compared.
    """
    try:
        seen_shape, seen_mm = sitk_grid(file)
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[-1].strip()
        raise InputError(
            f"{file}: SimpleITK, with which nnU-Net reads, refuses it ({reason}); save it again"
        ) from error

    axes = min(len(shape), 3)
    sizes_mm, seen_sizes_mm = spacing_of(affine_mm)[:axes], spacing_of(seen_mm)[:axes]
    are_alike = np.allclose(seen_sizes_mm, sizes_mm, rtol=SIZES_APART, atol=0)
    has_same_voxels = seen_shape == shape and are_alike
    lies_alike = not stated or same_grid(seen_mm, affine_mm, (*shape, 1, 1)[:3])
    if has_same_voxels and lies_alike:
        return

    views = f"SimpleITK {grid_text(seen_shape, seen_mm)}; nibabel {grid_text(shape, affine_mm)}"
    raise InputError(
        f"{file}: is read differently by nnU-Net's readers ({views}); convert it again, or save "
        f"it again"
    )
