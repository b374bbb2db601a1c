"""JSON from outside: whatever it holds, a value or one clear line."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nnunet_ext.errors import InputError
from nnunet_ext.files.json_files import parse_json, read_json, read_object
from nnunet_ext.stock.files import read_dataset_json, read_folds, read_plans
from tests.miniature_plans import DATASET_JSON, plans

DAMAGED = {
    "empty": b"",
    "blank": b" \n",
    "truncated": b'{"labels": {"backgr',
    "binary": bytes(range(256)),
    "utf16": '{"labels": {}}'.encode("utf-16"),
    "nested": b"[" * 200_000,
    "nested_objects": b'{"a":' * 200_000,
    "huge_whole": b'{"a": ' + b"9" * 10_000 + b"}",
    "huge_number": b'{"a": 1e999}',
    "twice": b'{"a": 1, "a": 2}',
}

NOT_OBJECTS = {"list": b"[1, 2]", "number": b"7", "text": b'"text"', "null": b"null"}


@pytest.mark.parametrize(
    "content", [*DAMAGED.values(), *NOT_OBJECTS.values()], ids=[*DAMAGED, *NOT_OBJECTS]
)
def test_damaged_files_are_one_line_that_names_them(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "dataset.json"
    path.write_bytes(content)
    for reader in (read_object, read_dataset_json, read_plans, read_folds):
        with pytest.raises(InputError, match=r"^.*dataset.json: .*; fix it$") as caught:
            reader(path, "fix it")
        assert "\n" not in str(caught.value)


def test_links_and_folders_are_no_json(tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    (tmp_path / "dangling").symlink_to(tmp_path / "nothing")
    for name in ("loop", "dangling", ".", "x" * 300):
        with pytest.raises(InputError, match="cannot be read"):
            read_json(tmp_path / name, "fix it")


@given(
    st.recursive(
        st.none()
        | st.booleans()
        | st.integers(-(2**60), 2**60)
        | st.floats(allow_nan=False)
        | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    )
)
def test_ordinary_json_is_read_as_python_reads_it(value: object) -> None:
    text = json.dumps(value)
    if "Infinity" not in text:
        assert parse_json(text) == json.loads(text)


def test_a_file_of_another_program_may_begin_with_a_byte_order_mark(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(b"\xef\xbb\xbf{}")
    assert read_object(path, "") == {}


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"channel_names": None}, "has no 'channel_names'"),
        ({"channel_names": {"0": 1}}, "has a channel whose name is not text"),
        ({"labels": {"background": "0"}}, "label value .* is not an integer from 0"),
        ({"labels": {"lesion": True}}, "label value .* is not an integer from 0"),
        ({"labels": {f"l{i}": i for i in range(20_000)}}, "declares 20000 labels"),
        ({"file_ending": "nii"}, "has no 'file_ending'"),
        ({"file_ending": "/../x"}, "has no 'file_ending'"),
    ],
)
def test_a_dataset_json_that_nnunet_cannot_use(tmp_path: Path, change: dict, reason: str) -> None:
    path = tmp_path / "dataset.json"
    path.write_text(json.dumps({**DATASET_JSON, **change}))
    with pytest.raises(InputError, match=reason):
        read_dataset_json(path, "fix it")


def test_old_files_call_channels_modality(tmp_path: Path) -> None:
    path = tmp_path / "dataset.json"
    old = {
        "modality": {"0": "CT"},
        "labels": {"background": 0, "whole": [1, 2]},
        "file_ending": ".nii.gz",
    }
    path.write_text(json.dumps(old))
    assert read_dataset_json(path, "")["channel_names"] == {"0": "CT"}


@pytest.mark.parametrize(
    "break_it",
    [
        lambda content: content.pop("configurations"),
        lambda content: content["configurations"].clear(),
        lambda content: content["configurations"].update({"2d": []}),
        lambda content: content["configurations"].update({"2d": {"inherits_from": "2d"}}),
        lambda content: content["configurations"]["2d"].pop("spacing"),
        lambda content: content["configurations"]["2d"].pop("architecture"),
        lambda content: content.update(transpose_forward=None),
    ],
)
def test_plans_that_nnunet_cannot_use(tmp_path: Path, break_it: object) -> None:
    content = plans()
    break_it(content)  # type: ignore[operator]
    path = tmp_path / "nnUNetPlans.json"
    path.write_text(json.dumps(content))
    with pytest.raises(InputError, match=r"nnUNetPlans.json: .*; plan again"):
        read_plans(path, "plan again")


def test_plans_are_read_unchanged(tmp_path: Path) -> None:
    path = tmp_path / "nnUNetPlans.json"
    path.write_text(json.dumps(plans()))
    assert read_plans(path, "") == json.loads(path.read_text())
