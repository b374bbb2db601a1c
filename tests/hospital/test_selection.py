"""Which series of a study are taken, and what the table says of the others."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dataset_conversion.phantoms.hospital_export import write_export
from nnunet_ext.errors import InputError
from nnunet_ext.hospital.selection import BUILT_IN, read_selection
from nnunet_ext.hospital.survey import Survey, read_export, survey
from tests.hospital.conftest import series_uid, stacked

Export = Callable[..., Path]


def described(**texts: str) -> Callable[[int, Any], None]:
    def edit(_: int, data: Any) -> None:
        for name, value in texts.items():
            setattr(data, name, value)

    return edit


def surveyed(folder: Path, rules: str | None = None, channels: tuple[str, ...] = ("CT",)) -> Survey:
    selection = read_selection(rules, channels)
    return survey(read_export(folder, selection.rules), selection)


def verdicts(found: Survey) -> list[str]:
    return sorted(row.verdict for row in found.rows)


def test_of_two_reconstructions_the_soft_one_is_taken(export: Export) -> None:
    export(
        "bone",
        30,
        series=series_uid("bone"),
        edit=described(ConvolutionKernel="BONE", SeriesNumber="1"),
    )
    folder = export(
        "soft",
        30,
        series=series_uid("soft"),
        edit=described(ConvolutionKernel="B30f", SeriesNumber="2"),
    )
    (case,) = surveyed(folder, "chest").cases
    assert case.reference.slices[0].kernel == "B30f"


def test_without_a_preference_most_slices_win_then_the_lowest_number(export: Export) -> None:
    for number, slices in enumerate((6, 9, 9), start=1):
        numbered = described(SeriesNumber=str(number))
        folder = export(
            str(number), slices, series=series_uid(str(number)), edit=numbered, order=range(slices)
        )
    found = surveyed(folder)
    assert [case.reference.slices[0].series_number for case in found.cases] == [2]
    assert verdicts(found) == ["another series is preferred for channel CT"] * 2 + ["taken as CT"]


def test_what_is_no_scan_is_left_out_with_a_reason(export: Export) -> None:
    export("scan")
    scout = described(ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"])
    export("scout", 1, series=series_uid("scout"), edit=scout)
    export("short", 2, series=series_uid("short"))
    folder = export(
        "mip", 8, series=series_uid("mip"), edit=described(SeriesDescription="thin MIP")
    )
    found = surveyed(folder)
    assert verdicts(found) == [
        "description is one that the rules exclude",
        "left out: has only 2 slices, at least 3 needed",
        "left out: is a localizer",
        "taken as CT",
    ]
    assert found.failures == 0


@pytest.mark.parametrize("name", ["StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID"])
def test_a_series_that_no_result_can_refer_to_is_left_out_before_it_is_predicted(
    export: Export, name: str
) -> None:
    folder = export("nameless", 6, study=series_uid("study"), edit=described(**{name: ""}))
    found = surveyed(folder)
    (verdict,) = verdicts(found)
    assert verdict.startswith(f"left out: has no {name}, so no result can refer to it")
    assert [row.failure for row in found.rows] == [True]
    with pytest.raises(InputError, match=rf"can be used \(left out: has no {name}"):
        found.require_cases()

    found = surveyed(export("whole", 6))
    assert len(found.cases) == 1
    found.require_cases()


def test_a_case_per_study_and_equal_names_in_every_run(export: Export) -> None:
    export("one", patient="P1")
    folder = export("two", patient="P2")
    names = [case.name for case in surveyed(folder).cases]
    assert len(set(names)) == 2
    assert [case.name for case in surveyed(folder).cases] == names
    assert all(name.startswith("case-") and len(name) == 21 for name in names)


def test_channels_come_from_several_series_of_one_frame(export: Export, tmp_path: Path) -> None:
    for name in ("T1", "T2", "FLAIR"):
        edit = described(SeriesDescription=f"ax {name}", SOPClassUID="1.2.840.10008.5.1.4.1.1.4")
        folder = export(
            name, modality="MR", series=series_uid(name), study="1.2", patient="P", edit=edit
        )
    rules = tmp_path / "rules.json"
    channel = {"modality": "MR"}
    named = {name: {**channel, "description": rf"\b{name}\b"} for name in ("T2", "T1")}
    rules.write_text(json.dumps({"channels": named}))
    (case,) = surveyed(folder, str(rules), ("T1", "T2")).cases
    assert [channel.slices[0].description for channel in case.channels] == ["ax T1", "ax T2"]


def test_a_study_that_lacks_a_channel_is_no_case(export: Export, tmp_path: Path) -> None:
    folder = export("a", edit=described(SeriesDescription="native"))
    rules = tmp_path / "rules.json"
    rules.write_text(
        json.dumps({"channels": {"0": {"description": "native"}, "1": {"description": "contrast"}}})
    )
    found = surveyed(folder, str(rules), ("CT native", "CT contrast"))
    assert not found.cases
    assert verdicts(found) == ["no series meets the rules for channel CT contrast"]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("", "not readable as JSON"),
        ("[]", "holds no JSON object"),
        ("{}", 'has no "channels"'),
        ('{"channels": {}}', "no rules for channel CT"),
        ('{"channels": {"MR": {}}}', "'MR' is not known"),
        ('{"channels": {"CT": []}}', "not an object of conditions"),
        ('{"channels": {"CT": {"kernell": "x"}}}', "'kernell' is not known"),
        ('{"channels": {"CT": {"kernel": "("}}}', "not a regular expression"),
        ('{"channels": {"CT": {"kernel": 3}}}', "is not a text"),
        ('{"channels": {"CT": {"step_mm": [3]}}}', "not .least, largest."),
        ('{"channels": {"CT": {"step_mm": [3, 1]}}}', "larger than"),
        ('{"channels": {"CT": {"modality": "PT"}}}', "not one of CT, MR"),
        ('{"channels": {"CT": {"prefer": {}}}}', "not a list"),
        ('{"channels": {"CT": {"axial": 1}}}', "axial is true or false"),
        ('{"channels": {"CT": {}}, "minimum_slices": true}', "minimum_slices is a number"),
        ("[" * 100_000, "nested too deeply"),
    ],
)
def test_wrong_rules_are_refused(tmp_path: Path, content: str, reason: str) -> None:
    path = tmp_path / "rules.json"
    path.write_text(content)
    with pytest.raises(InputError, match=reason):
        read_selection(str(path), ["CT"])


def test_built_in_rules_are_valid_and_for_one_channel() -> None:
    for name in BUILT_IN:
        assert read_selection(name, ["CT"]).channels[0].required.modality == "CT"
    assert read_selection(None, ["T1"]).rules.modalities == ("MR",)
    with pytest.raises(InputError, match="give --rules FILE"):
        read_selection("chest", ["CT", "PET"])
    with pytest.raises(InputError, match="names no modality"):
        read_selection(None, ["noNorm"])


def test_a_tilted_series_says_so(export: Export) -> None:
    positions_mm = stacked(8)
    positions_mm[:, 1] += 0.6 * positions_mm[:, 2]
    found = surveyed(export("tilted", positions_mm=positions_mm))
    assert "gantry tilt" in verdicts(found)[0]


def test_the_demos_export_offers_one_soft_chest_series(tmp_path: Path) -> None:
    nodules = write_export(tmp_path / "export")
    assert len(np.unique(nodules)) == 3
    found = surveyed(tmp_path / "export", "chest")
    (case,) = found.cases
    assert case.reference.slices[0].kernel == "I30f" and len(case.reference.slices) == len(nodules)
    assert len(found.rows) == 3 and case.series_numbers == {1, 2, 3}
