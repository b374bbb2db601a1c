"""What every ``nnUNetv2_ext_*`` command shares: how it ends, and how it starts the others."""

import functools
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

from nnunet_ext.errors import InputError


def command(entry: Callable[[list[str] | None], int]) -> Callable[..., None]:
    """Turn ``entry(argv) -> exit code`` into a console script: wrong input is one line on stderr and exit code 1."""

    @functools.wraps(entry)
    def run(argv: list[str] | None = None) -> None:
        try:
            code = entry(argv)
            sys.stdout.flush()
        except InputError as error:
            print(f"nnUNetv2_ext_{entry.__name__.removesuffix('_entry')}: error: {error}", file=sys.stderr)
            code = 1
        except KeyboardInterrupt:
            print("interrupted; run the same command again to continue", file=sys.stderr)
            code = 130
        except BrokenPipeError:  # the reader has seen enough: `| head`
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for Python's own flush at exit
            code = 141  # as a shell reports it
        sys.exit(code)

    return run


def console_script(name: str) -> str:
    """Path of a command: that of this environment, or else the one in PATH.

    Raises:
        InputError: it is in neither.
    """
    program = shutil.which(name, path=str(Path(sys.executable).parent)) or shutil.which(name)
    if program is None:
        raise InputError(f"{name}: neither beside {sys.executable} nor in PATH; install nnunetv2_ext there")
    return program


def command_environment(**variables: str) -> dict[str, str]:
    """The environment of commands that we start: ours with ``variables``; threads sleep while they wait.

    On the CPU nnU-Net's training takes a thread per core whatever ``OMP_NUM_THREADS`` says. Waiting threads spin by
    default: an epoch of two trainings at once then takes four times as long. What the user has set stays.
    """
    return {"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "0", **os.environ, **variables}
