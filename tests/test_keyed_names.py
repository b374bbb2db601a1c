"""Names of cases tell nothing without the key, and are the same with it."""

import hashlib
import hmac
import json
import stat
from pathlib import Path

import pytest

from nnunet_ext.errors import InputError
from nnunet_ext.keyed_names import (
    KEY_VARIABLE,
    configuration_folder,
    key_file,
    keyed_name,
    note_names,
    read_key,
)


@pytest.fixture(autouse=True)
def own_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "secret" / "key"
    monkeypatch.setenv(KEY_VARIABLE, str(path))
    return path


def test_the_key_is_made_once_and_for_its_owner(own_key: Path) -> None:
    key = read_key()
    assert len(key) == 32 and read_key() == key
    assert stat.S_IMODE(own_key.stat().st_mode) == 0o600
    assert list(own_key.parent.iterdir()) == [own_key]


def test_a_name_is_the_hmac_of_its_parts() -> None:
    digest = hmac.new(b"k" * 32, b'["patient", "1234567"]', hashlib.sha256).hexdigest()
    assert keyed_name("patient", "1234567", key=b"k" * 32) == f"patient-{digest[:16]}"


def test_names_depend_on_key_kind_and_parts(own_key: Path) -> None:
    name = keyed_name("case", "ab", "c")
    assert keyed_name("case", "ab", "c") == name
    others = [keyed_name("case", "a", "bc"), keyed_name("patient", "ab", "c")]
    own_key.unlink()
    others.append(keyed_name("case", "ab", "c"))
    assert name not in others and len(set(others)) == 3


def test_a_key_that_others_can_read_is_refused(own_key: Path) -> None:
    read_key()
    own_key.chmod(0o644)
    with pytest.raises(InputError, match="chmod 600"):
        read_key()


def test_a_damaged_key_is_refused_rather_than_replaced(own_key: Path) -> None:
    own_key.parent.mkdir()
    own_key.touch(0o600)
    with pytest.raises(InputError, match="holds 0 bytes"):
        read_key()


def test_without_the_variable_the_key_lies_in_the_configuration_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(KEY_VARIABLE)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("APPDATA", str(tmp_path / "config"))
    assert key_file() == tmp_path / "config" / "nnunet_ext" / "key"
    assert configuration_folder().is_dir()


def test_names_are_noted_once_and_for_their_owner(tmp_path: Path) -> None:
    path = tmp_path / "names.jsonl"
    note_names({"case-1": {"study": "1.2"}}, path)
    note_names({"case-1": {"study": "1.2"}, "case-2": {"study": "1.3"}}, path)
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert rows == [{"name": "case-1", "study": "1.2"}, {"name": "case-2", "study": "1.3"}]
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot note"):
        note_names({"case-1": {}}, tmp_path / "absent" / "names.jsonl")
