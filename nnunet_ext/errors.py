"""The one exception that means: the input is wrong and the user can mend it."""

from nnunet_ext.printable import printable


class InputError(Exception, SystemExit):
    """Wrong input. The message is one line that names the file, what is wrong with it and what to do.

    It is a ``SystemExit``, too: where a trainer raises it inside a stock nnU-Net command, which catches nothing, Python
    prints the line instead of a traceback and exits with 1.
    """

    def __init__(self, message: str) -> None:
        line = printable(message)
        super().__init__(line)
        self.code = f"error: {line}"
