"""Other commands as programs: where they are, and the environment they are started in."""

import os
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from nnunet_ext.errors import InputError


def console_script(name: str) -> str:
    """Path of a command: that of this environment, or else the one in PATH.

    Raises:
        InputError: it is in neither.
    """
    program = shutil.which(name, path=str(Path(sys.executable).parent)) or shutil.which(name)
    if program is None:
        raise InputError(
            f"{name}: neither beside {sys.executable} nor in PATH; install nnunetv2_ext there"
        )
    return program


def program(arguments: Sequence[str]) -> list[str]:
    """A command line whose first word is the path of the command."""
    return [console_script(arguments[0]), *arguments[1:]]


def command_environment(**variables: str) -> dict[str, str]:
    """The environment of commands that we start: ours with ``variables``; threads sleep while they
    wait.

    On the CPU nnU-Net's training takes a thread per core whatever ``OMP_NUM_THREADS`` says. Waiting
    threads spin by default: an epoch of two trainings at once then takes four times as long. What
    the user has set stays.
    """
    return {"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "0", **os.environ, **variables}
