"""Report a full disk in one line."""

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
    """Turn a write error into one line that says how to continue.

    Args:
        folder: of the training.
        before: called before the line, to stop worker processes, which would otherwise print after
            it.

    Raises:
        InputError: the disk is full, or cannot be written to.
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
    """Stop the processes of nnU-Net's loaders without the text that they print at their end."""
    with Path(os.devnull).open("w") as nowhere, redirect_stdout(nowhere):
        for loader in loaders:
            if hasattr(loader, "_finish"):
                loader._finish()


def _write_error(error: BaseException | None) -> int | None:
    """Return the error number of a failed write, also where PyTorch wrapped it in another error."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in WRITE_ERRORS:
            return error.errno
        error = error.__cause__ or error.__context__
    return None
