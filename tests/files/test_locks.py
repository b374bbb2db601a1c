"""Two at once: who has a lock, who waits, and what is said."""

import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from nnunet_ext.errors import InputError
from nnunet_ext.files.locks import alone, held, hold_until_the_end, holder, taken
from tests.another_process import holding

HELD = """
import sys; from pathlib import Path; from nnunet_ext.files.locks import {kind}
with {kind}(Path({lock!r}){more}):
    print("held", flush=True); sys.stdin.read()
"""


def code(kind: str, lock: Path, more: str = "") -> str:
    return HELD.format(kind=kind, lock=str(lock), more=more)


def test_who_holds_it_is_said(tmp_path: Path) -> None:
    lock = tmp_path / "lock"
    with holding(code("held", lock)) as number:
        with taken(lock) as ours:
            assert not ours
        expected = f"process {number} on {socket.gethostname()}"
        assert holder(lock) == expected
        message = f"{tmp_path}: another training runs ({expected}); wait for its end, or stop it"
        for refuse in (
            lambda: hold_until_the_end(lock, "another training runs"),
            lambda: enter(lock),
        ):
            with pytest.raises(InputError) as caught:
                refuse()
            assert str(caught.value) == message
    with taken(lock) as ours:
        assert ours


def enter(lock: Path) -> None:
    with alone(lock, "another training runs"):
        pass


def test_work_may_be_shared(tmp_path: Path) -> None:
    lock = tmp_path / "lock"
    with holding(code("alone", lock, ', "x", shared=True')):
        with alone(lock, "x", shared=True):
            pass
        with pytest.raises(InputError):
            enter(lock)


def test_a_lock_that_is_removed_leaves_nothing_and_lets_one_in(tmp_path: Path) -> None:
    """Each of four processes adds to a number twenty times; none of it is lost."""
    number, lock = tmp_path / "number", tmp_path / "lock"
    number.write_text("0")
    add = (
        "from pathlib import Path; from nnunet_ext.files.locks import held\n"
        "for _ in range(20):\n"
        f"    with held(Path({str(lock)!r}), keep_file=False):\n"
        f"        file = Path({str(number)!r}); file.write_text(str(int(file.read_text()) + 1))"
    )
    processes = [
        subprocess.Popen([sys.executable, "-c", add], stderr=subprocess.DEVNULL) for _ in range(4)
    ]
    assert [process.wait() for process in processes] == [0] * 4
    assert number.read_text() == "80" and list(tmp_path.iterdir()) == [number]


def test_a_kill_releases_it(tmp_path: Path) -> None:
    lock = tmp_path / "lock"
    process = subprocess.Popen(
        [sys.executable, "-c", code("held", lock)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert process.stdout is not None and process.stdout.readline() == b"held\n"
    process.kill()
    process.wait()
    begin = time.monotonic()
    with held(lock):
        assert (
            time.monotonic() - begin < 5
            and holder(lock) == f"process {os.getpid()} on {socket.gethostname()}"
        )


def test_no_link_is_followed(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("kept")
    (tmp_path / "lock").symlink_to(victim)
    with pytest.raises(OSError), held(tmp_path / "lock"):
        pass
    assert victim.read_text() == "kept"


def test_a_process_may_take_its_own_lock_again_and_that_of_its_starter(tmp_path: Path) -> None:
    lock = tmp_path / "lock"
    hold_until_the_end(lock, "x")
    hold_until_the_end(lock, "x")
    child = (
        "from pathlib import Path; from nnunet_ext.files.locks import hold_until_the_end as hold; "
        f"hold(Path({str(lock)!r}), 'x')"
    )
    assert subprocess.run([sys.executable, "-c", child]).returncode == 0
    grandchild = (
        f"import subprocess, sys; sys.exit(subprocess.run([sys.executable, '-c', "
        f"{child!r}]).returncode)"
    )
    assert (
        subprocess.run([sys.executable, "-c", grandchild], stderr=subprocess.DEVNULL).returncode
        == 1
    )
