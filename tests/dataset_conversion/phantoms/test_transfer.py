"""The generated tasks of the transfer suite."""

import json
from pathlib import Path

import numpy as np
from PIL import Image

from dataset_conversion.phantoms.transfer import INFECTIONS, NODULES, OBJECTS, write_transfer_tasks


def test_three_tasks_of_one_label(tmp_path: Path) -> None:
    write_transfer_tasks(tmp_path, n_objects=7, n_nodules=6, n_infections=5, n_test=2, size=64)
    assert {path.name for path in tmp_path.iterdir()} == {OBJECTS, NODULES, INFECTIONS}
    for name, count in ((OBJECTS, 7), (NODULES, 6), (INFECTIONS, 5)):
        (split,) = json.loads((tmp_path / name / "splits_final.json").read_text())
        assert len(split["train"]) == count - 4 and len({*split["train"], *split["val"]}) == count
        assert json.loads((tmp_path / name / "dataset.json").read_text())["numTraining"] == count
        labels = [
            np.asarray(Image.open(path))
            for path in sorted((tmp_path / name / "labelsTr").iterdir())
        ]
        assert len(labels) == count and all(label.shape == (64, 64) for label in labels)
        assert all(set(np.unique(label)) == {0, 1} for label in labels)
        assert 0.002 < np.mean(labels) < 0.4
    assert len(list((tmp_path / INFECTIONS / "imagesTs").iterdir())) == 2


def test_equal_seeds_give_equal_files_and_no_test_slice_is_trained_on(tmp_path: Path) -> None:
    for folder, seed in (("a", 0), ("b", 0), ("c", 1)):
        write_transfer_tasks(
            tmp_path / folder, seed=seed, n_objects=1, n_nodules=1, n_infections=2, n_test=2
        )
    files = {
        path.relative_to(tmp_path / "a"): path.read_bytes()
        for path in (tmp_path / "a").rglob("*.png")
    }
    assert all((tmp_path / "b" / name).read_bytes() == content for name, content in files.items())
    assert all((tmp_path / "c" / name).read_bytes() != content for name, content in files.items())
    images = [
        content
        for name, content in files.items()
        if INFECTIONS in str(name) and "images" in str(name)
    ]
    assert len(set(images)) == len(images) == 4
