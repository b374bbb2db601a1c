"""``nnUNetv2_ext_split``: folds by patient, where nnU-Net reads them."""

import json
import shutil
from pathlib import Path

import pytest
from nnunetv2.experiment_planning.experiment_planners.default_experiment_planner import (
    _maybe_copy_splits_file,
)

from nnunet_ext.commands.split import split_entry
from tests.miniature_raw import write_raw

NAME = "Dataset120_Infection"


@pytest.fixture
def raw(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A data set of seven cases, case_00 to case_06, not preprocessed."""
    for variable in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
        (tmp_path / variable).mkdir()
        monkeypatch.setenv(variable, str(tmp_path / variable))
    return write_raw(tmp_path / "nnUNet_raw", NAME, 7)


def write_table(raw: Path, patients: str, more: str = "", header: str = "case,patient") -> Path:
    """Write a table that gives case i to the patient called like the i-th letter."""
    rows = [f"case_{index:02d},{patient}" for index, patient in enumerate(patients)]
    table = raw.parent.parent / "patients.csv"
    table.write_text("\n".join([header, *rows]) + "\n" + more)
    return table


def split(*options: object, code: int = 0) -> None:
    with pytest.raises(SystemExit) as stop:
        split_entry(["-d", "120", *map(str, options)])
    assert stop.value.code == code


def folds_in(folder: Path) -> list[dict[str, list[str]]]:
    return json.loads((folder / "splits_final.json").read_text())


def test_a_patient_is_in_one_fold(raw: Path, capsys: pytest.CaptureFixture[str]) -> None:
    patients = "aabbbcd"
    split("--patients", write_table(raw, patients), "--folds", 3)
    folds = folds_in(raw)
    assert len(folds) == 3
    held_out = sorted(case for fold in folds for case in fold["val"])
    assert held_out == [f"case_{index:02d}" for index in range(7)]
    for fold in folds:
        letters = [{patients[int(case[-2:])] for case in fold[part]} for part in ("train", "val")]
        assert not letters[0] & letters[1]
        assert sorted(fold["train"] + fold["val"]) == held_out

    printed = capsys.readouterr().out
    assert printed.startswith("7 cases of 4 patients\nfold 0: 4 cases for training, 3 of 1 patient")
    # patients b, a, and then c and d: 3, 2 and 2 cases
    assert [len(fold["val"]) for fold in folds] == [3, 2, 2]


def test_nnunet_takes_the_folds_over(raw: Path, tmp_path: Path) -> None:
    split("--patients", write_table(raw, "aabbbcd"), "--folds", 2)
    preprocessed = tmp_path / "nnUNet_preprocessed" / NAME
    preprocessed.mkdir()
    files = [str(folder / "splits_final.json") for folder in (raw, preprocessed)]
    _maybe_copy_splits_file(*files)
    assert folds_in(preprocessed) == folds_in(raw)

    split("--patients", write_table(raw, "abcdefg"), "--folds", 2, "--overwrite")
    _maybe_copy_splits_file(*files)  # raises an AssertionError where the two differ
    assert (raw / "splits_before_1.json").is_file()
    assert (preprocessed / "splits_before_1.json").is_file()


def test_other_folds_are_put_aside_on_request_alone(
    raw: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    preprocessed = tmp_path / "nnUNet_preprocessed" / NAME
    preprocessed.mkdir()
    mine = '[{"train": ["case_00"], "val": ["case_01"]}]'
    (preprocessed / "splits_final.json").write_text(mine)
    table = write_table(raw, "aabbbcd")
    split("--patients", table, "--folds", 2, code=1)
    error = capsys.readouterr().err
    assert "holds other folds, with which models may be trained; --overwrite" in error
    assert not (raw / "splits_final.json").exists()

    split("--patients", table, "--folds", 2, "--overwrite")
    assert (preprocessed / "splits_before_1.json").read_text() == mine
    split("--patients", table, "--folds", 2)  # the same again changes nothing
    assert not (preprocessed / "splits_before_2.json").exists()


def test_conversion_csv_needs_no_table(raw: Path) -> None:
    rows = [f"case_{index:02d},,volume_{index // 3}" for index in range(7)]
    (raw / "conversion.csv").write_text("\n".join(["case,patient,volume", *rows]))
    split("--folds", 3)
    assert [fold["val"] for fold in folds_in(raw)] == [
        ["case_00", "case_01", "case_02"],
        ["case_03", "case_04", "case_05"],
        ["case_06"],
    ]


def test_files_that_dataset_json_lists(raw: Path) -> None:
    """A data set may have its files elsewhere, listed in dataset.json."""
    elsewhere = raw.parent.parent / "elsewhere"
    shutil.move(raw / "imagesTr", elsewhere)
    content = json.loads((raw / "dataset.json").read_text())
    content["dataset"] = {}
    for index in range(7):
        image = str(elsewhere / f"case_{index:02d}_0000.png")
        label = str(raw / "labelsTr" / f"case_{index:02d}.png")
        content["dataset"][f"case_{index:02d}"] = {"images": [image], "label": label}
    (raw / "dataset.json").write_text(json.dumps(content))
    split("--patients", write_table(raw, "aabbbcd"), "--folds", 2)
    assert sum(len(fold["val"]) for fold in folds_in(raw)) == 7


def test_cases_that_the_data_set_lacks_are_counted(
    raw: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    split("--patients", write_table(raw, "aabbbcd", more="DOE,e\n"), "--folds", 2)
    printed = capsys.readouterr()
    assert printed.err == "note: the table also names 1 case that the data set lacks\n"


@pytest.mark.parametrize(
    ("patients", "options", "reason"),
    [
        ("aabbb", [], "names no patient of 2 cases of Dataset120_Infection, first case_05"),
        ("aaaaaaa", [], "the cases are of 1 patient, too few for 5 folds"),
        ("abcdefg", ["--folds", "1"], "--folds 1: leaves nothing to train on"),
    ],
)
def test_tables_that_do_not_fit(
    raw: Path,
    capsys: pytest.CaptureFixture[str],
    patients: str,
    options: list[str],
    reason: str,
) -> None:
    split("--patients", write_table(raw, patients), *options, code=1)
    error = capsys.readouterr().err
    assert reason in error and error.count("\n") == 1
    assert not (raw / "splits_final.json").exists()


def test_damaged_tables(raw: Path, capsys: pytest.CaptureFixture[str]) -> None:
    split(code=1)
    assert "nothing says whose its cases are; give --patients CSV" in capsys.readouterr().err
    split("--patients", raw / "absent.csv", code=1)
    assert "is not a table with columns case,patient" in capsys.readouterr().err
    split("--patients", write_table(raw, "abcdefg", header="name,who"), code=1)
    assert "is not a table with columns case,patient" in capsys.readouterr().err
    split("--patients", write_table(raw, "abcdefg", more="case_00,z\n"), code=1)
    error = capsys.readouterr().err
    assert "assigns case_00 to several patients" in error and "z" not in error.split("case_00")[1]


def test_a_missing_data_set(raw: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        split_entry(["-d", "121"])
    assert stop.value.code == 1
    assert "data set 121 is in none of nnUNet_raw" in capsys.readouterr().err
