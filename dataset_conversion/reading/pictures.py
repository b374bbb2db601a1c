"""Slices stored as pictures (JPEG, PNG): reading them as grey values or class colours, writing
PNG.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from nnunet_ext.errors import InputError

CHANNEL_TOLERANCE = (
    12  # grey stored as RGB JPEG: rounding of the colour transform and chroma blocks
)


def open_picture(path: Path) -> Any:
    """PIL image with its pixels read.

    Raises:
        InputError: no picture, or a truncated one.
    """
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(path) as picture:
            picture.load()
            return picture
    except (
        UnidentifiedImageError,
        OSError,
        SyntaxError,
        ValueError,
        Image.DecompressionBombError,
    ) as error:
        reason = (
            "no picture"
            if isinstance(error, UnidentifiedImageError)
            else str(error).splitlines()[0]
        )
        raise InputError(f"{path}: cannot be read ({reason}); download it again") from error


def read_grey(path: Path) -> np.ndarray:
    """Grey values (row, column), uint8, of a grey picture, also one stored as RGB.

    Raises:
        InputError: colours, transparency, or more than 8 bits.
    """
    picture = open_picture(path)
    if picture.mode in ("1", "L"):
        return np.asarray(picture.convert("L"))
    if picture.mode not in ("RGB", "RGBA", "P", "LA"):
        raise InputError(
            f"{path}: has pixel type {picture.mode}, expected 8-bit grey; save it as such"
        )
    values = np.asarray(picture.convert("RGBA"))
    colours = values[..., :3].astype(np.int16)
    difference = int((colours.max(axis=-1) - colours.min(axis=-1)).max())
    if difference > CHANNEL_TOLERANCE:
        raise InputError(
            f"{path}: is a colour picture (channels differ by up to {difference}); use the grey "
            f"original"
        )
    if (values[..., 3] != 255).any():
        raise InputError(f"{path}: has transparent pixels; save it as 8-bit grey")
    return np.round(colours.mean(axis=-1)).astype(np.uint8)


def read_colours(path: Path) -> tuple[np.ndarray, np.ndarray | None]:
    """Colours (row, column, 3), uint8, and palette indices (row, column) where the file has a
    palette.

    Raises:
        InputError: more than 8 bits per channel, or transparency.
    """
    picture = open_picture(path)
    if picture.mode not in ("1", "L", "P", "RGB", "RGBA", "LA"):
        raise InputError(
            f"{path}: has pixel type {picture.mode}, expected 8-bit grey, RGB or palette; save it "
            f"as such"
        )
    if picture.has_transparency_data and (np.asarray(picture.convert("RGBA"))[..., 3] != 255).any():
        raise InputError(
            f"{path}: has transparent pixels, whose value is not certain; save it without "
            f"transparency"
        )
    return np.asarray(picture.convert("RGB")), np.asarray(picture) if picture.mode == "P" else None


def write_png(path: Path, values: np.ndarray) -> None:
    """Write (row, column) uint8 values as grey PNG; equal input gives equal bytes."""
    from PIL import Image

    Image.fromarray(np.ascontiguousarray(values)).save(path, format="PNG")


def check_written_png(path: Path, values: np.ndarray) -> None:
    """Read a written file back and compare.

    Raises:
        InputError: something differs.
    """
    picture = open_picture(path)
    if picture.mode != "L" or not np.array_equal(np.asarray(picture), values):
        raise InputError(
            f"{path}: reads back with other pixels than were written; check the disk and repeat"
        )
