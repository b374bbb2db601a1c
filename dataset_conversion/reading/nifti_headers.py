"""NIfTI files as their headers describe them: opening one, and the proof that its statements agree.

A header states the geometry up to three times: ``pixdim`` (voxel sizes), the qform (``pixdim`` with
a rotation and a place), and the sform (an affine). A code of 0 means that a form is not given.
nibabel believes the sform first, SimpleITK often the qform, and both repair what is missing; so a
file is read only where its statements agree.
"""

from __future__ import annotations

import io
import math
from pathlib import Path
from typing import Any

import numpy as np
from isal import igzip

from nnunet_ext.dicom.reading.geometry import LARGEST_VOXELS
from nnunet_ext.errors import InputError, first_line
from nnunet_ext.files.declared_size import require_size

PIECE = 1 << 18  # bytes that stay in the processor's cache
HEADER_BYTES = 540  # of NIfTI-2; NIfTI-1 has 348
GZIP_MAGIC = b"\x1f\x8b"
SIZE_TOLERANCE = 5e-3  # of a voxel size: a header that was written as text has three digits
# Of direction cosines: a quaternion near a half turn loses half of float32's digits.
ROTATION_TOLERANCE = 5e-3
PLACE_TOLERANCE_VOXEL = 0.5
KNOWN_FORMS = range(6)  # codes of NIfTI; nibabel silently takes any other for 0


def open_volume(path: Path) -> Any:
    """Return a nibabel image whose voxels are not yet read.

    Raises:
        InputError: not a NIfTI file, or its header has no usable geometry, contradicts itself or
            states more voxels than any image has.
    """
    _require_single_file(path)
    try:
        volume = _nifti(path)
        header = _unrepaired(path, volume)
    except MemoryError:
        raise
    except Exception as error:  # nibabel and gzip raise a dozen kinds for damaged files
        raise InputError(
            f"{path}: cannot be read as NIfTI ({first_line(error)}); download it again"
        ) from error

    voxels = math.prod(map(int, volume.shape))
    if voxels > LARGEST_VOXELS:
        size = "x".join(map(str, volume.shape))
        raise InputError(
            f"{path}: its header declares {size} voxels, too many for one image; download it again"
        )

    _require_numbers(path, volume, header)
    voxel_bytes = voxels * volume.get_data_dtype().itemsize
    require_size(path, int(volume.dataobj.offset) + voxel_bytes, compressed=is_gzip(path))
    _require_voxel_sizes(path, volume, header)
    _require_agreement(path, volume.shape, header)
    _require_millimetres(path, header)

    return volume


def states_orientation(volume: Any) -> bool:
    """Whether the header says how the axes lie in the body; without, a reader can only assume."""
    header = volume.header
    has_qform = header["qform_code"] > 0
    has_sform = header["sform_code"] > 0

    return bool(has_qform or has_sform)


def is_gzip(path: Path) -> bool:
    """Whether a file is compressed, as its first bytes say."""
    with path.open("rb") as stream:
        return stream.read(2) == GZIP_MAGIC


class GzipFile(igzip.IGzipFile):
    """ISA-L's gzip: decompresses in half zlib's time and compresses in a quarter."""

    def readinto(self, buffer: Any) -> int:
        """Read piece by piece: the inherited method holds everything twice."""
        view = memoryview(buffer).cast("B")
        done = 0
        while count := super().readinto(view[done : done + PIECE]):
            done += count

        return done


def _require_single_file(path: Path) -> None:
    """Refuse what is NIfTI, but in a form that is not read, with what to save instead."""
    try:
        start = _start(path)
    except Exception:  # gzip raises half a dozen kinds; the reader will say what is wrong
        return

    if start[:2] == GZIP_MAGIC and is_gzip(path):
        raise InputError(f"{path}: is compressed twice; unpack it once with gunzip, and run again")
    if start[344:348] == b"ni1\0" and path.suffix.lower() != ".hdr":
        raise InputError(
            f"{path}: is the header of a pair .hdr/.img; save both as one file .nii.gz"
        )


def _start(path: Path) -> bytes:
    """Return the header's bytes, unpacked."""
    with GzipFile(path) if is_gzip(path) else path.open("rb") as stream:
        return bytes(stream.read(HEADER_BYTES))


def _nifti(path: Path) -> Any:
    """Return a nibabel image.

    The content decides whether it is compressed: browsers unpack files or drop their endings.
    """
    import nibabel

    compressed = is_gzip(path)
    if not compressed and path.name.lower().endswith(".nii"):
        return nibabel.load(path)  # maps the file into memory

    stream = GzipFile(path) if compressed else path.open("rb")
    size_field = stream.read(4)
    stream.seek(0)
    is_nifti_2 = size_field in (HEADER_BYTES.to_bytes(4, "little"), HEADER_BYTES.to_bytes(4, "big"))
    kind = nibabel.Nifti2Image if is_nifti_2 else nibabel.Nifti1Image

    return kind.from_stream(stream)


def _unrepaired(path: Path, volume: Any) -> Any:
    """Return the header as it stands in the file; nibabel's own is repaired."""
    kind = type(volume.header)
    start = io.BytesIO(_start(path))

    return kind.from_fileobj(start, check=False)


def _require_numbers(path: Path, volume: Any, header: Any) -> None:
    """Refuse voxels that are not plain numbers, or that begin within the header."""
    begin, least = int(header["vox_offset"]), volume.header.single_vox_offset
    if begin < least:
        raise InputError(
            f"{path}: says that its voxels begin at byte {begin}, within its header; save it again"
        )

    kind = volume.get_data_dtype()
    if kind.names:
        raise InputError(
            f"{path}: is a colour image ({''.join(kind.names)} in each voxel); save its grey "
            f"values or labels as a volume of numbers"
        )
    if kind.kind == "c":
        raise InputError(
            f"{path}: holds complex numbers; save their magnitude, or the labels, as a volume of "
            f"numbers"
        )


def _require_voxel_sizes(path: Path, volume: Any, header: Any) -> None:
    has_sizes = header["sform_code"] > 0 or _gives_sizes(header, _long_axes(volume.shape))
    if not has_sizes or not _is_usable(getattr(volume, "affine", None)):
        raise InputError(
            f"{path}: its header gives no voxel size; write it with the right spacing, and run "
            f"again"
        )


def _is_usable(affine_mm: np.ndarray | None) -> bool:
    """Whether an affine is finite and spans space."""
    if affine_mm is None or not np.isfinite(affine_mm).all():
        return False

    volume_mm3 = abs(np.linalg.det(affine_mm[:3, :3]))
    return bool(volume_mm3 >= 1e-9)


def _require_agreement(path: Path, shape: tuple[int, ...], header: Any) -> None:
    """Refuse forms that put the voxels at different places."""
    for name in ("qform_code", "sform_code"):
        code = int(header[name])
        if code not in KNOWN_FORMS:
            raise InputError(
                f"{path}: its {name} is {code}, which NIfTI does not know; set it to 0 or 1"
            )

    axes = _long_axes(shape)
    if header["sform_code"] <= 0 or not _gives_sizes(header, axes):
        return

    sform_mm = header.get_sform()
    sizes_mm = np.linalg.norm(sform_mm[:3, :3], axis=0)
    pixdim_mm = np.abs(header["pixdim"][1:4].astype(float))
    if not np.allclose(sizes_mm[axes], pixdim_mm[axes], rtol=SIZE_TOLERANCE, atol=0):
        said = "qform and pixdim say" if header["qform_code"] > 0 else "pixdim says"
        raise InputError(
            f"{path}: its {said} voxels of {_product(pixdim_mm)} mm, its sform "
            f"{_product(sizes_mm)} mm; readers believe one or the other; write the right one into "
            f"both"
        )

    if header["qform_code"] > 0:
        _require_equal_forms(path, header, sform_mm, axes)


def _require_equal_forms(path: Path, header: Any, sform_mm: np.ndarray, axes: list[int]) -> None:
    """Refuse a qform that puts the voxels elsewhere than the sform; ``axes`` have several."""
    try:
        qform_mm = _qform(header)
    except ValueError:
        raise InputError(
            f"{path}: its qform is not a rotation; write the right one, or set qform_code to 0"
        ) from None

    sizes_mm = np.linalg.norm(sform_mm[:3, :3], axis=0)
    u, _, vt = np.linalg.svd(sform_mm[:3, :3] / sizes_mm)  # a qform knows no shear
    turn = u @ vt - qform_mm[:3, :3] / np.linalg.norm(qform_mm[:3, :3], axis=0)
    is_turned = np.abs(turn[:, axes]).max(initial=0) > ROTATION_TOLERANCE

    apart_mm = np.abs(sform_mm[:3, 3] - qform_mm[:3, 3]).max()
    tolerance_mm = PLACE_TOLERANCE_VOXEL * sizes_mm[axes].min(initial=np.inf)
    if is_turned or apart_mm > tolerance_mm:
        raise InputError(
            f"{path}: its qform ({_place(qform_mm)}) and its sform ({_place(sform_mm)}) put the "
            f"voxels at different places; readers believe one or the other; write the right one "
            f"into both"
        )


def _require_millimetres(path: Path, header: Any) -> None:
    """Refuse other units: SimpleITK would convert the geometry, most other readers not."""
    try:
        unit = header.get_xyzt_units()[0]
    except KeyError:
        unit = f"unit {int(header['xyzt_units'])}, which NIfTI does not know"
    if unit not in ("mm", "unknown"):
        raise InputError(f"{path}: its header gives voxel sizes in {unit}; write them in mm")


def _long_axes(shape: tuple[int, ...]) -> list[int]:
    """Return the spatial axes along which voxels have neighbours."""
    return [axis for axis, size in enumerate(shape[:3]) if size > 1]


def _gives_sizes(header: Any, axes: list[int]) -> bool:
    """Whether ``pixdim`` holds a size for each of the axes; some writers leave zeros."""
    pixdim_mm = header["pixdim"][1:4].astype(float)
    sizes_mm = pixdim_mm[axes]
    is_given = np.isfinite(sizes_mm) & (sizes_mm != 0)

    return bool(is_given.all())


def _qform(header: Any) -> np.ndarray:
    """Return the qform's affine.

    An axis without neighbours may have no size, and the handedness may not be given.
    """
    given = header.copy()
    # Of what is left for the rotation's angle, which rounding eats up.
    given.quaternion_threshold = -ROTATION_TOLERANCE
    pixdim = given["pixdim"]
    is_left_handed = pixdim[0] == -1
    pixdim[0] = -1 if is_left_handed else 1
    sizes_mm = np.abs(pixdim[1:4])
    is_given = np.isfinite(sizes_mm) & (sizes_mm > 0)
    pixdim[1:4] = np.where(is_given, sizes_mm, 1)
    affine_mm = given.get_qform()

    return np.asarray(affine_mm, float)


def _product(sizes_mm: np.ndarray) -> str:
    return "x".join(f"{size:.4g}" for size in sizes_mm)


def _place(affine_mm: np.ndarray) -> str:
    """Return the axes' directions and the first voxel's place: ``LPS from 9.5, 9.5, 0 mm``."""
    import nibabel

    axes = "".join(nibabel.aff2axcodes(affine_mm))
    place_mm = affine_mm[:3, 3]
    first = ", ".join(f"{value:.4g}" for value in place_mm)

    return f"{axes} from {first} mm"
