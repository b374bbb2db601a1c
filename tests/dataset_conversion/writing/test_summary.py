"""The table at the end of a conversion, against the files that were written."""

import re
from pathlib import Path

import nibabel
import numpy as np
import pytest

from dataset_conversion.checking.verification import verify
from dataset_conversion.datasets.lits import LiTS
from dataset_conversion.datasets.msd import MSD
from dataset_conversion.writing.case_writer import Record
from dataset_conversion.writing.conversion import convert
from dataset_conversion.writing.conversion_job import Workers
from dataset_conversion.writing.summary import SUMMARY_NAME, Summary, markdown


def cells(text: str) -> dict[str, str]:
    rows = [
        re.split(r"(?<!\\)\|", line)[1:-1] for line in text.splitlines() if line.startswith("|")
    ]
    assert {len(row) for row in rows} == {2}
    return {name.strip(): value.strip() for name, value in rows}


def test_counts_are_those_of_the_files(lits_original: Path, raw: Path) -> None:
    folder = raw / "Dataset120_X"
    convert(LiTS(lits_original), folder)
    table = cells((folder / SUMMARY_NAME).read_text())
    labels = [np.asarray(nibabel.load(file).dataobj) for file in (folder / "labelsTr").iterdir()]
    images = [
        nibabel.load(file)
        for name in ("imagesTr", "imagesTs")
        for file in (folder / name).iterdir()
    ]
    for value, name in enumerate(("background", "liver", "tumour")):
        voxels = sum(int((label == value).sum()) for label in labels)
        having = sum(bool((label == value).any()) for label in labels)
        assert table[f"label {name}"] == f"{voxels} voxels in {having} of {len(labels)} cases"
    assert table["slices"] == str(sum(image.shape[2] for image in images))
    assert table["training cases (imagesTr)"] == str(len(labels))
    assert table["test cases (imagesTs)"] == str(len(images) - len(labels))
    assert table["data set"] == str(folder)


def test_a_second_run_finds_all_done(lung_original: Path, raw: Path) -> None:
    folder = raw / "Dataset006_X"
    for converted, before in (("4", "0"), ("0", "4")):
        convert(MSD(lung_original), folder)
        table = cells((folder / SUMMARY_NAME).read_text())
        assert (table["converted"], table["done before"], table["failed"]) == (
            converted,
            before,
            "0",
        )
    assert verify(folder).problems == []


def test_the_last_part_of_a_job_array_writes_it(lung_original: Path, raw: Path) -> None:
    folder = raw / "Dataset006_X"
    convert(MSD(lung_original), folder, Workers(part=1, parts=2))
    assert not (folder / SUMMARY_NAME).exists()
    convert(MSD(lung_original), folder, Workers(part=0, parts=2))
    table = cells((folder / SUMMARY_NAME).read_text())
    assert (table["converted"], table["done by other parts or earlier"]) == ("2", "2")
    assert table["training cases (imagesTr)"] == "3"


def test_slices_and_kinds_of_warnings(tmp_path: Path) -> None:
    def record(
        case: str, shape: list[int], voxels: dict[str, int], *warnings: str, unit: str = "HU"
    ) -> Record:
        return Record(
            case,
            case,
            "Tr",
            {},
            {},
            {},
            {},
            case,
            "",
            unit,
            shape,
            [],
            voxels,
            warnings=list(warnings),
        )

    summary = Summary(tmp_path, [], [])
    records = [
        record(
            "a", [4, 5, 6], {"0": 100, "1": 20}, "values down to -2048 HU are padding", "odd | even"
        ),
        record("b", [4, 5], {"0": 20}, "values down to -1500.5 HU are padding", unit="0..1"),
        record("c", [4, 5], {}),
    ]
    summary.count(records, {"background": 0, "lesion": 1})
    text = markdown(summary)
    table = cells(text)
    assert table["slices"] == "8"
    assert table["label lesion"] == "20 voxels in 1 of 2 cases"
    assert table["label background"] == "120 voxels in 2 of 2 cases"
    assert table["labels without foreground"] == "1: b"
    assert table["warning: values down to -2048..-1500.5 HU are padding"] == "2"
    assert table[r"warning: odd \| even"] == "1"
    assert (table["intensities: HU"], table["intensities: 0..1"]) == ("2 cases", "1 cases")
    assert "mixed intensity units" in table
    assert len({len(line) for line in text.splitlines()}) == 1


@pytest.mark.parametrize(("seconds", "shown"), [(0.4, "0:00:00"), (3725.2, "1:02:05")])
def test_time(seconds: float, shown: str, tmp_path: Path) -> None:
    assert cells(markdown(Summary(tmp_path, [], [], seconds=seconds)))["time (h:min:s)"] == shown
