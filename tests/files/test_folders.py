"""Folders to write to."""

from pathlib import Path

import pytest

from nnunet_ext.errors import InputError
from nnunet_ext.files.folders import make_folder


def test_a_folder_is_made_with_those_above_it_or_left_as_it_is(tmp_path: Path) -> None:
    folder = tmp_path / "a" / "b"
    make_folder(folder, "choose another -o")
    (folder / "kept").touch()

    make_folder(folder, "choose another -o")

    assert (folder / "kept").is_file()


def test_a_file_in_the_way_is_named_with_what_to_do(tmp_path: Path) -> None:
    file = tmp_path / "out"
    file.touch()

    with pytest.raises(InputError) as refused:
        make_folder(file, "choose another -o")

    message = f"{file}: cannot make this folder (File exists); choose another -o"
    assert str(refused.value) == message
