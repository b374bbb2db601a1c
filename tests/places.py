"""Where the repository lies, and the real data that some tests use where it is present."""

import sys
from pathlib import Path

import pytest

import nnunet_ext

REPOSITORY = Path(__file__).parents[1]
REAL_DATA = REPOSITORY.parent / "shared" / "data"


def require_no_other_copy() -> None:
    """Refuse to test a mixture of this checkout and another copy of the package.

    Commands that tests start do not run in the checkout's folder, so they would import a copy that
    ``pip install .`` has put into the environment.

    Raises:
        pytest.UsageError: another copy has been imported, or can be.
    """
    imported = Path(nnunet_ext.__file__).parents[1]
    importable = [Path(entry) for entry in sys.path if Path(entry, "nnunet_ext").is_dir()]
    others = [folder for folder in (imported, *importable) if not folder.samefile(REPOSITORY)]
    if others:
        raise pytest.UsageError(
            f"{others[0]}: holds another copy of nnunet_ext, so that these tests would not test "
            f"{REPOSITORY}; run pip install -e '.[test]' and nnUNetv2_ext_doctor --enable there"
        )
