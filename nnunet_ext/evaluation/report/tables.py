"""The numbers of an evaluation as data frames: per case, per method, and between methods."""

import math
from collections.abc import Iterator, Sequence
from itertools import combinations
from typing import TYPE_CHECKING, Any

from nnunet_ext.evaluation.cases.counting import Comparison, counts_of_label
from nnunet_ext.evaluation.cases.labels import LabelSet
from nnunet_ext.evaluation.metrics.declarations import METRICS, metrics_from_counts
from nnunet_ext.evaluation.metrics.metric import EmptyPolicy
from nnunet_ext.evaluation.profiles import Profile
from nnunet_ext.evaluation.report.statistics import compare_paired, holm, mean_with_interval

if TYPE_CHECKING:
    import pandas as pd

AGGREGATE = "not available: one number of all cases"
NAN = float("nan")


def cases_table(
    comparisons: Sequence[Comparison], labels: LabelSet, profile: Profile, empty: EmptyPolicy
) -> "pd.DataFrame":
    """Return one row per method, case (or patient), label and, with a profile on slices, slice.

    Columns: profile, method, case, files (of a patient, if any), slice (if any), label, tp, fp, fn,
    tn, the profile's metrics, voxel_ml.

    Args:
        comparisons: of all cases or patients.
        labels: what is measured.
        profile: how it is measured.
        empty: what 0/0 counts, unless the profile says so itself.
    """
    import pandas as pd

    empty = profile.empty or empty
    rows: list[dict[str, Any]] = []
    for method in comparisons[0].pairs:
        for comparison in comparisons:
            rows += _rows_of_case(comparison, method, labels, profile, empty)
    return pd.DataFrame(rows)


def _rows_of_case(
    comparison: Comparison, method: str, labels: LabelSet, profile: Profile, empty: EmptyPolicy
) -> Iterator[dict[str, Any]]:
    identity: dict[str, Any] = {
        "profile": profile.title,
        "method": method,
        "case": comparison.case.name,
    }
    if profile.per_patient:
        identity["files"] = len(comparison.files)

    measures = comparison.measures.get(profile.name, {})
    for unit, pairs in enumerate(comparison.units(method, profile.per_slice)):
        if profile.per_slice:
            identity["slice"] = unit
        for label, values in labels.values.items():
            counts = counts_of_label(pairs, values, labels.ignore)
            metrics = metrics_from_counts(counts, empty=empty)
            metrics |= measures.get((method, label, unit), {})
            has_lesion = counts.tp + counts.fn > 0
            if profile.lesion_slices and not has_lesion:  # counts for the pooled Dice only
                metrics = dict.fromkeys(metrics, NAN)

            row = {**identity, "label": label, **counts._asdict()}
            for name in profile.metrics:
                row[name] = metrics[name]
            row["voxel_ml"] = comparison.voxel_ml
            yield row


def summary_table(cases: "pd.DataFrame", profile: Profile) -> "pd.DataFrame":
    """Return one row per method, label and metric of a cases table.

    Columns: profile, method, label, metric, cases, units (slices, patients or cases), n (units with
    a defined value), undefined, mean, sd, ci_low, ci_high, interval, comparable (the same units are
    defined for every method; a mean of others cannot compete). With ``lesion_slices`` only slices
    with lesion and their cases count, except for the pooled Dice.
    """
    import pandas as pd

    rows: list[dict[str, Any]] = []
    for (method, label), group in cases.groupby(["method", "label"], sort=False):
        of_label = cases[cases["label"] == label]
        units = group
        if profile.lesion_slices:
            has_lesion = group["tp"] + group["fn"] > 0
            units = group[has_lesion]

        identity = {"profile": profile.title, "method": method, "label": label}
        for metric in profile.metrics:
            comparable = _same_units(of_label, metric)
            mean = _mean(units, metric, comparable)
            rows.append({**identity, "metric": metric, **mean})
        for metric in profile.aggregates:
            aggregate = _aggregate(metric, group)
            rows.append({**identity, "metric": metric, **aggregate})
    return pd.DataFrame(rows)


def _mean(units: "pd.DataFrame", metric: str, comparable: bool) -> dict[str, Any]:
    result = mean_with_interval(units[metric].to_numpy())
    return {
        **_sizes(units),
        "n": result.n,
        "undefined": result.n_undefined,
        "mean": result.mean,
        "sd": result.sd,
        "ci_low": result.low,
        "ci_high": result.high,
        "interval": result.interval,
        "comparable": comparable,
    }


def _aggregate(metric: str, group: "pd.DataFrame") -> dict[str, Any]:
    declared = METRICS[metric]
    assert declared.from_cases is not None
    value = declared.from_cases(group)
    n = 0
    if declared.of_metric:
        defined = group[declared.of_metric].notna()
        n = int(defined.sum())
    elif not math.isnan(value):
        n = len(group)

    return {
        **_sizes(group),
        "n": n,
        "undefined": len(group) - n,
        "mean": value,
        "sd": NAN,
        "ci_low": NAN,
        "ci_high": NAN,
        "interval": AGGREGATE,
        "comparable": True,
    }


def _sizes(units: "pd.DataFrame") -> dict[str, int]:
    cases = int(units["case"].nunique())
    if "files" in units:  # of patients
        cases = int(units["files"].sum())
    return {"cases": cases, "units": len(units)}


def _same_units(cases: "pd.DataFrame", metric: str) -> bool:
    """Return whether the metric is defined for the same units by all methods."""
    defined = _by_unit(cases, metric).notna()
    methods_agree = defined.nunique(axis=1) == 1
    return bool(methods_agree.all())


def _by_unit(cases: "pd.DataFrame", metric: str) -> "pd.DataFrame":
    """Return the metric with units down and methods across."""
    index = ["case", "method"]
    if "slice" in cases:
        index = ["case", "slice", "method"]
    values = cases.set_index(index)[metric]
    table: pd.DataFrame = values.unstack("method")
    return table


def values_by_case(cases: "pd.DataFrame", metric: str) -> "pd.DataFrame":
    """Return the metric with cases down and methods across, in the order of the table.

    Units where it is undefined for a method do not count; then the slices of a case are averaged.
    """
    methods = list(cases["method"].unique())
    return _mean_of_cases(_by_unit(cases, metric)[methods])


def _mean_of_cases(by_unit: "pd.DataFrame") -> "pd.DataFrame":
    defined_for_all = by_unit.dropna()
    means: pd.DataFrame = defined_for_all.groupby("case").mean()
    return means


def paired_tests_table(cases: "pd.DataFrame", profile: Profile) -> "pd.DataFrame":
    """Compare every pair of methods by label and metric; empty for one method.

    Units where the metric is undefined for one of the two do not count; then the slices of a case
    are averaged. Columns: profile, label, metric, first, second, n, mean_difference, t_p, t_p_holm,
    wilcoxon_p, wilcoxon_p_holm, cohen_dz. Holm's correction is over the pairs of methods within a
    label and metric.
    """
    import pandas as pd

    rows: list[dict[str, Any]] = []
    for label, of_label in cases.groupby("label", sort=False):
        for metric in profile.metrics:
            identity = {"profile": profile.title, "label": label, "metric": metric}
            for test in _tests_of_metric(of_label, metric):
                rows.append({**identity, **test})
    return pd.DataFrame(rows)


def _tests_of_metric(cases: "pd.DataFrame", metric: str) -> list[dict[str, Any]]:
    by_unit = _by_unit(cases, metric)
    pairs = list(combinations(cases["method"].unique(), 2))
    results = []
    for first, second in pairs:
        by_case = _mean_of_cases(by_unit[[first, second]])
        results.append(compare_paired(by_case[first], by_case[second]))

    t_p_holm = holm([result.t_p for result in results])
    wilcoxon_p_holm = holm([result.wilcoxon_p for result in results])
    rows = []
    for i, ((first, second), result) in enumerate(zip(pairs, results, strict=True)):
        rows.append(
            {
                "first": first,
                "second": second,
                "n": result.n,
                "mean_difference": result.mean_difference,
                "t_p": result.t_p,
                "t_p_holm": t_p_holm[i],
                "wilcoxon_p": result.wilcoxon_p,
                "wilcoxon_p_holm": wilcoxon_p_holm[i],
                "cohen_dz": result.cohen_dz,
            }
        )
    return rows
