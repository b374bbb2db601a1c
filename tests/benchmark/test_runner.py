"""A miniature suite through stock commands: killed, continued, shared by two processes, with a row
that fails.
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

from nnunet_ext.benchmark.progress import Progress
from nnunet_ext.benchmark.run import Place, Run
from nnunet_ext.benchmark.runner import Runner
from nnunet_ext.benchmark.suite import load_suite
from nnunet_ext.errors import InputError
from nnunet_ext.files import locked_program

DECLARATION = """
from functools import partial
from dataset_conversion.phantoms.domains import SOURCE, TARGET, UNLABELED_TARGET, write_domain_pair
from nnunet_ext.benchmark.suite import Row, Suite

SUITE = Suite(
    name="mini",
    title="a test",
    write_data=partial(write_domain_pair, n_source=5, n_target=5, n_test=3, size=48),
    test_set=TARGET,
    budget={
        "num_epochs": 3,
        "num_iterations_per_epoch": 2,
        "num_val_iterations_per_epoch": 1,
        "save_every": 1,
    },
    features=(2, 4, 8),
    batch_size=2,
    lower="source-only",
    upper="target-only",
    rows=(
        Row("source-only", SOURCE, streams={"target_domain": (UNLABELED_TARGET,)}),
        Row("target-only", TARGET),
        Row("broken", SOURCE, streams={"unlabeled": (TARGET,)}),
        Row("other", SOURCE, "NoSuchTrainer"),
    ),
)
"""
ROWS = ("source-only", "target-only")


class Bench:
    """The command on the miniature suite."""

    def __init__(self, root: Path) -> None:
        self.suite, self.folder = root / "mini.py", root / "out"
        self.suite.write_text(DECLARATION)

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        program = str(Path(sys.executable).parent / "nnUNetv2_ext_benchmark")
        command = [program, str(self.suite), "-o", str(self.folder), "-device", "cpu", *arguments]
        plain = {name: value for name, value in os.environ.items() if not name.startswith("nnUNet")}
        return subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
            env={**plain, "OMP_NUM_THREADS": "1"},
        )

    def fold(self, row: str, seed: int) -> Path:
        name = f"PlainTrainer__{row}_seed{seed}__2d"
        return next((self.folder / "nnUNet_results").glob(f"*/{name}/fold_0"), self.folder / "none")


def wait_until(condition: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 600
    while not condition():
        assert process.poll() is None, process.stdout.read() if process.stdout else ""
        assert time.monotonic() < deadline, "it never came that far"
        time.sleep(0.02)


@pytest.mark.e2e
def test_killed_continued_and_shared(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    arguments = ("--seeds", "2", "--rows", *ROWS)
    killed = bench.start(*arguments)
    wait_until(lambda: (bench.fold("source-only", 0) / "checkpoint_latest.pth").is_file(), killed)
    os.killpg(killed.pid, signal.SIGKILL)
    killed.wait()

    processes = [bench.start(*arguments) for _ in range(2)]
    outputs = [process.communicate(timeout=1200)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], outputs
    assert "--c" in (bench.folder / "logs" / "source-only_seed0.txt").read_text()
    logs = {
        (row, seed): len(list(bench.fold(row, seed).glob("training_log_*")))
        for row in ROWS
        for seed in (0, 1)
    }
    assert logs == {
        ("source-only", 0): 2,
        ("source-only", 1): 1,
        ("target-only", 0): 1,
        ("target-only", 1): 1,
    }

    rows = pd.read_csv(bench.folder / "report" / "rows.csv")
    dice = rows[rows["metric"] == "dice"].set_index("row")
    assert dice["seeds"].to_dict() == dict.fromkeys(ROWS, 2) and (dice["cases"] == 3).all()
    assert (dice["step_s"] > 0).all() and (dice["memory_gb"] > 0.1).all()

    failing = bench.start("--seeds", "2", "--rows", *ROWS, "broken", "other")
    output = failing.communicate(timeout=1200)[0]
    assert failing.returncode == 1 and "Traceback" not in output
    assert "other: left out, this installation has no NoSuchTrainer" in output
    assert "4 of 6 runs are finished" in output and "nnUNetv2_train" not in output
    reason = "nnUNetv2_ext_configure ended with code 1: nnUNetv2_ext_configure: error: "
    assert f"broken seed 0: {reason}" in output and "imagesUn: no such folder" in output
    assert "2 of 6 runs have no result" in output
    summary = (bench.folder / "report" / "summary.md").read_text()
    assert "**none of 2**" in summary and reason.replace("_", "\\_") in summary
    again = pd.read_csv(bench.folder / "report" / "rows.csv")
    pd.testing.assert_frame_equal(again, rows)


@pytest.fixture
def runner_and_run(tmp_path: Path) -> tuple[Runner, Run]:
    """For single commands, which here are Python's own."""
    suite = load_suite("phantom-da")
    run = Run(suite, suite.row("source-only"), 0, Place(tmp_path, "cpu"))
    run.folder.mkdir(parents=True)
    run.log.parent.mkdir()
    return Runner(Progress([run])), run


def test_a_command_waits_for_the_orphan_of_a_killed_runner(
    runner_and_run: tuple[Runner, Run], capsys: pytest.CaptureFixture[str]
) -> None:
    runner, run = runner_and_run
    lock, done = run.folder / "lock", run.folder / "done"
    code = (
        f"import time, pathlib; print('at it', flush=True); time.sleep(1); "
        f"pathlib.Path({str(done)!r}).touch()"
    )
    command = [sys.executable, "-m", locked_program.__name__, str(lock), sys.executable, "-c", code]
    orphan = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert orphan.stdout is not None and orphan.stdout.readline() == "at it\n"
    words = ["python", "-c", "print('ran')"]
    assert runner._start(run, words, lock) is False and done.is_file()
    assert "waiting for a command of a killed runner" in capsys.readouterr().out
    assert runner._start(run, words, lock) is True
    assert run.log.read_text().splitlines()[-1] == "ran"
    orphan.wait()


def test_a_failure_gives_the_last_line(runner_and_run: tuple[Runner, Run]) -> None:
    runner, run = runner_and_run
    failing = ["python", "-c", "print('before'); raise SystemExit('no good')"]
    with pytest.raises(InputError, match="python ended with code 1: no good"):
        runner._start(run, failing, run.folder / "lock")


def test_a_run_at_which_another_process_is_comes_later(
    runner_and_run: tuple[Runner, Run], capsys: pytest.CaptureFixture[str]
) -> None:
    """It is left alone first, then waited for; what failed there is not tried again."""
    runner, run = runner_and_run
    code = (
        f"import time, pathlib; print('at it', flush=True); time.sleep(1); "
        f"pathlib.Path({str(run.failure)!r}).touch()"
    )
    command = [
        sys.executable,
        "-m",
        locked_program.__name__,
        str(run.folder / ".lock"),
        sys.executable,
        "-c",
        code,
    ]
    other = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert other.stdout is not None and other.stdout.readline() == "at it\n"
    assert runner.carry_out(run) is False
    runner.run_all([run])
    assert run.failure.is_file() and not run.finished
    assert capsys.readouterr().out == "source-only seed 0: waiting for another process\n"
    other.wait()
