"""What a header holds never steers the terminal."""

import io

import pytest

from nnunet_ext.commands.entry import command
from nnunet_ext.errors import InputError
from nnunet_ext.printable import PrintableStream, printable


@pytest.mark.parametrize("sign", ["\x1b", "\x00", "\x07", "\x7f", "\x9b", "\u202e", "\udc80"])
def test_signs_that_steer_a_terminal_are_replaced(sign: str) -> None:
    assert printable(f"a{sign}b") == "a?b"
    output = io.StringIO()
    PrintableStream(output).write(f"a{sign}b\r\n")
    assert output.getvalue() == "a?b\r\n"


def test_letters_of_any_language_stay() -> None:
    assert printable("Läsion 肺 → 3 mm²") == "Läsion 肺 → 3 mm²"


def test_errors_and_output_of_commands(capsys: pytest.CaptureFixture[str]) -> None:
    @command
    def work_entry(argv: list[str] | None = None) -> int:
        print("\x1b[2Jcleared")
        raise InputError("a\x1b]0;title\x07\nb.nii.gz: is empty")

    with pytest.raises(SystemExit):
        work_entry([])
    captured = capsys.readouterr()
    assert captured.out == "?[2Jcleared\n"
    assert captured.err == "nnUNetv2_ext_work: error: a?]0;title??b.nii.gz: is empty\n"


@pytest.mark.parametrize("path", ["x" * 300, "loop"])
def test_places_that_nobody_can_open_are_one_line(path: str, tmp_path, capsys) -> None:  # type: ignore[no-untyped-def]
    (tmp_path / "loop").symlink_to(tmp_path / "loop")

    @command
    def work_entry(argv: list[str] | None = None) -> int:
        return len(((tmp_path / path).resolve() / "a").read_bytes())

    with pytest.raises(SystemExit) as ended:
        work_entry([])
    lines = capsys.readouterr().err.splitlines()
    assert (
        ended.value.code == 1
        and len(lines) == 1
        and lines[0].startswith("nnUNetv2_ext_work: error: ")
    )
