"""Locks between processes, also of several machines on one file system; a kill releases them.

They belong to the process (POSIX record locks): a program that the process becomes keeps them,
workers that it forks do not, and taking one again in the same process succeeds. The lock's file
names its holder.
"""

import errno
import os
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from nnunet_ext.errors import InputError

try:
    import fcntl
except ModuleNotFoundError:  # Windows: no lock
    fcntl = None  # type: ignore[assignment]

LONGEST_HOLDER = 200  # characters

_held_until_the_end: dict[Path, int] = {}  # the open file by lock


@contextmanager
def held(lock: Path, *, keep_file: bool = True) -> Iterator[None]:
    """Hold the lock; wait for its holder, if there is one, and say so on stderr."""
    file = acquire(lock, wait=False)
    if file is None:
        sys.stderr.write(f"{lock.parent}: waiting for {holder(lock)}\n")
        file = acquire(lock, wait=True)
    assert file is not None
    try:
        yield
    finally:
        if not keep_file:
            lock.unlink(missing_ok=True)  # before its release: nobody else can hold it yet
        os.close(file)


@contextmanager
def taken(lock: Path) -> Iterator[bool]:
    """Hold the lock unless another process has it; yield whether it is held."""
    file = acquire(lock, wait=False)
    try:
        yield file is not None
    finally:
        if file is not None:
            os.close(file)


@contextmanager
def alone(lock: Path, work: str, *, shared: bool = False) -> Iterator[None]:
    """Hold the lock for work that only one process may do, or only processes that share the lock.

    Args:
        lock: a temporary file, which its last holder removes.
        work: such as ``another conversion is writing it``, for the message.
        shared: share the lock with other processes that share it.

    Raises:
        InputError: another process holds it; the message says which.
    """
    file = acquire(lock, wait=False, shared=shared)
    if file is None:
        raise InputError(f"{lock.parent}: {work} ({holder(lock)}); wait for its end, or stop it")
    try:
        yield
    finally:
        if shared:
            os.close(file)
        last = acquire(lock, wait=False) if shared else file
        if last is not None:
            lock.unlink(missing_ok=True)  # before its release: nobody else can hold it yet
            os.close(last)


def hold_until_the_end(lock: Path, work: str) -> None:
    """Hold the lock until this process, or the program that it becomes, ends.

    Raises:
        InputError: another process holds it, other than the one that started this one for the work.
    """
    held_file = _held_until_the_end.get(lock)
    if held_file is not None and _is_in_place(held_file, lock):
        return

    file = acquire(lock, wait=False)
    if file is not None:
        _held_until_the_end[lock] = file
        return

    parent = os.getppid()
    if _holding_process(lock) != parent:
        raise InputError(f"{lock.parent}: {work} ({holder(lock)}); wait for its end, or stop it")


def acquire(lock: Path, *, wait: bool, shared: bool = False) -> int | None:
    """Take the lock and return the open file that holds it until it is closed.

    None if another process has it.
    """
    no_links = getattr(os, "O_NOFOLLOW", 0)
    flags = os.O_RDWR | os.O_CREAT | no_links
    while True:
        file = os.open(lock, flags, 0o666)
        if not _lock(file, wait, shared):
            os.close(file)
            return None
        if _is_in_place(file, lock):
            break
        os.close(file)  # its last holder has removed it

    own_name = f"{os.getpid()} on {socket.gethostname()}\n"
    with suppress(OSError):  # the lock also works on a full disk
        os.ftruncate(file, 0)
        os.pwrite(file, own_name.encode(), 0)
    return file


def holder(lock: Path) -> str:
    """Return who holds, or held, the lock: ``process 4711 on node12``."""
    try:
        text = lock.read_text(encoding="utf-8", errors="replace")
    except OSError:
        text = ""

    name = text.strip()
    if not name:
        return "another process"
    return f"process {name[:LONGEST_HOLDER]}"


def _holding_process(lock: Path) -> int | None:
    """Return the number of the process that holds the lock; None if it is on another machine."""
    name = holder(lock).removeprefix("process ")
    number, _, host = name.partition(" on ")
    is_here = host == socket.gethostname()
    if is_here and number.isdigit():
        return int(number)
    return None


def _is_in_place(file: int, lock: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file), lock.stat())
    except FileNotFoundError:
        return False


def _lock(file: int, wait: bool, shared: bool) -> bool:
    """Return whether nobody else holds the lock; True with a warning if there are no locks."""
    if fcntl is None:
        return True
    operation = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
    if not wait:
        operation |= fcntl.LOCK_NB
    try:
        fcntl.lockf(file, operation)
    except OSError as error:
        if error.errno in (errno.EACCES, errno.EAGAIN):
            return False
        sys.stderr.write(f"no lock ({error.strerror}): do not start the same work twice\n")
    return True
