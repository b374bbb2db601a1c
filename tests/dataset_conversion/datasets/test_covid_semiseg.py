import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dataset_conversion.datasets.covid_semiseg import CLASS_COLOURS, CovidSemiSeg
from dataset_conversion.writing.conversion import convert
from dataset_conversion.writing.conversion_job import Workers
from nnunet_ext.errors import InputError
from tests.places import REAL_DATA

REAL = REAL_DATA / "covid_semiseg"
TRAIN = "Dataset/TrainingSet/LungInfection-Train/Doctor-label"
MULTI_TRAIN = "Dataset/TrainingSet/MultiClassInfection-Train"


def pixels(path: Path) -> np.ndarray:
    with Image.open(path) as picture:
        assert picture.mode == "L"
        return np.asarray(picture)


def rows(folder: Path) -> dict[str, dict[str, str]]:
    with (folder / "conversion.csv").open(encoding="utf-8") as stream:
        return {row["case"]: row for row in csv.DictReader(stream)}


def test_binary_with_the_official_split(covid: Path, raw: Path) -> None:
    summary = convert(CovidSemiSeg(covid), raw / "Dataset120_X")
    assert summary.problems == []
    assert summary.converted == [
        "slice_000",
        "slice_001",
        "slice_002",
        "slice_003",
        "slice_004",
        "slice_005",
    ]
    assert summary.count_by_part == {"Tr": 4, "Ts": 2}
    folder = raw / "Dataset120_X"
    for stem in ("0", "3"):
        image = pixels(folder / f"imagesTr/slice_00{stem}_0000.png")
        with Image.open(covid / TRAIN / f"Imgs/{stem}.jpg") as original:
            assert np.array_equal(image, np.asarray(original))
        with Image.open(covid / TRAIN / f"GT/{stem}.png") as original:
            assert np.array_equal(
                pixels(folder / f"labelsTr/slice_00{stem}.png"), np.asarray(original) // 255
            )
    assert (folder / "labelsTs/slice_004.png").is_file()
    content = json.loads((folder / "dataset.json").read_text())
    assert content["channel_names"] == {"0": "lung-window CT"}
    assert content["labels"] == {"background": 0, "infection": 1}
    assert content["numTraining"] == 4
    assert content["citation"] == CovidSemiSeg.citation
    assert content["licence"] == CovidSemiSeg.licence
    row = rows(folder)["slice_000"]
    assert row["sources"] == f"{TRAIN}/Imgs/0.jpg; {TRAIN}/GT/0.png"
    assert row["intensity_unit"] == "grey values 0..255 of a lung window"


@pytest.mark.parametrize("encoding", ["palette", "grey", "rgb"])
def test_classes_in_every_encoding(covid: Path, raw: Path, encoding: str) -> None:
    expected = {}
    for file in (covid / MULTI_TRAIN / "GT").glob("[0-9]*.png"):
        with Image.open(file) as picture:
            assert picture.mode == "P"
            expected[file.stem] = np.asarray(picture)
            if encoding == "grey":
                Image.fromarray(np.array([0, 38, 75], np.uint8)[expected[file.stem]]).save(file)
            elif encoding == "rgb":
                picture.convert("RGB").save(file)
    summary = convert(CovidSemiSeg(covid, labels_wanted="ggo,consolidation"), raw / "Dataset121_X")
    assert summary.problems == []
    for stem, label in expected.items():
        assert np.array_equal(
            pixels(raw / f"Dataset121_X/labelsTr/slice_{stem.zfill(3)}.png"), label
        )
    assert json.loads((raw / "Dataset121_X/dataset.json").read_text())["labels"] == {
        "background": 0,
        "ggo": 1,
        "consolidation": 2,
    }
    assert any((label == 2).any() for label in expected.values()), CLASS_COLOURS


@pytest.mark.parametrize(
    ("wanted", "new_value"),
    [
        ("GGO,Consolidation", [0, 1, 2]),
        ("consolidation,ggo", [0, 2, 1]),
        ("consolidation", [0, 0, 1]),
        ("ggo+consolidation", [0, 1, 1]),
    ],
)
def test_any_choice_of_the_two_classes(
    covid: Path, raw: Path, wanted: str, new_value: list[int]
) -> None:
    assert convert(CovidSemiSeg(covid, labels_wanted=wanted), raw / "Dataset121_X").problems == []
    names = json.loads((raw / "Dataset121_X/dataset.json").read_text())["labels"]
    assert list(names) == ["background", *wanted.lower().split(",")]
    for file in sorted((covid / MULTI_TRAIN / "GT").glob("[!.]*.png")):
        written = pixels(raw / f"Dataset121_X/labelsTr/slice_{file.stem.zfill(3)}.png")
        with Image.open(file) as picture:
            assert np.array_equal(written, np.array(new_value)[np.asarray(picture)])


def test_no_split_by_patients_that_are_not_known(covid: Path, raw: Path) -> None:
    with pytest.raises(InputError, match="does not say whose slice_000 is; give --patients CSV"):
        convert(CovidSemiSeg(covid, split="patient:2"), raw / "Dataset120_X")


def test_unlabelled_slices_have_no_label_files_and_know_their_patient(
    covid: Path, raw: Path
) -> None:
    folder = raw / "Dataset122_X"
    summary = convert(CovidSemiSeg(covid, unlabeled=True), folder)
    assert summary.count_by_part == {"Un": 7}
    assert sorted(path.name for path in folder.iterdir() if path.is_dir()) == ["imagesUn"]
    assert len(list((folder / "imagesUn").iterdir())) == 7  # not the copies in DataPrepare
    assert json.loads((folder / "dataset.json").read_text())["numTraining"] == 0
    stem = "Data-1_radiopaedia_org_covid-19-pneumonia-7_85703_0-dcm_1"
    assert rows(folder)[stem]["patient"] == "radiopaedia_org_covid-19-pneumonia-7_85703_0-dcm"


@pytest.mark.parametrize("start", ["", "Dataset", "Dataset/TrainingSet"])
def test_any_level_of_the_download(covid: Path, start: str) -> None:
    found = CovidSemiSeg(covid / start).find_cases()
    assert found.problems == []
    assert len([case for case in found.cases if case.part == "Tr"]) == 4
    assert bool(found.notes) == (start == "Dataset/TrainingSet")  # no test set below it


def test_separately_unpacked_archives(covid: Path, tmp_path: Path) -> None:
    apart = tmp_path / "apart"
    for name in ("TrainingSet/LungInfection-Train", "TestingSet/LungInfection-Test"):
        folder = covid / "Dataset" / name
        shutil.copytree(folder, apart / folder.name / folder.name)
    assert len(CovidSemiSeg(apart).find_cases().cases) == 6


def test_pairs_by_name_never_by_position(covid: Path) -> None:
    (covid / TRAIN / "GT/1.png").unlink()
    (covid / TRAIN / "Imgs/2.jpg").unlink()
    found = CovidSemiSeg(covid).find_cases()
    assert {case.id for case in found.cases if case.part == "Tr"} == {"slice_000", "slice_003"}
    assert all(case.image_files[0].stem == case.label_files[0].stem for case in found.cases)
    first, second = found.problems
    assert "1.jpg: has no mask in GT" in first
    assert "2.png: has no image in Imgs" in second


def test_each_bad_case_is_one_line_and_the_others_are_converted(covid: Path, raw: Path) -> None:
    Image.new("L", (10, 10)).save(covid / TRAIN / "GT/0.png")
    Image.fromarray(np.full((20, 20, 3), (255, 0, 0), np.uint8)).save(covid / TRAIN / "Imgs/1.jpg")
    shutil.copy(covid / MULTI_TRAIN / "GT/2.png", covid / TRAIN / "GT/2.png")
    with Image.open(covid / TRAIN / "GT/2.png") as palette:
        Image.fromarray(np.where(np.asarray(palette) > 0, 75, 0).astype(np.uint8)).save(
            covid / TRAIN / "GT/2.png"
        )
    summary = convert(CovidSemiSeg(covid), raw / "Dataset120_X")
    assert [line.count("\n") for line in summary.problems] == [0, 0, 0]
    text = "\n".join(summary.problems)
    assert "GT/0.png: image and mask have different sizes" in text
    assert "Imgs/1.jpg: is a colour picture" in text
    assert "GT/2.png: holds values 0, 75" in text
    names = {path.name for path in (raw / "Dataset120_X").glob("*Tr/*")}
    assert names == {"slice_003_0000.png", "slice_003.png"}
    assert json.loads((raw / "Dataset120_X/dataset.json").read_text())["numTraining"] == 1


def test_empty_labels_and_duplicates_are_reported(covid: Path, raw: Path) -> None:
    with Image.open(covid / TRAIN / "GT/1.png") as mask:
        Image.new("L", mask.size).save(covid / TRAIN / "GT/1.png")
    test = covid / "Dataset/TestingSet/LungInfection-Test"
    shutil.copy(covid / TRAIN / "Imgs/0.jpg", test / "Imgs/4.jpg")
    shutil.copy(covid / TRAIN / "GT/0.png", test / "GT/4.png")
    summary = convert(CovidSemiSeg(covid), raw / "Dataset120_X")
    assert summary.empty == ["slice_001"]
    assert summary.duplicates == {"slice_004": "slice_000"}
    assert rows(raw / "Dataset120_X")["slice_004"]["duplicate_of"] == "slice_000"


@pytest.mark.parametrize("relative", ["", "empty"])
def test_other_folders_are_refused(tmp_path: Path, relative: str) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="holds no LungInfection-Train"):
        CovidSemiSeg(tmp_path / relative).find_cases()


@pytest.mark.skipif(not REAL.is_dir(), reason="the published data are not here")
@pytest.mark.parametrize(
    ("options", "count", "values"),
    [
        ({}, 50, {0, 1}),
        ({"labels_wanted": "ggo,consolidation"}, 50, {0, 1, 2}),
        ({"unlabeled": True}, 800, set()),
    ],
)
def test_published_data(raw: Path, options: dict, count: int, values: set[int]) -> None:
    folder = raw / "Dataset120_X"
    summary = convert(CovidSemiSeg(REAL, **options), folder, Workers(2))
    assert summary.problems == []
    assert len(summary.converted) == count
    assert summary.duplicates == {}
    labels = list((folder / "labelsTr").glob("*.png"))
    assert {int(value) for label in labels for value in np.unique(pixels(label))} == values
    assert len({row.get("patient") for row in rows(folder).values()}) == (
        20 if options.get("unlabeled") else 1
    )
