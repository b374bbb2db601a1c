"""Programs of others that judge DICOM files; tests that need one are skipped where it is not
installed.
"""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest


def program(name: str) -> str:
    """Path of an installed program; the test is skipped where there is none."""
    beside = Path(sys.executable).with_name(name)
    found = str(beside) if beside.is_file() else shutil.which(name)
    if found is None:
        pytest.skip(f"{name} is not installed")
    return found


def dciodvfy_errors(file: Path) -> list[str]:
    """What David Clunie's validator (Debian: dicom3tools) calls an error."""
    result = subprocess.run(
        [program("dciodvfy"), str(file)], capture_output=True, text=True, check=False
    )
    return [
        line for line in (result.stdout + result.stderr).splitlines() if line.startswith("Error")
    ]
