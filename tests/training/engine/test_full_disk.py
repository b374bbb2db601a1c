"""What a training says on a full disk: no file may grow beyond a limit here, as on a disk that has
no more room.
"""

import subprocess
import sys
from pathlib import Path

import pytest

from nnunet_ext.errors import InputError
from nnunet_ext.training.engine.full_disk import write_errors_in_one_line
from tests.places import REPOSITORY

CODE = """
import resource, sys
from pathlib import Path
from nnunet_ext.trainers.plain import PlainTrainer
from nnunet_ext.training.engine.full_disk import write_errors_in_one_line
from tests.miniature_plans import plans, trainer
root = Path(sys.argv[1])
made = trainer(PlainTrainer, root, plans())
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
with write_errors_in_one_line(root, lambda: print("stopped")):
    made.save_checkpoint(str(root / "checkpoint_latest.pth"))
"""


@pytest.mark.skipif(sys.platform == "win32", reason="no limits there")
def test_a_checkpoint_that_does_not_fit_is_one_line_and_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "checkpoint_latest.pth").write_text("the earlier one")
    ended = subprocess.run(
        [sys.executable, "-c", CODE, str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
        cwd=REPOSITORY,
    )
    last = ended.stderr.strip().splitlines()[-1]
    assert ended.returncode == 1 and "Traceback" not in ended.stderr, ended.stderr
    assert last.startswith(
        f"error: {tmp_path}: cannot be written to (File too large); what was saved before is kept"
    )
    assert ended.stdout.splitlines()[-1] == "stopped"
    files = [path.name for path in tmp_path.iterdir() if path.is_file()]
    assert (
        files == ["checkpoint_latest.pth"]
        and (tmp_path / files[0]).read_text() == "the earlier one"
    )


@pytest.mark.parametrize("error", [ValueError("x"), FileNotFoundError(2, "no such file")])
def test_other_errors_pass(error: Exception, tmp_path: Path) -> None:
    with (
        pytest.raises(type(error)),
        write_errors_in_one_line(tmp_path, lambda: pytest.fail("nothing to stop")),
    ):
        raise error
    with pytest.raises(InputError), write_errors_in_one_line(tmp_path, lambda: None):
        try:
            raise OSError(28, "No space left on device")
        except OSError:
            raise RuntimeError("unexpected pos") from None
