"""Options that every data set has: labels, slices, windows, unlabelled images, splits."""

import csv
import json
from pathlib import Path

import nibabel
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dataset_conversion.datasets.covid_semiseg import CovidSemiSeg
from dataset_conversion.datasets.msd import LUNG_BENCHMARK_HELD_OUT, MSD
from dataset_conversion.reading.label_values import choose_labels
from dataset_conversion.shaping.choices import windowed
from dataset_conversion.shaping.resizing import resized_image, resized_label
from dataset_conversion.writing.conversion import convert
from dataset_conversion.writing.splits import patient_folds
from nnunet_ext.errors import InputError

PUBLISHED = {"background": 0, "lung": 1, "ggo": 2, "consolidation": 3}
GROUPS = {"infection": ("ggo", "consolidation")}


def voxels(path: Path) -> np.ndarray:
    return np.asarray(nibabel.load(path).dataobj)


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        ("", [0, 1, 2, 3]),
        ("infection", [0, 0, 1, 1]),
        ("consolidation,ggo", [0, 0, 2, 1]),
        ("Lung+GGO", [0, 1, 1, 0]),
    ],
)
def test_chosen_labels(wanted: str, expected: list[int]) -> None:
    assert choose_labels(PUBLISHED, wanted, GROUPS)(np.arange(4)).tolist() == expected


@pytest.mark.parametrize(
    "wanted", ["heart", "ggo,infection", "background", "ggo,ggo", ",", "ggo+ggo,ggo"]
)
def test_labels_that_make_no_sense(wanted: str) -> None:
    with pytest.raises(InputError, match="--labels"):
        choose_labels(PUBLISHED, wanted, GROUPS)


@settings(max_examples=50)
@given(st.lists(st.integers(0, 12), min_size=1, max_size=60), st.integers(2, 6))
def test_no_patient_is_on_two_sides(patients: list[int], count: int) -> None:
    patient_of = {f"case_{index}": str(patient) for index, patient in enumerate(patients)}
    if len(set(patients)) < count:
        with pytest.raises(InputError, match="choose fewer folds"):
            patient_folds(patient_of, count)
        return
    folds = patient_folds(patient_of, count)
    assert sorted(case for _, validation in folds for case in validation) == sorted(patient_of)
    for train, validation in folds:
        assert validation
        assert sorted(train + validation) == sorted(patient_of)
        assert not {patient_of[case] for case in train} & {patient_of[case] for case in validation}


@settings(max_examples=50)
@given(st.integers(-2000, 2000), st.integers(-1500, 0), st.integers(1, 1500))
def test_window_against_its_formula(value: int, low: int, high: int) -> None:
    grey = windowed(np.full((1, 1, 1, 1), value, np.int16), low, high)
    assert grey.dtype == np.uint8
    assert (
        abs(int(grey[0, 0, 0, 0]) - 255 * min(max((value - low) / (high - low), 0), 1))
        <= 0.5 + 1e-9
    )


@pytest.mark.parametrize("wanted", ["lesion", "all", "every:3", "2:4", "8:99"])
def test_slices_are_those_of_the_volume(lung: Path, raw: Path, wanted: str) -> None:
    folder = raw / "Dataset006_X"
    summary = convert(MSD(lung, slices=wanted, split="patient:2"), folder)
    assert summary.problems == []
    for case in ("lung_001", "lung_003", "lung_005"):
        image, label = (
            voxels(lung / f"imagesTr/{case}.nii.gz"),
            voxels(lung / f"labelsTr/{case}.nii.gz"),
        )
        lesion = np.flatnonzero(label.any(axis=(0, 1)))
        ranges = {
            "all": range(10),
            "every:3": range(0, 10, 3),
            "2:4": range(2, 5),
            "8:99": range(8, 10),
        }
        kept = {**ranges, "lesion": lesion}[wanted]
        names = sorted(path.name for path in (folder / "labelsTr").glob(f"{case}*"))
        assert names == [f"{case}_s{index:04d}.nii.gz" for index in kept]
        for index in kept:
            piece = nibabel.load(folder / f"imagesTr/{case}_s{index:04d}_0000.nii.gz")
            assert np.array_equal(np.asarray(piece.dataobj), image[..., index])
            assert piece.header.get_zooms() == (8.0, 8.5)
            assert np.array_equal(
                voxels(folder / f"labelsTr/{case}_s{index:04d}.nii.gz"), label[..., index]
            )
    # Slices of a volume stay on one side.
    for fold in json.loads((folder / "splits_final.json").read_text()):
        assert not {case[:8] for case in fold["train"]} & {case[:8] for case in fold["val"]}
    before = {path: path.stat().st_mtime_ns for path in folder.glob("*Tr/*")}
    again = convert(MSD(lung, slices=wanted), folder)
    assert again.converted == []
    assert before == {path: path.stat().st_mtime_ns for path in folder.glob("*Tr/*")}
    assert any(
        "splits_final.json of an earlier run, or your own, is kept" in note for note in again.notes
    )
    kept = (folder / "splits_final.json").read_bytes()
    third = convert(MSD(lung, slices=wanted, split="patient:3"), folder)
    assert any("is now called splits_before_1.json" in note for note in third.notes)
    assert (
        (folder / "splits_before_1.json").read_bytes()
        == kept
        != (folder / "splits_final.json").read_bytes()
    )


def test_slices_are_axial_whatever_the_order_of_axes(lung: Path, raw: Path) -> None:
    for part in ("imagesTr", "labelsTr"):
        volume = nibabel.load(lung / part / "lung_001.nii.gz")
        turned = volume.as_reoriented(np.array([[1, 1], [2, -1], [0, 1]]))  # x, y, z become y, z, x
        nibabel.save(turned, lung / part / "lung_001.nii.gz")
    folder = raw / "Dataset006_X"
    convert(MSD(lung, slices="all"), folder)
    with (folder / "conversion.csv").open() as stream:
        rows = [row for row in csv.DictReader(stream) if row["volume"] == "lung_001"]
    assert len([row for row in rows if row["folder"] == "imagesTr"]) == 10
    assert {row["spacing_mm"] for row in rows} == {"8.0x8.5"}


def test_unlabelled_images_have_no_labels(lung: Path, raw: Path) -> None:
    summary = convert(MSD(lung, unlabeled=True, slices="every:5"), raw / "Dataset006_X")
    assert summary.count_by_part == {"Un": 6}
    assert [path.name for path in (raw / "Dataset006_X").iterdir() if path.is_dir()] == ["imagesUn"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"slices": "some"}, "--slices some: write lesion"),
        ({"slices": "every:0"}, "--slices every:0"),
        ({"slices": "9:5"}, "--slices 9:5: write lesion"),
        ({"slices": "lesion", "unlabeled": True}, "needs labels"),
        ({"resize": 32}, "is for single slices; add --slices"),
        ({"resize": 0, "slices": "all"}, "--resize 0: write the new width"),
        ({"split": "official"}, "MSD has paper, patient:K"),
        ({"split": "patient:1"}, "--split patient:1"),
        ({"split": "patient:9"}, "there are only 3 patients"),
        ({"labels_wanted": "liver"}, "there are cancer"),
    ],
)
def test_wrong_options(lung: Path, raw: Path, options: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        convert(MSD(lung, **options), raw / "Dataset006_X")


def test_pictures_are_slices_already(covid: Path, raw: Path) -> None:
    with pytest.raises(InputError, match="single slices already"):
        convert(CovidSemiSeg(covid, slices="all"), raw / "Dataset120_X")


@settings(max_examples=60)
@given(
    st.tuples(st.integers(1, 30), st.integers(1, 30)), st.integers(1, 40), st.integers(0, 2**32 - 1)
)
def test_resized_labels_take_the_label_at_the_centre(
    shape: tuple[int, int], size: int, seed: int
) -> None:
    label = np.random.default_rng(seed).integers(0, 3, shape).astype(np.uint8)
    resized = resized_label(label, (size, size))
    row, column = (int((size // 2 + 0.5) * old / size) for old in shape)
    assert resized.shape == (size, size) and resized[size // 2, size // 2] == label[row, column]
    if size >= max(shape):
        assert np.array_equal(resized_label(resized, shape), label)


def test_resized_images_keep_type_mean_and_ramps() -> None:
    ramp = np.tile(np.arange(0, 400, 10, np.int16)[:, None], (1, 30))[None]
    small = resized_image(ramp, 10)
    assert small.dtype == np.int16 and small.shape == (1, 10, 10)
    assert abs(float(small.mean()) - float(ramp.mean())) < 1
    assert np.allclose(small[0, 1:-1, 5], [15 + 40 * index for index in range(1, 9)], atol=2)
    assert np.array_equal(
        resized_image(np.full((2, 7, 9), -1000, np.int16), 16), np.full((2, 16, 16), -1000)
    )


def test_resized_slices_note_their_shape_and_have_one_spacing(lung: Path, raw: Path) -> None:
    folder = raw / "Dataset006_X"
    assert convert(MSD(lung, slices="lesion", resize=24), folder).problems == []
    with (folder / "conversion.csv").open() as stream:
        rows = [row for row in csv.DictReader(stream) if row["folder"] == "imagesTr"]
    assert {row["resized_from"] for row in rows} == {"40x36"}
    assert {row["shape"] for row in rows} == {"24x24"}
    image = nibabel.load(next((folder / "imagesTr").iterdir()))
    assert image.header.get_zooms() == (1, 1)


def test_resized_pictures(covid: Path, raw: Path) -> None:
    folder = raw / "Dataset120_X"
    assert convert(CovidSemiSeg(covid, resize=32), folder).problems == []
    with (folder / "conversion.csv").open() as stream:
        assert {row["shape"] for row in csv.DictReader(stream)} == {"32x32"}


def test_the_benchmark_split_of_lung_tumours(lung: Path) -> None:
    cases = [f"lung_{number:03d}" for number in range(1, 97)]
    ((train, validation),) = MSD(lung).published_folds("paper", cases)
    assert len(validation) == len(LUNG_BENCHMARK_HELD_OUT) == 12
    assert sorted(train + validation) == cases


@pytest.mark.parametrize("dtype", [np.int16, np.uint16, np.int32, np.float32])
@pytest.mark.parametrize("spread", [2000, 30000])
def test_window_is_the_same_formula_for_every_type(dtype: type, spread: int) -> None:
    values = np.random.default_rng(0).integers(0, spread, (1, 7, 8, 9)).astype(dtype)
    if dtype is np.int32:
        values[0, 0, 0, 0] = -(2**20)  # more values than a table holds
    expected = np.round(255 * np.clip((values.astype(float) - 40) / 1500, 0, 1))
    assert np.array_equal(windowed(values, 40, 1540), expected)
