"""No label or file name becomes a formula."""

import io

import pandas as pd
import pytest

from nnunet_ext.files.csv_cells import plain_cell, plain_table


@pytest.mark.parametrize(
    "text", ["=HYPERLINK(1)", "+1+1", "-cmd|x", "@SUM(A1)", " =1", "\t=1", "\r=1"]
)
def test_what_looks_like_a_formula_is_text(text: str) -> None:
    assert plain_cell(text)[0] in "'?"


@pytest.mark.parametrize("text", ["", "lesion", "-1", "+2.5", "-inf", "1=2", "a-b", "Läsion"])
def test_numbers_and_ordinary_text_stay(text: str) -> None:
    assert plain_cell(text) == text


def test_a_table_keeps_its_numbers() -> None:
    table = pd.DataFrame({"label": ["=1", "lesion"], "dice": [-0.5, float("nan")], "=x": [1, 2]})
    text = plain_table(table).to_csv(index=False, na_rep="nan")
    assert text == "label,dice,'=x\n'=1,-0.5,1\nlesion,nan,2\n"
    assert pd.read_csv(io.StringIO(text))["dice"].dtype == float
    assert list(table.columns) == ["label", "dice", "=x"]
