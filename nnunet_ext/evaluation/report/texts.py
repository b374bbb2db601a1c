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
            count = group[column].iloc[0]
            row.append(str(count))
        for record in group.to_dict("records"):
            row.append(_cell(record, chosen))
        rows.append(row)

    header = ["method", "label", *counted]
    for metric in summary["metric"].unique():
        header.append(escaped(_header(metric, profile)))

    lines = ["# Evaluation", ""]
    lines += [f"Profile `{profile.title}`: {profile.definition}.", ""]
    lines += [*markdown_table(header, rows), ""]
    lines += [*_settings(summary, profile, empty, notes), ""]
    if len(tests):
        lines += ["## Differences between methods", ""]
        lines += [*_tests(tests, profile), ""]
    if len(ranks):
        lines += ["## Ranks", ""]
        lines += [*_ranks(ranks, profile), ""]
    return "\n".join(lines)


def latex_table(summary: "pd.DataFrame", profile: Profile) -> str:
    """Return a ``booktabs`` table of mean ± sd, the best in bold.

    Methods are down; across is a group of columns per label, one per metric. The number of values
    stands in a cell where the metric is undefined for some.
    """
    labels = list(summary["label"].unique())
    metrics = list(summary["metric"].unique())
    columns = "c" * len(labels) * len(metrics)
    groups = []
    for label in labels:
        groups.append(rf"\multicolumn{{{len(metrics)}}}{{c}}{{{_tex(label)}}}")
    heads = []
    for metric in metrics:
        header = _tex(_header(metric, profile))
        arrow = _TEX_ARROWS[METRICS[metric].better]
        heads.append(rf"{header} ${arrow}$")

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
        name = _tex(method)
        if str(method).startswith(("[", "*")):  # else they are an argument of the line before
            name = "{}" + name
        cells = [_tex_cell(row, chosen) for row in group.to_dict("records")]
        lines.append(_tex_line([name, *cells]))
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}", r"\end{table}", ""])


def _tex_line(cells: Sequence[str]) -> str:
    joined = " & ".join(cells)
    return rf"{joined} \\"


def _rules_below(labels: Sequence[str], metrics: Sequence[str]) -> list[str]:
    """Return a rule below each label, over its columns; column 1 holds the methods."""
    rules = []
    first = 2
    for _ in labels:
        last = first + len(metrics) - 1
        rules.append(rf"\cmidrule(lr){{{first}-{last}}}")
        first = last + 1
    return rules


def _caption(summary: "pd.DataFrame", profile: Profile) -> str:
    counts = summary.drop_duplicates("label").set_index("label")
    sizes = []
    for label, row in counts.iterrows():
        sizes.append(f"{label}: {_size(row, profile)}")

    legend = _tex(_legend(summary, profile))
    title = _tex(profile.title)
    definition = _tex(profile.definition)
    evaluated = _tex(", ".join(sizes))
    return (
        rf"Mean $\pm$ standard deviation{legend}; "
        rf"best in bold, where all methods have as many values. "
        rf"Profile {title}: {definition}. "
        rf"Evaluated: {evaluated}."
    )


def wide_table(summary: "pd.DataFrame") -> "pd.DataFrame":
    """Return methods down; across mean, sd and n of each label and metric.

    The profile and each label's number of cases come first. Aggregates have no sd.
    """
    import pandas as pd

    rows = []
    for method, group in summary.groupby("method", sort=False):
        profile = group["profile"].iloc[0]
        row: dict[str, Any] = {"method": method, "profile": profile}
        for label, of_label in group.groupby("label", sort=False):
            row[f"{label} cases"] = of_label["cases"].iloc[0]
        for cell in group.to_dict("records"):
            is_aggregate = cell["interval"] == AGGREGATE
            names = ("mean", "n") if is_aggregate else ("mean", "sd", "n")
            column = f"{cell['label']} {cell['metric']}"
            for name in names:
                row[f"{column} {name}"] = cell[name]
        rows.append(row)
    return pd.DataFrame(rows)


def _legend(summary: "pd.DataFrame", profile: Profile) -> str:
    is_undefined = summary["undefined"] > 0
    is_defined = summary["n"] > 0
    in_part = is_undefined & is_defined
    if not in_part.any():
        return ""
    return f" (n: {profile.unit} with a defined value, where not all have one)"


def _tex(text: object) -> str:
    shown = printable(str(text))
    return shown.translate(_TEX_SPECIAL)


def _size(row: Any, profile: Profile) -> str:
    size = f"{row['cases']} cases"
    if profile.unit != "cases":
        size += f", {row['units']} {profile.unit}"
    return size


def _header(metric: str, profile: Profile) -> str:
    declared = METRICS[metric]
    if declared.uses_tolerance:
        return f"{declared.header} {profile.tolerance_mm:g} mm"
    return declared.header


def _best(summary: "pd.DataFrame") -> Chosen:
    """Return the best means; none where undefined values make them means of different cases."""
    chosen: Chosen = set()
    for (label, metric), group in summary.groupby(["label", "metric"], sort=False):
        numbers = group["n"].unique()
        is_comparable = len(numbers) == 1 and group["comparable"].all()
        if not is_comparable:
            continue

        values = dict(zip(group["method"], group["mean"], strict=True))
        for method in METRICS[str(metric)].best(values):
            cell = (method, str(label), str(metric))
            chosen.add(cell)
    return chosen


def _cell(row: dict[Any, Any], chosen: Chosen) -> str:
    if not row["n"]:
        return f"undefined in all {row['units']}"

    metric = METRICS[row["metric"]]
    cell = metric.formatted(row["mean"])
    if (row["method"], row["label"], row["metric"]) in chosen:
        cell = f"**{cell}**"

    if row["interval"] != AGGREGATE:
        if row["n"] > 1:
            sd = metric.formatted(row["sd"])
            cell += f" ± {sd}"
        low = metric.formatted(row["ci_low"])
        high = metric.formatted(row["ci_high"])
        interval = _WITHOUT_INTERVAL.get(row["interval"], f"{low}, {high}")
        cell += f" [{interval}]"

    if row["undefined"]:
        cell += f" ({row['undefined']} undefined)"
    return cell


def _tex_cell(row: dict[Any, Any], chosen: Chosen) -> str:
    if not row["n"]:
        return "--"

    metric = METRICS[row["metric"]]
    mean = metric.formatted(row["mean"])
    cell = mean.replace("-", "$-$")
    if (row["method"], row["label"], row["metric"]) in chosen:
        cell = rf"\textbf{{{cell}}}"
    if row["n"] > 1 and row["interval"] != AGGREGATE:
        sd = metric.formatted(row["sd"])
        cell += rf" $\pm$ {sd}"
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
            f"that fills the image. Surface distances are undefined where a mask is empty, and "
            f"lesion metrics where they are 0/0"
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
                f"{row['rank']} [{row['rank_low']}, {row['rank_high']}]",
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
    if value < 0.001:
        return "<0.001"
    return f"{value:.3f}"


def markdown_table(header: list[str], rows: list[list[str]]) -> list[str]:
    """Return the lines of a table with columns of equal width."""
    columns = []
    for cells in zip(header, *rows, strict=True):
        width = max(3, *map(len, cells))
        head, *values = [cell.ljust(width) for cell in cells]
        rule = "-" * width
        columns.append([head, rule, *values])

    lines = []
    for line in zip(*columns, strict=True):
        lines.append(f"| {' | '.join(line)} |")
    return lines


def escaped(text: object) -> str:
    """Return text whose characters mean nothing to Markdown."""
    return re.sub(r"([\\|*_`\[\]<])", r"\\\1", str(text))
