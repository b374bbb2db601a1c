"""How every ``nnUNetv2_ext_*`` command ends."""

import functools
import os
import sys
from collections.abc import Callable

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
