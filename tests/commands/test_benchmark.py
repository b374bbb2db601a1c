"""Arguments of the benchmark command; whole runs are in ``tests/benchmark/test_runner.py``."""

import shlex
from pathlib import Path

import pytest

from nnunet_ext.commands.benchmark import benchmark_entry


def run(*arguments: object) -> int:
    with pytest.raises(SystemExit) as stop:
        benchmark_entry([str(argument) for argument in arguments])
    assert isinstance(stop.value.code, int)
    return stop.value.code


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("no-suite",), "no-suite: no such suite; there are "),
        (
            ("phantom-da", "--rows", "source"),
            "suite phantom-da has no row source; it has source-only, ",
        ),
        (
            ("phantom-da", "--run", "source-only", "first"),
            "--run source-only first: write the row and the seed",
        ),
    ],
)
def test_bad_arguments_are_one_line(
    arguments: tuple[str, ...], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(*arguments, "-o", tmp_path / "out", "-device", "cpu") == 1
    captured = capsys.readouterr()
    assert message in captured.err and captured.err.count("\n") == 1 and captured.out == ""
    assert not (tmp_path / "out").exists()


def test_a_file_is_no_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "out").touch()
    assert run("phantom-da", "-o", tmp_path / "out", "--rows", "source-only", "-device", "cpu") == 1
    message = capsys.readouterr().err
    assert "cannot make this folder (Not a directory); choose another -o" in message


@pytest.mark.parametrize("device", [(), ("-device", "cpu")])
def test_jobs_are_complete_commands_and_start_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], device: tuple[str, ...]
) -> None:
    """Without ``-device`` a job takes what its own machine has."""
    folder = tmp_path / "a b"
    asked_for = ("--seeds", 2, "--rows", "target-only", "--jobs")
    assert run("phantom-da", "-o", folder, *asked_for, *device) == 0
    jobs = [shlex.split(line) for line in capsys.readouterr().out.splitlines()]
    start = ["nnUNetv2_ext_benchmark", "phantom-da", "-o", str(folder), "--run", "target-only"]
    assert jobs == [[*start, seed, *device] for seed in ("0", "1")]
    assert not folder.exists()
