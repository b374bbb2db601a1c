"""Commands as programs: where they are, and the environment they are started in."""

import os
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from nnunet_ext.errors import InputError


def console_script(name: str) -> str:
    """Return the path of a command: that of this environment, or else the one in PATH.

    Raises:
        InputError: it is in neither.
    """
    beside_python = str(Path(sys.executable).parent)
    program = shutil.which(name, path=beside_python) or shutil.which(name)
    if program is None:
        raise InputError(
            f"{name}: neither beside {sys.executable} nor in PATH; install nnunetv2_ext there"
        )
    return program


def program(arguments: Sequence[str]) -> list[str]:
    """Return a command line whose first word is the path of the command."""
    name, *options = arguments
    return [console_script(name), *options]


def command_environment(**variables: str) -> dict[str, str]:
    """Return the environment of commands that we start: ours with ``variables``.

    Threads sleep while they wait. On the CPU nnU-Net's training takes a thread per core whatever
    ``OMP_NUM_THREADS`` says. Waiting threads spin by default: an epoch of two trainings at once
    then takes four times as long. What the user has set stays.
    """
    return {"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "0", **os.environ, **variables}
