"""A folder of results as the hospital path writes it."""

from pathlib import Path

import pytest

from nnunet_ext.dicom.writing.secondary_capture import write_captures
from nnunet_ext.dicom.writing.segmentation import write_segmentation
from nnunet_ext.dicom.writing.structured_report import write_report
from tests.hospital.report.studies import MODEL, write_study


@pytest.fixture(scope="session")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Segmentation (plain), report (plain) and captures (compressed) of a study."""
    root = tmp_path_factory.mktemp("results")
    study = write_study(root / "scan")
    folder = root / "out" / "case-1f0c"
    folder.mkdir(parents=True)
    written = write_segmentation(
        folder / "segmentation.dcm",
        study.mask,
        study.source,
        study.segments,
        MODEL,
        series_number=1001,
    )
    write_report(
        folder / "report.dcm",
        study.measurements,
        study.source,
        written,
        MODEL,
        series_number=1002,
    )
    write_captures(
        folder / "captures",
        study.mask[3:5].repeat(6, axis=0),
        study.values,
        study.source,
        study.segments,
        study.measurements,
        MODEL,
        series_number=1003,
    )
    for extra in sorted((folder / "captures").glob("*.dcm"))[3:]:
        extra.unlink()
    return folder
