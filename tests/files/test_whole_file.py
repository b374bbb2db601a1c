"""A file is whole or not there, and its temporary name is nobody else's."""

import os
from pathlib import Path

import pytest

from nnunet_ext.files.whole_file import whole_file


def test_the_file_appears_at_the_end(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    with whole_file(path) as unfinished:
        unfinished.write_text("new")
        assert not path.exists() and unfinished.suffix == ".csv"
    assert path.read_text() == "new" and list(tmp_path.iterdir()) == [path]


def test_an_error_leaves_the_former_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    path.write_text("old")
    with pytest.raises(RuntimeError), whole_file(path) as unfinished:
        unfinished.write_text("half")
        raise RuntimeError
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


def test_two_writers_do_not_share_a_name(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.pth"
    with whole_file(path) as first, whole_file(path) as second:
        first.write_text("first")
        second.write_text("second")
        assert first.read_text() == "first"


def test_modes_are_ordinary_and_kept(tmp_path: Path) -> None:
    secret, ordinary = tmp_path / "key", tmp_path / "plans.json"
    secret.touch(0o600)
    before = os.umask(0o022)
    try:
        for path in (secret, ordinary):
            with whole_file(path) as unfinished:
                unfinished.write_text("content")
    finally:
        os.umask(before)
    assert [path.stat().st_mode & 0o777 for path in (secret, ordinary)] == [0o600, 0o644]


def test_a_link_in_place_of_the_file_is_replaced_and_not_followed(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("mine")
    path = tmp_path / "plans.json"
    path.symlink_to(victim)
    with whole_file(path) as unfinished:
        unfinished.write_text("new")
    assert victim.read_text() == "mine" and path.read_text() == "new"
