"""Small generated series."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from dataset_conversion.phantoms.dicom_series import write_series


def numbered(slices: int, rows: int = 6, columns: int = 5) -> np.ndarray:
    """HU (slice, row, column) in which no two voxels are equal."""
    return np.arange(slices * rows * columns).reshape(slices, rows, columns) - 1000


def stacked(slices: int, step_mm: float = 2.0) -> np.ndarray:
    """Positions of a regular stack, foot to head."""
    return np.array([(-10.0, -20.0, 5.0 + step_mm * index) for index in range(slices)])


@pytest.fixture
def series(tmp_path: Path) -> Callable[..., list[Path]]:
    """Writes ``numbered`` slices at the given positions into a folder of the test."""

    def write(positions_mm: np.ndarray, folder: str = "a", **options: object) -> list[Path]:
        return write_series(tmp_path / folder, numbered(len(positions_mm)), positions_mm, **options)  # type: ignore[arg-type]

    return write
