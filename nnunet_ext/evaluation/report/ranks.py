"""How stable the ranking of methods is: their ranks when the cases are drawn again.

Reference: Wiesenfarth et al. 2021, "Methods and open-source toolkit for analyzing and visualizing
challenge results": the mean is taken over cases, then the methods are ranked.
"""

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from nnunet_ext.evaluation.metrics.declarations import METRICS
from nnunet_ext.evaluation.metrics.metric import Metric
from nnunet_ext.evaluation.profiles import Profile
from nnunet_ext.evaluation.report.statistics import CONFIDENCE_LEVEL, SEED
from nnunet_ext.evaluation.report.tables import values_by_case

if TYPE_CHECKING:
    import pandas as pd

RANK_RESAMPLES = 1000
_FEWEST_CASES = 2


def ranks_table(cases: "pd.DataFrame", profile: Profile) -> "pd.DataFrame":
    """Return the rank of each method by label and metric; empty for one method.

    Only cases where the metric is defined for all methods count; the slices of a case are averaged.
    Columns: profile, label, metric, method, n (cases), rank, rank_low and rank_high (of 95 % of
    1,000 resamples of the cases), first (the share of resamples in which it is the best). Methods
    that are equal share the better rank.

    Args:
        cases: as `cases_table` makes it.
        profile: how it was measured.
    """
    import pandas as pd

    rows: list[dict[str, Any]] = []
    if cases["method"].nunique() < 2:
        return pd.DataFrame(rows)

    for label, of_label in cases.groupby("label", sort=False):
        for metric in profile.metrics:
            identity = {"profile": profile.title, "label": label, "metric": metric}
            by_case = values_by_case(of_label, metric)
            if len(by_case) < _FEWEST_CASES:
                continue
            for rank in _ranks_of_methods(by_case, METRICS[metric]):
                rows.append(identity | rank)
    return pd.DataFrame(rows)


def ranks(means: npt.NDArray[np.float64], metric: Metric) -> npt.NDArray[np.int64]:
    """Return the rank of each method, 1 for the best; equal means share the better rank.

    Args:
        means: ``[..., methods]``.
        metric: says which means are better.
    """
    from scipy.stats import rankdata  # slow to import

    badness = metric.badness(means)
    ranked: npt.NDArray[np.int64] = rankdata(badness, method="min", axis=-1).astype(np.int64)
    return ranked


def resampled_means(
    values: npt.NDArray[np.float64], resamples: int = RANK_RESAMPLES, seed: int = SEED
) -> npt.NDArray[np.float64]:
    """Return the methods' means over cases drawn with replacement, ``[resamples, methods]``.

    All methods have the same cases in a resample.

    Args:
        values: ``[cases, methods]``.
        resamples: how many times the cases are drawn.
        seed: of the draws.
    """
    case_count = len(values)
    generator = np.random.default_rng(seed)
    equal_chances = np.full(case_count, 1 / case_count)
    times_drawn = generator.multinomial(case_count, equal_chances, size=resamples)
    means: npt.NDArray[np.float64] = times_drawn @ values / case_count
    return means


def _ranks_of_methods(by_case: "pd.DataFrame", metric: Metric) -> list[dict[str, Any]]:
    values = by_case.to_numpy(dtype=np.float64)
    observed = ranks(values.mean(axis=0), metric)
    resampled = ranks(resampled_means(values), metric)

    outside = (1 - CONFIDENCE_LEVEL) / 2
    lows, highs = np.quantile(
        resampled, (outside, 1 - outside), axis=0, method="inverted_cdf"
    )  # ranks that occur
    first = (resampled == 1).mean(axis=0)

    rows = []
    for i, method in enumerate(by_case.columns):
        rows.append(
            {
                "method": method,
                "n": len(by_case),
                "rank": int(observed[i]),
                "rank_low": int(lows[i]),
                "rank_high": int(highs[i]),
                "first": float(first[i]),
            }
        )
    return rows
