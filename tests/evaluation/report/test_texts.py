import math
import re

import pandas as pd
import pytest

from nnunet_ext.evaluation.metrics.declarations import METRICS
from nnunet_ext.evaluation.profiles import PROFILES
from nnunet_ext.evaluation.report.ranks import ranks_table
from nnunet_ext.evaluation.report.tables import paired_tests_table, summary_table
from nnunet_ext.evaluation.report.texts import latex_table, markdown_report, wide_table


@pytest.mark.parametrize(
    ("metric", "values", "expected"),
    [
        ("dice", {"a": 0.5, "b": 0.7}, {"b"}),
        ("hd95", {"a": 5.0, "b": 7.0}, {"a"}),
        (
            "rvd",
            {"a": -0.1, "b": 0.3, "c": -0.6},
            {"a"},
        ),  # the smallest difference, whatever its sign
        ("dice", {"a": 0.70001, "b": 0.70002, "c": 0.5}, {"a", "b"}),  # printed alike
        ("dice", {"a": 0.7, "b": 0.7}, set()),
        ("dice", {"a": 0.7}, set()),
        ("dice", {"a": math.nan, "b": 0.5, "c": 0.4}, {"b"}),
    ],
)
def test_best(metric: str, values: dict[str, float], expected: set[str]) -> None:
    assert METRICS[metric].best(values) == expected


def test_signed_differences_are_best_at_0() -> None:
    arrows = [METRICS[name].better.value for name in ("dice", "hd95", "rvd", "abs_rvd")]
    assert arrows == ["↑", "↓", "→ 0", "↓"]
    assert METRICS["rvd"].badness(pd.Series([-0.6, 0.5, 0.0])).tolist() == [0.6, 0.5, 0.0]


def test_specificity_and_mae_have_a_digit_more() -> None:
    names = ("dice", "specificity", "mae", "hd95")
    printed = [METRICS[name].formatted(0.12345) for name in names]
    assert printed == ["0.123", "0.1235", "0.1235", "0.12"]


@pytest.fixture
def cases() -> pd.DataFrame:
    """Two methods with awkward names, three cases, two labels; lesion 2 is undefined everywhere."""
    rows = []
    for method, shift in (("a_b & 50%", 0.0), ("c|d", 0.1)):
        for case, dice in zip("xyz", (0.5, 0.6, 0.8), strict=True):
            for label, value in (("lesion_1", dice + shift), ("lesion_2", math.nan)):
                metrics = dict.fromkeys(PROFILES["plain"].metrics, value)
                rows.append(
                    {
                        "method": method,
                        "case": case,
                        "label": label,
                        "tp": 1,
                        "fn": 0,
                        "fp": 0,
                        **metrics,
                    }
                )
    return pd.DataFrame(rows)


def test_latex_escapes_and_has_as_many_cells_as_columns(cases: pd.DataFrame) -> None:
    profile = PROFILES["plain"]
    text = latex_table(summary_table(cases, profile), profile)
    body = text[text.index(r"\midrule") : text.index(r"\bottomrule")].splitlines()[1:]
    assert body[0].startswith(r"a\_b \& 50\% & 0.633 $\pm$ 0.153 & ")
    assert body[1].startswith(r"c\textbar{}d & \textbf{0.733} $\pm$ 0.153 & ")
    for line in body:
        cells = re.split(r"(?<!\\)&", line.removesuffix(r"\\"))
        assert len(cells) == 1 + 2 * 5 and [cell.strip() for cell in cells[6:]] == ["--"] * 5
    assert r"\cmidrule(lr){2-6} \cmidrule(lr){7-11}" in text
    assert r"lesion\_1: 3 cases, lesion\_2: 3 cases" in text


def test_latex_obeys_no_name(cases: pd.DataFrame) -> None:
    hostile = cases.replace({"label": {"lesion_1": "\\input{key}\nx\x1b[2J"}})
    profile = PROFILES["plain"]
    text = latex_table(summary_table(hostile, profile), profile)
    assert r"\textbackslash{}input\{key\}?x?[2J" in text
    assert r"\input" not in text and "\x1b" not in text


def test_markdown_marks_the_best_and_what_is_undefined(cases: pd.DataFrame) -> None:
    profile = PROFILES["plain"]
    summary, tests = summary_table(cases, profile), paired_tests_table(cases, profile)
    ranks = ranks_table(cases, profile)
    text = markdown_report(summary, tests, ranks, profile, "nan", ["A note"])
    row = next(
        line for line in text.splitlines() if line.startswith(r"| c\|d") and r"lesion\_1" in line
    )
    assert "**0.733** ± 0.153" in row
    assert "undefined in all 3" in text and "- A note." in text
    assert r"| lesion\_1 | Dice        | a\_b & 50% - c\|d | 3     | -0.100" in text
    ranked = text[text.index("## Ranks") :].splitlines()
    assert any(line.startswith(r"| lesion\_1 | c\|d") and "| 1 [1, " in line for line in ranked)


def test_wide_table_has_the_number_of_values_beside_each_mean(cases: pd.DataFrame) -> None:
    table = wide_table(summary_table(cases, PROFILES["plain"]))
    assert list(table.columns[:6]) == [
        "method",
        "profile",
        "lesion_1 cases",
        "lesion_2 cases",
        "lesion_1 dice mean",
        "lesion_1 dice sd",
    ]
    assert table["lesion_1 dice n"].tolist() == [3, 3] and table["lesion_2 dice n"].tolist() == [
        0,
        0,
    ]
    assert table["lesion_2 dice mean"].isna().all()


def test_holm_is_over_pairs_of_methods(cases: pd.DataFrame) -> None:
    third = cases[cases["method"] == "c|d"].assign(
        method="e", dice=[0.1, math.nan, 0.5, math.nan, 0.4, math.nan]
    )
    tests = paired_tests_table(pd.concat([cases, third]), PROFILES["plain"])
    dice = tests[(tests["label"] == "lesion_1") & (tests["metric"] == "dice")]
    assert len(dice) == 3
    p = dice["t_p"].dropna().sort_values()
    assert dice.loc[p.index[0], "t_p_holm"] == pytest.approx(min(1, p.iloc[0] * len(p)))
