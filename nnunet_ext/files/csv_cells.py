"""Text for CSV files: spreadsheet programs must not take it for a formula."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from nnunet_ext.printable import printable

if TYPE_CHECKING:
    import pandas as pd

FORMULA_SIGNS = ("=", "+", "-", "@")


def plain_cell(text: str) -> str:
    """Return the text, with a leading apostrophe if a program would take it for a formula.

    >>> plain_cell("=HYPERLINK(1)"), plain_cell("-1.5e-3 0"), plain_cell("left lung")
    ("'=HYPERLINK(1)", '-1.5e-3 0', 'left lung')
    """
    text = printable(text)
    has_sign = text.lstrip().startswith(FORMULA_SIGNS)
    if has_sign and not _holds_numbers(text):
        return f"'{text}"
    return text


def plain_table(table: pd.DataFrame) -> pd.DataFrame:
    """Return a copy with :func:`plain_cell` for texts and column names; numbers stay numbers."""
    renamed = table.rename(columns=_plain_value)
    return renamed.map(_plain_value)


def _plain_value(value: Any) -> Any:
    if isinstance(value, str):
        return plain_cell(value)
    return value


def _holds_numbers(text: str) -> bool:
    """Return whether the text is a number, or several between blanks, such as a matrix."""
    try:
        for word in text.split():
            float(word)
    except ValueError:
        return False
    return True
