"""All metrics by name. A new one is added where its family is declared; this file finds it."""

from collections.abc import Iterable

from nnunet_ext.evaluation.metrics import (
    aggregates,
    calibration,
    infnet,
    lesions,
    overlap,
    surfaces,
)
from nnunet_ext.evaluation.metrics.metric import ConfusionCounts, EmptyPolicy, Metric


def by_name(declared: Iterable[Metric]) -> dict[str, Metric]:
    """Return the metrics by their names.

    Raises:
        ValueError: two metrics have one name.
    """
    metrics: dict[str, Metric] = {}
    for metric in declared:
        if metric.name in metrics:
            raise ValueError(f"metric {metric.name} is declared twice")
        metrics[metric.name] = metric
    return metrics


METRICS = by_name(
    (
        *overlap.DECLARED,
        *surfaces.DECLARED,
        *lesions.DECLARED,
        *infnet.DECLARED,
        *calibration.DECLARED,
        *aggregates.DECLARED,
    )
)


def metrics_from_counts(counts: ConfusionCounts, *, empty: EmptyPolicy = "nan") -> dict[str, float]:
    """Return all metrics that follow from the counts of one case.

    >>> metrics_from_counts(ConfusionCounts(tp=1, fp=1, fn=1, tn=1))["dice"]
    0.5
    """
    values = {}
    for name, metric in METRICS.items():
        if metric.from_counts:
            values[name] = metric.of_counts(counts, empty)
    return values
