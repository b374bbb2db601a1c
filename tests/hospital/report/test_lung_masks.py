"""Lungs from a file: found by keyed names, on the grid of the series, no reason to lose work."""

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nnunet_ext.dicom.reading.geometry import grid_of
from nnunet_ext.dicom.writing.segments import segments_of
from nnunet_ext.errors import InputError
from nnunet_ext.hospital.images import oriented, write_volume
from nnunet_ext.hospital.options import add_outputs
from nnunet_ext.hospital.privacy import series_name
from nnunet_ext.hospital.report.page import PageOptions
from nnunet_ext.hospital.results import Outputs, outputs_of, write_results
from nnunet_ext.hospital.survey import Case
from tests.hospital.report.studies import MODEL, STEP_MM, labels
from tests.hospital.report.test_course import DAYS, cases_of, write_scan

NAMES = {"background": 0, "other": 1, "lesion": 2}
LUNG_VOXELS = 10 * 32 * 36  # with both lesions


@pytest.fixture
def case(tmp_path: Path) -> Case:
    write_scan(tmp_path / "export", "new", DAYS["new"])
    (found,) = cases_of(tmp_path / "export").values()
    (tmp_path / "lungs").mkdir()
    return found


def write_lungs(case: Case, file: Path, orientation: str = "LPS") -> None:
    """Write the lungs without the lesions in them, with axes in some order."""
    lungs = (labels() == 1).astype(np.uint8).transpose(2, 1, 0)
    write_volume(*oriented(lungs, grid_of(case.reference.stack), orientation), file)


def facts_of_page(case: Case, folder: Path) -> dict[str, Any]:
    options = PageOptions(lung_masks=folder / "lungs")
    wanted = Outputs(segments_of(NAMES), MODEL, page=options)
    write_results(case, labels().transpose(2, 1, 0), folder, wanted)
    facts: dict[str, Any] = json.loads((folder / case.name / "report.json").read_text())
    return facts


@pytest.mark.parametrize("kind", ["case", "study", "series"])
def test_a_turned_mask_gives_the_share_of_the_lungs(tmp_path: Path, case: Case, kind: str) -> None:
    names = {"case": case.name, "study": case.study, "series": series_name(case.reference)}
    write_lungs(case, tmp_path / "lungs" / f"{names[kind]}.nii.gz", "RAS")
    facts = facts_of_page(case, tmp_path)
    assert facts["lung_ml"] == pytest.approx(LUNG_VOXELS * STEP_MM / 1000, abs=0.05)
    text = (tmp_path / case.name / "report.html").read_text(encoding="utf-8")
    assert "lungs are those of a given mask" in text
    share = 100 * 3 * 6 * 5 / LUNG_VOXELS
    assert f"<td>{share:.2f} %</td>" in text


@pytest.mark.parametrize(
    ("defect", "reason"),
    [
        ("absent", "no file has the name of the case, the study or the series"),
        ("twice", "several files are of this study"),
        ("empty", "the mask is empty"),
        ("other grid", "is not on the grid of its series"),
        ("torn", "is not a readable image"),
    ],
)
def test_a_mask_that_cannot_be_used_is_a_warning(
    tmp_path: Path, case: Case, defect: str, reason: str
) -> None:
    file = tmp_path / "lungs" / f"{case.name}.nii.gz"
    grid = grid_of(case.reference.stack)
    if defect == "twice":
        write_lungs(case, file)
        write_lungs(case, file.with_name(f"{case.study}.nii"))
    if defect == "empty":
        write_volume(np.zeros(grid.shape, np.uint8), grid, file)
    if defect == "other grid":
        write_volume(np.ones((3, 4, 5), np.uint8), grid, file)
    if defect == "torn":
        file.write_bytes(b"\x1f\x8b")
    facts = facts_of_page(case, tmp_path)
    assert facts["lung_ml"] is None
    (warning,) = [text for text in facts["warnings"] if "--lung-mask" in text]
    assert reason in warning and str(tmp_path) not in warning


@pytest.mark.parametrize(
    ("arguments", "names", "reason"),
    [
        (["--lungs"], NAMES, "exclude each other"),
        ([], {"background": 0, "lung": 1}, "the model labels lungs itself"),
        ([], NAMES, "no such folder"),
    ],
)
def test_contradictions_are_refused(
    tmp_path: Path, arguments: list[str], names: dict[str, int], reason: str
) -> None:
    parser = argparse.ArgumentParser()
    add_outputs(parser)
    wanted = parser.parse_args(["--lung-mask", str(tmp_path / "absent"), *arguments])
    with pytest.raises(InputError, match=reason):
        outputs_of(wanted, {"labels": names}, "model", [])
