"""NIfTI volumes: reading, the proof that image and label share one grid, writing."""

from __future__ import annotations

import hashlib
import itertools
import zlib
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from dataset_conversion.reading.nifti_headers import (
    SIZE_TOLERANCE,
    GzipFile,
    open_volume,
    states_orientation,
)
from nnunet_ext.errors import InputError, first_line
from nnunet_ext.files.checksums import sha256_of_file

GRID_TOLERANCE_VOXEL = 1e-2  # headers store float32; a hundredth of a voxel is invisible
GZIP_HEADER = b"\x1f\x8b\x08\0\0\0\0\0\0\xff"  # without name, date and operating system
NIFTI_1_HEADER = 348  # bytes
TEXT_FIELDS = ("data_type", "db_name", "intent_name", "descrip", "aux_file")
UNSTATED = "label as it lies: no orientation is stated"
SHEAR_TOLERANCE_VOXEL = 0.5  # largest shift that right-angled axes may cause at a corner


def read_voxels(path: Path, volume: Any, channel: int | None = None) -> np.ndarray:
    """Return voxels (x, y, z[, channel]), read-only.

    They have the stored integer type, or are float32 where the file scales them.

    Args:
        path: for the message.
        volume: from :func:`open_volume`.
        channel: of a 4-D file, read only this one.

    Raises:
        InputError: truncated or damaged data.
    """
    try:
        stored = volume.dataobj if channel is None else volume.dataobj[..., channel]
        voxels = np.asanyarray(stored)
        stream = volume.dataobj.file_like
        if channel is None and hasattr(stream, "read"):
            stream.read(1)  # at its end, gzip compares the checksum
    except MemoryError:
        raise
    except Exception as error:
        raise InputError(
            f"{path}: is truncated or damaged ({first_line(error)}); download it again"
        ) from error

    kind, size = voxels.dtype.kind, voxels.dtype.itemsize
    if kind in "iu" and size == 8:  # not every reader takes 64-bit integers
        fits_int32 = np.abs(voxels).max(initial=0) < 2**31
        voxels = voxels.astype(np.int32 if fits_int32 else np.float32)
    elif kind == "f":
        voxels = voxels.astype(np.float32, copy=False)

    # So that whoever still holds this array knows that it is the file's content.
    voxels.flags.writeable = False

    return voxels


def spatial_axes(path: Path, voxels: np.ndarray, *, anywhere: bool = False) -> np.ndarray:
    """Return voxels (x, y, z) without further axes of length one.

    Args:
        path: for the message.
        voxels: of any number of axes.
        anywhere: also drop an axis of length one before the others, after which the header's voxel
            sizes and directions are those of other axes.

    Raises:
        InputError: there are not three axes.
    """
    shape = voxels.shape
    dropped = [axis for axis in range(3, len(shape)) if shape[axis] == 1]
    if anywhere and len(shape) - len(dropped) > 3:
        dropped = [axis for axis in range(len(shape)) if shape[axis] == 1]
    if len(shape) - len(dropped) == 3:
        return np.squeeze(voxels, tuple(dropped))

    size = "x".join(map(str, shape))
    if len(shape) == 2:
        raise InputError(
            f"{path}: is two-dimensional ({size}); save it with a third axis of length 1"
        )
    raise InputError(
        f"{path}: has {len(shape)} axes ({size}), expected x, y, z; save each volume as a file of "
        f"its own"
    )


def label_place(label: Any, image_affine_mm: np.ndarray, image_stated: bool = True) -> np.ndarray:
    """Return what the header of a label says about its place beside an image.

    Args:
        label: nibabel volume.
        image_affine_mm: (4, 4), index to mm.
        image_stated: whether the image's own orientation is stated.

    Returns:
        The affine (4, 4); or voxel sizes (3,) where no orientation is stated.
    """
    if max(label.shape[3:], default=1) > 1:
        return spacing_of(image_affine_mm)  # the header's are those of other axes

    affine_mm: np.ndarray = label.affine
    if states_orientation(label) and image_stated:
        return affine_mm
    if same_grid(affine_mm, image_affine_mm, label.shape[:3]):
        return affine_mm

    return spacing_of(affine_mm)


def label_on_image_grid(
    label: np.ndarray, label_affine_mm: np.ndarray, shape: tuple[int, ...], affine_mm: np.ndarray
) -> tuple[np.ndarray, tuple[str, ...]]:
    """Return the label as an array on the image's grid.

    Equal grids pass; flipped or swapped axes are turned. Nothing is resampled, so every voxel keeps
    its value. Nothing is turned on an orientation that no header states.

    Args:
        label: (x, y, z).
        label_affine_mm: (4, 4), label index to mm; or voxel sizes (3,) in mm, where no more is
            stated.
        shape: of the image.
        affine_mm: (4, 4), image index to mm.

    Returns:
        Label of the image's shape, and what was done in words.

    Raises:
        InputError: the grids cover different places or have different voxels.
    """
    if label_affine_mm.ndim == 1:
        return _unturned(label, label_affine_mm, shape, affine_mm)
    if label.shape == shape and same_grid(label_affine_mm, affine_mm, shape):
        return label, ()

    turn = _turn_between(label_affine_mm, affine_mm)
    if turn is not None:
        axes, flipped, rotation = turn
        turned = np.flip(np.transpose(label, axes), tuple(flipped))
        rigid = np.eye(4)
        rigid[:3, :3] = rotation
        rigid[flipped, 3] = [shape[row] - 1 for row in flipped]
        if turned.shape == shape and same_grid(label_affine_mm, affine_mm @ rigid, label.shape):
            return np.ascontiguousarray(turned), (f"label axes {axes}, flipped {flipped}",)

    raise InputError(
        f"label grid ({grid_text(label.shape, label_affine_mm)}) is not the image's "
        f"({grid_text(shape, affine_mm)}), nor is it one with its axes flipped or swapped"
    )


def _turn_between(
    label_affine_mm: np.ndarray, affine_mm: np.ndarray
) -> tuple[list[int], list[int], np.ndarray] | None:
    """Return how a label's axes become those of its image; None where they are not parallel.

    Returns:
        The label axis that becomes each image axis, the image axes that are flipped, and both as a
        matrix (3, 3).
    """
    to_image = np.linalg.inv(affine_mm) @ label_affine_mm  # label index -> image index
    rotation = np.round(to_image[:3, :3])
    weights = np.abs(rotation)
    of_columns = weights.sum(axis=0)
    of_rows = weights.sum(axis=1)
    is_permutation = (of_columns == 1).all() and (of_rows == 1).all()
    if not is_permutation:
        return None

    axes = weights.argmax(axis=1).tolist()
    signs = rotation.sum(axis=1)  # of the only entry in each row
    flipped = np.flatnonzero(signs < 0).tolist()

    return axes, flipped, rotation


def _unturned(
    label: np.ndarray, sizes_mm: np.ndarray, shape: tuple[int, ...], affine_mm: np.ndarray
) -> tuple[np.ndarray, tuple[str, ...]]:
    """Return a label without stated orientation, as it lies on the image's voxels."""
    image_sizes_mm = spacing_of(affine_mm)
    are_alike = np.allclose(sizes_mm, image_sizes_mm, rtol=SIZE_TOLERANCE, atol=0)
    if label.shape == shape and are_alike:
        return label, (UNSTATED,)

    raise InputError(
        f"no orientation is stated, and the label's voxels "
        f"({_voxels_text(label.shape, sizes_mm)}) are not the image's "
        f"({_voxels_text(shape, image_sizes_mm)})"
    )


def axial_axis(affine_mm: np.ndarray) -> int:
    """Return the array axis that runs most nearly from feet to head."""
    upwards = np.abs(affine_mm[2, :3]) / spacing_of(affine_mm)
    return int(np.argmax(upwards))


def same_grid(first_mm: np.ndarray, second_mm: np.ndarray, shape: tuple[int, ...]) -> bool:
    """Whether both affines put every voxel at the same place, to a fraction of a voxel."""
    return _largest_shift_voxel(first_mm, second_mm, shape) <= GRID_TOLERANCE_VOXEL


def _largest_shift_voxel(
    first_mm: np.ndarray, second_mm: np.ndarray, shape: tuple[int, ...]
) -> float:
    """Return the largest distance between where two affines put a corner of the volume.

    Its unit is the smallest spacing.
    """
    ends = [(0, size - 1) for size in shape]
    corners = np.array(list(itertools.product(*ends, [1])))
    difference_mm = first_mm - second_mm
    shifts_mm = np.abs(corners @ difference_mm.T)
    smallest_mm = spacing_of(second_mm).min()

    return float(shifts_mm.max() / smallest_mm)


def spacing_of(affine_mm: np.ndarray) -> np.ndarray:
    """Return the voxel size (3,) in mm along each array axis."""
    return np.linalg.norm(affine_mm[:3, :3], axis=0)


def right_angled(affine_mm: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Return the affine with exactly orthogonal axes; SimpleITK, and so nnU-Net, needs that.

    Raises:
        InputError: the axes are not at right angles, as after a tilted gantry.
    """
    spacing_mm = spacing_of(affine_mm)
    u, _, vt = np.linalg.svd(affine_mm[:3, :3] / spacing_mm)
    result = affine_mm.copy()
    result[:3, :3] = (u @ vt) * spacing_mm
    if _largest_shift_voxel(affine_mm, result, shape) > SHEAR_TOLERANCE_VOXEL:
        raise InputError(
            "image axes are not at right angles, and nnU-Net reads no such image; resample it first"
        )

    return result


def voxels_sha256(voxels: np.ndarray) -> str:
    """Return a hash of shape and values, which tells whether an image or label has changed."""
    digest = hashlib.sha256(repr(voxels.shape).encode())
    digest.update(np.ascontiguousarray(voxels.T).data)  # NIfTI's first axis runs fastest: no copy
    return digest.hexdigest()


def write_volume(path: Path, voxels: np.ndarray, affine_mm: np.ndarray) -> None:
    """Write (x, y, z) or (x, y) voxels as gzip-compressed NIfTI; equal input gives equal bytes."""
    import nibabel

    volume = nibabel.Nifti1Image(voxels, affine_mm)
    volume.header.set_xyzt_units("mm")
    volume.set_qform(affine_mm, 1)
    volume.set_sform(affine_mm, 1)
    with path.open("wb") as raw, GzipFile(filename="", mode="wb", fileobj=raw, mtime=0) as stream:
        volume.to_stream(stream)


def copy_volume(source: Path, path: Path, voxels: np.ndarray, affine_mm: np.ndarray) -> bool:
    """Copy a compressed file if it is what :func:`write_volume` would make of its voxels.

    The name that gzip may have noted is left out.

    Args:
        source: to copy, known to hold the voxels.
        path: the copy.
        voxels: (x, y, z), as read from it.
        affine_mm: (4, 4), voxel index to mm, that the case shall have.

    Returns:
        False where it is not, so that ``path`` is still to be written: NIfTI-2, uncompressed,
        voxels scaled or of another type, other geometry in SimpleITK's eyes, or any text, extension
        or further bytes, which may name a patient.

    Raises:
        InputError: the copy reads back with other bytes.
    """
    volume = open_volume(source)
    if not _is_as_written(volume, voxels):
        return False

    start = _deflated_start(source, size=volume.header.single_vox_offset + voxels.nbytes)
    if start is None:
        return False

    digest = hashlib.sha256()
    with source.open("rb") as original, path.open("wb") as copy:
        original.seek(start)
        for piece in (GZIP_HEADER, *_pieces(original, source)):
            digest.update(piece)
            copy.write(piece)
    if sha256_of_file(path) != digest.hexdigest():
        raise InputError(
            f"{path}: reads back with other bytes than were copied; check the disk and repeat"
        )

    return _sitk_sees(path, voxels.shape, affine_mm)


def _is_as_written(volume: Any, voxels: np.ndarray) -> bool:
    """Whether a header has nothing that :func:`write_volume` would not write for the voxels."""
    header = volume.header
    if header["sizeof_hdr"] != NIFTI_1_HEADER or header.extensions:
        return False
    if any(header[name].item() for name in TEXT_FIELDS):
        return False

    has_shape = volume.shape == voxels.shape
    has_type = header.get_data_dtype() == voxels.dtype
    is_unscaled = header.get_slope_inter() in ((None, None), (1, 0))
    follows_header = volume.dataobj.offset == header.single_vox_offset

    return has_shape and has_type and is_unscaled and follows_header


def _pieces(stream: BinaryIO, source: Path) -> Iterator[bytes]:
    """Yield the rest of a source; that it cannot be read is not the fault of the copy."""
    try:
        yield from iter(partial(stream.read, 1 << 20), b"")
    except OSError as error:
        raise InputError(f"{source}: cannot be read ({error.strerror}); copy it again") from error


def _deflated_start(path: Path, size: int) -> int | None:
    """Return where a gzip file's content of ``size`` bytes begins (RFC 1952).

    It is None where anything but a name lies before it.
    """
    with path.open("rb") as stream:
        head = stream.read(4096)
        stream.seek(-4, 2)
        stated_size = int.from_bytes(stream.read(4), "little")
    if head[:3] != GZIP_HEADER[:3] or stated_size != size % 2**32:
        return None

    flags, name_flag = head[3], 8
    start = len(GZIP_HEADER)
    if flags == name_flag:
        start = head.find(b"\0", start) + 1
    if start == 0 or flags not in (0, name_flag):
        return None

    begin = zlib.decompressobj(wbits=-zlib.MAX_WBITS)
    begin.decompress(head[start:], 1)
    is_empty = begin.eof  # another beginning, and perhaps another name, may lie behind it

    return None if is_empty else start


def check_written_volume(path: Path, voxels: np.ndarray, affine_mm: np.ndarray) -> None:
    """Read a written file back and compare voxels, and the geometry as SimpleITK sees it.

    Raises:
        InputError: something differs.
    """
    if not _equal(read_voxels(path, open_volume(path)), voxels):
        raise InputError(
            f"{path}: reads back with other voxels than were written; check the disk and repeat"
        )
    if not _sitk_sees(path, voxels.shape, affine_mm):
        raise InputError(
            f"{path}: SimpleITK reads another geometry than was written; please report this image"
        )


def _sitk_sees(path: Path, shape: tuple[int, ...], affine_mm: np.ndarray) -> bool:
    """Whether SimpleITK, and so nnU-Net, reads this shape and geometry."""
    seen_shape, seen_mm = sitk_grid(path)
    if seen_shape != shape:
        return False

    spatial_shape = (*shape, 1, 1)[:3]
    return same_grid(seen_mm, affine_mm, spatial_shape)


def sitk_grid(path: Path) -> tuple[tuple[int, ...], np.ndarray]:
    """Return shape and affine (4, 4), index to RAS in mm, as SimpleITK reads a header.

    Raises:
        RuntimeError: it refuses the file.
    """
    import SimpleITK as sitk

    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    reader.ReadImageInformation()
    dimension = reader.GetDimension()
    directions = np.reshape(reader.GetDirection(), (dimension, dimension))
    spacing_mm = np.array(reader.GetSpacing())
    origin_mm = reader.GetOrigin()

    axes = min(dimension, 3)
    seen = np.eye(4)
    seen[:axes, :axes] = directions[:axes, :axes] * spacing_mm[:axes]
    seen[:axes, 3] = origin_mm[:axes]
    to_ras = np.diag([-1.0, -1.0, 1.0, 1.0])  # ITK's world has x and y reversed

    return reader.GetSize(), to_ras @ seen


def all_finite(voxels: np.ndarray) -> bool:
    """Whether no value is NaN or infinite; layer by layer, to save memory."""
    if voxels.dtype.kind != "f":
        return True

    return all(np.isfinite(voxels[..., index]).all() for index in range(voxels.shape[-1]))


def _equal(first: np.ndarray, second: np.ndarray) -> bool:
    """Whether all voxels are equal; layer by layer, to save memory."""
    if first.shape != second.shape:
        return False

    layers = range(first.shape[-1])
    return all(np.array_equal(first[..., index], second[..., index]) for index in layers)


def grid_text(shape: tuple[int, ...], affine_mm: np.ndarray) -> str:
    """Return number, size and place of the voxels, in words."""
    voxels = _voxels_text(shape, spacing_of(affine_mm))
    place_mm = affine_mm[:3, 3]
    first = ", ".join(f"{value:.5g}" for value in place_mm)

    return f"{voxels}, the first at {first} mm"


def _voxels_text(shape: tuple[int, ...], sizes_mm: np.ndarray) -> str:
    number = "x".join(map(str, shape))
    sizes = "x".join(f"{value:.4g}" for value in sizes_mm)

    return f"{number} voxels of {sizes} mm"
