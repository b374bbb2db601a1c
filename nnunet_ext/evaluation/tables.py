"""The numbers of an evaluation as data frames: per case, per method, and between methods."""

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import TYPE_CHECKING, Any

from nnunet_ext.evaluation.array_measures import Measures
from nnunet_ext.evaluation.cases import Comparison, counts_of_label
from nnunet_ext.evaluation.labels import LabelSet
from nnunet_ext.evaluation.metrics import EmptyPolicy, metrics_from_counts
from nnunet_ext.evaluation.profiles import AGGREGATES, Profile
from nnunet_ext.evaluation.statistics import compare_paired, holm, mean_with_interval

if TYPE_CHECKING:
    import pandas as pd

AGGREGATE = "not available: one number of all cases"


def cases_table(
    comparisons: Sequence[Comparison],
    labels: LabelSet,
    profile: Profile,
    empty: EmptyPolicy,
    measures: Mapping[str, Measures] | None = None,
) -> "pd.DataFrame":
    """One row per method, case, label and, with a profile on slices, slice.

    Columns: method, case, slice (if any), label, tp, fp, fn, tn, the profile's metrics, voxel_ml.

    Args:
        comparisons: of all cases.
        labels: what is measured.
        profile: how it is measured.
        empty: what 0/0 counts, unless the profile says so itself.
        measures: by case, those metrics that do not follow from counts.
    """
    import pandas as pd

    rows: list[dict[str, Any]] = []
    for method in comparisons[0].pairs:
        for comparison in comparisons:
            name = comparison.case.name
            for unit, pairs in enumerate(comparison.pairs[method]):
                for label, values in labels.values.items():
                    counts = counts_of_label(pairs, values, labels.ignore)
                    metrics = metrics_from_counts(counts, empty=profile.empty or empty)
                    metrics |= (measures or {}).get(name, {}).get((method, label, unit), {})
                    if profile.lesion_slices and counts.tp + counts.fn == 0:  # counts for the pooled Dice only
                        metrics = dict.fromkeys(metrics, float("nan"))
                    where = {"slice": unit} if profile.per_slice else {}
                    row = {"method": method, "case": name, **where, "label": label, **counts._asdict()}
                    rows.append(row | {m: metrics[m] for m in profile.metrics} | {"voxel_ml": comparison.voxel_ml})
    return pd.DataFrame(rows)


def summary_table(cases: "pd.DataFrame", profile: Profile) -> "pd.DataFrame":
    """One row per method, label and metric of a cases table.

    Columns: profile, method, label, metric, cases, units (slices or cases), n (units with a defined value), undefined,
    mean, sd, ci_low, ci_high, interval.
    """
    import pandas as pd

    rows: list[dict[str, Any]] = []
    for (method, label), group in cases.groupby(["method", "label"], sort=False):
        row: dict[str, Any] = {"profile": profile.name, "method": method, "label": label}
        units = group[group["tp"] + group["fn"] > 0] if profile.lesion_slices else group
        sizes = {"cases": group["case"].nunique(), "units": len(units)}
        for metric in profile.metrics:
            result = mean_with_interval(units[metric].to_numpy())
            numbers = {"n": result.n, "undefined": result.n_undefined, "mean": result.mean, "sd": result.sd}
            interval = {"ci_low": result.low, "ci_high": result.high, "interval": result.interval}
            rows.append(row | {"metric": metric} | sizes | numbers | interval)
        for metric in profile.aggregates:
            value, nan = AGGREGATES[metric](group), float("nan")
            numbers = {"n": sizes["cases"] if value == value else 0, "undefined": 0, "mean": value, "sd": nan}
            rows.append(
                row | {"metric": metric} | sizes | numbers | {"ci_low": nan, "ci_high": nan, "interval": AGGREGATE}
            )
    return pd.DataFrame(rows)


def paired_tests_table(cases: "pd.DataFrame", profile: Profile) -> "pd.DataFrame":
    """Every pair of methods by label and metric; empty for one method. Slices of a case are averaged first.

    Columns: profile, label, metric, first, second, n, mean_difference, t_p, t_p_holm, wilcoxon_p, wilcoxon_p_holm,
    cohen_dz. Holm's correction is over the pairs of methods within a label and metric.
    """
    import pandas as pd

    tables = [
        _tests_of_metric(of_label, metric, {"profile": profile.name, "label": label, "metric": metric})
        for label, of_label in cases.groupby("label", sort=False)
        for metric in profile.metrics
    ]
    return pd.concat(tables, ignore_index=True)


def _tests_of_metric(cases: "pd.DataFrame", metric: str, identity: dict[str, Any]) -> "pd.DataFrame":
    import pandas as pd

    by_case = cases.pivot_table(metric, "case", "method", dropna=False, sort=False)
    pairs = list(combinations(cases["method"].unique(), 2))
    results = [compare_paired(by_case[first], by_case[second]) for first, second in pairs]
    t_p, wilcoxon_p = (holm([getattr(result, test) for result in results]) for test in ("t_p", "wilcoxon_p"))
    rows = [
        identity
        | {"first": first, "second": second, "n": result.n, "mean_difference": result.mean_difference}
        | {"t_p": result.t_p, "t_p_holm": t_p[i], "wilcoxon_p": result.wilcoxon_p, "wilcoxon_p_holm": wilcoxon_p[i]}
        | {"cohen_dz": result.cohen_dz}
        for i, ((first, second), result) in enumerate(zip(pairs, results, strict=True))
    ]
    return pd.DataFrame(rows)
