import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from dataset_conversion.phantoms.slice_downloads import (
    write_covid_semiseg,
    write_msd_brain,
    write_msd_lung,
)
from nnunet_ext.commands.convert import convert_entry
from tests.places import REPOSITORY


@pytest.fixture(scope="module")
def covid(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_covid_semiseg(
        tmp_path_factory.mktemp("covid"), n_labelled=2, n_test=1, n_unlabeled=3, size=48
    )


@pytest.fixture(autouse=True)
def raw(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for variable in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
        (tmp_path / variable).mkdir()
        monkeypatch.setenv(variable, str(tmp_path / variable))
    return tmp_path / "nnUNet_raw"


def run(*arguments: object) -> int:
    with pytest.raises(SystemExit) as caught:
        convert_entry([str(argument) for argument in arguments])
    code = caught.value.code
    assert isinstance(code, int)
    return code


def cells(lines: list[str]) -> dict[str, str]:
    """Second cell by first, of the lines of a Markdown table."""
    rows = [line.strip("|").split(" | ") for line in lines if line.startswith("|")]
    return {name.strip(): value.strip() for name, value in rows}


def test_list_and_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--list") == 0
    table = capsys.readouterr().out.splitlines()
    assert table[0].split() == ["NAME", "TASK", "LICENCE", "WHERE", "TO", "GET", "IT"]
    assert any(
        "MSD" in line and "CC-BY-SA 4.0" in line and "medicaldecathlon" in line for line in table
    )
    for arguments in ([], ["--help"]):
        assert run(*arguments) == 0
        assert "COVID-SemiSeg, DICOM, Generic, LIDC-IDRI, LiTS, MSD" in " ".join(
            capsys.readouterr().out.split()
        )
    assert run("MSD", "-h") == 0
    text = capsys.readouterr().out
    assert "--merge" in text
    assert "--slices" in text


def test_conversion_prints_what_it_did(
    covid: Path, raw: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("covid-semiseg", "-i", covid, "-d", 120, "-np", 1) == 0
    folder = raw / "Dataset120_COVID-SemiSeg"
    *table, last = capsys.readouterr().out.splitlines()
    assert last == "next: nnUNetv2_plan_and_preprocess -d 120 --verify_dataset_integrity"
    assert cells(table)["converted"] == "3"
    assert cells(table)["training cases (imagesTr)"] == "2"
    assert (folder / "conversion.md").read_text().splitlines() == [
        "# Dataset120_COVID-SemiSeg",
        "",
        *table,
    ]
    assert run("COVID-SemiSeg", "-i", covid, "-d", 121, "--unlabeled", "--name", "Un") == 0
    out = capsys.readouterr().out
    assert "next: nnUNetv2_ext_configure -d LABELLED_ID --unlabeled 121" in out
    assert (raw / "Dataset121_Un/imagesUn").is_dir()


def test_options_reach_the_data_set(tmp_path: Path, raw: Path) -> None:
    task = write_msd_brain(tmp_path, n_train=1, n_test=0, shape=(16, 16, 12))
    options = ["--channel", "flair", "--merge", "1=edema", "--merge", "2,3=core"]
    assert run("MSD", "-i", task, "-d", 1, *options) == 0
    content = json.loads((raw / "Dataset001_MSD_BRATS/dataset.json").read_text())
    assert content["channel_names"] == {"0": "FLAIR"}
    assert content["labels"] == {"background": 0, "edema": 1, "core": 2}


def test_bad_case_is_one_line_and_exit_code_1(
    covid: Path, raw: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    damaged = write_covid_semiseg(tmp_path / "x", n_labelled=2, n_test=0, n_unlabeled=0, size=48)
    image = damaged / "Dataset/TrainingSet/LungInfection-Train/Doctor-label/Imgs/1.jpg"
    image.write_bytes(b"")
    assert run("COVID-SemiSeg", "-i", damaged, "-d", 120) == 1
    output = capsys.readouterr()
    assert output.err.splitlines() == [
        f"nnUNetv2_ext_convert: error: {image}: cannot be read (not a picture); download it again"
    ]
    table = cells(output.out.splitlines())
    assert (table["converted"], table["done before"], table["failed"]) == ("1", "0", "1")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["covid-semisge", "-i", ".", "-d", "1"], "did you mean COVID-SemiSeg?"),
        (["-i", ".", "-d", "1"], "the data set's name comes first"),
        (["MSD", "-i", "absent", "-d", "1"], "absent: no such folder"),
        (["MSD", "-i", ".", "-d", "1", "-np", "0"], "-np 0"),
    ],
)
def test_wrong_arguments_are_one_line(
    arguments: list[str],
    message: str,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(*arguments) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line


def test_missing_environment(
    covid: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("nnUNet_raw")
    assert run("COVID-SemiSeg", "-i", covid, "-d", 120) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert "nnUNet_raw" in line
    assert "export" in line


def test_dry_run(covid: Path, raw: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("COVID-SemiSeg", "-i", covid, "-d", 120, "--dry-run") == 0
    assert "would convert 3 cases (2 in imagesTr, 1 in imagesTs)" in capsys.readouterr().out
    assert list(raw.iterdir()) == []


@pytest.mark.parametrize("arguments", ["['--help']", "['MSD', '-h']"])
def test_help_imports_neither_torch_nor_nnunet(arguments: str) -> None:
    code = (
        "import sys\nfrom nnunet_ext.commands.convert import convert_entry\n"
        f"try: convert_entry({arguments})\nexcept SystemExit: pass\n"
        "assert not {'torch', 'nnunetv2', 'SimpleITK', 'nibabel', 'scipy', 'pandas'} & "
        "sys.modules.keys()"
    )
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    subprocess.run([sys.executable, "-c", code], check=True, env=environment, capture_output=True)


def test_no_advice_where_no_case_was_converted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """All training cases fail, two test cases remain: there is nothing to plan, and no unlabelled
    data set.
    """
    task = write_msd_lung(tmp_path, n_train=2, n_test=1, shape=(16, 16, 4))
    for file in task.glob("labelsTr/[!.]*"):
        file.write_bytes(b"damaged")
    assert run("MSD", "-i", task, "-d", 6) == 1
    printed = capsys.readouterr()
    assert printed.err.count("error:") == 2
    assert "next:" not in printed.out
