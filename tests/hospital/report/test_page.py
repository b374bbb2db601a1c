"""``report.html`` and ``index.html`` as files: nothing from elsewhere, nobody's name, no markup."""

import base64
import hashlib
import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from nnunet_ext.hospital.report.index import write_index
from nnunet_ext.hospital.report.model_facts import ModelFacts, facts_of
from nnunet_ext.hospital.report.page import PageOptions, Study, write_page
from tests.hospital.report.studies import MODEL, write_study

PATIENT = "Secret^Person"


def with_name(_: int, data: Any) -> None:
    data.PatientName = PATIENT
    data.PatientBirthDate = "19370213"


def page_of(study: Study, folder: Path, options: PageOptions | None = None) -> str:
    file = folder / "report.html"
    write_page(file, study, options or PageOptions())
    return file.read_text(encoding="utf-8")


def digest(text: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"


def test_the_policy_allows_the_one_script_and_style_and_nothing_else(tmp_path: Path) -> None:
    text = page_of(write_study(tmp_path / "scan"), tmp_path)
    (policy,) = re.findall(r'Content-Security-Policy" content="([^"]*)"', text)
    (style,) = re.findall(r"<style>(.*?)</style>", text, re.DOTALL)
    (script,) = re.findall(r"<script>(.*?)</script>", text, re.DOTALL)
    policy = policy.replace("&#39;", "'")
    assert f"style-src '{digest(style)}'" in policy
    assert f"script-src '{digest(script)}'" in policy
    assert policy.startswith("default-src 'none'") and "unsafe" not in policy
    assert "http" not in text.replace("http-equiv", "")
    assert not re.findall(r'\sstyle="|\son[a-z]+="', text)


def test_nobody_is_named_unless_asked_for(tmp_path: Path) -> None:
    study = write_study(tmp_path / "scan", patient="SECRET7", edit=with_name)
    text = page_of(study, tmp_path)
    for marker in ("Secret", "SECRET7", "19370213"):
        assert marker not in text

    named = page_of(study, tmp_path, PageOptions(patient=True))
    for marker in ("Secret Person", "SECRET7", "19370213"):
        assert marker in named


def test_lungs_that_are_not_found_are_a_warning(tmp_path: Path) -> None:
    study = write_study(tmp_path / "scan", names={"background": 0, "other": 1, "lesion": 2})
    facts = write_page(tmp_path / "report.html", study, PageOptions(lungs=True))
    assert facts["lung_ml"] is None
    assert any("No lungs were found" in warning for warning in facts["warnings"])


def test_markup_in_texts_stays_text(tmp_path: Path) -> None:
    hostile = "<script>alert(1)</script>"
    study = write_study(
        tmp_path / "scan",
        names={"background": 0, "lung": 1, f"lesion {hostile}": 2},
        patient=hostile,
    )
    study = replace(study, model=replace(MODEL, name=hostile))
    facts = ModelFacts(card=f"{hostile}</pre>")
    text = page_of(study, tmp_path, PageOptions(patient=True, facts=facts))
    assert hostile not in text and "alert(1)" in text
    assert text.count("<script") == 2 + len(study.values) + 10


def test_the_index_lists_studies_with_a_page(tmp_path: Path) -> None:
    study = write_study(tmp_path / "scan")
    for name in ("case-1", "case-2", "case-3"):
        folder = tmp_path / "out" / name
        folder.mkdir(parents=True)
        (folder / "report.json").write_text(
            json.dumps(write_page(folder / "report.html", study, PageOptions()))
        )
        measured = [
            {"segment": "lung", "lesion": 0, "volume_ml": 23.04},
            {"segment": "lung", "lesion": 1, "volume_ml": 23.04},
        ]
        (folder / "measurements.json").write_text(json.dumps(measured))
    (tmp_path / "out" / "case-3" / "report.json").write_text("[")
    write_index(tmp_path / "out")
    text = (tmp_path / "out" / "index.html").read_text()
    links = re.findall(r'href="([^"]*)"', text)
    assert sorted(links) == ["case-1/report.html", "case-2/report.html"]
    assert text.count("23.0 ml") == 2 and "script-src 'none'" in text.replace("&#39;", "'")


@pytest.mark.parametrize("content", ["{", "[]", '{"original_median_spacing_after_transp": [1]}'])
def test_odd_plans_leave_facts_unknown(tmp_path: Path, content: str) -> None:
    (tmp_path / "plans.json").write_text(content)
    assert facts_of(tmp_path) == facts_of(None) == ModelFacts()


def test_facts_of_a_model(tmp_path: Path) -> None:
    plans = {
        "original_median_spacing_after_transp": [0.7, 2.5, 0.8],
        "transpose_backward": [1, 0, 2],
        "foreground_intensity_properties_per_channel": {
            "0": {"percentile_00_5": -900.0, "percentile_99_5": 300.0}
        },
    }
    (tmp_path / "plans.json").write_text(json.dumps(plans))
    (tmp_path / "dataset.json").write_text('{"numTraining": 63}')
    (tmp_path / "MODEL_CARD.md").write_text("# Card\n")
    expected = ModelFacts((0.8, 0.7, 2.5), (-900.0, 300.0), 63, "# Card")
    assert facts_of(tmp_path) == expected
