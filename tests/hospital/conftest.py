"""Generated exports and models for the hospital path."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dataset_conversion.phantoms.dicom_series import uid, write_series
from nnunet_ext.keyed_names import KEY_VARIABLE


@pytest.fixture(autouse=True)
def own_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A key of the test's own, so that none is made in the user's folder."""
    path = tmp_path / "private" / "key"
    monkeypatch.setenv(KEY_VARIABLE, str(path))
    return path


def body(slices: int, size: int = 24, seed: int = 0) -> np.ndarray:
    """HU (slice, row, column): soft tissue in air, with a bright ball and noise."""
    generator = np.random.default_rng(seed)
    z, y, x = np.meshgrid(
        *(np.linspace(-1, 1, count) for count in (slices, size, size)), indexing="ij"
    )
    hu = np.where(x**2 + y**2 < 0.8, 40.0, -1000.0)
    hu[(x - 0.3) ** 2 + (y - 0.2) ** 2 + z**2 < 0.1] = 400
    return np.round(hu + generator.normal(0, 3, hu.shape)).astype(np.int16)


def stacked(slices: int, step_mm: float = 2.0) -> np.ndarray:
    return np.array([(-10.0, -20.0, 5.0 + step_mm * index) for index in range(slices)])


@pytest.fixture
def export(tmp_path: Path) -> Callable[..., Path]:
    """Writes a CT series of a study into the export of the test; returns the export."""

    def write(
        folder: str = "a",
        slices: int = 8,
        positions_mm: np.ndarray | None = None,
        seed: int = 0,
        **options: Any,
    ) -> Path:
        root = tmp_path / "export"
        positions_mm = stacked(slices) if positions_mm is None else positions_mm
        write_series(root / folder, body(len(positions_mm), seed=seed), positions_mm, **options)
        return root

    return write


def series_uid(name: str) -> str:
    return uid("series", name)
