import json
from pathlib import Path

import numpy as np
import pytest

from nnunet_ext.errors import InputError
from nnunet_ext.evaluation.cases.labels import LabelSet
from nnunet_ext.evaluation.cases.soft_maps import (
    channels_declared,
    merges_regions,
    read_probabilities,
    require_agreement,
    soft_map_files,
    soft_map_of,
)

LABELS = LabelSet({"ggo": (1,), "consolidation": (2,)})
REGIONS = LabelSet({"infection": (1, 2), "consolidation": (2,)})


def read_soft_map(
    path: Path, values: tuple[int, ...], channels: LabelSet, shape: tuple[int, ...]
) -> np.ndarray:
    return soft_map_of(read_probabilities(path, channels, shape), values, channels, path)


def written(path: Path, array: np.ndarray, key: str = "probabilities") -> Path:
    np.savez_compressed(path, **{key: array})
    return path


@pytest.fixture
def softmax() -> np.ndarray:
    """(channels, slices, rows, columns)"""
    values = np.random.default_rng(0).uniform(size=(3, 2, 4, 5)).astype(np.float32)
    return values / values.sum(axis=0)


def test_a_region_is_the_sum_of_its_labels(tmp_path: Path, softmax: np.ndarray) -> None:
    path = written(tmp_path / "a.npz", softmax)
    np.testing.assert_array_equal(read_soft_map(path, (2,), LABELS, (2, 4, 5)), softmax[2])
    np.testing.assert_allclose(
        read_soft_map(path, (1, 2), LABELS, (2, 4, 5)), softmax[1] + softmax[2]
    )


def test_a_network_with_regions_has_a_channel_for_each(tmp_path: Path, softmax: np.ndarray) -> None:
    path = written(tmp_path / "a.npz", softmax[:2])
    np.testing.assert_array_equal(read_soft_map(path, (2, 1), REGIONS, (2, 4, 5)), softmax[0])
    np.testing.assert_array_equal(read_soft_map(path, (2,), REGIONS, (2, 4, 5)), softmax[1])
    with pytest.raises(InputError, match=r"no channel for the values \[1\]"):
        read_soft_map(path, (1,), REGIONS, (2, 4, 5))


def test_a_union_of_regions_is_their_maximum(tmp_path: Path, softmax: np.ndarray) -> None:
    disjoint = LabelSet({"infection": (1, 2), "effusion": (3,)})
    path = written(tmp_path / "a.npz", softmax[:2])
    union = read_soft_map(path, (1, 2, 3), disjoint, (2, 4, 5))
    np.testing.assert_array_equal(union, np.maximum(softmax[0], softmax[1]))
    assert merges_regions((1, 2, 3), disjoint) and not merges_regions((3,), disjoint)
    with pytest.raises(
        InputError,
        match=r"no channel for the values \[2, 3\]; the network has the regions \[1, 2\]",
    ):
        read_soft_map(path, (2, 3), disjoint, (2, 4, 5))


def test_a_picture_has_one_slice(tmp_path: Path, softmax: np.ndarray) -> None:
    path = written(tmp_path / "a.npz", softmax[:, :1])
    np.testing.assert_array_equal(read_soft_map(path, (1,), LABELS, (4, 5)), softmax[1, 0])


@pytest.mark.parametrize(
    ("shape", "scale", "key", "message"),
    [
        ((2, 2, 4, 5), 0.1, "probabilities", "2 channels, dataset.json declares 3"),
        ((3, 2, 4, 4), 0.1, "probabilities", r"shape \(2, 4, 4\), its label file \(2, 4, 5\)"),
        ((), 0.1, "probabilities", "0 channels, dataset.json declares 3"),
        ((3, 2, 4, 5), 9.0, "probabilities", r"values outside \[0, 1\]"),
        ((3, 2, 4, 5), 0.1, "features", "no readable array"),
    ],
)
def test_refusals(
    tmp_path: Path, shape: tuple[int, ...], scale: float, key: str, message: str
) -> None:
    path = written(tmp_path / "a.npz", np.full(shape, scale), key)
    with pytest.raises(InputError, match=f"a.npz: {message}"):
        read_soft_map(path, (1,), LABELS, (2, 4, 5))


def test_no_pickles_and_no_rubbish(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    np.savez(path, probabilities=np.array([{}], dtype=object))
    with pytest.raises(InputError, match="no readable array"):
        read_soft_map(path, (1,), LABELS, (4, 5))
    written(path, np.array(["a", "b"]))
    with pytest.raises(InputError, match="no readable array"):
        read_soft_map(path, (1,), LABELS, (4, 5))
    content = bytearray(
        written(path, np.random.default_rng(0).uniform(size=(3, 40, 40))).read_bytes()
    )
    content[2000:2100] = bytes(byte ^ 0xFF for byte in content[2000:2100])
    path.write_bytes(content)
    with pytest.raises(InputError, match="no readable array"):
        read_soft_map(path, (1,), LABELS, (40, 40))
    path.write_bytes(b"PK\x03\x04 rubbish")
    with pytest.raises(InputError, match="no readable array"):
        read_soft_map(path, (1,), LABELS, (4, 5))


def test_all_cases_have_a_soft_map_or_none_has(tmp_path: Path) -> None:
    assert soft_map_files(tmp_path, ["a", "b"]) == {}
    written(tmp_path / "a.npz", np.zeros(1))
    with pytest.raises(InputError, match=r"1 of 2 cases have a soft map, b\.npz is missing"):
        soft_map_files(tmp_path, ["a", "b"])
    written(tmp_path / "b.npz", np.zeros(1))
    assert sorted(soft_map_files(tmp_path, ["a", "b"])) == ["a", "b"]


def test_channels_of_a_prediction_folder_and_of_a_fold(tmp_path: Path) -> None:
    fold = tmp_path / "model" / "fold_0" / "validation"
    fold.mkdir(parents=True)
    with pytest.raises(InputError, match=r"soft maps, but no dataset\.json"):
        channels_declared(fold)
    (tmp_path / "model" / "dataset.json").write_text(
        json.dumps({"labels": {"background": 0, "lesion": 1}})
    )
    assert channels_declared(fold).values == {"lesion": (1,)}
    (fold / "dataset.json").write_text(json.dumps({"labels": {"background": 0, "other": 1}}))
    assert channels_declared(fold).values == {"other": (1,)}


def test_soft_maps_must_belong_to_the_labels(softmax: np.ndarray) -> None:
    labels, path = softmax.argmax(axis=0), Path("a.npz")
    require_agreement(softmax, labels, LABELS, path)
    require_agreement(
        softmax, np.where(labels == 2, 0, labels), LABELS, path
    )  # postprocessing removed something
    with pytest.raises(InputError, match=r"a\.npz: does not match the predicted labels"):
        require_agreement(softmax[..., ::-1], labels, LABELS, path)  # one axis flipped
    infection = np.zeros((2, 4, 5))
    infection[0, :2] = 0.9
    regions = np.stack([infection, 0.1 * infection])
    require_agreement(regions, (infection > 0.5).astype(int), REGIONS, path)
    with pytest.raises(InputError, match="does not match"):
        require_agreement(regions, (infection < 0.5).astype(int), REGIONS, path)
