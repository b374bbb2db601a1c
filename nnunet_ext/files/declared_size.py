"""Check whether a file can hold what its header declares, before memory is allocated for it."""

import gzip
import math
import zlib
from pathlib import Path

from nnunet_ext.errors import InputError

DEFLATE_RATIO = 1032  # a byte of gzip, PNG or zlib holds no more (zlib's technical details)
SLACK_BYTES = 1 << 16
CHUNK_BYTES = 1 << 20


def require_size(path: Path, declared_bytes: int, *, compressed: bool) -> None:
    """Refuse a file that is too small for what its header declares.

    Args:
        path: of the file.
        declared_bytes: header and voxels, unpacked.
        compressed: whether the file may be compressed.

    Raises:
        InputError: they do not fit into the file.
    """
    size = path.stat().st_size
    most = size
    if compressed:
        most = size * DEFLATE_RATIO + SLACK_BYTES
    if declared_bytes > most:
        raise InputError(
            f"{path}: is truncated or damaged (its header declares {declared_bytes} bytes, more "
            f"than its {size} bytes can hold); download it again"
        )


def require_intact(path: Path) -> None:
    """Refuse a gzip file that is truncated or damaged; ITK would silently fill the missing part.

    Args:
        path: any file; only those that end in ``.gz`` are read.

    Raises:
        InputError: the end is missing, or the checksum is wrong.
    """
    if path.suffix != ".gz":
        return
    try:
        with gzip.open(path) as stream:
            while stream.read(CHUNK_BYTES):
                pass
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise InputError(
            f"{path}: is truncated or damaged ({error}); copy or convert it again"
        ) from error


def shape_in_header(path: Path) -> tuple[int, ...]:
    """Return the shape that an image file's header declares, axes slowest first, without colours.

    Raises:
        InputError: more voxels than the file can hold.
        RuntimeError: SimpleITK cannot read the header.
    """
    import SimpleITK  # slow to import

    reader = SimpleITK.ImageFileReader()
    reader.SetFileName(str(path))
    reader.ReadImageInformation()
    shape = reader.GetSize()[::-1]
    require_size(path, math.prod(shape), compressed=True)  # a byte per voxel at least
    return tuple(shape)
