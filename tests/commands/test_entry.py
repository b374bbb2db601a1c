import os
import subprocess
import sys
from importlib.metadata import distribution
from pathlib import Path

import pytest

import nnunet_ext.commands
from nnunet_ext.commands.entry import command
from nnunet_ext.errors import InputError
from nnunet_ext.stock.commands import command_environment


def test_how_a_command_ends(capsys: pytest.CaptureFixture[str]) -> None:
    def work_entry(argv: list[str] | None = None) -> int:
        raise {"wrong": InputError("a.nii.gz: is empty"), "stop": KeyboardInterrupt()}[
            (argv or [""])[0]
        ]

    for argument, code, line in (
        ("wrong", 1, "nnUNetv2_ext_work: error: a.nii.gz: is empty\n"),
        ("stop", 130, "interrupted; run the same command again to continue\n"),
    ):
        with pytest.raises(SystemExit) as ended:
            command(work_entry)([argument])
        assert ended.value.code == code
        assert capsys.readouterr().err == line


def test_a_reader_that_stops_reading_is_no_traceback() -> None:
    script = "from nnunet_ext.commands.convert import convert_entry; convert_entry(['--list'])"
    read_end, write_end = os.pipe()
    os.close(read_end)
    ended = subprocess.run(
        [sys.executable, "-c", script], stdout=write_end, stderr=subprocess.PIPE, text=True
    )
    os.close(write_end)
    assert (ended.returncode, ended.stderr) == (141, "")


def test_threads_of_started_commands_sleep_while_they_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    monkeypatch.setenv("GOMP_SPINCOUNT", "7")  # the user's own
    monkeypatch.setenv("nnUNet_n_proc_DA", "4")
    environment = command_environment(nnUNet_n_proc_DA="2")
    ours = {"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "7", "nnUNet_n_proc_DA": "2"}
    assert environment == {**os.environ, **ours}


def test_every_command_has_nnunets_prefix_and_starts() -> None:
    scripts = {
        script.name: script
        for script in distribution("nnunetv2-ext").entry_points.select(group="console_scripts")
    }
    modules = {path.stem for path in Path(nnunet_ext.commands.__path__[0]).glob("*.py")} - {
        "__init__",
        "entry",
        "model_options",
    }
    assert set(scripts) == {f"nnUNetv2_ext_{module}" for module in modules}
    assert all(callable(script.load()) for script in scripts.values())
