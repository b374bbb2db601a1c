"""A full disk, as one line that says so."""

import errno
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Any

from nnunet_ext.errors import InputError

WRITE_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)


@contextmanager
def write_errors_in_one_line(folder: Path, before: Callable[[], None]) -> Iterator[None]:
    """Turn an error of writing into one line that says how to continue.

    Args:
        folder: of the training.
        before: called before the line, to stop worker processes, which would otherwise have the
            last word.

    Raises:
        InputError: the disk took no more.
    """
    try:
        yield
    except Exception as error:
        reason = _write_error(error)
        if reason is None:
            raise
        before()
        raise InputError(
            f"{folder}: cannot be written to ({os.strerror(reason)}); what was saved before is "
            "kept. Make room, then continue with the same nnUNetv2_train command and --c"
        ) from None


def stop_workers(*loaders: Any) -> None:
    """Stop the processes of nnU-Net's loaders, without what they print at their end."""
    with Path(os.devnull).open("w") as nowhere, redirect_stdout(nowhere):
        for loader in loaders:
            if hasattr(loader, "_finish"):
                loader._finish()


def _write_error(error: BaseException | None) -> int | None:
    """Return the error number of a failed write, also below an error that PyTorch made of it."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in WRITE_ERRORS:
            return error.errno
        error = error.__cause__ or error.__context__
    return None
