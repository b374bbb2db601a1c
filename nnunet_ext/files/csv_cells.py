"""Text for CSV files, which spreadsheet programs take for a formula where it begins like one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from nnunet_ext.printable import printable

if TYPE_CHECKING:
    import pandas as pd

FORMULA_SIGNS = ("=", "+", "-", "@")


def plain_cell(text: str) -> str:
    """Return the text, with an apostrophe before it if a program would take it for a formula.

    >>> plain_cell("=HYPERLINK(1)"), plain_cell("-1.5e-3 0"), plain_cell("left lung")
    ("'=HYPERLINK(1)", '-1.5e-3 0', 'left lung')
    """
    text = printable(text)
    looks_like_formula = text.lstrip().startswith(FORMULA_SIGNS) and not _holds_numbers(text)
    return f"'{text}" if looks_like_formula else text


def plain_table(table: pd.DataFrame) -> pd.DataFrame:
    """Return a copy whose texts and column names are :func:`plain_cell`; numbers stay numbers."""
    return table.rename(columns=_plain_value).map(_plain_value)


def _plain_value(value: Any) -> Any:
    return plain_cell(value) if isinstance(value, str) else value


def _holds_numbers(text: str) -> bool:
    """Whether the text is a number, or several between blanks, such as a matrix."""
    try:
        for word in text.split():
            float(word)
    except ValueError:
        return False
    return True
