"""Several studies of one patient in an export: linked, compared, and nobody named."""

import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dataset_conversion.phantoms.dicom_series import write_series
from nnunet_ext.dicom.writing.segments import segments_of
from nnunet_ext.hospital.report.page import PageOptions
from nnunet_ext.hospital.results import Outputs, write_overviews, write_results
from nnunet_ext.hospital.selection import read_selection
from nnunet_ext.hospital.survey import Case, read_export, survey
from tests.hospital.conftest import stacked
from tests.hospital.report.studies import LABELS, MODEL, STEP_MM, intensities, labels

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
PATIENT = "SECRET7"
DAYS = {"new": "20200402", "middle": "20200401", "old": "20200101"}
BIRTH_DATE = "19370213"
LARGE_LESION_ML = 3 * 6 * 5 * STEP_MM / 1000
SMALL_LESION_ML = STEP_MM / 1000


def dated(day: str, birth_date: str = BIRTH_DATE) -> Callable[[int, Any], None]:
    def edit(_: int, data: Any) -> None:
        data.StudyDate = day
        data.PatientBirthDate = birth_date

    return edit


def write_scan(folder: Path, name: str, day: str, patient: str = PATIENT, **others: Any) -> None:
    study = f"1.2.3.{sum(map(ord, name))}"
    write_series(
        folder / name,
        intensities(labels()),
        stacked(12, STEP_MM),
        patient=patient,
        study=study,
        edit=dated(day, **others),
    )


def mask_of(day: str) -> np.ndarray:
    """Label values (x, y, z): the large lesion has grown from study to study."""
    mask = labels()
    if day == DAYS["old"]:
        mask[3:5][mask[3:5] == 2] = 1
    return mask.transpose(2, 1, 0)


def cases_of(export: Path) -> dict[str, Case]:
    """Return the cases by the name of their folder."""
    selection = read_selection(None, ["CT"])
    found = survey(read_export(export, selection.rules), selection)
    return {Path(case.reference.slices[0].path).parent.name: case for case in found.cases}


def results_of(export: Path, output: Path, options: PageOptions) -> dict[str, Case]:
    wanted = Outputs(segments_of(LABELS), MODEL, page=options)
    cases = cases_of(export)
    output.mkdir(exist_ok=True)
    for name, case in cases.items():
        write_results(case, mask_of(DAYS.get(name, "")), output, wanted)
    write_overviews(cases.values(), output, wanted)
    return cases


def section(output: Path, case: Case) -> str:
    page = (output / case.name / "report.html").read_text(encoding="utf-8")
    return page.partition("<!-- other studies -->")[2].partition("<!-- end")[0].strip()


def write_three(export: Path) -> None:
    for name, day in DAYS.items():
        write_scan(export, name, day)


def test_studies_are_linked_with_days_volumes_and_the_study_before(tmp_path: Path) -> None:
    write_three(tmp_path / "export")
    output = tmp_path / "out"
    cases = results_of(tmp_path / "export", output, PageOptions())

    new = section(output, cases["new"])
    links = re.findall(r'href="\.\./([^"]*)/report.html"', new)
    assert links == [cases["middle"].name, cases["old"].name]
    assert re.findall(r"<td>([^<]*(?:days?|newest))</td>", new) == ["newest", "−1 day", "−92 days"]

    before_ml = LARGE_LESION_ML / 3 + SMALL_LESION_ML
    grown = 100 * ((LARGE_LESION_ML + SMALL_LESION_ML) / before_ml - 1)
    assert f"({grown:+.0f} %)" in new and "(+0 %)" in new
    assert new.count("<svg") == 2 and new.count("<circle") == 6
    assert new.count("<img") == section(output, cases["middle"]).count("<img") == 2
    assert section(output, cases["old"]).count("<img") == 0

    for file in output.rglob("*.html"):
        text = file.read_text(encoding="utf-8")
        for marker in (PATIENT, BIRTH_DATE, "2020-04-02", *DAYS.values()):
            assert marker not in text


def test_places_in_the_chart_follow_days_and_volumes(tmp_path: Path) -> None:
    write_three(tmp_path / "export")
    cases = results_of(tmp_path / "export", tmp_path / "out", PageOptions())
    charts = section(tmp_path / "out", cases["new"]).split("<svg")[1:]
    places = re.findall(r'cx="([^"]*)" cy="([^"]*)"', charts[1])
    (old_x, old_y), (middle_x, middle_y), (new_x, new_y) = [(float(x), float(y)) for x, y in places]
    assert (middle_x - old_x) / (new_x - old_x) == pytest.approx(91 / 92, abs=1e-3)
    floor = 150 - 26
    share = (LARGE_LESION_ML / 3 + SMALL_LESION_ML) / (LARGE_LESION_ML + SMALL_LESION_ML)
    assert (floor - old_y) / (floor - new_y) == pytest.approx(share, abs=2e-3)
    assert middle_y == new_y


def test_dates_are_shown_only_with_the_patient(tmp_path: Path) -> None:
    write_three(tmp_path / "export")
    cases = results_of(tmp_path / "export", tmp_path / "out", PageOptions(patient=True))
    text = section(tmp_path / "out", cases["old"])
    assert re.findall(r"<td>(2020[^<]*)</td>", text) == ["2020-04-02", "2020-04-01", "2020-01-01"]


@pytest.mark.parametrize("other", ["number", "birth date", "no number", "model"])
def test_studies_that_may_be_of_somebody_else_are_not_joined(tmp_path: Path, other: str) -> None:
    export, output = tmp_path / "export", tmp_path / "out"
    number = "" if other == "no number" else PATIENT
    write_scan(export, "new", DAYS["new"], patient=number)
    others = {"birth_date": "19370214"} if other == "birth date" else {}
    number = "SECRET8" if other == "number" else number
    write_scan(export, "old", DAYS["old"], patient=number, **others)
    cases = results_of(export, output, PageOptions())
    if other == "model":
        facts = output / cases["old"].name / "report.json"
        facts.write_text(facts.read_text().replace(MODEL.serial, "another"))
        wanted = Outputs(segments_of(LABELS), MODEL, page=PageOptions())
        write_overviews(cases.values(), output, wanted)
    assert section(output, cases["new"]) == ""


def test_no_date_and_damaged_results_stop_nothing(tmp_path: Path) -> None:
    export, output = tmp_path / "export", tmp_path / "out"
    write_scan(export, "new", DAYS["new"])
    write_scan(export, "undated", "")
    write_scan(export, "damaged", DAYS["old"])
    cases = results_of(export, output, PageOptions())
    (output / cases["damaged"].name / "measurements.json").write_text("[")
    wanted = Outputs(segments_of(LABELS), MODEL, page=PageOptions())
    write_overviews(cases.values(), output, wanted)
    text = section(output, cases["new"])
    assert "<td>no date</td>" in text and cases["damaged"].name not in text
    assert "<svg" not in text


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed")
def test_in_a_browser_it_fits_a_phone_and_has_no_fault(tmp_path: Path) -> None:
    sync_api = pytest.importorskip("playwright.sync_api")
    axe = pytest.importorskip("axe_playwright_python.sync_playwright")
    write_three(tmp_path / "export")
    output = tmp_path / "out"
    cases = results_of(tmp_path / "export", output, PageOptions())
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 360, "height": 740})
        page.set_default_timeout(120_000)
        page.goto((output / cases["new"].name / "report.html").as_uri())
        page.wait_for_selector('#viewer[data-ready]:not([data-ready=""])')
        assert page.evaluate("document.documentElement.scrollWidth") <= 360
        loaded = "[...document.images].map(image => image.naturalWidth)"
        assert page.evaluate(loaded) == [512, 512]
        assert axe.Axe().run(page).response["violations"] == []

        page.click(f'a[href="../{cases["old"].name}/report.html"]')
        page.wait_for_url(f"**/{cases['old'].name}/report.html")
        assert page.inner_text("#course strong") == "this study"
        browser.close()
