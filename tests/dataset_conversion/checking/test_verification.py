"""What nnU-Net's own check overlooks is found in data sets that are damaged on purpose."""

import json
import shutil
from pathlib import Path

import nibabel
import numpy as np
import pytest
from PIL import Image

from dataset_conversion.checking.verification import verify
from dataset_conversion.datasets.covid_semiseg import CovidSemiSeg
from dataset_conversion.datasets.msd import MSD
from dataset_conversion.writing.conversion import convert
from nnunet_ext.errors import InputError


@pytest.fixture
def folder(lung: Path, raw: Path) -> Path:
    convert(MSD(lung, split="patient:3"), raw / "Dataset006_X")
    return raw / "Dataset006_X"


def change(path: Path, voxels=lambda v: v, affine=lambda a: a) -> None:  # type: ignore[no-untyped-def]
    volume = nibabel.load(path)
    changed = nibabel.Nifti1Image(voxels(np.asarray(volume.dataobj)), affine(volume.affine))
    nibabel.save(changed, path)


def only_problem(folder: Path) -> str:
    (problem,) = verify(folder).problems
    assert "\n" not in problem
    return problem


def test_a_good_data_set_has_no_problem(folder: Path, covid: Path, raw: Path) -> None:
    verified = verify(folder)
    assert (verified.cases, verified.problems) == (4, [])
    assert verified.findings == ["voxel sizes 8x8.5x20 mm"]
    convert(CovidSemiSeg(covid), raw / "Dataset120_X")
    assert verify(raw / "Dataset120_X", 2).problems == []


def test_flipped_affine(folder: Path) -> None:
    change(folder / "labelsTr/lung_001.nii.gz", affine=lambda a: a @ np.diag([-1.0, 1, 1, 1]))
    assert "lung_001.nii.gz: lies elsewhere in space" in only_problem(folder)


def test_shifted_origin_of_a_label(folder: Path) -> None:
    change(
        folder / "labelsTr/lung_001.nii.gz",
        affine=lambda a: a + np.array([[0, 0, 0, 3.0], *[[0] * 4] * 3]),
    )
    assert "lies elsewhere" in only_problem(folder)


def test_empty_label_is_a_finding(folder: Path) -> None:
    change(folder / "labelsTr/lung_003.nii.gz", np.zeros_like)
    verified = verify(folder)
    assert verified.problems == []
    assert "1 labels without foreground: lung_003" in verified.findings
    assert any(
        "1 files are no longer as converted: labelsTr/lung_003.nii.gz" in line
        for line in verified.findings
    )


def test_changed_voxels_are_a_finding(folder: Path) -> None:
    """Also where size and header are as before."""
    change(folder / "labelsTr/lung_001.nii.gz", lambda v: np.roll(v, 1, axis=0))
    change(folder / "imagesTr/lung_003_0000.nii.gz", lambda v: v + np.int16(1))
    names = (
        "2 files are no longer as converted: labelsTr/lung_001.nii.gz, "
        "imagesTr/lung_003_0000.nii.gz"
    )
    assert any(names in line for line in verify(folder).findings)
    (folder / "labelsTr/lung_001.nii.gz").unlink()
    assert any(names in line for line in verify(folder).findings)


def test_colour_pictures_hold_three_channels(tmp_path: Path) -> None:
    """As nnU-Net's reader of natural images takes them; two that differ in blue alone are no
    copies.
    """
    for case, blue in (("a", 10), ("b", 20)):
        colours = np.dstack([np.full((6, 8), value, np.uint8) for value in (200, 100, blue)])
        for name, values in (
            (f"imagesTr/{case}_0000.png", colours),
            (f"labelsTr/{case}.png", np.eye(6, 8, dtype=np.uint8)),
        ):
            (tmp_path / name).parent.mkdir(exist_ok=True)
            Image.fromarray(values).save(tmp_path / name)
    description = {"labels": {"background": 0, "x": 1}, "numTraining": 2, "file_ending": ".png"}
    for channels, problems in ((("R", "G", "B"), 0), (("R",), 2)):
        names = {str(index): name for index, name in enumerate(channels)}
        (tmp_path / "dataset.json").write_text(json.dumps({**description, "channel_names": names}))
        verified = verify(tmp_path)
        assert len(verified.problems) == problems and verified.findings == []


def test_mixed_units(folder: Path) -> None:
    change(
        folder / "imagesTr/lung_003_0000.nii.gz",
        lambda v: np.clip(v / 10 + 100, 0, 255).astype(np.uint8),
    )
    problem = only_problem(folder)
    assert (
        "channel CT mixes units: 3 cases look like HU, 1 cases look like grey values 0..255, e.g. "
        "lung_003" in problem
    )


def test_undeclared_and_fractional_labels(folder: Path) -> None:
    change(folder / "labelsTr/lung_001.nii.gz", lambda v: v * 7)
    change(folder / "labelsTr/lung_003.nii.gz", lambda v: v * np.float32(0.5))
    first, second = verify(folder).problems
    assert "lung_001.nii.gz: holds 7, which" in first
    assert "lung_003.nii.gz: holds 0.5, which" in second


def test_nan_other_shape_and_lost_files(folder: Path) -> None:
    change(
        folder / "imagesTr/lung_001_0000.nii.gz",
        lambda v: np.where(v > 0, np.nan, v).astype(np.float32),
    )
    change(folder / "labelsTr/lung_003.nii.gz", lambda v: v[1:])
    (folder / "labelsTr/lung_005.nii.gz").unlink()
    (folder / "imagesTr/notes.txt").touch()
    text = "\n".join(verify(folder).problems)
    for message in (
        "lung_001_0000.nii.gz: holds NaN",
        "lung_003.nii.gz: has shape",
        "lung_005_0000.nii.gz: has no label",
        "notes.txt: is not called CASE_0000.nii.gz",
    ):
        assert message in text
    assert len(verify(folder).problems) == 4


def test_truncated_file_is_one_line(folder: Path) -> None:
    file = folder / "imagesTr/lung_001_0000.nii.gz"
    file.write_bytes(file.read_bytes()[:2000])
    assert "lung_001_0000.nii.gz: cannot be read as NIfTI (Compressed file ended" in only_problem(
        folder
    )


def test_duplicates_counts_and_splits(folder: Path) -> None:
    for part, ending in (("imagesTr", "_0000.nii.gz"), ("labelsTr", ".nii.gz")):
        shutil.copy(folder / part / f"lung_001{ending}", folder / part / f"copy{ending}")
    splits = folder / "splits_final.json"
    splits.write_text(
        json.dumps([{"train": ["lung_001", "lung_003"], "val": ["lung_003", "lung_099"]}])
    )
    verified = verify(folder)
    text = "\n".join(verified.problems)
    assert "says numTraining 3, but there are 4" in text
    assert "names lung_099, which is not a training case" in text
    assert "trains and validates on lung_003" in text
    assert "lung_001 has the image of copy; keep both on one side of any split" in verified.findings


def test_a_patient_on_both_sides(lung: Path, raw: Path) -> None:
    folder = raw / "Dataset006_X"
    convert(MSD(lung, slices="every:5"), folder)
    cases = [path.name.removesuffix(".nii.gz") for path in (folder / "labelsTr").iterdir()]
    (folder / "splits_final.json").write_text(json.dumps([{"train": cases[1:], "val": cases[:1]}]))
    assert "has 1 patients on both sides" in only_problem(folder)


@pytest.mark.parametrize(
    "content", ["", "[]", '{"labels": []}', '{"channel_names": {}, "labels": {}}']
)
def test_unusable_description(tmp_path: Path, content: str) -> None:
    (tmp_path / "dataset.json").write_text(content)
    with pytest.raises(InputError, match=r"dataset\.json"):
        verify(tmp_path)
