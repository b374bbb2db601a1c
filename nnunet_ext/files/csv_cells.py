"""Text for CSV files, which spreadsheet programs take for a formula where it begins like one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from nnunet_ext.printable import printable

if TYPE_CHECKING:
    import pandas as pd

FORMULA_SIGNS = ("=", "+", "-", "@")


def plain_cell(text: str) -> str:
    """Return the text so that no program takes it for a formula: with an apostrophe before it,
    where it looks like one.

    >>> plain_cell("=HYPERLINK(1)"), plain_cell("-1.5e-3 0"), plain_cell("left lung")
    ("'=HYPERLINK(1)", '-1.5e-3 0', 'left lung')
    """
    text = printable(text)
    return (
        f"'{text}" if text.lstrip().startswith(FORMULA_SIGNS) and not _holds_numbers(text) else text
    )


def plain_table(table: pd.DataFrame) -> pd.DataFrame:
    """Return a copy whose texts and column names are :func:`plain_cell`; numbers stay numbers."""
    plain = table.rename(columns=lambda name: plain_cell(name) if isinstance(name, str) else name)
    return plain.map(_plain_value)


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
