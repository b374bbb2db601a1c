"""How every ``nnUNetv2_ext_*`` command ends, and what it may print."""

import functools
import os
import sys
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from typing import Any, cast

from nnunet_ext.errors import InputError
from nnunet_ext.printable import PrintableStream


def command(entry: Callable[[list[str] | None], int]) -> Callable[..., None]:
    """Turn ``entry(argv) -> exit code`` into a console script.

    Wrong input is one line on stderr and exit code 1. Names and header texts may hold anything;
    what they print never steers the terminal.
    """
    program = f"nnUNetv2_ext_{entry.__name__.removesuffix('_entry')}"

    @functools.wraps(entry)
    def run(argv: list[str] | None = None) -> None:
        output = cast(Any, PrintableStream(sys.stdout))
        errors = cast(Any, PrintableStream(sys.stderr))
        with redirect_stdout(output), redirect_stderr(errors):
            code = _exit_code(entry, argv, program)
        sys.exit(code)

    return run


def _exit_code(
    entry: Callable[[list[str] | None], int], argv: list[str] | None, program: str
) -> int:
    try:
        code = entry(argv)
        sys.stdout.flush()
        return code
    except InputError as error:
        print(f"{program}: error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted; run the same command again to continue", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader has seen enough: `| head`
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())  # for Python's own flush at exit
        return 141  # as a shell reports it
    except MemoryError:
        print(
            f"{program}: error: not enough memory; give it more, or fewer processes (-np 1)",
            file=sys.stderr,
        )
        return 1
    except RuntimeError as error:
        if not str(error).startswith("Symlink loop"):
            raise
        print(f"{program}: error: {error}; give the path of a real file or folder", file=sys.stderr)
        return 1
    except OSError as error:
        if error.filename is None:
            raise
        # A place not checked before: no rights, a name that is too long, links in a circle.
        print(f"{program}: error: {os.fsdecode(error.filename)}: {error.strerror}", file=sys.stderr)
        return 1
