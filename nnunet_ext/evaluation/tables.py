"""The tables of an evaluation: one row per case, and one mean with confidence interval per method, label, metric."""

from collections.abc import Hashable, Sequence
from typing import TYPE_CHECKING, Any

from nnunet_ext.evaluation.cases import Comparison, counts_of_label
from nnunet_ext.evaluation.labels import LabelSet
from nnunet_ext.evaluation.metrics import METRICS, EmptyPolicy, metrics_from_counts
from nnunet_ext.evaluation.statistics import (
    CONFIDENCE_LEVEL,
    CONSTANT,
    METHOD,
    RESAMPLES,
    SEED,
    TOO_FEW,
    UNDEFINED,
    mean_with_interval,
)

if TYPE_CHECKING:
    import pandas as pd

_HEADERS = {"mae": "MAE"}
_DECIMALS = {"specificity": 4, "mae": 4}  # dominated by background, their differences sit further right
_POLICY = {
    "nan": "undefined and left out of the mean; `undefined` in a cell counts such cases",
    "one": "counted as 1",
    "zero": "counted as 0",
}
_WITHOUT_INTERVAL = {TOO_FEW: "no CI: one case", CONSTANT: "no CI: all equal", UNDEFINED: "no CI: BCa undefined"}
_FEW_CASES = 10


def cases_table(comparisons: Sequence[Comparison], labels: LabelSet, empty: EmptyPolicy) -> "pd.DataFrame":
    """One row per method, case and label: counts and metrics. Columns: method, case, label, tp, fp, fn, tn, METRICS."""
    import pandas as pd

    rows = []
    for method in comparisons[0].pairs:
        for comparison in comparisons:
            for label, values in labels.values.items():
                counts = counts_of_label(comparison.pairs[method], values, labels.ignore)
                row = {"method": method, "case": comparison.case.name, "label": label, **counts._asdict()}
                rows.append(row | metrics_from_counts(counts, empty=empty))
    return pd.DataFrame(rows)


def summary_table(cases: "pd.DataFrame") -> "pd.DataFrame":
    """One row per method, label and metric of a cases table.

    Columns: method, label, metric, cases, n (cases with a defined value), undefined, mean, ci_low, ci_high, interval.
    """
    import pandas as pd

    rows = []
    for (method, label), group in cases.groupby(["method", "label"], sort=False):
        for metric in METRICS:
            result = mean_with_interval(group[metric].to_numpy())
            row = {"method": method, "label": label, "metric": metric, "cases": len(group), "n": result.n}
            row |= {"undefined": result.n_undefined, "mean": result.mean, "ci_low": result.low, "ci_high": result.high}
            rows.append(row | {"interval": result.interval})
    return pd.DataFrame(rows)


def summary_markdown(summary: "pd.DataFrame", empty: EmptyPolicy, notes: Sequence[str] = ()) -> str:
    """The summary as a Markdown table (methods and labels down, metrics across), with its settings in words."""
    header = ["method", "label", "cases", *(_HEADERS.get(m, m.capitalize()) for m in METRICS)]
    rows = [header, ["---"] * len(header)]
    for (method, label), group in summary.groupby(["method", "label"], sort=False):
        cells = [_cell(row) for row in group.to_dict("records")]
        rows.append([_escaped(method), _escaped(label), str(group["cases"].iloc[0]), *cells])
    widths = [max(3, *(len(row[i]) for row in rows)) for i in range(len(header))]
    rows[1] = ["-" * width for width in widths]
    table = ["| " + " | ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)) + " |" for row in rows]
    return "\n".join(["# Evaluation", "", *table, "", *_settings(summary, empty, notes), ""])


def _cell(row: dict[Hashable, Any]) -> str:
    if not row["n"]:
        return f"undefined in all {row['cases']}"
    decimals = _DECIMALS.get(str(row["metric"]), 3)
    interval = f"{row['ci_low']:.{decimals}f}, {row['ci_high']:.{decimals}f}"
    interval = _WITHOUT_INTERVAL.get(str(row["interval"]), interval)
    undefined = f" ({row['undefined']} undefined)" if row["undefined"] else ""
    return f"{row['mean']:.{decimals}f} [{interval}]{undefined}"


def _settings(summary: "pd.DataFrame", empty: EmptyPolicy, notes: Sequence[str]) -> list[str]:
    lines = [
        f"- Cells: mean over cases [{CONFIDENCE_LEVEL:.0%} confidence interval]. Bootstrap over cases, {METHOD}, "
        f"{RESAMPLES} resamples, seed {SEED}. No CI: fewer than two cases, or all values equal.",
        f"- Empty masks (`--empty {empty}`): a metric that is 0/0 for a case is {_POLICY[empty]}. That is Dice with "
        "reference and prediction empty, sensitivity with an empty reference, precision with an empty prediction, "
        "specificity with a reference that fills the image.",
    ]
    if summary["cases"].min() < _FEW_CASES:
        lines.append(f"- Fewer than {_FEW_CASES} cases: bootstrap intervals are then too narrow; read them as a hint.")
    return lines + [f"- {note}." for note in notes]


def _escaped(text: object) -> str:
    return str(text).replace("|", r"\|")
