"""What the generated downloads share: axes of a volume, text and hidden files beside the data."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

METADATA = 'Series UID,File Size\n1.2,"1,234.5 MB"\n'  # as metadata.csv of a download from TCIA
APPLE_DOUBLE = bytes.fromhex("0005160700020000") + b"Mac OS X        "


def axes_of(shape: Sequence[int]) -> tuple[np.ndarray, ...]:
    """Return the places along each axis, -1..1, for every voxel."""
    places = [np.linspace(-1, 1, size) for size in shape]
    return np.meshgrid(*places, indexing="ij")


def as_nifti_axes(volume: np.ndarray) -> np.ndarray:
    """Turn (slice, row, column), head first and front up, to axes to the right, front and head."""
    upright = volume[::-1, ::-1, ::-1]
    turned = upright.transpose(2, 1, 0)

    return np.ascontiguousarray(turned)


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text into a folder that is made if absent."""
    content = text.encode()
    write_bytes(path, content)


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file into a folder that is made if absent."""
    folder = path.parent
    folder.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def write_hidden_companion(path: Path) -> None:
    """Write what macOS leaves in archives beside a file: ``._`` and its name."""
    companion = path.with_name(f"._{path.name}")
    companion.write_bytes(APPLE_DOUBLE)
