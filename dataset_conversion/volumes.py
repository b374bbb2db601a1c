"""NIfTI volumes: reading, the proof that image and label share one grid, writing."""

from __future__ import annotations

import hashlib
import itertools
import math
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from isal import igzip

from dataset_conversion.download_folder import sha256_of_file
from nnunet_ext.dicom.geometry import LARGEST_VOXELS
from nnunet_ext.errors import InputError
from nnunet_ext.worker_processes import first_line

GRID_TOLERANCE_VOXEL = 1e-2  # headers store float32; a hundredth of a voxel is invisible
GZIP_HEADER = b"\x1f\x8b\x08\0\0\0\0\0\0\xff"  # without name, date and operating system
PIECE = 1 << 18  # bytes that stay in the processor's cache
SHEAR_TOLERANCE_VOXEL = 0.5  # largest shift that right-angled axes may cause at a corner of the volume


def open_volume(path: Path) -> Any:
    """nibabel image whose voxels are not yet read.

    Raises:
        InputError: no NIfTI file, or a header without usable geometry or with more voxels than any image has.
    """
    try:
        volume = _nifti(path)
    except MemoryError:
        raise
    except Exception as error:  # nibabel and gzip raise a dozen kinds for damaged files
        raise InputError(f"{path}: cannot be read as NIfTI ({first_line(error)}); download it again") from error
    if math.prod(map(int, volume.shape)) > LARGEST_VOXELS:
        size = "x".join(map(str, volume.shape))
        raise InputError(f"{path}: its header declares {size} voxels, too many for one image; download it again")
    affine = getattr(volume, "affine", None)
    if affine is None or not np.isfinite(affine).all() or abs(np.linalg.det(affine[:3, :3])) < 1e-9:
        raise InputError(f"{path}: its header gives no voxel size; download it again")
    unit = volume.header.get_xyzt_units()[0]
    if unit not in ("mm", "unknown"):  # SimpleITK would convert the geometry, most other readers not
        raise InputError(f"{path}: its header gives voxel sizes in {unit}; write them in mm")
    return volume


class _GzipFile(igzip.IGzipFile):
    """ISA-L's gzip: decompresses in half zlib's time and compresses in a quarter."""

    def readinto(self, buffer: Any) -> int:
        """Piece by piece: the inherited one holds everything twice."""
        view, done = memoryview(buffer).cast("B"), 0
        while count := super().readinto(view[done : done + PIECE]):
            done += count
        return done


def _nifti(path: Path) -> Any:
    """nibabel image; the content decides whether it is compressed: browsers unpack files or drop their endings."""
    import nibabel

    compressed = is_gzip(path)
    if not compressed and path.name.lower().endswith(".nii"):
        return nibabel.load(path)  # maps the file into memory
    stream = _GzipFile(path) if compressed else path.open("rb")
    header_size = stream.read(4)
    stream.seek(0)
    nifti_2 = 540 in (int.from_bytes(header_size, order) for order in ("little", "big"))
    return (nibabel.Nifti2Image if nifti_2 else nibabel.Nifti1Image).from_stream(stream)


def is_gzip(path: Path) -> bool:
    """Whether a file is compressed, as its first bytes say."""
    with path.open("rb") as stream:
        return stream.read(2) == b"\x1f\x8b"


def read_voxels(path: Path, volume: Any, channel: int | None = None) -> np.ndarray:
    """Voxels (x, y, z[, channel]) in the stored integer type, or float32 where the file scales them; read-only.

    Args:
        path: for the message.
        volume: from :func:`open_volume`.
        channel: of a 4-D file, read only this one.

    Raises:
        InputError: truncated or damaged data.
    """
    try:
        voxels = np.asanyarray(volume.dataobj if channel is None else volume.dataobj[..., channel])
        stream = volume.dataobj.file_like
        if channel is None and hasattr(stream, "read"):
            stream.read(1)  # at its end, gzip compares the checksum
    except MemoryError:
        raise
    except Exception as error:
        raise InputError(f"{path}: is truncated or damaged ({first_line(error)}); download it again") from error
    if voxels.dtype.kind not in "fiu":
        raise InputError(f"{path}: has voxels of type {voxels.dtype}, expected numbers; download it again")
    if voxels.dtype.itemsize == 8 and voxels.dtype.kind in "iu":  # 64-bit integers are no type that every reader takes
        voxels = voxels.astype(np.int32 if np.abs(voxels).max(initial=0) < 2**31 else np.float32)
    elif voxels.dtype.kind == "f":
        voxels = voxels.astype(np.float32, copy=False)
    voxels.flags.writeable = False  # so that who still holds this array knows that it is the file's content
    return voxels


def label_on_image_grid(
    label: np.ndarray, label_affine_mm: np.ndarray, shape: tuple[int, ...], affine_mm: np.ndarray
) -> tuple[np.ndarray, tuple[str, ...]]:
    """The label as an array on the image's grid: equal grids pass, flipped or permuted axes are turned.

    Nothing is resampled, so every voxel keeps its value.

    Args:
        label: (x, y, z).
        label_affine_mm: (4, 4), label index to mm.
        shape: of the image.
        affine_mm: (4, 4), image index to mm.

    Returns:
        Label of the image's shape, and what was done in words.

    Raises:
        InputError: the grids cover different places or have different voxels.
    """
    if label.shape == shape and same_grid(label_affine_mm, affine_mm, shape):
        return label, ()
    to_image = np.linalg.inv(affine_mm) @ label_affine_mm  # label index -> image index
    turn = np.round(to_image[:3, :3])
    if np.array_equal(np.abs(turn).sum(axis=0), np.ones(3)) and np.array_equal(np.abs(turn).sum(axis=1), np.ones(3)):
        axes = [int(np.argmax(np.abs(turn[row]))) for row in range(3)]  # label axis that becomes image axis `row`
        flipped = [row for row in range(3) if turn[row, axes[row]] < 0]
        turned = np.flip(np.transpose(label, axes), tuple(flipped))
        rigid = np.eye(4)
        rigid[:3, :3] = turn
        rigid[flipped, 3] = [shape[row] - 1 for row in flipped]
        if turned.shape == shape and same_grid(label_affine_mm, affine_mm @ rigid, label.shape):
            return np.ascontiguousarray(turned), (f"label axes {axes}, flipped {flipped}",)
    raise InputError(
        f"label grid ({_grid_text(label.shape, label_affine_mm)}) is not the image's ({_grid_text(shape, affine_mm)}), "
        "nor is it one with its axes flipped or swapped"
    )


def axial_axis(affine_mm: np.ndarray) -> int:
    """Array axis that runs most nearly from feet to head."""
    return int(np.argmax(np.abs(affine_mm[2, :3]) / spacing_of(affine_mm)))


def same_grid(first_mm: np.ndarray, second_mm: np.ndarray, shape: tuple[int, ...]) -> bool:
    """Whether both affines put every voxel at the same place, to a fraction of a voxel."""
    return _largest_shift_voxel(first_mm, second_mm, shape) <= GRID_TOLERANCE_VOXEL


def _largest_shift_voxel(first_mm: np.ndarray, second_mm: np.ndarray, shape: tuple[int, ...]) -> float:
    """Largest distance, over the volume's corners, between where two affines put a voxel; unit: smallest spacing."""
    corners = np.array([(*corner, 1) for corner in itertools.product(*((0, size - 1) for size in shape))])
    shift_mm = np.abs(corners @ (first_mm - second_mm).T).max()
    return float(shift_mm / spacing_of(second_mm).min())


def spacing_of(affine_mm: np.ndarray) -> np.ndarray:
    """Voxel size (3,) in mm along each array axis."""
    return np.linalg.norm(affine_mm[:3, :3], axis=0)


def right_angled(affine_mm: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """The affine with exactly orthogonal axes; SimpleITK, and so nnU-Net, refuses any other.

    Raises:
        InputError: the axes are not at right angles, as after a tilted gantry.
    """
    spacing_mm = spacing_of(affine_mm)
    u, _, vt = np.linalg.svd(affine_mm[:3, :3] / spacing_mm)
    result = affine_mm.copy()
    result[:3, :3] = (u @ vt) * spacing_mm
    if _largest_shift_voxel(affine_mm, result, shape) > SHEAR_TOLERANCE_VOXEL:
        raise InputError("image axes are not at right angles, and nnU-Net reads no such image; resample it first")
    return result


def voxels_sha256(voxels: np.ndarray) -> str:
    """Of shape and values: says whether an image or label is what it was."""
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
    with path.open("wb") as raw, _GzipFile(filename="", mode="wb", fileobj=raw, mtime=0) as stream:
        volume.to_stream(stream)


def copy_volume(source: Path, path: Path, voxels: np.ndarray, affine_mm: np.ndarray) -> bool:
    """Copy a compressed file, known to hold these voxels, if it is what :func:`write_volume` would make of them.

    The name that gzip may have noted is left out.

    Args:
        source: to copy.
        path: the copy.
        voxels: (x, y, z), as read from it.
        affine_mm: (4, 4), voxel index to mm, that the case shall have.

    Returns:
        False where it is not: uncompressed, voxels scaled or of another type, any text, extension or further bytes,
        which may name a patient, or other geometry in SimpleITK's eyes. ``path`` is then to be written.

    Raises:
        InputError: the copy reads back with other bytes.
    """
    volume = open_volume(source)
    header = volume.header
    text = b"".join(header[name].item() for name in ("data_type", "db_name", "intent_name", "descrip", "aux_file"))
    as_written = (
        volume.shape == voxels.shape
        and header.get_data_dtype() == voxels.dtype
        and header.get_slope_inter() in ((None, None), (1, 0))
        and volume.dataobj.offset == header.single_vox_offset
        and not header.extensions
        and not text
    )
    start = _deflated_start(source, size=header.single_vox_offset + voxels.nbytes)
    if not as_written or start is None:
        return False
    digest = hashlib.sha256()
    with source.open("rb") as original, path.open("wb") as copy:
        original.seek(start)
        for piece in (GZIP_HEADER, *iter(partial(original.read, 1 << 20), b"")):
            digest.update(piece)
            copy.write(piece)
    if sha256_of_file(path) != digest.hexdigest():
        raise InputError(f"{path}: reads back with other bytes than were copied; check the disk and repeat")
    return _sitk_sees(path, voxels.shape, affine_mm)


def _deflated_start(path: Path, size: int) -> int | None:
    """Where a gzip file's content of ``size`` bytes begins, with nothing before but a name; else None (RFC 1952)."""
    with path.open("rb") as stream:
        head = stream.read(4096)
        stream.seek(-4, 2)
        if head[:3] != GZIP_HEADER[:3] or int.from_bytes(stream.read(4), "little") != size % 2**32:
            return None
    flags, name_flag = head[3], 8
    if flags == name_flag:
        end = head.find(b"\0", len(GZIP_HEADER))
        return end + 1 if end > 0 else None
    return None if flags else len(GZIP_HEADER)


def check_written_volume(path: Path, voxels: np.ndarray, affine_mm: np.ndarray) -> None:
    """Read a written file back and compare voxels, and the geometry as nnU-Net's SimpleITK reader sees it.

    Raises:
        InputError: something differs.
    """
    if not _equal(read_voxels(path, open_volume(path)), voxels):
        raise InputError(f"{path}: reads back with other voxels than were written; check the disk and repeat")
    if not _sitk_sees(path, voxels.shape, affine_mm):
        raise InputError(f"{path}: SimpleITK reads another geometry than was written; please report this image")


def _sitk_sees(path: Path, shape: tuple[int, ...], affine_mm: np.ndarray) -> bool:
    """Whether SimpleITK, and so nnU-Net, reads this shape and geometry."""
    import SimpleITK as sitk

    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    reader.ReadImageInformation()
    axes = reader.GetDimension()
    seen = np.eye(4)
    seen[:axes, :axes] = np.reshape(reader.GetDirection(), (axes, axes)) * np.array(reader.GetSpacing())
    seen[:axes, 3] = reader.GetOrigin()
    to_lps = np.diag([-1.0, -1.0, 1.0, 1.0])  # ITK's world has x and y reversed
    return reader.GetSize() == shape and same_grid(to_lps @ seen, affine_mm, (*shape, 1)[:3])


def _equal(first: np.ndarray, second: np.ndarray) -> bool:
    """Whether all voxels are equal; piece by piece, to save memory."""
    last = range(first.shape[-1])
    return first.shape == second.shape and all(np.array_equal(first[..., i], second[..., i]) for i in last)


def _grid_text(shape: tuple[int, ...], affine_mm: np.ndarray) -> str:
    sizes = "x".join(f"{value:.4g}" for value in spacing_of(affine_mm))
    first = ", ".join(f"{value:.5g}" for value in affine_mm[:3, 3])
    return f"{'x'.join(map(str, shape))} voxels of {sizes} mm, the first at {first} mm"
