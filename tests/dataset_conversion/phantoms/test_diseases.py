"""Two diseases under one scanner: the parts of the data sets, and what tells the diseases apart."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dataset_conversion.phantoms.diseases import (
    FEW,
    GENERAL,
    GENERAL_DISEASE,
    MANY,
    POOLED,
    TARGET_DISEASE,
    UNLABELED,
    write_disease_pair,
)
from dataset_conversion.phantoms.domains import Domain, domain_slice


def test_the_few_are_among_the_many_and_no_patient_is_tested_twice(tmp_path: Path) -> None:
    n_many = 2 * len(FEW)
    write_disease_pair(tmp_path, n_few=2, n_many=n_many, n_general=3, n_test=2, size=48)

    counts = {}
    for folder in sorted(path for path in tmp_path.rglob("images*")):
        counts[folder.relative_to(tmp_path).as_posix()] = len(list(folder.iterdir()))
    draws = {f"{name}/imagesTr": 2 for name in FEW}
    pools = {f"{name}/imagesTr": 2 + 3 for name in POOLED}
    assert counts == {
        **draws,
        **pools,
        f"{MANY}/imagesTr": n_many,
        f"{MANY}/imagesTs": 2,
        f"{GENERAL}/imagesTr": 3,
        f"{UNLABELED}/imagesUn": n_many,
    }
    many = _contents(tmp_path / MANY / "imagesTr")
    assert many == _contents(tmp_path / UNLABELED / "imagesUn")
    assert not many & _contents(tmp_path / MANY / "imagesTs")

    general = _contents(tmp_path / GENERAL / "imagesTr")
    drawn: set[bytes] = set()
    for name, pooled in zip(FEW, POOLED, strict=True):
        few = _contents(tmp_path / name / "imagesTr")
        assert _contents(tmp_path / pooled / "imagesTr") == few | general
        assert few < many
        assert not few & drawn
        drawn |= few


def _contents(folder: Path) -> set[bytes]:
    return {np.asarray(Image.open(path)).tobytes() for path in folder.iterdir()}


@pytest.mark.parametrize("disease", [TARGET_DISEASE, GENERAL_DISEASE])
def test_lesions_are_brighter_than_the_lung_around_them(disease: Domain) -> None:
    slices = [domain_slice(disease, 0, patient, 96) for patient in range(8)]
    inside = np.mean([image[label == 1].mean() for image, label in slices])
    lung = np.mean([np.percentile(image, 40) for image, _ in slices])
    assert inside > lung


def test_lesions_of_the_general_disease_are_denser() -> None:
    brightness = {}
    for name, disease in (("target", TARGET_DISEASE), ("general", GENERAL_DISEASE)):
        slices = [domain_slice(disease, 0, patient, 96) for patient in range(12)]
        brightness[name] = np.mean([image[label == 1].mean() for image, label in slices])
    assert brightness["general"] > brightness["target"] + 30
