import json
import shutil
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk

from dataset_conversion.datasets.msd import MSD
from dataset_conversion.writing.conversion import convert
from nnunet_ext.errors import InputError


def voxels(path: Path) -> np.ndarray:
    return np.asanyarray(nibabel.load(path).dataobj)


def edit(task: Path, **changes: Any) -> None:
    content = json.loads((task / "dataset.json").read_text())
    (task / "dataset.json").write_text(json.dumps({**content, **changes}))


def test_lung(lung: Path, raw: Path) -> None:
    converter = MSD(lung)
    assert converter.folder_name == "MSD_Lung"
    folder = raw / "Dataset006_X"
    summary = convert(converter, folder)
    assert summary.problems == summary.notes == []
    assert summary.converted == ["lung_001", "lung_003", "lung_005", "lung_008"]
    assert not list(folder.glob("*/._*"))
    image = nibabel.load(folder / "imagesTr/lung_001_0000.nii.gz")
    original = nibabel.load(lung / "imagesTr/lung_001.nii.gz")
    assert image.get_data_dtype() == np.int16
    assert np.array_equal(image.dataobj, original.dataobj)
    assert np.allclose(image.affine, original.affine)
    copied = (folder / "imagesTr/lung_001_0000.nii.gz").read_bytes()
    assert (
        (lung / "imagesTr/lung_001.nii.gz").read_bytes().endswith(copied[10:])
    )  # nothing changes: it is copied
    assert np.array_equal(
        voxels(folder / "labelsTr/lung_001.nii.gz"), voxels(lung / "labelsTr/lung_001.nii.gz")
    )
    content = json.loads((folder / "dataset.json").read_text())
    assert content["channel_names"] == {"0": "CT"}
    assert content["labels"] == {"background": 0, "cancer": 1}
    assert content["release"] == "1.0 04/05/2018"  # published as "relase"
    assert content["citation"] == MSD.citation
    assert content["licence"] == "CC-BY-SA 4.0"
    assert (content["numTraining"], content["file_ending"]) == (3, ".nii.gz")
    assert "HU" in (folder / "conversion.csv").read_text()
    assert (folder / "imagesTs/lung_008_0000.nii.gz").is_file()
    assert not (folder / "labelsTs").exists()


def test_window_turns_hu_into_the_grey_values_of_pictures(
    lung: Path, brain: Path, raw: Path
) -> None:
    folder = raw / "Dataset006_X"
    assert convert(MSD(lung, window=(-1250.0, 250.0)), folder).problems == []
    hu = voxels(lung / "imagesTr/lung_001.nii.gz").astype(float)
    grey = voxels(folder / "imagesTr/lung_001_0000.nii.gz")
    assert grey.dtype == np.uint8
    assert set(grey[hu >= 250]) == {255} and (grey[hu == -500] == round(255 * 750 / 1500)).all()
    inside = (hu > -1250) & (hu < 250)
    assert np.abs(grey[inside] / 255 * 1500 - 1250 - hu[inside]).max() <= 1500 / 255 / 2 + 1e-6
    assert json.loads((folder / "dataset.json").read_text())["channel_names"] == {
        "0": "windowed CT"
    }
    assert "window -1250 to 250 HU" in (folder / "conversion.csv").read_text()
    with pytest.raises(InputError, match="the low end comes first"):
        convert(MSD(lung, window=(250.0, -1250.0)), folder)
    with pytest.raises(InputError, match=r"--window is for CT in HU; .* has FLAIR, T1w, t1gd, T2w"):
        convert(MSD(brain, window=(0.0, 1.0)), folder)


def test_renamed_and_outer_folders(lung: Path, tmp_path: Path) -> None:
    renamed = lung.rename(tmp_path / "my lung data_v1_2")
    assert len(MSD(renamed).find_cases().cases) == 4
    assert len(MSD(tmp_path).find_cases().cases) == 4
    shutil.copytree(renamed, tmp_path / "second")
    with pytest.raises(InputError, match="holds 2 tasks"):
        MSD(tmp_path).find_cases()
    with pytest.raises(InputError, match=r"has no dataset\.json"):
        MSD(renamed / "imagesTr").find_cases()


def test_all_channels(brain: Path, raw: Path) -> None:
    convert(MSD(brain), raw / "Dataset001_X")
    original = nibabel.load(brain / "imagesTr/BRATS_001.nii.gz")
    for channel in range(4):
        file = raw / f"Dataset001_X/imagesTr/BRATS_001_{channel:04d}.nii.gz"
        assert np.array_equal(voxels(file), np.asarray(original.dataobj)[..., channel])
        assert sitk.ReadImage(str(file)).GetDimension() == 3
        assert nibabel.load(file).header.get_zooms() == (1, 1, 1)
    content = json.loads((raw / "Dataset001_X/dataset.json").read_text())
    assert list(content["channel_names"].values()) == ["FLAIR", "T1w", "t1gd", "T2w"]


@pytest.mark.parametrize(("wanted", "index"), [("FLAIR", 0), ("flair", 0), ("T1GD", 2), ("3", 3)])
def test_one_channel(brain: Path, raw: Path, wanted: str, index: int) -> None:
    summary = convert(MSD(brain, channel=wanted), raw / "Dataset001_X")
    assert summary.problems == []
    original = nibabel.load(brain / "imagesTr/BRATS_002.nii.gz")
    assert len(list((raw / "Dataset001_X/imagesTr").iterdir())) == 2
    image = nibabel.load(raw / "Dataset001_X/imagesTr/BRATS_002_0000.nii.gz")
    assert np.array_equal(image.dataobj, np.asarray(original.dataobj)[..., index])
    assert np.allclose(image.affine, original.affine)


@pytest.mark.parametrize("wanted", ["T3", "4", "-1", "", "²"])
def test_unknown_channels_name_the_valid_ones(brain: Path, wanted: str) -> None:
    with pytest.raises(InputError, match=r"there are 0 \(FLAIR\), 1 \(T1w\)"):
        MSD(brain, channel=wanted).find_cases()


def test_merged_labels(brain: Path, raw: Path) -> None:
    convert(MSD(brain, merge=("1,2,3=tumour",)), raw / "Dataset001_X")
    original = voxels(brain / "labelsTr/BRATS_001.nii.gz")
    assert set(np.unique(original)) == {0, 1, 2, 3}
    merged = voxels(raw / "Dataset001_X/labelsTr/BRATS_001.nii.gz")
    assert np.array_equal(merged, original > 0)
    convert(MSD(brain, merge=("2,enhancing tumour=core",)), raw / "Dataset002_X")
    merged = voxels(raw / "Dataset002_X/labelsTr/BRATS_001.nii.gz")
    assert np.array_equal(merged, np.array([0, 1, 2, 2])[original])
    labels = json.loads((raw / "Dataset002_X/dataset.json").read_text())["labels"]
    assert labels == {"background": 0, "edema": 1, "core": 2}


def test_the_list_decides_and_differences_are_reported(lung: Path) -> None:
    shutil.copy(lung / "imagesTr/lung_001.nii.gz", lung / "imagesTr/lung_077.nii.gz")
    (lung / "imagesTr/lung_003.nii.gz").unlink()
    edit(lung, numTraining=64)
    found = MSD(lung).find_cases()
    assert {case.id for case in found.cases} == {"lung_001", "lung_005", "lung_008"}
    assert len(found.problems) == 1
    assert "lung_003.nii.gz: no such file" in found.problems[0]
    assert found.notes == [
        "1 files in imagesTr are not in dataset.json and are left out (lung_077.nii.gz)",
        "dataset.json says numTraining 64 but lists 3",
    ]


@pytest.mark.parametrize(
    "entry", ["../secret.nii.gz", "/etc/passwd", "imagesTr/../../x.nii.gz", "C:\\x.nii.gz"]
)
@pytest.mark.parametrize("place", ["image", "label", "test"])
def test_hostile_lists_are_refused_as_a_whole(
    lung: Path, raw: Path, entry: str, place: str
) -> None:
    content = json.loads((lung / "dataset.json").read_text())
    if place == "test":
        edit(lung, test=[entry])
    else:
        edit(lung, training=[{**content["training"][0], place: entry}, *content["training"][1:]])
    with pytest.raises(InputError, match="leads out of the download"):
        convert(MSD(lung), raw / "Dataset006_X")
    assert not (raw / "Dataset006_X").exists()


def test_folder_in_place_of_a_file(lung: Path) -> None:
    file = lung / "imagesTr/lung_001.nii.gz"
    inner = file.rename(lung / "x")
    file.mkdir()
    assert any("is a folder with 0 files" in line for line in MSD(lung).find_cases().problems)
    inner.rename(file / "lung_001.nii.gz")
    assert MSD(lung).find_cases().problems == []


def test_bad_volumes_are_one_line_each(lung: Path, raw: Path) -> None:
    label_file = lung / "labelsTr/lung_001.nii.gz"
    label = nibabel.load(label_file)
    nibabel.save(nibabel.Nifti1Image(np.asarray(label.dataobj) * 2, label.affine), label_file)
    image_file = lung / "imagesTr/lung_003.nii.gz"
    image_file.write_bytes(image_file.read_bytes()[:3000])
    label_file = lung / "labelsTr/lung_005.nii.gz"
    label = nibabel.load(label_file)
    nibabel.save(
        nibabel.Nifti1Image(np.asarray(label.dataobj), label.affine + np.eye(4)), label_file
    )
    summary = convert(MSD(lung), raw / "Dataset006_X")
    first, second, third = summary.problems
    assert "imagesTr/lung_003.nii.gz: cannot be read as NIfTI (Compressed file ended" in first
    assert "labelsTr/lung_001.nii.gz: holds label values 2; declared are 0, 1" in second
    assert "labelsTr/lung_005.nii.gz: label grid" in third
    assert summary.converted == ["lung_008"]
    assert [path.name for path in (raw / "Dataset006_X").glob("*Tr/*")] == []


def test_flipped_label_is_turned_and_recorded(lung: Path, raw: Path) -> None:
    label_file = lung / "labelsTr/lung_001.nii.gz"
    label = nibabel.load(label_file)
    expected = np.asarray(label.dataobj)
    nibabel.save(label.as_reoriented(np.array([[0, -1], [2, 1], [1, -1]])), label_file)
    summary = convert(MSD(lung), raw / "Dataset006_X")
    assert summary.problems == []
    assert np.array_equal(voxels(raw / "Dataset006_X/labelsTr/lung_001.nii.gz"), expected)
    assert "flipped" in (raw / "Dataset006_X/conversion.csv").read_text()


def test_float_labels_and_nan(lung: Path, raw: Path) -> None:
    file = lung / "labelsTr/lung_001.nii.gz"
    label = nibabel.load(file)
    nibabel.save(
        nibabel.Nifti1Image(np.asarray(label.dataobj).astype(np.float64), label.affine), file
    )
    file = lung / "imagesTr/lung_003.nii.gz"
    image = nibabel.load(file)
    values = np.asarray(image.dataobj).astype(np.float32)
    values[0, 0, 0] = np.nan
    nibabel.save(nibabel.Nifti1Image(values, image.affine), file)
    summary = convert(MSD(lung), raw / "Dataset006_X")
    assert len(summary.problems) == 1
    assert "lung_003.nii.gz: image holds NaN" in summary.problems[0]
    assert voxels(raw / "Dataset006_X/labelsTr/lung_001.nii.gz").dtype == np.uint8


def test_values_that_are_no_hu_are_noticed(lung: Path, raw: Path) -> None:
    for file in (lung / "imagesTr").glob("lung*"):
        image = nibabel.load(file)
        nibabel.save(
            nibabel.Nifti1Image(np.asarray(image.dataobj) + np.int16(1024), image.affine), file
        )
    assert convert(MSD(lung), raw / "Dataset006_X").warnings.total() == 3


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{",
        '{"modality": {}}',
        '{"modality": {"0": "CT"}, "labels": {"a": "b"}, "training": [1]}',
    ],
)
def test_damaged_lists(lung: Path, text: str) -> None:
    (lung / "dataset.json").write_text(text)
    with pytest.raises(InputError, match=r"dataset\.json"):
        MSD(lung).find_cases()
