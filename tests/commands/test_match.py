"""``nnUNetv2_ext_match`` on tiny raw data sets."""

import json
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from PIL import Image

from nnunet_ext.commands.match import match_entry
from nnunet_ext.synthesis.fingerprints import fingerprint, hamming
from nnunet_ext.synthesis.matches import read_matches
from nnunet_ext.synthesis.slice_measures import slices_with_labels
from tests.miniature_raw import write_raw

SOURCE = "Dataset101_MR"
TARGET = "Dataset102_CT"


@pytest.fixture
def raw(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Six labelled source slices, and five target slices without labels that are not CT in HU."""
    for variable in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
        (tmp_path / variable).mkdir()
        monkeypatch.setenv(variable, str(tmp_path / variable))
    folder = tmp_path / "nnUNet_raw"
    write_raw(folder, SOURCE, 6, seed=1)
    write_raw(folder, TARGET, 5, labelled=False, seed=2)
    return folder


def match(*arguments: object) -> int:
    with pytest.raises(SystemExit) as stop:
        match_entry([*map(str, arguments), "-np", "1"])
    return stop.value.code


def grey(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path)).astype(float)


def write_ct(folder: Path, shape: tuple[int, ...] = (24, 24)) -> None:
    """Replace the target by three slices in HU: brain at 30, blood at 70 in a square of 2, 4 or 6
    pixels, bone.
    """
    for file in (folder / TARGET / "imagesUn").iterdir():
        file.unlink()
    for index, size in enumerate((2, 4, 6)):
        hu = np.full(shape, -1000, np.int16)
        hu[..., 4:20, 4:20] = 30
        hu[..., 8 : 8 + size, 8 : 8 + size] = 70
        hu[..., 4, 4:20] = 900
        sitk.WriteImage(
            sitk.GetImageFromArray(hu),
            str(folder / TARGET / "imagesUn" / f"ct_{index}_0000.nii.gz"),
        )
    content = {
        "channel_names": {"0": "CT"},
        "labels": {"background": 0},
        "numTraining": 0,
        "file_ending": ".nii.gz",
    }
    (folder / TARGET / "dataset.json").write_text(json.dumps(content))


def test_distances_are_those_of_the_files(
    raw: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "matches.json"
    arguments = ("-d", 101, "--target", TARGET, "-n", 2, "-o", file, "--target-lesion", "100:255")
    assert match(*arguments) == 0
    assert "6 source slices, 5 target slices" in capsys.readouterr().out
    assert file.with_suffix(".png").stat().st_size > 10_000

    matches = read_matches(file)
    assert (matches.source, matches.target, len(matches.source_cases)) == (SOURCE, TARGET, 6)
    for case, similar in matches.source_cases.items():
        own = grey(raw / SOURCE / "imagesTr" / f"{case}_0000.png")
        label = grey(raw / SOURCE / "labelsTr" / f"{case}.png")
        for name, distance in zip(similar.targets, similar.distances, strict=True):
            other = grey(raw / TARGET / "imagesUn" / f"{name}_0000.png")
            bits = hamming(fingerprint(own - own.min()), fingerprint(other - other.min()))
            lesion = abs((label > 0).sum() - (other >= 100).sum()) * 240**2 / 32**2
            assert distance == pytest.approx(100 * int(bits) + lesion, rel=1e-6)

    matched = {entry.source for entry in matches.target_cases.values()}
    assert set(matches.subset("matched")) == matched and len(matches.subset("random")) == len(
        matched
    )


def test_a_matching_is_not_overwritten_unless_asked(
    raw: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "matches.json"
    arguments = ("-d", 101, "--target", 102, "-o", file)
    assert match(*arguments) == 0
    first = file.read_bytes()
    assert match(*arguments, "--seed", 1) == 1
    assert "add --overwrite" in capsys.readouterr().err
    assert file.read_bytes() == first
    assert match(*arguments, "--overwrite") == 0
    assert file.read_bytes() == first


def test_blood_in_hounsfield_units_is_the_lesion_of_ct(raw: Path, tmp_path: Path) -> None:
    write_ct(raw)
    file = tmp_path / "matches.json"
    assert match("-d", 101, "--target", 102, "-o", file, "--fingerprint-weight", 0) == 0
    matches = read_matches(file)
    assert matches.parameters["target_lesion"] == "50:100" and matches.parameters[
        "target_window"
    ] == [0, 80]

    for case, similar in matches.source_cases.items():
        label = grey(raw / SOURCE / "labelsTr" / f"{case}.png")
        own = (label > 0).sum() * 240**2 / 32**2
        expected = {
            f"ct_{index}": abs(own - size**2 * 100) for index, size in enumerate((2, 4, 6))
        }  # 240 / 24 = 10
        assert dict(zip(similar.targets, similar.distances, strict=True)) == pytest.approx(expected)


def test_a_percentile_is_that_of_the_pixels_above_background(raw: Path, tmp_path: Path) -> None:
    """A band from that value gives the same distances."""
    files = sorted((raw / TARGET / "imagesUn").iterdir())
    images = [grey(path) for path in files]
    value = np.percentile(np.concatenate([image[image > image.min()] for image in images]), 90)
    for name, lesion in (("percentile", "90%"), ("band", f"{value}:inf")):
        assert (
            match(
                "-d",
                101,
                "--target",
                102,
                "-o",
                tmp_path / f"{name}.json",
                "--target-lesion",
                lesion,
            )
            == 0
        )
    first, second = (read_matches(tmp_path / f"{name}.json") for name in ("percentile", "band"))
    assert first.source_cases == second.source_cases


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--target", 101), "source and target are the same data set"),
        (("-o", "matches.csv"), "call the file .json"),
        (("-o", "no/matches.json"), "no such folder"),
        (("--target-lesion", "100:50"), "the lower value first"),
        (("--target-lesion", "50"), "write LOW:HIGH"),
        (("--target-lesion", "bright"), "write LOW:HIGH"),
        (("--target-lesion", "100%"), "between 0 and 100"),
        (("--window", 0, 80), "--window is for CT in HU"),
        (("--lesion-weight", -1), "--lesion-weight -1"),
        (("--seed", -1), "--seed -1"),
        (("--target", 199), "data set 199 is in none of"),
    ],
)
def test_impossible_options_are_refused(
    raw: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: tuple[object, ...],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    defaults = {
        "-d": (101,),
        "--target": (102,),
        "-o": ("matches.json",),
        arguments[0]: arguments[1:],
    }
    words = [word for option, values in defaults.items() for word in (option, *values)]
    assert match(*words) == 1
    assert message in capsys.readouterr().err
    assert not (tmp_path / "matches.json").exists()


def test_a_window_the_wrong_way_round_is_refused(
    raw: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_ct(raw)
    assert match("-d", 101, "--target", 102, "-o", tmp_path / "m.json", "--window", 80, 0) == 1
    assert "the low end comes first" in capsys.readouterr().err


def test_volumes_are_refused(raw: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_ct(raw, (2, 24, 24))
    assert match("-d", 101, "--target", 102, "-o", tmp_path / "m.json") == 1
    error = capsys.readouterr().err
    assert (
        "ct_0_0000.nii.gz: has 2 slices; convert the data set with --slices" in error
        and "3 of 3 slices" in error
    )


def test_several_channels_are_refused(
    raw: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_raw(raw, "Dataset103_Two", 2, channels=2)
    assert match("-d", 103, "--target", 102, "-o", tmp_path / "m.json") == 1
    assert "has 2 channels" in capsys.readouterr().err


def test_labels_of_the_target_are_not_read(raw: Path, tmp_path: Path) -> None:
    """As in training: one may be missing, and any may be ignored."""
    labels = {"background": 0, "lesion": 1, "ignore": 2}
    target = write_raw(raw, "Dataset103_Labelled", 3, labels=labels)
    (target / "labelsTr" / "case_00.png").unlink()
    file = tmp_path / "m.json"
    assert match("-d", 101, "--target", 103, "-o", file, "--target-lesion", "100:255") == 0
    assert set(read_matches(file).target_cases) == {"case_00", "case_01", "case_02"}


def test_ignored_pixels_of_the_source_are_no_lesion(raw: Path) -> None:
    labels = {"background": 0, "lesion": 1, "ignore": 2}
    write_raw(raw, "Dataset103_Ignored", 2, labels=labels)  # the second case has value 2 alone
    files = slices_with_labels("Dataset103_Ignored", raw)
    sizes = [int(files.read_lesion(case).sum()) for case in files.cases]
    assert sizes[0] > 0 and sizes[1] == 0


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "is not readable as JSON"),
        ('{"labels": {}, "file_ending": ".png"}', "has no 'channel_names'"),
    ],
)
def test_damaged_lists_are_refused(
    raw: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], content: str, message: str
) -> None:
    (raw / TARGET / "dataset.json").write_text(content)
    assert match("-d", 101, "--target", 102, "-o", tmp_path / "m.json") == 1
    assert f"dataset.json: {message}" in capsys.readouterr().err


def test_damaged_images_are_named(
    raw: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = raw / TARGET / "imagesUn" / "case_01_0000.png"
    broken.write_bytes(broken.read_bytes()[:60])
    assert (
        match("-d", 101, "--target", 102, "-o", tmp_path / "m.json", "--target-lesion", "100:255")
        == 1
    )
    error = capsys.readouterr().err
    assert "1 of 5 slices cannot be used" in error and "case_01_0000.png" in error
