"""Suites' data from a download of COVID-SemiSeg, on a generated one."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dataset_conversion.phantoms.slice_downloads import write_covid_semiseg
from nnunet_ext.benchmark.covid_semiseg_data import DOWNLOAD, MULTICLASS, UNLABELED, FoldsOfSlices
from nnunet_ext.errors import InputError


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


@pytest.mark.parametrize("n_test", [0, 3])
def test_folds_of_a_download(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, n_test: int) -> None:
    """No training slice is tested; without official test slices every labelled one is, once."""
    source = write_covid_semiseg(
        tmp_path / "download", n_labelled=7, n_test=n_test, n_unlabeled=9, size=48
    )
    monkeypatch.setenv(DOWNLOAD, str(source))
    raw = tmp_path / "raw"
    raw.mkdir()
    FoldsOfSlices(size=32, unlabeled=4)(raw)

    assert names(raw) == {*MULTICLASS, UNLABELED}
    tested: list[str] = []
    for name in MULTICLASS:
        training, test = names(raw / name / "labelsTr"), names(raw / name / "labelsTs")
        content = json.loads((raw / name / "dataset.json").read_text())
        assert content["numTraining"] == len(training) and content["labels"]["consolidation"] == 2
        assert not training & test
        assert len(names(raw / name / "imagesTs")) == len(test)
        tested += test
        with Image.open(next((raw / name / "imagesTr").iterdir())) as picture:
            assert picture.size == (32, 32)
    if n_test:
        assert len(tested) == 5 * n_test and len(set(tested)) == n_test
    else:
        assert len(tested) == len(set(tested)) == 7
    assert len(names(raw / UNLABELED / "imagesUn")) == 4
    assert names(raw / UNLABELED) == {"dataset.json", "imagesUn"}


def test_a_download_that_is_not_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(DOWNLOAD, raising=False)
    with pytest.raises(InputError, match="COVID_SEMISEG is not set"):
        FoldsOfSlices()(tmp_path)


def test_the_classes_survive_the_smaller_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(
        DOWNLOAD, str(write_covid_semiseg(tmp_path / "d", n_labelled=10, n_test=0, n_unlabeled=3))
    )
    raw = tmp_path / "raw"
    raw.mkdir()
    FoldsOfSlices(size=64)(raw)
    labels = [np.asarray(Image.open(path)) for path in (raw / MULTICLASS[0] / "labelsTr").iterdir()]
    assert set(np.unique(labels)) == {0, 1, 2}
