"""The changed domain of COVID-SemiSeg, on a generated download; the real one where it is at
hand.
"""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dataset_conversion.phantoms.changed_slices import (
    CHANGED,
    CURVE,
    UNCHANGED,
    UNLABELED,
    changed,
    write_changed_domain,
)
from dataset_conversion.phantoms.slice_downloads import write_covid_semiseg
from nnunet_ext.errors import InputError
from tests.places import REAL_DATA

REAL = REAL_DATA / "covid_semiseg"


@pytest.fixture(scope="module")
def download(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_covid_semiseg(
        tmp_path_factory.mktemp("covid"), n_labelled=6, n_test=2, n_unlabeled=7, size=96
    )


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def pixels(path: Path) -> np.ndarray:
    with Image.open(path) as picture:
        return np.asarray(picture)


def test_three_data_sets_share_no_test_slice(download: Path, tmp_path: Path) -> None:
    write_changed_domain(download, tmp_path)
    training = [f"slice_00{number}_0000.png" for number in range(4)]
    assert (
        names(tmp_path / CHANGED / "imagesTr")
        == names(tmp_path / UNCHANGED / "imagesTr")
        == training
    )
    assert names(tmp_path / UNCHANGED / "imagesTs") == ["slice_004_0000.png", "slice_005_0000.png"]
    assert (
        len(names(tmp_path / UNLABELED / "imagesUn")) == 7
        and not (tmp_path / CHANGED / "imagesTs").exists()
    )
    for name in training:
        label = name.replace("_0000", "")
        before, after = (
            pixels(tmp_path / part / "labelsTr" / label) for part in (UNCHANGED, CHANGED)
        )
        assert (
            np.array_equal(before, after)
            and before.shape == (128, 128)
            and set(np.unique(before)) <= {0, 1}
        )
    content = json.loads((tmp_path / CHANGED / "dataset.json").read_text())
    assert content["labels"] == {"background": 0, "infection": 1} and content["numTraining"] == 4


def test_equal_arguments_give_equal_files(
    download: Path, tmp_path: Path, contents: Callable[[Path], dict[str, bytes]]
) -> None:
    for folder, seed in (("a", 0), ("b", 0), ("c", 1)):
        write_changed_domain(download, tmp_path / folder, seed)
    first, second, third = (contents(tmp_path / name) for name in "abc")
    assert first == second and first.keys() == third.keys() and first != third


def test_the_change_is_not_monotonic() -> None:
    greys = [grey for _, grey in CURVE]
    assert sorted(greys) != greys and sorted(greys, reverse=True) != greys
    flat = [
        changed(np.full((128, 128), grey, np.uint8), np.random.default_rng(0)).mean()
        for grey, _ in CURVE
    ]
    np.testing.assert_allclose(flat, greys, atol=6)  # texture, noise and illumination have mean 0


def test_a_folder_that_is_no_download_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds no LungInfection-Train"):
        write_changed_domain(tmp_path, tmp_path)


@pytest.mark.skipif(not REAL.is_dir(), reason="the real download is not at hand")
def test_the_real_download(tmp_path: Path) -> None:
    write_changed_domain(REAL, tmp_path)
    counts = [
        len(names(tmp_path / CHANGED / "imagesTr")),
        len(names(tmp_path / UNCHANGED / "imagesTs")),
    ]
    assert counts == [33, 17] and len(names(tmp_path / UNLABELED / "imagesUn")) == 200
