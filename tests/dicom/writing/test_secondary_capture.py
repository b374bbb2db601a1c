"""Pictures with the result drawn on them: right slices, right places, right colours, nothing of the
patient.
"""

from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest

from nnunet_ext.dicom.reading.volume import read_slices
from nnunet_ext.dicom.writing.measurements import measure
from nnunet_ext.dicom.writing.secondary_capture import (
    FILL,
    SMALLEST_SIDE_PX,
    orientation_letters,
    write_captures,
)
from nnunet_ext.dicom.writing.segments import Model, Segment, segments_of
from nnunet_ext.dicom.writing.source import Source, read_source
from nnunet_ext.errors import InputError
from tests.dicom.writing.geometries import (
    COLUMNS,
    MODEL,
    ROWS,
    SLICES,
    SPACING_MM,
    acquisition_below,
    write_geometry,
)
from tests.dicom.writing.validators import dciodvfy_errors

Segments = tuple[Segment, ...]
LOW, HIGH = -1000.0, 2000.0
ENLARGED = SMALLEST_SIDE_PX / ROWS  # rows are the longer side


def boxes() -> np.ndarray:
    values = np.zeros((SLICES, ROWS, COLUMNS), np.uint8)
    values[2:5, 4:15, 3:12] = 1
    values[4:6, 17:22, 5:13] = 2
    return values


def written(
    folder: Path, mask: np.ndarray, source: Source, segments: Segments, **options: Any
) -> list[Path]:
    values, _ = read_slices(source.acquisition)
    measurements = measure(mask, source.acquisition, segments, values)
    return write_captures(
        folder, mask, values, source, segments, measurements, MODEL, series_number=1003, **options
    )


def pixel(picture: np.ndarray, row: int, column: int) -> np.ndarray:
    """The colour at the middle of a voxel."""
    wide = ENLARGED * SPACING_MM[1] / SPACING_MM[0]
    return picture[int((row + 0.5) * ENLARGED), int((column + 0.5) * wide)].astype(float)


def test_segments_are_drawn_where_they_lie(
    tmp_path: Path, source: Source, segments: Segments
) -> None:
    window = ((LOW + HIGH) / 2, HIGH - LOW)
    files = written(tmp_path / "sc", boxes(), source, segments, window=window)
    assert [file.name for file in files] == [
        f"{number:04d}.dcm" for number in range(1, 6)
    ]  # a page, slices 2 to 5
    values, _ = read_slices(source.acquisition)
    for index, file in zip(range(2, 6), files[1:], strict=True):
        data = pydicom.dcmread(file)
        item = source.acquisition.slices[index]
        reference = data.SourceImageSequence[0]
        assert reference.ReferencedSOPInstanceUID == item.sop_uid
        assert reference.get("ReferencedFrameNumber") == (
            None if item.frame is None else item.frame + 1
        )
        picture = data.pixel_array
        for row, column in ((10, 7), (19, 9), (1, 1), (10, 16)):
            grey = 255 * (values[index, row, column] - LOW) / (HIGH - LOW)
            expected = np.full(3, grey)
            value = boxes()[index, row, column]
            if value:
                expected = (1 - FILL) * expected + FILL * np.array(segments[value - 1].colour_rgb)
            assert pixel(picture, row, column) == pytest.approx(expected, abs=3)


def test_every_slice_on_request(tmp_path: Path, regular: Source, segments: Segments) -> None:
    assert len(written(tmp_path / "a", boxes(), regular, segments, every_slice=True)) == 1 + SLICES
    assert len(written(tmp_path / "b", 0 * boxes(), regular, segments)) == 1


def test_volumes_are_burnt_in(tmp_path: Path, regular: Source, segments: Segments) -> None:
    """Beside the same slice, the text differs where the volume does, and only there."""
    small = boxes()
    large = small.copy()
    large[6:8] = 2  # changes the volume of the second segment, not the slice that is compared
    pictures = [
        pydicom.dcmread(written(tmp_path / name, mask, regular, segments)[1]).pixel_array.astype(
            int
        )
        for name, mask in (("a", small), ("b", large))
    ]
    different = np.argwhere((pictures[0] != pictures[1]).any(axis=2))
    assert len(different) and different[:, 1].min() > pictures[0].shape[1] - 300
    assert different[:, 0].max() - different[:, 0].min() < 20  # one line of text
    line = pictures[1][different[:, 0].min() : different[:, 0].max() + 1, -300:].reshape(-1, 3)
    assert (line == segments[1].colour_rgb).all(axis=1).any()


def test_a_series_of_the_same_study(tmp_path: Path, regular: Source, segments: Segments) -> None:
    objects = [
        pydicom.dcmread(file) for file in written(tmp_path / "sc", boxes(), regular, segments)
    ]
    assert len({item.SOPInstanceUID for item in objects}) == len(objects)
    assert [item.InstanceNumber for item in objects] == list(range(1, len(objects) + 1))
    for item in objects:
        assert (
            item.SeriesInstanceUID
            == objects[0].SeriesInstanceUID
            != regular.first.SeriesInstanceUID
        )
        assert (item.StudyInstanceUID, item.PatientID) == (
            regular.first.StudyInstanceUID,
            "PHANTOM-1",
        )
        assert (item.SeriesNumber, item.BurnedInAnnotation, item.Modality) == (1003, "YES", "OT")
        assert item.SOPClassUID == "1.2.840.10008.5.1.4.1.1.7"


def test_nothing_of_the_patient_is_burnt_in(tmp_path: Path, segments: Segments) -> None:
    pictures = []
    for name in ("Anna^Secret", "Berta^Hidden"):

        def edit(_: int, data: Any, name: str = name) -> None:
            data.PatientName = name

        write_geometry(tmp_path / name[:4] / "scan", "regular", patient=name[:4], edit=edit)
        source = read_source(acquisition_below(tmp_path / name[:4] / "scan"))
        files = written(tmp_path / name[:4] / "sc", boxes(), source, segments)
        pictures.append([pydicom.dcmread(file).pixel_array for file in files])
    assert np.array_equal(pictures[0], pictures[1])


def test_sides_of_the_body(source: Source) -> None:
    prone = source.acquisition.slices[0].orientation[4] < 0
    assert orientation_letters(source) == (["L", "A"] if prone else ["L", "P"])


def test_the_images_window_is_used(tmp_path: Path, segments: Segments) -> None:
    def edit(_: int, data: Any) -> None:
        data.WindowCenter, data.WindowWidth = [500, 40], [3000, 400]

    write_geometry(tmp_path / "scan", "regular", edit=edit)
    source = read_source(acquisition_below(tmp_path / "scan"))
    windowed, given = (
        pydicom.dcmread(
            written(tmp_path / name, boxes(), source, segments, **options)[1]
        ).pixel_array
        for name, options in (("a", {}), ("b", {"window": (500.0, 3000.0)}))
    )
    assert np.array_equal(windowed, given)


def test_many_segments_find_room(tmp_path: Path, regular: Source) -> None:
    names = {f"a structure with a long name {index}": index for index in range(1, 61)}
    files = written(tmp_path / "sc", boxes(), regular, segments_of(names))
    assert pydicom.dcmread(files[0]).pixel_array.shape[0] == SMALLEST_SIDE_PX


def test_values_of_other_slices_are_refused(
    tmp_path: Path, regular: Source, segments: Segments
) -> None:
    with pytest.raises(InputError, match="the values have shape"):
        write_captures(
            tmp_path / "sc",
            boxes(),
            np.zeros((2, 2, 2)),
            regular,
            segments,
            [],
            Model("a", "1"),
            series_number=1,
        )


def test_dciodvfy_finds_no_error(tmp_path: Path, source: Source, segments: Segments) -> None:
    for file in written(tmp_path / "sc", boxes(), source, segments):
        assert dciodvfy_errors(file) == []
