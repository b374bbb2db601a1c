"""Labels mirrored on their image under headers that agree: boxes of tissue whose shares can be
counted by hand.
"""

import json
from pathlib import Path

import nibabel
import numpy as np
import pytest

from dataset_conversion.checking.verification import verify
from dataset_conversion.datasets.lits import LiTS
from dataset_conversion.phantoms.volume_downloads import infected_volume, liver_volume, save_nifti
from dataset_conversion.reading.mirroring import (
    CLEAR_LEAD,
    LungRegion,
    in_words,
    mirrored_axes,
    points_of,
    shares_by_mirroring,
    wrong_side,
)
from dataset_conversion.writing.conversion import convert

SPACING_MM = np.diag([4.0, 4.0, 4.0, 1.0])
SHAPE = (60, 50, 40)
RIGHT, LEFT = (
    np.s_[34:48, 10:34, 4:36],
    np.s_[10:22, 12:34, 4:28],
)  # the left lung ends above the other, by the heart
LESION = np.s_[36:44, 26:33, 6:14]  # at the back and base of the right lung
FLIPS = [(0,), (1,), (2,), (0, 1), (0, 1, 2)]


@pytest.fixture
def chest() -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """HU of a block of tissue in air with two dark boxes and a denser one inside, and labels of
    them.
    """
    hu = np.full(SHAPE, -1000, np.int16)
    hu[6:54, 5:45] = 40
    hu[RIGHT] = hu[LEFT] = -850
    hu[LESION] = -300
    lungs, lesion = np.zeros(SHAPE, np.uint8), np.zeros(SHAPE, np.uint8)
    lungs[LEFT], lungs[RIGHT], lesion[LESION] = 1, 2, 1
    return hu, {"lungs": lungs, "lesion": lesion}


def found(hu: np.ndarray, label: np.ndarray, **labels: int) -> tuple[int, ...]:
    named = {name.replace("_", " "): value for name, value in labels.items()}
    return mirrored_axes(hu, label, {"background": 0, **named}, SPACING_MM)


def test_the_lungs_are_found_without_the_air_around_and_with_what_they_enclose(chest) -> None:  # type: ignore[no-untyped-def]
    hu, labels = chest
    region = LungRegion(hu, SPACING_MM)
    assert np.array_equal(region.voxels, labels["lungs"] > 0)
    assert region.median_hu == -850
    assert not LungRegion(np.where(hu < -400, 40, hu), SPACING_MM).voxels.any()
    small = np.full(SHAPE, 40, np.int16)
    small[20:31, 20:31, 20:30] = -900  # 77 ml of bowel gas
    assert not LungRegion(small, SPACING_MM).voxels.any()


def test_shares_are_what_counting_gives() -> None:
    """A bar of four voxels at x = 0..3 of 10, tissue at x = 6..8: mirrored to 6..9, three of four
    lie on it.
    """
    tissue = np.zeros((10, 4, 4), bool)
    tissue[6:9] = True
    bar = np.zeros_like(tissue)
    bar[:4, 1, 1] = True
    shares = shares_by_mirroring(points_of(bar), bar.shape, lambda at: tissue[tuple(at.T)])
    assert {axes: share for axes, share in shares.items() if 0 in axes} == dict.fromkeys(
        [(0,), (0, 1), (0, 2), (0, 1, 2)], 0.75
    )
    assert shares[()] == shares[(1,)] == 0


@pytest.mark.parametrize("axes", FLIPS)
def test_each_mirroring_is_named(chest, axes: tuple[int, ...]) -> None:  # type: ignore[no-untyped-def]
    hu, labels = chest
    assert found(hu, np.flip(labels["lungs"], axes), left_lung=1, right_lung=2) == axes
    assert found(hu, np.flip(labels["lesion"], axes), infection=1) == axes
    assert found(np.flip(hu, axes), labels["lesion"], nodule=1) == axes


def test_labels_that_fit_are_no_error(chest) -> None:  # type: ignore[no-untyped-def]
    hu, labels = chest
    assert found(hu, labels["lungs"], left_lung=1, right_lung=2) == ()
    assert found(hu, labels["lesion"], infection=1) == ()
    assert found(hu, np.zeros_like(labels["lesion"]), infection=1) == ()


def test_symmetric_labels_are_undecided(chest) -> None:  # type: ignore[no-untyped-def]
    hu, labels = chest
    symmetric = np.flip(hu, 0)
    both = np.minimum(np.maximum(hu, -900), symmetric)
    lungs = (labels["lungs"] > 0) | np.flip(labels["lungs"] > 0, 0)
    assert found(both, np.flip(lungs, 0).astype(np.uint8), lung=1) == ()


@pytest.mark.parametrize("name", ["haemorrhage", "edema", "left_lung", "effusion", "tumour"])
def test_what_nothing_is_known_of_is_undecided(chest, name: str) -> None:  # type: ignore[no-untyped-def]
    hu, labels = chest
    assert found(hu, np.flip(labels["lesion"], 0), **{name: 1}) == ()


def test_an_image_without_lungs_decides_nothing(chest) -> None:  # type: ignore[no-untyped-def]
    hu, labels = chest
    head = np.where((hu > -900) & (hu < -400), 40, hu)
    assert found(head, np.flip(labels["lesion"], 0), lesion=1) == ()


def test_a_small_lesion_decides_nothing(chest) -> None:  # type: ignore[no-untyped-def]
    """0.77 ml: a vessel of the other lung may look the same."""
    hu, _ = chest
    label = np.zeros(SHAPE, np.uint8)
    label[36:38, 26:29, 6:8] = 1
    assert found(hu, np.flip(label, 0), infection=1) == ()


def test_a_consolidated_lung_is_not_its_mirror_image(chest) -> None:  # type: ignore[no-untyped-def]
    """The whole right lung is white: its label fits badly, and mirrored no better than by its share
    of the left one.
    """
    hu, labels = chest
    hu[RIGHT] = 30
    assert found(hu, labels["lungs"], left_lung=1, right_lung=2) == ()
    assert found(hu, (labels["lungs"] == 2).astype(np.uint8), infection=1) == ()
    assert found(hu, (labels["lungs"] == 2).astype(np.uint8), right_lung=1) == ()


@pytest.mark.parametrize("index", range(4))
def test_generated_chests_have_no_false_alarm(index: int) -> None:
    hu, lungs, infection = infected_volume(5, index, (96, 88, 16))
    affine_mm = np.diag([4.0, 4.0, 12.0, 1.0])
    assert mirrored_axes(hu, lungs, {"left lung": 1, "right lung": 2}, affine_mm) == ()
    assert mirrored_axes(hu, infection, {"ggo": 1, "consolidation": 2}, affine_mm) == ()
    assert mirrored_axes(hu, (infection > 0).astype(np.uint8), {"infection": 1}, affine_mm) == ()


def abdomen() -> tuple[np.ndarray, np.ndarray]:
    """A trunk with fat at the left of the liver, where that of a generated miniature has muscle."""
    hu, label = liver_volume(0, 1)
    hu[:14] = np.where(hu[:14] > -200, -100, hu[:14])
    return hu, label


def test_livers_are_soft_tissue() -> None:
    hu, label = abdomen()
    affine_mm = np.diag([8.0, 8.0, 5.0, 1.0])
    labels = {"background": 0, "liver": 1, "tumour": 2}
    shares = shares_by_mirroring(
        points_of(label == 1), label.shape, lambda at: hu[tuple(at.T)] > -50
    )
    assert shares[()] > shares[(0,)] + CLEAR_LEAD
    assert mirrored_axes(hu, label, labels, affine_mm) == ()
    assert mirrored_axes(hu, np.flip(label, 0), labels, affine_mm) == (0,)
    assert wrong_side(hu, "HU", label, labels, affine_mm) == ""
    flipped_mm = affine_mm @ np.diag([-1.0, 1, 1, 1])
    assert "the liver lies on the patient's left" in wrong_side(hu, "HU", label, labels, flipped_mm)
    assert wrong_side(hu, "unknown", label, labels, flipped_mm) == ""


def test_lungs_on_the_wrong_sides(chest) -> None:  # type: ignore[no-untyped-def]
    hu, labels = chest
    names = {"left lung": 1, "right lung": 2}
    assert wrong_side(hu, "HU", labels["lungs"], names, SPACING_MM) == ""
    assert "left lung lies on" in wrong_side(
        hu, "HU", np.flip(labels["lungs"], 0), names, SPACING_MM
    )
    assert wrong_side(hu, "HU", (labels["lungs"] == 1).astype(np.uint8), names, SPACING_MM) == ""


def test_directions_follow_the_header() -> None:
    sideways = np.array([[0, 0, -2.0, 0], [0, 3, 0, 0], [1, 0, 0, 0], [0, 0, 0, 1]])
    assert in_words((0,), sideways) == "feet-head"
    assert in_words((1, 2), sideways) == "front-back and left-right"


@pytest.mark.parametrize(
    ("axis", "words"), [(0, "left-right"), (1, "front-back"), (2, "feet-head")]
)
def test_verification_names_the_file(chest, tmp_path: Path, axis: int, words: str) -> None:  # type: ignore[no-untyped-def]
    """The label array mirrored, or the image with its header as it was: nnU-Net's own check sees
    neither.
    """
    hu, labels = chest
    for case, image, label in (
        ("good", hu, labels["lesion"]),
        ("label", hu, np.flip(labels["lesion"], axis)),
        ("image", np.flip(hu, axis), labels["lesion"]),
    ):
        save_nifti(
            tmp_path / f"imagesTr/{case}_0000.nii.gz",
            np.ascontiguousarray(image),
            (4.0, 4.0, 4.0),
            "LPS",
        )
        save_nifti(
            tmp_path / f"labelsTr/{case}.nii.gz",
            np.ascontiguousarray(label),
            (4.0, 4.0, 4.0),
            "LPS",
        )
    description = {
        "channel_names": {"0": "CT"},
        "labels": {"background": 0, "infection": 1},
        "numTraining": 3,
    }
    (tmp_path / "dataset.json").write_text(json.dumps({**description, "file_ending": ".nii.gz"}))
    image, label = verify(tmp_path).problems
    assert f"image.nii.gz: is mirrored {words}, although its header" in image
    assert f"label.nii.gz: is mirrored {words}, although its header" in label


def test_verification_notes_a_body_mirrored_as_a_whole(raw: Path, tmp_path: Path) -> None:
    hu, label = abdomen()
    for stem, voxels in (("volume", hu), ("segmentation", label)):
        save_nifti(
            tmp_path / f"{stem}-1.nii", np.ascontiguousarray(voxels[::-1]), (8.0, 8.0, 5.0), "LPS"
        )
    folder = raw / "Dataset134_LiTS"
    assert convert(LiTS(tmp_path), folder).warnings.total() == 2  # padding, and the side
    verified = verify(folder)
    assert verified.problems == []
    assert "volume_001: by the header the liver lies on the patient's left" in "\n".join(
        verified.findings
    )


def test_lits_is_refused_where_only_the_array_is_mirrored(raw: Path, tmp_path: Path) -> None:
    hu, label = abdomen()
    for number, turned in ((1, label), (2, label[::-1])):
        save_nifti(
            tmp_path / f"volume-{number}.nii", hu, (8.0, 8.0, 5.0), "RAS" if number == 1 else "LPS"
        )
        codes = "LPS"  # stored otherwise than its image, as in mirrors of the data set
        save_nifti(
            tmp_path / f"segmentation-{number}.nii",
            np.ascontiguousarray(turned),
            (8.0, 8.0, 5.0),
            codes,
        )
    summary = convert(LiTS(tmp_path), raw / "Dataset134_LiTS")
    (problem,) = summary.problems
    assert "segmentation-2.nii: label is mirrored left-right" in problem
    assert summary.converted == ["volume_001"]
    assert nibabel.load(raw / "Dataset134_LiTS/labelsTr/volume_001.nii.gz").shape == label.shape
