"""Text from headers and file names, without what would steer a terminal."""

import unicodedata
from typing import TextIO

_REPLACEMENT = "?"
_LAYOUT = "\n\r\t"  # which programs print themselves; \r is how progress bars stay on their line
# These change the direction in which text is shown.
_TURNING = "\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"
_CONTROLS = [chr(code) for code in range(0xA0) if unicodedata.category(chr(code)) == "Cc"]
# Bytes of file names that are not text.
_SURROGATES = dict.fromkeys(range(0xD800, 0xE000), _REPLACEMENT)

_OF_A_LINE = {ord(sign): _REPLACEMENT for sign in (*_CONTROLS, *_TURNING)} | _SURROGATES
_OF_A_STREAM = {code: sign for code, sign in _OF_A_LINE.items() if chr(code) not in _LAYOUT}


def printable(text: str) -> str:
    r"""Return the text as one line that a terminal shows and does not obey.

    >>> printable("CT\x1b[2J\nof a")
    'CT?[2J?of a'
    """
    return text.translate(_OF_A_LINE)


class PrintableStream:
    """A text stream that passes on everything but control characters."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        """Write what a terminal can show."""
        shown = text.translate(_OF_A_STREAM)
        return self._stream.write(shown)

    def __getattr__(self, name: str) -> object:
        return getattr(self._stream, name)


def counted(count: int, noun: str) -> str:
    """Return a number with its noun in the singular or plural.

    >>> counted(1, "slice"), counted(3, "slice")
    ('1 slice', '3 slices')
    """
    if count == 1:
        return f"1 {noun}"
    return f"{count} {noun}s"
