"""Commands as programs: where they are, and the environment in which they run."""

import os
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from nnunet_ext.errors import InputError


def console_script(name: str) -> str:
    """Return the path of a command: in this environment, or else in PATH.

    Raises:
        InputError: it is in neither.
    """
    beside_python = Path(sys.executable).parent
    program = shutil.which(name, path=str(beside_python))
    if program is None:
        program = shutil.which(name)
    if program is None:
        raise InputError(
            f"{name}: neither beside {sys.executable} nor in PATH; install nnunetv2_ext there"
        )
    return program


def program(arguments: Sequence[str]) -> list[str]:
    """Return a command line whose first word is the path of the command."""
    name, *options = arguments
    path = console_script(name)
    return [path, *options]


def command_environment(**variables: str) -> dict[str, str]:
    """Return the environment for commands: that of this process with ``variables``.

    Threads sleep while they wait, unless the user has set that. On the CPU nnU-Net's training takes
    a thread per core, whatever ``OMP_NUM_THREADS`` says. Waiting threads spin by default; an epoch
    of two simultaneous trainings then takes four times as long.
    """
    sleeping = {"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "0"}
    return {**sleeping, **os.environ, **variables}
