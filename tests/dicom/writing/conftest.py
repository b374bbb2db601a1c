"""A source of every geometry, and a mask on its slices."""

from pathlib import Path

import numpy as np
import pytest

from nnunet_ext.dicom.writing.segments import Segment, segments_of
from nnunet_ext.dicom.writing.source import Source, read_source
from tests.dicom.writing.geometries import (
    COLUMNS,
    GEOMETRIES,
    LABELS,
    ROWS,
    SLICES,
    acquisition_below,
    write_geometry,
)


@pytest.fixture(params=GEOMETRIES)
def source(request: pytest.FixtureRequest, tmp_path: Path) -> Source:
    write_geometry(tmp_path / "scan", request.param)
    return read_source(acquisition_below(tmp_path / "scan"))


@pytest.fixture
def regular(tmp_path: Path) -> Source:
    write_geometry(tmp_path / "scan", "regular")
    return read_source(acquisition_below(tmp_path / "scan"))


@pytest.fixture
def segments() -> tuple[Segment, ...]:
    return segments_of(LABELS)


@pytest.fixture
def mask() -> np.ndarray:
    """(n, row, column) label values: a large segment, and random voxels of another on all slices
    but the first.
    """
    generator = np.random.default_rng(7)
    values = np.zeros((SLICES, ROWS, COLUMNS), np.uint8)
    values[2:7, 4:15, 3:12] = 1
    values[generator.random(values.shape) < 0.1] = 2
    values[0] = 0
    return values
