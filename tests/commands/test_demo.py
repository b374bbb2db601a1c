"""Generated miniatures of every data set's download."""

from pathlib import Path

import pytest

from dataset_conversion.phantoms.miniatures import MINIATURES
from nnunet_ext.commands.demo import demo_entry


def exit_code(*arguments: str) -> int:
    with pytest.raises(SystemExit) as ended:
        demo_entry(list(arguments))
    assert isinstance(ended.value.code, int)
    return ended.value.code


def test_every_data_sets_download_in_miniature(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ("--downloads", "-o", str(tmp_path))
    assert exit_code(*arguments) == 0

    lines = capsys.readouterr().out.splitlines()
    names = [Path(line).name for line in lines]
    assert names == list(MINIATURES)
    for name in names:
        assert any((tmp_path / name).iterdir())

    assert exit_code(*arguments) == 1
    assert "BHSD: is there already; choose another -o" in capsys.readouterr().err
