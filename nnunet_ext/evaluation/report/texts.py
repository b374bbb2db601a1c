"""The tables of an evaluation as text: Markdown, and like the papers' (methods down, metrics
across) LaTeX and CSV.
"""

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from nnunet_ext.evaluation.metrics.names import HEADERS, arrow, best, formatted
from nnunet_ext.evaluation.metrics.overlap import EmptyPolicy
from nnunet_ext.evaluation.profiles import Profile
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


def markdown_report(
    summary: "pd.DataFrame",
    tests: "pd.DataFrame",
    profile: Profile,
    empty: EmptyPolicy,
    notes: Sequence[str] = (),
) -> str:
    """Means (methods and labels down, metrics across, best in bold), tests between methods, all
    settings in words.
    """
    counted = dict.fromkeys(("cases", profile.unit))
    rows = []
    chosen = _best(summary)
    for (method, label), group in summary.groupby(["method", "label"], sort=False):
        cells = [_cell(row, chosen) for row in group.to_dict("records")]
        sizes = [str(group["cases" if name == "cases" else "units"].iloc[0]) for name in counted]
        rows.append([escaped(method), escaped(label), *sizes, *cells])
    header = [
        "method",
        "label",
        *counted,
        *(escaped(_header(m, profile)) for m in summary["metric"].unique()),
    ]
    lines = [
        "# Evaluation",
        "",
        f"Profile `{profile.title}`: {profile.definition}.",
        "",
        *markdown_table(header, rows),
        "",
    ]
    lines += [*_settings(summary, profile, empty, notes), ""]
    if len(tests):
        lines += ["## Differences between methods", "", *_tests(tests, profile), ""]
    return "\n".join(lines)


def latex_table(summary: "pd.DataFrame", profile: Profile) -> str:
    """A ``booktabs`` table: methods down; a group of columns per label, metrics across; mean ± sd;
    best in bold.

    The number of values stands in a cell where the metric is undefined for some.
    """
    labels, metrics = list(summary["label"].unique()), list(summary["metric"].unique())
    counts = summary.drop_duplicates("label").set_index("label")
    sizes = ", ".join(f"{label}: {_size(counts.loc[label], profile)}" for label in labels)
    chosen = _best(summary)
    heads = [rf"{_tex(_header(m, profile))} ${_TEX_ARROWS[arrow(m)]}$" for m in metrics]
    spans = [
        rf"\cmidrule(lr){{{2 + i * len(metrics)}-{1 + (i + 1) * len(metrics)}}}"
        for i in range(len(labels))
    ]
    lines = [
        "% needs \\usepackage{booktabs}",
        r"\begin{table}",
        rf"\caption{{Mean $\pm$ standard deviation{_tex(_legend(summary, profile))}; "
        rf"best in bold, where all methods have as many values. "
        rf"Profile {_tex(profile.title)}: {_tex(profile.definition)}. "
        rf"Evaluated: {_tex(sizes)}.}}",
        rf"\begin{{tabular}}{{l{'c' * len(labels) * len(metrics)}}}",
        r"\toprule",
        " & ".join(
            ["", *(rf"\multicolumn{{{len(metrics)}}}{{c}}{{{_tex(label)}}}" for label in labels)]
        )
        + r" \\",
        " ".join(spans),
        " & ".join(["Method", *heads * len(labels)]) + r" \\",
        r"\midrule",
    ]
    for method, group in summary.groupby("method", sort=False):
        cells = [_tex_cell(row, chosen) for row in group.to_dict("records")]
        start = (
            "{}" if str(method).startswith(("[", "*")) else ""
        )  # else an argument of the line before
        lines.append(" & ".join([start + _tex(method), *cells]) + r" \\")
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}", r"\end{table}", ""])


def wide_table(summary: "pd.DataFrame") -> "pd.DataFrame":
    """Methods down; mean, sd and n of each label and metric across, after the profile and each
    label's number of cases.

    Aggregates have no sd.
    """
    import pandas as pd

    rows = []
    for method, group in summary.groupby("method", sort=False):
        row: dict[str, Any] = {"method": method, "profile": group["profile"].iloc[0]}
        row |= {
            f"{label} cases": of_label["cases"].iloc[0]
            for label, of_label in group.groupby("label", sort=False)
        }
        for cell in group.to_dict("records"):
            numbers = ("mean", "n") if cell["interval"] == AGGREGATE else ("mean", "sd", "n")
            row |= {f"{cell['label']} {cell['metric']} {name}": cell[name] for name in numbers}
        rows.append(row)
    return pd.DataFrame(rows)


def _legend(summary: "pd.DataFrame", profile: Profile) -> str:
    undefined = (summary["undefined"] > 0) & (summary["n"] > 0)
    return (
        f" (n: {profile.unit} with a defined value, where not all have one)"
        if undefined.any()
        else ""
    )


_TEX_ARROWS = {"↑": r"\uparrow", "↓": r"\downarrow", "→ 0": r"\to 0"}
_TEX_SPECIAL = str.maketrans(
    {c: rf"\{c}" for c in "&%$#_{}"}
    | {
        "~": r"\textasciitilde{}",
        "^": r"\textasciicircum{}",
        "\\": r"\textbackslash{}",
        "|": r"\textbar{}",
    }
)


def _tex(text: object) -> str:
    return printable(str(text)).translate(_TEX_SPECIAL)


def _size(row: Any, profile: Profile) -> str:
    return f"{row['cases']} cases" + (
        f", {row['units']} {profile.unit}" if profile.unit != "cases" else ""
    )


def _header(metric: str, profile: Profile) -> str:
    at = f" {profile.tolerance_mm:g} mm" if metric == "surface_dice" else ""
    return HEADERS[metric] + at


def _best(summary: "pd.DataFrame") -> set[tuple[str, str, str]]:
    """(method, label, metric) of the best means; none where undefined values make them means of
    different cases.
    """
    chosen = set()
    for (label, metric), group in summary.groupby(["label", "metric"], sort=False):
        if group["n"].nunique() > 1 or not group["comparable"].all():
            continue
        values = dict(zip(group["method"], group["mean"], strict=True))
        chosen |= {(method, str(label), str(metric)) for method in best(str(metric), values)}
    return chosen


def _cell(row: dict[Any, Any], chosen: set[tuple[str, str, str]]) -> str:
    metric = row["metric"]
    if not row["n"]:
        return f"undefined in all {row['units']}"
    mean = formatted(metric, row["mean"])
    if (row["method"], row["label"], metric) in chosen:
        mean = f"**{mean}**"
    undefined = f" ({row['undefined']} undefined)" if row["undefined"] else ""
    if row["interval"] == AGGREGATE:
        return mean + undefined
    spread = f" ± {formatted(metric, row['sd'])}" if row["n"] > 1 else ""
    interval = f"{formatted(metric, row['ci_low'])}, {formatted(metric, row['ci_high'])}"
    interval = _WITHOUT_INTERVAL.get(row["interval"], interval)
    return f"{mean}{spread} [{interval}]{undefined}"


def _tex_cell(row: dict[Any, Any], chosen: set[tuple[str, str, str]]) -> str:
    if not row["n"]:
        return "--"
    mean = formatted(row["metric"], row["mean"]).replace("-", "$-$")
    if (row["method"], row["label"], row["metric"]) in chosen:
        mean = rf"\textbf{{{mean}}}"
    spread = (
        ""
        if row["n"] < 2 or row["interval"] == AGGREGATE
        else rf" $\pm$ {formatted(row['metric'], row['sd'])}"
    )
    return mean + spread + (f" ($n={row['n']}$)" if row["undefined"] else "")


def _settings(
    summary: "pd.DataFrame", profile: Profile, empty: EmptyPolicy, notes: Sequence[str]
) -> list[str]:
    unit = profile.unit
    lines = [
        f"- Cells: mean ± standard deviation over {unit} [{CONFIDENCE_LEVEL:.0%} confidence "
        f"interval]. Bootstrap over "
        f"{unit}, {METHOD}, {RESAMPLES} resamples, seed {SEED}. No CI: fewer than two, or all "
        f"values equal.",
    ]
    if summary["undefined"].any():
        lines.append("- No bold where a metric is defined for different cases in two methods.")
    if profile.empty is None:
        lines.append(
            f"- Empty masks (`--empty {empty}`): a metric that is 0/0 for a case is "
            f"{_POLICY[empty]}: Dice with "
            "reference and prediction empty, sensitivity with an empty reference, precision with "
            "an empty prediction, "
            "specificity with a reference that fills the image. Surface distances are undefined "
            "where a mask is empty."
        )
    if profile.per_slice and (summary["units"] > summary["cases"]).any():
        lines.append("- Slices of one case are not independent: the intervals are too narrow.")
    few = "patients" if profile.per_patient else "cases"
    if summary["units" if profile.per_patient else "cases"].min() < _FEW_CASES:
        lines.append(
            f"- Fewer than {_FEW_CASES} {few}: bootstrap intervals are then too narrow; read them "
            f"as a hint."
        )
    return lines + [f"- {note}." for note in notes]


def _tests(tests: "pd.DataFrame", profile: Profile) -> list[str]:
    header = [
        "label",
        "metric",
        "methods",
        "patients" if profile.per_patient else "cases",
        "difference",
        "t-test p",
        "Wilcoxon p",
        "Cohen's d_z",
    ]
    rows = []
    for row in tests.to_dict("records"):
        p = [p_value(row["t_p_holm"]), p_value(row["wilcoxon_p_holm"])]
        difference = formatted(row["metric"], row["mean_difference"])
        effect = f"{row['cohen_dz']:.2f}"
        names = escaped(f"{row['first']} - {row['second']}")
        metric = escaped(_header(row["metric"], profile))
        rows.append([escaped(row["label"]), metric, names, str(row["n"]), difference, *p, effect])
    note = (
        f"Paired over {header[3]}, two-sided; p after Holm's correction over the pairs of "
        f"methods of a label and metric"
    )
    note += "; only units where both are defined count"
    note += "; slices of a case are then averaged." if profile.per_slice else "."
    return [*markdown_table(header, rows), "", note]


def p_value(value: float) -> str:
    """Three decimals; what is smaller is called smaller."""
    return "<0.001" if value < 0.001 else f"{value:.3f}"


def markdown_table(header: list[str], rows: list[list[str]]) -> list[str]:
    """Lines of a table with columns of equal width."""
    widths = [max(3, *(len(row[i]) for row in [header, *rows])) for i in range(len(header))]
    lines = [header, ["-" * width for width in widths], *rows]
    return [
        "| " + " | ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)) + " |"
        for row in lines
    ]


def escaped(text: object) -> str:
    """Text whose characters mean nothing to Markdown."""
    return re.sub(r"([\\|*_`\[\]<])", r"\\\1", str(text))
