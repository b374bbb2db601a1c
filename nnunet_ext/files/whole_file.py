"""Files that are complete or absent."""

import errno
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

TEMPORARY_PREFIX = ".part-"  # files of such names are useless once their writer has ended
ORDINARY_MODE = 0o666  # before the user's umask


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Yield a new file beside ``path`` to write to; it replaces ``path`` at the end of the block.

    After an error or a kill, the previous file is as it was. The new name cannot be guessed: two
    writers never share it, and a link planted there is never followed. It ends as ``path`` does,
    because writers of figures and arrays choose their format by the ending.
    """
    descriptor, name = tempfile.mkstemp(
        prefix=TEMPORARY_PREFIX,
        suffix=f"-{path.name}",
        dir=path.parent,
    )
    os.close(descriptor)
    unfinished = Path(name)

    try:
        yield unfinished
        unfinished.chmod(_mode_for(path))
        unfinished.replace(path)
    except OSError as error:
        error.filename = error.filename or str(path)  # missing in the error of a full disk
        raise
    finally:
        unfinished.unlink(missing_ok=True)


def to_disk(path: Path) -> None:
    """Wait until the content of a file, or the names in a folder, would survive a power failure."""
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except PermissionError:  # a folder, on Windows
        return
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno != errno.EINVAL:  # of file systems without fsync for folders
            raise
    finally:
        os.close(descriptor)


def _mode_for(path: Path) -> int:
    """Return the mode of the file to be replaced, or that of any new file."""
    if path.is_file():
        status = path.stat()
        return status.st_mode & 0o777

    umask = os.umask(0)
    os.umask(umask)
    return ORDINARY_MODE & ~umask
