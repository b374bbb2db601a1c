import json
from pathlib import Path
from typing import Any

import pytest

from nnunet_ext.errors import InputError
from nnunet_ext.evaluation.cases.labels import (
    LabelSet,
    inferred_labels,
    labels_beside,
    labels_from_arguments,
)


def declare(folder: Path, labels: Any) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "dataset.json").write_text(json.dumps({"labels": labels}), encoding="utf-8")
    return folder


def test_arguments_with_region_background_and_ignore() -> None:
    labels = labels_from_arguments(["background=0", "lung=1,2", "infection=2", "ignore=3"])
    assert labels == LabelSet({"lung": (1, 2), "infection": (2,)}, ignore=3)
    assert labels.known == {0, 1, 2}
    assert labels.with_foreground() == labels  # lung already is the union


def test_foreground_is_the_union() -> None:
    assert LabelSet({"a": (1,), "b": (3,)}).with_foreground().values["foreground"] == (1, 3)
    assert list(LabelSet({"a": (1,)}).with_foreground().values) == ["a"]
    with pytest.raises(InputError, match="rename"):
        LabelSet({"foreground": (1,), "b": (3,)}).with_foreground()


@pytest.mark.parametrize(
    "wrong", ["infection", "infection=", "=1", "infection=one", "infection=0", "a=-1", "ignore=1"]
)
def test_wrong_arguments(wrong: str) -> None:
    with pytest.raises(InputError, match="-l"):
        labels_from_arguments([wrong])


@pytest.mark.parametrize("wrong", [["a=1", "a=2"], ["a=1", "ignore=1"], ["a=1", "ignore=2,3"]])
def test_contradicting_arguments(wrong: list[str]) -> None:
    with pytest.raises(InputError, match="-l"):
        labels_from_arguments(wrong)


def test_dataset_json_is_found_and_regions_are_read(tmp_path: Path) -> None:
    assert labels_beside([tmp_path, tmp_path / "none"]) is None
    folder = declare(tmp_path / "p", {"background": 0, "whole": [1, 2], "core": 2, "ignore": 3})
    assert labels_beside([tmp_path, folder, folder]) == LabelSet(
        {"whole": (1, 2), "core": (2,)}, ignore=3
    )


def test_contradicting_dataset_json(tmp_path: Path) -> None:
    first, second = (
        declare(tmp_path / "a", {"background": 0, "x": 1}),
        declare(tmp_path / "b", {"y": 1}),
    )
    with pytest.raises(InputError, match="declare different labels"):
        labels_beside([first, second])


def test_an_ignore_label_may_be_declared_by_one_side_only(tmp_path: Path) -> None:
    """A network that was trained on incomplete labels predicts complete ones."""
    whole, incomplete = (
        declare(tmp_path / "a", {"x": 1}),
        declare(tmp_path / "b", {"x": 1, "ignore": 2}),
    )
    assert labels_beside([whole, incomplete]) == LabelSet({"x": (1,)})
    assert labels_beside([incomplete, whole]) == LabelSet({"x": (1,)}, ignore=2)
    other = declare(tmp_path / "c", {"x": 1, "ignore": 3})
    with pytest.raises(InputError, match="declare different labels"):
        labels_beside([incomplete, other])


@pytest.mark.parametrize("labels", [None, {}, {"background": 0}, {"x": "one"}, ["x"], {"x": []}])
def test_unusable_dataset_json(tmp_path: Path, labels: Any) -> None:
    with pytest.raises(InputError, match=r"dataset\.json"):
        labels_beside([declare(tmp_path, labels)])


def test_inferred_labels_leave_background_out() -> None:
    assert inferred_labels({0, 2, 1}) == LabelSet({"1": (1,), "2": (2,)})
    with pytest.raises(InputError, match="hold only background"):
        inferred_labels({0})


@pytest.mark.parametrize("value", [1.7, 1.0, True, "1", [1, 2.5], [True]])
def test_labels_of_dataset_json_are_whole_numbers(tmp_path: Path, value: Any) -> None:
    with pytest.raises(InputError, match="labels are whole numbers"):
        labels_beside([declare(tmp_path, {"background": 0, "x": value})])


def test_a_link_to_nothing_is_not_taken_for_no_dataset_json(tmp_path: Path) -> None:
    assert labels_beside([tmp_path]) is None
    (tmp_path / "dataset.json").symlink_to(tmp_path / "absent.json")
    with pytest.raises(InputError, match=r"dataset\.json"):
        labels_beside([tmp_path])
