"""The tables of an evaluation as text: Markdown, LaTeX and CSV.

LaTeX and CSV are laid out as in papers: methods down, metrics across.
"""

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from nnunet_ext.evaluation.metrics.declarations import METRICS
from nnunet_ext.evaluation.metrics.metric import Better, EmptyPolicy
from nnunet_ext.evaluation.profiles import Profile
from nnunet_ext.evaluation.report.ranks import RANK_RESAMPLES
from nnunet_ext.evaluation.report.statistics import (
    CONFIDENCE_LEVEL,
    CONSTANT,
    METHOD,
    RESAMPLES,
    SEED,
    TOO_FEW,
    UNDEFINED,
)
from nnunet_ext.evaluation.report.tables import AGGREGATE
from nnunet_ext.printable import printable

if TYPE_CHECKING:
    import pandas as pd

_POLICY = {
    "nan": "undefined and left out of the mean; `undefined` in a cell counts such cases",
    "one": "counted as perfect (score 1, error 0)",
    "zero": "counted as failed (score 0, error 1)",
}
_WITHOUT_INTERVAL = {
    TOO_FEW: "no CI: one case",
    CONSTANT: "no CI: all equal",
    UNDEFINED: "no CI: BCa undefined",
}
_FEW_CASES = 10

_TEX_ARROWS = {
    Better.HIGHER: r"\uparrow",
    Better.LOWER: r"\downarrow",
    Better.NEAR_ZERO: r"\to 0",
}
_TEX_SPECIAL = str.maketrans(
    {
        **{sign: rf"\{sign}" for sign in "&%$#_{}"},
        "~": r"\textasciitilde{}",
        "^": r"\textasciicircum{}",
        "\\": r"\textbackslash{}",
        "|": r"\textbar{}",
    }
)

Chosen = set[tuple[str, str, str]]
"""(method, label, metric) of the best means."""


def markdown_report(
    summary: "pd.DataFrame",
    tests: "pd.DataFrame",
    ranks: "pd.DataFrame",
    profile: Profile,
    empty: EmptyPolicy,
    notes: Sequence[str] = (),
) -> str:
    """Return means, tests between methods, their ranks, and all settings in words.

    Methods and labels are down, metrics across, the best in bold.
    """
    counted = dict.fromkeys(("cases", profile.unit))
    chosen = _best(summary)
    rows = []
    for (method, label), group in summary.groupby(["method", "label"], sort=False):
        row = [escaped(method), escaped(label)]
        for name in counted:
            column = "cases" if name == "cases" else "units"
            row.append(str(group[column].iloc[0]))
        row += [_cell(record, chosen) for record in group.to_dict("records")]
        rows.append(row)

    headers = [escaped(_header(metric, profile)) for metric in summary["metric"].unique()]
    lines = ["# Evaluation", "", f"Profile `{profile.title}`: {profile.definition}.", ""]
    lines += [*markdown_table(["method", "label", *counted, *headers], rows), ""]
    lines += [*_settings(summary, profile, empty, notes), ""]
    if len(tests):
        lines += ["## Differences between methods", "", *_tests(tests, profile), ""]
    if len(ranks):
        lines += ["## Ranks", "", *_ranks(ranks, profile), ""]
    return "\n".join(lines)


def latex_table(summary: "pd.DataFrame", profile: Profile) -> str:
    """Return a ``booktabs`` table of mean ± sd, the best in bold.

    Methods are down; across is a group of columns per label, one per metric. The number of values
    stands in a cell where the metric is undefined for some.
    """
    labels = list(summary["label"].unique())
    metrics = list(summary["metric"].unique())
    columns = "c" * len(labels) * len(metrics)
    groups = [rf"\multicolumn{{{len(metrics)}}}{{c}}{{{_tex(label)}}}" for label in labels]
    heads = []
    for metric in metrics:
        arrow = _TEX_ARROWS[METRICS[metric].better]
        heads.append(rf"{_tex(_header(metric, profile))} ${arrow}$")

    lines = [
        "% needs \\usepackage{booktabs}",
        r"\begin{table}",
        rf"\caption{{{_caption(summary, profile)}}}",
        rf"\begin{{tabular}}{{l{columns}}}",
        r"\toprule",
        _tex_line(["", *groups]),
        " ".join(_rules_below(labels, metrics)),
        _tex_line(["Method", *heads * len(labels)]),
        r"\midrule",
    ]
    chosen = _best(summary)
    for method, group in summary.groupby("method", sort=False):
        # A bracket or star would be an argument of the line before.
        start = "{}" if str(method).startswith(("[", "*")) else ""
        cells = [_tex_cell(row, chosen) for row in group.to_dict("records")]
        lines.append(_tex_line([start + _tex(method), *cells]))
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}", r"\end{table}", ""])


def _tex_line(cells: Sequence[str]) -> str:
    return " & ".join(cells) + r" \\"


def _rules_below(labels: Sequence[str], metrics: Sequence[str]) -> list[str]:
    """Return a rule below each label, over its columns; column 1 holds the methods."""
    rules = []
    for position in range(len(labels)):
        first = 2 + position * len(metrics)
        rules.append(rf"\cmidrule(lr){{{first}-{first + len(metrics) - 1}}}")
    return rules


def _caption(summary: "pd.DataFrame", profile: Profile) -> str:
    counts = summary.drop_duplicates("label").set_index("label")
    sizes = [f"{label}: {_size(row, profile)}" for label, row in counts.iterrows()]
    return (
        rf"Mean $\pm$ standard deviation{_tex(_legend(summary, profile))}; "
        rf"best in bold, where all methods have as many values. "
        rf"Profile {_tex(profile.title)}: {_tex(profile.definition)}. "
        rf"Evaluated: {_tex(', '.join(sizes))}."
    )


def wide_table(summary: "pd.DataFrame") -> "pd.DataFrame":
    """Return methods down; across mean, sd and n of each label and metric.

    The profile and each label's number of cases come first. Aggregates have no sd.
    """
    import pandas as pd

    rows = []
    for method, group in summary.groupby("method", sort=False):
        row: dict[str, Any] = {"method": method, "profile": group["profile"].iloc[0]}
        for label, of_label in group.groupby("label", sort=False):
            row[f"{label} cases"] = of_label["cases"].iloc[0]
        for cell in group.to_dict("records"):
            numbers = ("mean", "n") if cell["interval"] == AGGREGATE else ("mean", "sd", "n")
            for name in numbers:
                row[f"{cell['label']} {cell['metric']} {name}"] = cell[name]
        rows.append(row)
    return pd.DataFrame(rows)


def _legend(summary: "pd.DataFrame", profile: Profile) -> str:
    undefined = (summary["undefined"] > 0) & (summary["n"] > 0)
    if not undefined.any():
        return ""
    return f" (n: {profile.unit} with a defined value, where not all have one)"


def _tex(text: object) -> str:
    return printable(str(text)).translate(_TEX_SPECIAL)


def _size(row: Any, profile: Profile) -> str:
    size = f"{row['cases']} cases"
    return size if profile.unit == "cases" else f"{size}, {row['units']} {profile.unit}"


def _header(metric: str, profile: Profile) -> str:
    declared = METRICS[metric]
    if declared.uses_tolerance:
        return f"{declared.header} {profile.tolerance_mm:g} mm"
    return declared.header


def _best(summary: "pd.DataFrame") -> Chosen:
    """Return the best means; none where undefined values make them means of different cases."""
    chosen: Chosen = set()
    for (label, metric), group in summary.groupby(["label", "metric"], sort=False):
        if group["n"].nunique() > 1 or not group["comparable"].all():
            continue
        values = dict(zip(group["method"], group["mean"], strict=True))
        for method in METRICS[str(metric)].best(values):
            chosen.add((method, str(label), str(metric)))
    return chosen


def _cell(row: dict[Any, Any], chosen: Chosen) -> str:
    if not row["n"]:
        return f"undefined in all {row['units']}"

    metric = METRICS[row["metric"]]
    mean = metric.formatted(row["mean"])
    if (row["method"], row["label"], metric.name) in chosen:
        mean = f"**{mean}**"
    undefined = f" ({row['undefined']} undefined)" if row["undefined"] else ""
    if row["interval"] == AGGREGATE:
        return mean + undefined

    spread = f" ± {metric.formatted(row['sd'])}" if row["n"] > 1 else ""
    interval = f"{metric.formatted(row['ci_low'])}, {metric.formatted(row['ci_high'])}"
    interval = _WITHOUT_INTERVAL.get(row["interval"], interval)
    return f"{mean}{spread} [{interval}]{undefined}"


def _tex_cell(row: dict[Any, Any], chosen: Chosen) -> str:
    if not row["n"]:
        return "--"

    metric = METRICS[row["metric"]]
    cell = metric.formatted(row["mean"]).replace("-", "$-$")
    if (row["method"], row["label"], metric.name) in chosen:
        cell = rf"\textbf{{{cell}}}"
    if row["n"] > 1 and row["interval"] != AGGREGATE:
        cell += rf" $\pm$ {metric.formatted(row['sd'])}"
    if row["undefined"]:
        cell += f" ($n={row['n']}$)"
    return cell


def _settings(
    summary: "pd.DataFrame", profile: Profile, empty: EmptyPolicy, notes: Sequence[str]
) -> list[str]:
    lines = [
        f"Cells: mean ± standard deviation over {profile.unit} [{CONFIDENCE_LEVEL:.0%} confidence "
        f"interval]. Bootstrap over {profile.unit}, {METHOD}, {RESAMPLES} resamples, seed {SEED}. "
        f"No CI: fewer than two, or all values equal"
    ]
    if summary["undefined"].any():
        lines.append("No bold where a metric is defined for different cases in two methods")
    if profile.empty is None:
        lines.append(
            f"Empty masks (`--empty {empty}`): a metric that is 0/0 for a case is "
            f"{_POLICY[empty]}: Dice with reference and prediction empty, sensitivity with an "
            f"empty reference, precision with an empty prediction, specificity with a reference "
            f"that fills the image. Surface distances are undefined where a mask is empty"
        )
    if profile.per_slice and (summary["units"] > summary["cases"]).any():
        lines.append("Slices of one case are not independent: the intervals are too narrow")

    few, column = ("patients", "units") if profile.per_patient else ("cases", "cases")
    if summary[column].min() < _FEW_CASES:
        lines.append(
            f"Fewer than {_FEW_CASES} {few}: bootstrap intervals are then too narrow; read them "
            f"as a hint"
        )
    return [f"- {line}." for line in (*lines, *notes)]


def _tests(tests: "pd.DataFrame", profile: Profile) -> list[str]:
    unit = "patients" if profile.per_patient else "cases"
    header = ["label", "metric", "methods", unit]
    header += ["difference", "t-test p", "Wilcoxon p", "Cohen's d_z"]
    rows = []
    for row in tests.to_dict("records"):
        rows.append(
            [
                escaped(row["label"]),
                escaped(_header(row["metric"], profile)),
                escaped(f"{row['first']} - {row['second']}"),
                str(row["n"]),
                METRICS[row["metric"]].formatted(row["mean_difference"]),
                p_value(row["t_p_holm"]),
                p_value(row["wilcoxon_p_holm"]),
                f"{row['cohen_dz']:.2f}",
            ]
        )
    note = (
        f"Paired over {unit}, two-sided; p after Holm's correction over the pairs of methods of a "
        f"label and metric; only units where both are defined count"
    )
    if profile.per_slice:
        note += "; slices of a case are then averaged"
    return [*markdown_table(header, rows), "", f"{note}."]


def _ranks(ranks: "pd.DataFrame", profile: Profile) -> list[str]:
    """Return the ranks by the profile's first metric; those by the others are in ranks.csv."""
    unit = "patients" if profile.per_patient else "cases"
    first_metric = profile.metrics[0]
    rows = []
    for row in ranks[ranks["metric"] == first_metric].to_dict("records"):
        rows.append(
            [
                escaped(row["label"]),
                escaped(row["method"]),
                str(row["n"]),
                f"{row['rank']} [{row['rank_low']:g}, {row['rank_high']:g}]",
                f"{row['first']:.0%}",
            ]
        )
    header = ["label", "method", unit, "rank", "first"]
    note = (
        f"By the mean {_header(first_metric, profile)} of {unit} where it is defined for all "
        f"methods; in brackets what {CONFIDENCE_LEVEL:.0%} of {RANK_RESAMPLES} resamples of the "
        f"{unit} give; first: in how many of them a method is the best"
    )
    return [*markdown_table(header, rows), "", f"{note}."]


def p_value(value: float) -> str:
    """Return three decimals; what is smaller is called smaller."""
    return "<0.001" if value < 0.001 else f"{value:.3f}"


def markdown_table(header: list[str], rows: list[list[str]]) -> list[str]:
    """Return the lines of a table with columns of equal width."""
    columns = zip(header, *rows, strict=True)
    widths = [max(3, *map(len, column)) for column in columns]
    rule = ["-" * width for width in widths]
    lines = []
    for row in (header, rule, *rows):
        cells = [cell.ljust(width) for cell, width in zip(row, widths, strict=True)]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def escaped(text: object) -> str:
    """Return text whose characters mean nothing to Markdown."""
    return re.sub(r"([\\|*_`\[\]<])", r"\\\1", str(text))
