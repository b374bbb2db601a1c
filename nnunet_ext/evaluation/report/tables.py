"""The numbers of an evaluation as data frames: per case, per method, and between methods."""

from collections.abc import Sequence
from itertools import combinations
from typing import TYPE_CHECKING, Any

from nnunet_ext.evaluation.cases.counting import Comparison, counts_of_label
from nnunet_ext.evaluation.cases.labels import LabelSet
from nnunet_ext.evaluation.metrics.overlap import EmptyPolicy, metrics_from_counts
from nnunet_ext.evaluation.profiles import AGGREGATES, Profile
from nnunet_ext.evaluation.report.statistics import compare_paired, holm, mean_with_interval

if TYPE_CHECKING:
    import pandas as pd

AGGREGATE = "not available: one number of all cases"


def cases_table(
    comparisons: Sequence[Comparison], labels: LabelSet, profile: Profile, empty: EmptyPolicy
) -> "pd.DataFrame":
    """One row per method, case (or patient), label and, with a profile on slices, slice.

    Columns: profile, method, case, files (of a patient, if any), slice (if any), label, tp, fp, fn,
    tn, the profile's metrics, voxel_ml.

    Args:
        comparisons: of all cases or patients.
        labels: what is measured.
        profile: how it is measured.
        empty: what 0/0 counts, unless the profile says so itself.
    """
    import pandas as pd

    rows: list[dict[str, Any]] = []
    for method in comparisons[0].pairs:
        for comparison in comparisons:
            identity: dict[str, Any] = {
                "profile": profile.title,
                "method": method,
                "case": comparison.case.name,
            }
            if profile.per_patient:
                identity["files"] = len(comparison.files)
            for unit, pairs in enumerate(comparison.units(method, profile.per_slice)):
                for label, values in labels.values.items():
                    counts = counts_of_label(pairs, values, labels.ignore)
                    metrics = metrics_from_counts(counts, empty=profile.empty or empty)
                    metrics |= comparison.measures.get(profile.name, {}).get(
                        (method, label, unit), {}
                    )
                    if (
                        profile.lesion_slices and counts.tp + counts.fn == 0
                    ):  # counts for the pooled Dice only
                        metrics = dict.fromkeys(metrics, float("nan"))
                    row = (
                        identity | ({"slice": unit} if profile.per_slice else {}) | {"label": label}
                    )
                    row |= counts._asdict() | {m: metrics[m] for m in profile.metrics}
                    rows.append(row | {"voxel_ml": comparison.voxel_ml})
    return pd.DataFrame(rows)


def summary_table(cases: "pd.DataFrame", profile: Profile) -> "pd.DataFrame":
    """One row per method, label and metric of a cases table.

    Columns: profile, method, label, metric, cases, units (slices, patients or cases), n (units with
    a defined value), undefined, mean, sd, ci_low, ci_high, interval, comparable (the same units are
    defined for every method; a mean of others is no competitor). With ``lesion_slices`` only slices
    with lesion and their cases count, but for the pooled Dice.
    """
    import pandas as pd

    rows: list[dict[str, Any]] = []
    for (method, label), group in cases.groupby(["method", "label"], sort=False):
        row: dict[str, Any] = {"profile": profile.title, "method": method, "label": label}
        units = group[group["tp"] + group["fn"] > 0] if profile.lesion_slices else group
        for metric in profile.metrics:
            result = mean_with_interval(units[metric].to_numpy())
            numbers = {
                "n": result.n,
                "undefined": result.n_undefined,
                "mean": result.mean,
                "sd": result.sd,
            }
            interval = {"ci_low": result.low, "ci_high": result.high, "interval": result.interval}
            comparable = {"comparable": _same_units(cases[cases["label"] == label], metric)}
            rows.append(row | {"metric": metric} | _sizes(units) | numbers | interval | comparable)
        for metric in profile.aggregates:
            rows.append(row | {"metric": metric} | _aggregate(metric, group))
    return pd.DataFrame(rows)


def _same_units(cases: "pd.DataFrame", metric: str) -> bool:
    unit = ["case", "slice"] if "slice" in cases else ["case"]
    defined = cases.set_index([*unit, "method"])[metric].notna().unstack("method")
    return bool((defined.nunique(axis=1) == 1).all())


def _aggregate(metric: str, group: "pd.DataFrame") -> dict[str, Any]:
    function, of_metric = AGGREGATES[metric]
    value, nan = function(group), float("nan")
    n = int(group[of_metric].notna().sum()) if of_metric else len(group) if value == value else 0
    numbers = {"n": n, "undefined": len(group) - n, "mean": value, "sd": nan}
    return (
        _sizes(group)
        | numbers
        | {"ci_low": nan, "ci_high": nan, "interval": AGGREGATE, "comparable": True}
    )


def _sizes(units: "pd.DataFrame") -> dict[str, int]:
    cases = units["files"].sum() if "files" in units else units["case"].nunique()
    return {"cases": int(cases), "units": len(units)}


def paired_tests_table(cases: "pd.DataFrame", profile: Profile) -> "pd.DataFrame":
    """Every pair of methods by label and metric; empty for one method.

    Units where the metric is undefined for one of the two do not count; then the slices of a case
    are averaged. Columns: profile, label, metric, first, second, n, mean_difference, t_p, t_p_holm,
    wilcoxon_p, wilcoxon_p_holm, cohen_dz. Holm's correction is over the pairs of methods within a
    label and metric.
    """
    import pandas as pd

    tables = [
        _tests_of_metric(
            of_label, metric, {"profile": profile.title, "label": label, "metric": metric}
        )
        for label, of_label in cases.groupby("label", sort=False)
        for metric in profile.metrics
    ]
    return pd.concat(tables, ignore_index=True)


def _tests_of_metric(
    cases: "pd.DataFrame", metric: str, identity: dict[str, Any]
) -> "pd.DataFrame":
    import pandas as pd

    unit = ["case", "slice"] if "slice" in cases else ["case"]
    by_unit = cases.set_index([*unit, "method"])[metric].unstack("method")
    pairs = list(combinations(cases["method"].unique(), 2))
    both_defined = [by_unit[list(pair)].dropna().groupby("case").mean() for pair in pairs]
    results = [compare_paired(table.iloc[:, 0], table.iloc[:, 1]) for table in both_defined]
    t_p, wilcoxon_p = (
        holm([getattr(result, test) for result in results]) for test in ("t_p", "wilcoxon_p")
    )
    rows = [
        identity
        | {
            "first": first,
            "second": second,
            "n": result.n,
            "mean_difference": result.mean_difference,
        }
        | {
            "t_p": result.t_p,
            "t_p_holm": t_p[i],
            "wilcoxon_p": result.wilcoxon_p,
            "wilcoxon_p_holm": wilcoxon_p[i],
        }
        | {"cohen_dz": result.cohen_dz}
        for i, ((first, second), result) in enumerate(zip(pairs, results, strict=True))
    ]
    return pd.DataFrame(rows)
