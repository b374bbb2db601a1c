"""What all tests share: the environment, restored after each, and a folder of all workers."""

import getpass
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from nnunet_ext.keyed_names import KEY_VARIABLE
from nnunet_ext.stock.commands import command_environment
from tests.places import require_no_other_copy

require_no_other_copy()

# Equal examples in each run, which may take as long as a busy machine needs.
settings.register_profile("repeatable", deadline=None, derandomize=True)
settings.load_profile("repeatable")

# Tests run beside each other, so each gets one thread; torch and the like read this when they are
# imported.
ONE_THREAD = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS")
# Of names that private data get: one for all workers, and never the user's own.
os.environ.setdefault(
    KEY_VARIABLE, str(Path(tempfile.gettempdir(), f"nnunet_ext_test_key_{getpass.getuser()}"))
)
os.environ |= command_environment(**dict.fromkeys(ONE_THREAD, "1"))


@pytest.fixture(autouse=True)
def environment_restored() -> Iterator[None]:
    before = dict(os.environ)
    yield
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture(scope="session")
def shared_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same folder in every worker of pytest-xdist."""
    own = tmp_path_factory.getbasetemp()
    return own.parent if "PYTEST_XDIST_WORKER" in os.environ else own
