"""The one exception that means: the input is wrong and the user can fix it; errors in a line."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from nnunet_ext.printable import printable

# Characters; nobody reads a list of thousands of names.
LONGEST_BEGINNING = 1200
LONGEST_END = 400


class InputError(Exception, SystemExit):
    """Wrong input; the message is one line that names the file, what is wrong and what to do.

    It is a ``SystemExit``, too: where a trainer raises it inside a stock nnU-Net command, which
    catches nothing, Python prints the line instead of a traceback and exits with 1.
    """

    def __init__(self, message: str) -> None:
        line = _bounded(printable(message))
        super().__init__(line)
        self.code = f"error: {line}"


@contextmanager
def naming(file: Path, *others: Path) -> Iterator[None]:
    """Put a file's name before the message of an :class:`InputError` that names none of the files.

    >>> with naming(Path("ct.nii.gz")):
    ...     raise InputError("holds no voxel")
    Traceback (most recent call last):
    nnunet_ext.errors.InputError: ct.nii.gz: holds no voxel
    """
    try:
        yield
    except InputError as error:
        message = str(error)
        is_named = any(str(known) in message for known in (file, *others))
        if is_named:
            raise
        raise InputError(f"{file}: {message}") from error


def first_line(error: BaseException) -> str:
    """Return the first line of an exception's message, or its type if it has none."""
    lines = str(error).splitlines()
    if not lines:
        return type(error).__name__
    return lines[0]


def _bounded(line: str) -> str:
    """Cut out the middle of a line that nobody would read; what to do stands at its end."""
    if len(line) <= LONGEST_BEGINNING + LONGEST_END:
        return line
    beginning = line[:LONGEST_BEGINNING]
    end = line[-LONGEST_END:]
    return f"{beginning} [...] {end}"
