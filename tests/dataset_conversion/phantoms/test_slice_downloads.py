from collections.abc import Callable
from pathlib import Path

import nibabel
import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from dataset_conversion.phantoms.slice_downloads import (
    infected_slice,
    nodule_volume,
    tumour_volume,
    write_covid_semiseg,
    write_msd_lung,
)

SPACING_MM = (2.8, 2.8, 5.0)


@pytest.fixture(scope="module")
def slices() -> list[tuple[np.ndarray, np.ndarray]]:
    return [infected_slice(0, index, 128) for index in range(12)]


def test_equal_seeds_give_equal_files(
    tmp_path: Path, contents: Callable[[Path], dict[str, bytes]]
) -> None:
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        write_covid_semiseg(
            tmp_path / name, seed=seed, n_labelled=1, n_test=1, n_unlabeled=1, size=48
        )
        write_msd_lung(
            tmp_path / name, seed=seed, n_train=1, n_test=0, shape=(32, 28, 6), spacing=(9, 9, 30)
        )
    first, second, third = (contents(tmp_path / name) for name in "abc")
    assert first == second
    assert first.keys() == third.keys()
    assert first != third


def test_trees_are_the_publishers(covid_original: Path, lung_original: Path) -> None:
    training = covid_original / "Dataset/TrainingSet"
    expected = [
        "LungInfection-Train/Doctor-label/Imgs/0.jpg",
        "LungInfection-Train/Doctor-label/GT/0.png",
        "LungInfection-Train/Doctor-label/Edge/0.png",
        "MultiClassInfection-Train/Prior/0.png",
        "LungInfection-Train/Pseudo-label/GT/Data-1_coronacases_org_001_1.png",
    ]
    assert all((training / name).is_file() for name in expected)
    for kind in ("GT", "GT-1", "GT-2"):
        assert (
            covid_original / "Dataset/TestingSet/MultiClassInfection-Test" / kind / "4.png"
        ).is_file()
    with Image.open(training / "MultiClassInfection-Train/GT/0.png") as picture:
        assert picture.getpalette()[:9] == [0, 0, 0, 128, 0, 0, 0, 128, 0]
    assert '"relase"' in (lung_original / "dataset.json").read_text()
    assert (lung_original / "imagesTr/._lung_001.nii.gz").is_file()
    image = nibabel.load(lung_original / "imagesTr/lung_001.nii.gz")
    assert nibabel.aff2axcodes(image.affine) == ("R", "A", "S")
    assert image.header.get_zooms() == (8.0, 8.5, 20.0)


def test_slices_look_like_a_chest(slices: list[tuple[np.ndarray, np.ndarray]]) -> None:
    assert len({image.shape for image, _ in slices}) > 3
    for image, label in slices:
        assert image.shape == label.shape
        dark, count = ndimage.label(ndimage.binary_opening(image < 90))
        sizes = np.sort(np.bincount(dark.ravel())[1:])[::-1] / image.size
        assert count >= 3  # air around, two lungs
        assert 0.03 < sizes[1] < 0.2
        assert (image > 240).mean() > 0.01  # bone


def test_lesions_are_neither_absent_nor_trivial(
    slices: list[tuple[np.ndarray, np.ndarray]],
) -> None:
    areas = [int((label > 0).sum()) for _, label in slices]
    assert min(areas) > 3
    assert min(areas) < 40  # tiny ones
    assert max(areas) > 300
    assert {value for _, label in slices for value in np.unique(label)} == {0, 1, 2}
    # No threshold finds them: the best one, chosen in hindsight, stays far from a good Dice score.
    truth = np.concatenate([label.ravel() > 0 for _, label in slices])
    grey = np.concatenate([image.ravel() for image, _ in slices])
    dice = [
        2
        * (truth & (low < grey) & (grey < high)).sum()
        / (truth.sum() + ((low < grey) & (grey < high)).sum())
        for low in range(60, 200, 20)
        for high in range(low + 20, 255, 20)
    ]
    assert max(dice) < 0.6


def test_volume_of_a_chest_with_nodules() -> None:
    image, label = nodule_volume(0, 0, (96, 80, 20), SPACING_MM)
    assert image.dtype == np.int16
    assert (image.min(), set(np.unique(label))) == (-1024, {0, 1})
    inside = image[ndimage.binary_erosion(label)]
    assert -120 < np.median(inside) < 120  # solid, HU
    around = image[ndimage.binary_dilation(label, iterations=4) & (label == 0)]
    assert np.median(around) < -500  # in lung
    # Axes run to the right, front and head: spine behind, heart to the left.
    middle = image[:, :, 6].astype(float)
    bone = np.argwhere(middle > 300)
    assert np.abs(bone[:, 0] - 48).min() < 6
    assert bone[np.abs(bone[:, 0] - 48) < 6][:, 1].min() < 30
    soft = (middle > 0) & (middle < 150)
    assert soft[24:48, 35:55].sum() > soft[48:72, 35:55].sum()


def test_brain_has_four_contrasts_and_black_surroundings() -> None:
    image, label = tumour_volume(0, 0, (40, 40, 28))
    assert image.shape == (40, 40, 28, 4)
    assert image.dtype == np.float32
    assert set(np.unique(label)) == {0, 1, 2, 3}
    assert (image[0] == 0).all()
    assert image[label == 3][:, 2].mean() > 1.3 * image[label == 1][:, 2].mean()  # gadolinium
    assert (
        image[label == 1][:, 0].mean()
        > 1.3 * image[(label == 0) & (image[..., 0] > 0)][:, 0].mean()
    )  # FLAIR


def test_faint_infections_are_less_dense_and_never_consolidated() -> None:
    def contrasts(is_faint: bool) -> tuple[list[float], set[int]]:
        found, classes = [], set()
        for index in range(12):
            grey, label = infected_slice(0, index, 96, is_faint)
            is_lesion = label > 0
            around = ndimage.binary_dilation(is_lesion, iterations=6)
            is_lung = around & ~ndimage.binary_dilation(is_lesion) & (grey < 110)
            found.append(float(grey[is_lesion].mean() - grey[is_lung].mean()))
            classes |= set(np.unique(label).tolist())
        return found, classes

    usual, usual_classes = contrasts(is_faint=False)
    faint, faint_classes = contrasts(is_faint=True)
    assert usual_classes == {0, 1, 2} and faint_classes == {0, 1}
    assert 0 < np.median(faint) < 0.75 * np.median(usual)
