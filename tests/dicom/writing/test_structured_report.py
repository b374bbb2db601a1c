"""The report holds what was measured and refers to what it was measured on."""

import json
import subprocess
from pathlib import Path
from typing import Any

import highdicom
import numpy as np
import pydicom
import pytest

from nnunet_ext.dicom.reading.volume import read_slices
from nnunet_ext.dicom.writing.measurements import Measurement, measure
from nnunet_ext.dicom.writing.segmentation import write_segmentation
from nnunet_ext.dicom.writing.segments import Segment
from nnunet_ext.dicom.writing.source import Source
from nnunet_ext.dicom.writing.structured_report import write_report
from tests.dicom.writing.geometries import COLUMNS, MODEL, ROWS, SLICES
from tests.dicom.writing.validators import dciodvfy_errors, program

Segments = tuple[Segment, ...]
NAMES = {"Volume": "volume_ml", "Diameter": "diameter_mm", "Attenuation Coefficient": "mean"}
UNITS = {"Volume": "ml", "Diameter": "mm", "Attenuation Coefficient": "[hnsf'U]"}


@pytest.fixture
def mask() -> np.ndarray:
    """A segment of two lesions beside one of none; reports grow with their groups, and so does the
    time they take.
    """
    values = np.zeros((SLICES, ROWS, COLUMNS), np.uint8)
    values[2:7, 4:15, 3:12] = 1
    values[3:5, 17:20, 3:9] = values[6, 20:22, 14] = 2
    return values


def written_report(
    folder: Path, source: Source, mask: np.ndarray, segments: Segments
) -> list[Measurement]:
    values, _ = read_slices(source.acquisition)
    measurements = measure(mask, source.acquisition, segments, values)
    segmentation = write_segmentation(
        folder / "seg.dcm", mask, source, segments, MODEL, series_number=1001
    )
    write_report(folder / "sr.dcm", measurements, source, segmentation, MODEL, series_number=1002)
    return measurements


def test_groups_hold_the_measurements(
    tmp_path: Path, source: Source, mask: np.ndarray, segments: Segments
) -> None:
    measurements = written_report(tmp_path, source, mask, segments)
    segmentation = pydicom.dcmread(tmp_path / "seg.dcm")
    report = highdicom.sr.srread(tmp_path / "sr.dcm")
    groups = report.content.get_volumetric_roi_measurement_groups()
    assert len(groups) == len(measurements) > len(segments)
    for group, expected in zip(groups, measurements, strict=True):
        assert (group.tracking_uid, group.tracking_identifier) == (
            expected.tracking_uid,
            expected.tracking_id,
        )
        assert group.finding_type.value == expected.segment.type.value
        assert group.finding_category.value == expected.segment.category.value
        reference = group.referenced_segment
        assert reference.referenced_sop_instance_uid == segmentation.SOPInstanceUID
        assert reference.referenced_segment_numbers == [expected.segment.number]
        for value in group.get_measurements():
            assert value.value == pytest.approx(
                getattr(expected, NAMES[value.name.meaning]), abs=6e-4
            )
            assert value.unit.value == UNITS[value.name.meaning]
        assert len(group.get_measurements()) == (2 if expected.mean is None else 3)


def test_report_belongs_to_the_study(
    tmp_path: Path, regular: Source, mask: np.ndarray, segments: Segments
) -> None:
    written_report(tmp_path, regular, mask, segments)
    report = pydicom.dcmread(tmp_path / "sr.dcm")
    segmentation = pydicom.dcmread(tmp_path / "seg.dcm")
    assert (report.PatientID, report.StudyInstanceUID) == (
        regular.first.PatientID,
        regular.first.StudyInstanceUID,
    )
    assert (report.Modality, report.SeriesNumber) == ("SR", 1002)
    assert (
        len(
            {
                report.SeriesInstanceUID,
                segmentation.SeriesInstanceUID,
                regular.first.SeriesInstanceUID,
            }
        )
        == 3
    )
    evidence: list[Any] = [
        item.ReferencedSOPInstanceUID
        for name in ("CurrentRequestedProcedureEvidenceSequence", "PertinentOtherEvidenceSequence")
        for study in report.get(name, [])
        for series in study.ReferencedSeriesSequence
        for item in series.ReferencedSOPSequence
    ]
    assert segmentation.SOPInstanceUID in evidence


def test_an_empty_mask_is_reported(
    tmp_path: Path, regular: Source, mask: np.ndarray, segments: Segments
) -> None:
    written_report(tmp_path, regular, 0 * mask, segments)
    groups = highdicom.sr.srread(
        tmp_path / "sr.dcm"
    ).content.get_volumetric_roi_measurement_groups()
    assert [group.get_measurements()[0].value for group in groups] == [0, 0]


def test_dciodvfy_finds_no_error(
    tmp_path: Path, source: Source, mask: np.ndarray, segments: Segments
) -> None:
    written_report(tmp_path, source, mask, segments)
    assert dciodvfy_errors(tmp_path / "sr.dcm") == []


def test_dcmqi_reads_the_same(
    tmp_path: Path, regular: Source, mask: np.ndarray, segments: Segments
) -> None:
    measurements = written_report(tmp_path, regular, mask, segments)
    output = tmp_path / "sr.json"
    subprocess.run(
        [program("tid1500reader"), "--inputDICOM", tmp_path / "sr.dcm", "--outputMetadata", output],
        check=True,
        capture_output=True,
    )
    groups = json.loads(output.read_text())["Measurements"]
    assert len(groups) == len(measurements)
    for group, expected in zip(groups, measurements, strict=True):
        assert group["TrackingIdentifier"] == expected.tracking_id
        assert group["ReferencedSegment"] == expected.segment.number
        volume = next(
            item
            for item in group["measurementItems"]
            if item["quantity"]["CodeMeaning"] == "Volume"
        )
        assert float(volume["value"]) == pytest.approx(expected.volume_ml, abs=6e-4)
        assert volume["units"]["CodeValue"] == "ml"
