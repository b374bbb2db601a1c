"""``python -m nnunet_ext.locked_program LOCK PROGRAM ...``: become a program that holds a lock until it ends.

The lock is the process's own (POSIX record lock): it survives the death of whoever started the program, so that
nobody starts a second one meanwhile; and it ends with the program, however that is killed, also if workers that it
forked outlive it. The lock file itself means nothing and stays.
"""

import errno
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

try:
    import fcntl
except ModuleNotFoundError:  # Windows: no lock
    fcntl = None  # type: ignore[assignment]

BUSY = 75  # exit code where another process holds the lock; EX_TEMPFAIL


@contextmanager
def held(lock: Path) -> Iterator[None]:
    """Hold the lock, after waiting for whoever has it."""
    with lock.open("a") as file:
        _lock(file.fileno(), wait=True)
        yield


@contextmanager
def taken(lock: Path) -> Iterator[bool]:
    """Hold the lock unless another process has it; says which."""
    with lock.open("a") as file:
        yield _lock(file.fileno(), wait=False)


def _lock(file: int, wait: bool) -> bool:
    """Whether nobody else holds the lock; always where the file system has none, with a warning."""
    if fcntl is None:
        return True
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except OSError as error:
        if error.errno in (errno.EACCES, errno.EAGAIN):
            return False
        sys.stderr.write(f"no lock ({error.strerror}): do not start the same training twice\n")
    return True


def become(lock: Path, program: list[str]) -> None:
    """Replace this process by the program under the lock, or exit with :data:`BUSY`."""
    file = os.open(lock, os.O_RDWR | os.O_CREAT, 0o666)
    os.set_inheritable(file, True)  # closing it would free the lock
    if not _lock(file, wait=False):
        sys.exit(BUSY)
    os.execv(program[0], program)


if __name__ == "__main__":
    become(Path(sys.argv[1]), sys.argv[2:])
