"""Who holds the lock of a program, through real processes."""

import os
import signal
import subprocess
import sys
from pathlib import Path

from nnunet_ext.files.locked_program import BUSY
from nnunet_ext.files.locks import held

PROGRAM = [sys.executable, "-m", "nnunet_ext.files.locked_program"]


def start(lock: Path, code: str) -> subprocess.Popen[str]:
    command = [*PROGRAM, str(lock), sys.executable, "-c", code]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def test_one_at_a_time_and_exit_codes_pass(tmp_path: Path) -> None:
    lock = tmp_path / "lock"
    assert start(lock, "raise SystemExit(3)").wait(timeout=60) == 3
    with held(lock):
        assert start(lock, "print('never')").wait(timeout=60) == BUSY
    assert start(lock, "").wait(timeout=60) == 0


def test_a_worker_that_outlives_its_program_does_not_hold_the_lock(tmp_path: Path) -> None:
    """As nnU-Net's forked loaders do after kill -9."""
    lock = tmp_path / "lock"
    fork = "import os, time\npid = os.fork()\nif pid: print(pid, flush=True)\ntime.sleep(60)"
    program = start(lock, fork)
    assert program.stdout is not None
    worker = int(program.stdout.readline())
    try:
        assert start(lock, "").wait(timeout=60) == BUSY
        program.kill()
        program.wait()
        os.kill(worker, 0)  # still there
        assert start(lock, "").wait(timeout=60) == 0
    finally:
        os.kill(worker, signal.SIGKILL)


def test_a_program_keeps_its_lock_when_its_starter_is_killed(tmp_path: Path) -> None:
    lock = tmp_path / "lock"
    inner = [
        *PROGRAM,
        str(lock),
        sys.executable,
        "-c",
        "import os, time; print(os.getpid(), flush=True); time.sleep(60)",
    ]
    starter = subprocess.Popen(
        [sys.executable, "-c", f"import subprocess; subprocess.run({inner})"],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert starter.stdout is not None
    orphan = int(starter.stdout.readline())
    try:
        starter.kill()
        starter.wait()
        assert start(lock, "").wait(timeout=60) == BUSY
    finally:
        os.kill(orphan, signal.SIGKILL)
    with held(lock):  # waits until the orphan is gone
        pass
