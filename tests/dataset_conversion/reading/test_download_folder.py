import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dataset_conversion.reading.download_folder import (
    actual_file,
    case_id,
    files_by_stem,
    find_folder,
    is_hidden,
    listed_file,
    natural_key,
)
from nnunet_ext.errors import InputError


@given(st.lists(st.integers(0, 3000), max_size=20))
def test_unpadded_numbers_sort_as_numbers(numbers: list[int]) -> None:
    names = sorted((f"slice{number}" for number in numbers), key=natural_key)
    assert [int(name[5:]) for name in names] == sorted(numbers)


@given(st.lists(st.text(max_size=6)))
def test_natural_order_is_total(names: list[str]) -> None:
    backwards = names[::-1]
    assert sorted(names, key=natural_key) == sorted(backwards, key=natural_key)


@given(st.text())
def test_case_id_is_what_nnunet_takes(text: str) -> None:
    try:
        name = case_id(text)
    except InputError:
        assert not re.search(r"[A-Za-z0-9]", text)
        return
    assert re.fullmatch(r"[A-Za-z0-9_-]+", name)
    assert not re.search(r"_\d{4}$", name)
    assert case_id(name) == name


@pytest.mark.parametrize(
    "name", ["._lung_001.nii.gz", ".DS_Store", "__MACOSX", "Thumbs.db", "desktop.ini"]
)
def test_names_of_operating_systems_are_hidden(name: str) -> None:
    assert is_hidden(name)


def test_hidden_files_and_other_endings_are_passed_over(tmp_path: Path) -> None:
    for name in ("10.jpg", "9.JPG", "._9.jpg", ".DS_Store", "notes.txt", "Thumbs.db"):
        (tmp_path / name).touch()
    assert list(files_by_stem(tmp_path, (".jpg",))[0]) == ["9", "10"]


def test_two_files_of_one_stem(tmp_path: Path) -> None:
    (tmp_path / "1.jpg").touch()
    (tmp_path / "1.png").touch()
    (tmp_path / "2.jpg").touch()
    files, broken = files_by_stem(tmp_path, (".jpg", ".png"))
    assert list(files) == ["2"]
    assert "same name" in broken["1"]


def test_folder_in_place_of_a_file(tmp_path: Path) -> None:
    folder = tmp_path / "x.nii.gz"
    folder.mkdir()
    with pytest.raises(InputError, match="0 files in place of a file"):
        actual_file(folder)
    (folder / "x.nii").touch()
    (folder / "._x.nii").touch()
    assert actual_file(folder) == folder / "x.nii"
    (folder / "y.nii").touch()
    with pytest.raises(InputError, match="2 files"):
        actual_file(folder)


@pytest.mark.parametrize(
    "start",
    ["", "Dataset", "Dataset/TrainingSet", "Dataset/TrainingSet/A", "Dataset/TrainingSet/A/Imgs"],
)
def test_any_folder_on_the_way_may_be_named(tmp_path: Path, start: str) -> None:
    wanted = tmp_path / "Dataset/TrainingSet/A/Imgs"
    wanted.mkdir(parents=True)
    (tmp_path / "__MACOSX/A/Imgs").mkdir(parents=True)
    assert find_folder(tmp_path / start, "A/Imgs") == wanted


def test_two_copies_are_ambiguous(tmp_path: Path) -> None:
    for copy in ("one", "two"):
        (tmp_path / copy / "A/Imgs").mkdir(parents=True)
    with pytest.raises(InputError, match="more than once"):
        find_folder(tmp_path, "A/Imgs")
    assert find_folder(tmp_path, "B") is None
    with pytest.raises(InputError, match="no such folder"):
        find_folder(tmp_path / "absent", "A")


def test_links_are_followed_by_their_name(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "root/A").mkdir(parents=True)
    (tmp_path / "root/A/Imgs").symlink_to(tmp_path / "elsewhere")
    assert find_folder(tmp_path / "root", "A/Imgs") == tmp_path / "root/A/Imgs"


@pytest.mark.parametrize(
    "entry",
    [
        "../x.nii.gz",
        "imagesTr/../../x",
        "/etc/passwd",
        "C:\\x",
        "C:x",
        "..\\x",
        "\\\\server\\x",
        "",
        3,
        None,
        "a\0b",
    ],
)
def test_hostile_entries_of_lists(tmp_path: Path, entry: object) -> None:
    with pytest.raises(InputError):
        listed_file(tmp_path, entry, "dataset.json")


def test_plain_entries_of_lists(tmp_path: Path) -> None:
    for entry in ("./imagesTr/x.nii.gz", "imagesTr/x.nii.gz", "imagesTr\\x.nii.gz"):
        assert listed_file(tmp_path, entry, "dataset.json") == tmp_path / "imagesTr/x.nii.gz"
