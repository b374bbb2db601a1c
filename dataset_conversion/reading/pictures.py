"""Slices stored as pictures (JPEG, PNG): reading grey values or class colours, writing PNG."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from nnunet_ext.errors import InputError

CHANNEL_TOLERANCE = 12  # of grey stored as RGB JPEG, by the colour transform and chroma blocks


def open_picture(path: Path) -> Any:
    """Return a PIL image with its pixels read.

    Raises:
        InputError: not a picture, or a truncated one.
    """
    from PIL import Image, UnidentifiedImageError

    unreadable = (OSError, SyntaxError, ValueError, Image.DecompressionBombError)

    try:
        with Image.open(path) as picture:
            picture.load()
            return picture
    except UnidentifiedImageError as error:
        raise InputError(f"{path}: cannot be read (not a picture); download it again") from error
    except unreadable as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"{path}: cannot be read ({reason}); download it again") from error


def read_grey(path: Path) -> np.ndarray:
    """Return grey values (row, column), uint8, of a grey picture, also one stored as RGB.

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
    """Return colours (row, column, 3), uint8, and indices (row, column) where there is a palette.

    Raises:
        InputError: more than 8 bits per channel, or transparency.
    """
    picture = open_picture(path)
    if picture.mode not in ("1", "L", "P", "RGB", "RGBA", "LA"):
        raise InputError(
            f"{path}: has pixel type {picture.mode}, expected 8-bit grey, RGB or palette; save it "
            f"as such"
        )

    if picture.has_transparency_data:
        opacity = np.asarray(picture.convert("RGBA"))[..., 3]
        if (opacity != 255).any():
            raise InputError(
                f"{path}: has transparent pixels, whose value is not certain; save it without "
                f"transparency"
            )

    colours = np.asarray(picture.convert("RGB"))
    indices = np.asarray(picture) if picture.mode == "P" else None

    return colours, indices


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
