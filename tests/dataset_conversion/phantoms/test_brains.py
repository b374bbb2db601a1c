"""What the generated pair of modalities promises."""

import json
from collections.abc import Callable
from pathlib import Path

import nibabel
import numpy as np
import pytest

from dataset_conversion.phantoms.brains import (
    CT,
    MR,
    MR_WITH_SKULL,
    UNLABELED_CT,
    UNLABELED_CT_WITH_SKULL,
    BrainSlice,
    ct_slice,
    mr_slice,
    write_brain_sets,
)
from dataset_conversion.phantoms.heads import BONE, FLUID, GREY, SCALP, WHITE, head_slice


@pytest.fixture(scope="module")
def mr() -> list[BrainSlice]:
    return [mr_slice(3, patient, 96) for patient in range(40)]


@pytest.fixture(scope="module")
def ct() -> list[BrainSlice]:
    return [ct_slice(3, 100 + patient, 96) for patient in range(40)]


def voxels(file: Path) -> np.ndarray:
    return np.asarray(nibabel.load(file).dataobj)


def test_five_data_sets_of_nnunet(tmp_path: Path) -> None:
    write_brain_sets(tmp_path, n_mr=3, n_ct=2, n_test=4, size=48)
    counts: dict[str, int] = {}
    for file in tmp_path.rglob("*.nii.gz"):
        folder = file.parent.relative_to(tmp_path).as_posix()
        counts[folder] = counts.get(folder, 0) + 1
    assert counts == {
        f"{MR}/imagesTr": 3,
        f"{MR}/labelsTr": 3,
        f"{MR_WITH_SKULL}/imagesTr": 3,
        f"{MR_WITH_SKULL}/labelsTr": 3,
        f"{CT}/imagesTr": 2,
        f"{CT}/labelsTr": 2,
        f"{CT}/imagesTs": 4,
        f"{CT}/labelsTs": 4,
        f"{UNLABELED_CT}/imagesUn": 2,
        f"{UNLABELED_CT_WITH_SKULL}/imagesUn": 2,
    }
    for name, channel, training in ((MR, "FLAIR", 3), (CT, "CT", 2), (UNLABELED_CT, "CT", 0)):
        content = json.loads((tmp_path / name / "dataset.json").read_text())
        assert content["channel_names"] == {"0": channel} and content["numTraining"] == training

    same = [tmp_path / name for name in (f"{UNLABELED_CT}/imagesUn", f"{CT}/imagesTr")]
    assert (same[0] / "ct_001_0000.nii.gz").read_bytes() == (
        same[1] / "ct_001_0000.nii.gz"
    ).read_bytes()


def test_files_hold_the_slices_without_skull(tmp_path: Path) -> None:
    write_brain_sets(tmp_path, seed=4, n_mr=1, n_ct=1, n_test=1, size=64)
    item = mr_slice(4, 0, 64)
    stripped = voxels(tmp_path / MR / "imagesTr" / "mr_000_0000.nii.gz").T
    assert np.array_equal(stripped, np.where(item.brain, item.image, 0))
    assert np.array_equal(
        voxels(tmp_path / MR_WITH_SKULL / "imagesTr" / "mr_000_0000.nii.gz").T, item.image
    )
    assert np.array_equal(voxels(tmp_path / MR / "labelsTr" / "mr_000.nii.gz").T, item.label)

    shown = voxels(tmp_path / CT / "imagesTr" / "ct_000_0000.nii.gz").T
    scanned = ct_slice(4, 1, 64).image
    assert (shown[shown != 0] == scanned[shown != 0]).all() and shown.max() < 200 < scanned.max()


def test_equal_seeds_give_equal_files(
    tmp_path: Path, contents: Callable[[Path], dict[str, bytes]]
) -> None:
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        write_brain_sets(tmp_path / name, seed=seed, n_mr=1, n_ct=1, n_test=1, size=48)
    first, second, third = (contents(tmp_path / name) for name in "abc")
    assert first == second and first.keys() == third.keys() and first != third


def test_a_head_has_its_layers_in_order() -> None:
    head = head_slice(np.random.default_rng(0), 160, 0.2)
    depths = [head.depth_mm[head.tissue == tissue].mean() for tissue in (SCALP, BONE, GREY, WHITE)]
    assert depths == sorted(depths)
    assert head.inside_skull[np.isin(head.tissue, (GREY, WHITE, FLUID))].all()
    assert not head.inside_skull[np.isin(head.tissue, (SCALP, BONE))].any()


def test_slices_near_the_vertex_are_smaller() -> None:
    areas = [
        head_slice(np.random.default_rng(1), 96, level).inside_skull.sum() for level in (0, 0.5, 1)
    ]
    assert areas == sorted(areas, reverse=True)


def test_the_skull_is_dark_in_mr_and_bright_in_ct() -> None:
    """The same generator state gives the same head."""
    for make, sign in ((mr_slice, -1), (ct_slice, 1)):
        item = make(0, 0, 160)
        generator = np.random.default_rng([0, 0])
        head = head_slice(
            generator, 160, generator.uniform(*((0, 1) if make is mr_slice else (0.1, 0.7)))
        )
        difference = np.median(item.image[head.tissue == BONE]) - np.median(
            item.image[head.tissue == GREY]
        )
        assert sign * difference > 0


def test_blood_has_55_to_80_hu_and_tumours_are_brighter_than_grey_matter(
    mr: list[BrainSlice], ct: list[BrainSlice]
) -> None:
    blood = [np.median(item.image[item.label > 0]) for item in ct]
    assert min(blood) > 50 and max(blood) < 90
    for item in mr:
        healthy = item.brain & (item.label == 0)
        assert np.percentile(item.image[item.label > 0], 75) > np.percentile(
            item.image[healthy], 75
        )


def test_lesions_lie_in_the_brain(mr: list[BrainSlice], ct: list[BrainSlice]) -> None:
    for item in [*mr, *ct]:
        assert item.label.any() and item.brain[item.label > 0].all()


def test_sizes_of_lesions_overlap_and_those_of_mr_vary_more(
    mr: list[BrainSlice], ct: list[BrainSlice]
) -> None:
    sizes = [np.array([item.label.sum() for item in items]) for items in (mr, ct)]
    within = (sizes[0] >= sizes[1].min()) & (sizes[0] <= sizes[1].max())
    assert 0.4 < within.mean() < 1
    assert sizes[0].std() > 1.3 * sizes[1].std()
