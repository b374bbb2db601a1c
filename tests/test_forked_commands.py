"""A forked command is as good as one in a fresh interpreter."""

from multiprocessing import forkserver
from pathlib import Path

import pytest

from tests.workplace import Workplace

COMMANDS = {
    "well": (0, "nnUNetv2_ext_convert --list"),
    "with our error line": (1, "nnUNetv2_ext_configure -d 999"),
    "with a traceback": (1, "nnUNetv2_train 999 2d 0 -device cpu"),
    "with the usage": (2, "nnUNetv2_ext_configure --no-such-option"),
}


@pytest.mark.parametrize("how", COMMANDS)
def test_it_ends_as_in_a_fresh_interpreter(how: str, tmp_path: Path) -> None:
    code, line = COMMANDS[how]
    name, *arguments = line.split()
    forked, fresh = (
        Workplace(tmp_path, forked=forked).start(name, *arguments) for forked in (True, False)
    )
    assert forked.wait() == fresh.wait() == code
    assert forked.output.splitlines()[-1] == fresh.output.splitlines()[-1]


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="Linux")
def test_no_thread_is_lost_by_forking(tmp_path: Path) -> None:
    Workplace(tmp_path, forked=True).run("nnUNetv2_ext_convert", "--list")
    server = forkserver._forkserver._forkserver_pid  # type: ignore[attr-defined]
    assert len(list(Path(f"/proc/{server}/task").iterdir())) == 1
