"""``python -m nnunet_ext.files.locked_program LOCK PROGRAM ...``: run a program under a lock.

This process becomes the program, which holds the lock until it ends. The lock survives the death of
the process that started the program, so no second program is started meanwhile. It ends with the
program, however that is killed, even if workers that it forked outlive it. The lock file itself
has no meaning and is not removed.
"""

import os
import sys
from pathlib import Path

from nnunet_ext.files.locks import acquire

BUSY = 75  # exit code if another process holds the lock; EX_TEMPFAIL


def become(lock: Path, program: list[str]) -> None:
    """Replace this process by the program under the lock, or exit with :data:`BUSY`."""
    file = acquire(lock, wait=False)
    if file is None:
        sys.exit(BUSY)
    os.set_inheritable(file, True)  # closing it would free the lock
    os.execv(program[0], program)


if __name__ == "__main__":
    become(Path(sys.argv[1]), sys.argv[2:])
