"""The numbers of a suite as data frames: cases of all runs, one line per row, and tests."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import TYPE_CHECKING, Any

import numpy as np

from nnunet_ext.benchmark.run import Run
from nnunet_ext.benchmark.seed_statistics import (
    RowScores,
    Scores,
    interval,
    matched,
    mean_score,
    resampled_means,
    share_of_gap,
)
from nnunet_ext.benchmark.suite import Suite
from nnunet_ext.evaluation.cases.labels import FOREGROUND
from nnunet_ext.evaluation.metrics.declarations import METRICS
from nnunet_ext.evaluation.metrics.metric import Better
from nnunet_ext.evaluation.report.statistics import compare_paired, holm

if TYPE_CHECKING:
    import pandas as pd

EPOCH_TIME = re.compile(r"Epoch time: ([\d.]+) s")
NAN = float("nan")
MEAN_OVER_LABELS = "mean over labels"
_NO_METRICS = ("row", "seed", "label", "case", "slice", "files", "tp", "fp", "fn", "tn", "voxel_ml")


def cases_table(runs: Sequence[Run]) -> pd.DataFrame:
    """Return the cases of all finished runs, with ``row`` and ``seed`` before their columns.

    The slices of a case are averaged. Where there are several labels, so are a case's labels, as
    one label more; all of them as one foreground, and those that are undefined for a case, take no
    part.
    """
    import pandas as pd

    tables = []
    for run in runs:
        table = pd.read_csv(run.scores, dtype={"case": str, "label": str})
        by_case = table.groupby(["label", "case"], sort=False)
        of_case = by_case.mean(numeric_only=True).reset_index()
        own_labels = of_case[of_case["label"] != FOREGROUND]
        if own_labels["label"].nunique() > 1:
            means = own_labels.groupby("case", sort=False).mean(numeric_only=True)
            over_labels = means.reset_index()
            over_labels["label"] = MEAN_OVER_LABELS
            of_case = pd.concat([of_case, over_labels], ignore_index=True)
        of_case.insert(0, "row", run.row.name)
        of_case.insert(1, "seed", run.seed)
        tables.append(of_case)
    return pd.concat(tables, ignore_index=True)


def scores_of_rows(cases: pd.DataFrame, label: str, metric: str) -> dict[str, RowScores]:
    """Return one matrix per row, all on the same cases in the same order."""
    chosen = cases[cases["label"] == label]
    names = sorted(chosen["case"].unique())
    scores = {}
    for row, lines in chosen.groupby("row", sort=False):
        matrix = lines.pivot_table(index="seed", columns="case", values=metric, dropna=False)
        matrix = matrix.reindex(columns=names)
        seeds = [int(seed) for seed in matrix.index]
        values = matrix.to_numpy(dtype=np.float64)
        scores[str(row)] = RowScores(seeds, names, values)
    return scores


def rows_table(suite: Suite, cases: pd.DataFrame, planned: Mapping[str, int]) -> pd.DataFrame:
    """Return one line per label, metric and row.

    Columns: label, metric, row, cases, seeds, planned (seeds that were asked for), mean, ci_low,
    ci_high; then, each with its interval, ``difference`` to the suite's lower row and ``gap``, the
    share of the gap between the lower and the upper row that is closed (0 to 1; NaN where the suite
    names none, or where the upper row is not certainly better). Both compare only the seeds and
    cases that the rows have in common.

    Args:
        suite: names the lower and upper row.
        cases: of :func:`cases_table`.
        planned: seeds by row.
    """
    import pandas as pd

    lines: list[dict[str, Any]] = []
    metrics = [column for column in cases.columns if column not in _NO_METRICS]
    for label in cases["label"].unique():
        for metric in metrics:
            scores = scores_of_rows(cases, label, metric)
            for row, numbers in _numbers(suite, metric, scores).items():
                line = {"label": label, "metric": metric, "row": row, "planned": planned[row]}
                line.update(numbers)
                lines.append(line)
    return pd.DataFrame(lines)


def _numbers(
    suite: Suite, metric: str, scores: Mapping[str, RowScores]
) -> dict[str, dict[str, Any]]:
    lower, upper = suite.lower, suite.upper
    has_gap = _has_gap(scores, metric, lower, upper)

    numbers = {}
    for row, of_row in scores.items():
        is_defined = ~np.isnan(of_row.values)
        cases = is_defined.any(axis=0)
        (drawn,) = resampled_means([of_row.values])
        line: dict[str, Any] = {
            "cases": int(cases.sum()),
            "seeds": len(of_row.seeds),
            "mean": mean_score(of_row.values),
        }
        line |= _bounds("ci", drawn)

        if lower in scores and row != lower:
            line |= _difference(*matched([of_row, scores[lower]]))
        if has_gap and row not in (lower, upper):
            line |= _gap(of_row, scores[lower], scores[upper])
        numbers[row] = line
    return numbers


def _difference(first: Scores, second: Scores) -> dict[str, float]:
    """Return first minus second, see :func:`matched`; NaN if no seed is common."""
    if not len(first):
        return {"difference": NAN, "difference_low": NAN, "difference_high": NAN}

    drawn_first, drawn_second = resampled_means([first, second])
    difference = mean_score(first) - mean_score(second)
    return {"difference": difference, **_bounds("difference", drawn_first - drawn_second)}


def _gap(row: RowScores, lower: RowScores, upper: RowScores) -> dict[str, float]:
    """Return the closed share of the gap on the seeds and cases of all three rows."""
    scores = matched([row, lower, upper])
    if not len(scores[0]):
        return {"gap": NAN, "gap_low": NAN, "gap_high": NAN}

    means = [np.array(mean_score(of_row)) for of_row in scores]
    closed = share_of_gap(*means)
    drawn = share_of_gap(*resampled_means(scores))
    return {"gap": float(closed), **_bounds("gap", drawn)}


def _has_gap(scores: Mapping[str, RowScores], metric: str, lower: str, upper: str) -> bool:
    """Return whether the upper row is certainly better than the lower one."""
    if lower not in scores or upper not in scores:
        return False
    difference = _difference(*matched([scores[upper], scores[lower]]))
    better = METRICS[metric].better
    if better is Better.HIGHER:
        return difference["difference_low"] > 0
    if better is Better.LOWER:
        return difference["difference_high"] < 0
    return False


def _bounds(name: str, values: Scores) -> dict[str, float]:
    low, high = interval(values)
    return {
        f"{name}_low": low,
        f"{name}_high": high,
    }


def comparisons_table(cases: pd.DataFrame, metric: str) -> pd.DataFrame:
    """Compare every pair of rows by label, on their common seeds and cases.

    Columns: label, metric, first, second, cases, seeds, difference with its interval over seeds and
    cases, ``cases_p``: Wilcoxon's test over cases of the means over seeds, ``seeds_p``: t-test over
    seeds of the means over cases, both paired and two-sided, and both again after Holm's correction
    over the pairs of a label.
    """
    import pandas as pd

    tables = []
    for label in cases["label"].unique():
        scores = scores_of_rows(cases, label, metric)
        lines = []
        for first, second in combinations(scores, 2):
            lines.append(_compared(scores, first, second))
        if not lines:
            continue

        table = pd.DataFrame(lines)
        table.insert(0, "label", label)
        table.insert(1, "metric", metric)
        for test in ("cases_p", "seeds_p"):
            table[f"{test}_holm"] = holm(table[test].to_numpy())
        tables.append(table)

    if not tables:
        return pd.DataFrame()
    return pd.concat(tables, ignore_index=True)


def _compared(scores: Mapping[str, RowScores], first: str, second: str) -> dict[str, Any]:
    a, b = matched([scores[first], scores[second]])
    over_cases = compare_paired(_mean(a, 0), _mean(b, 0))
    over_seeds = compare_paired(_mean(a, 1), _mean(b, 1))
    return {
        "first": first,
        "second": second,
        "cases": over_cases.n,
        "seeds": len(a),
        **_difference(a, b),
        "cases_p": over_cases.wilcoxon_p,
        "seeds_p": over_seeds.t_p,
    }


def _mean(values: Scores, axis: int) -> Scores:
    """Return the mean of what is defined; NaN where nothing is."""
    is_defined = ~np.isnan(values)
    counts = is_defined.sum(axis=axis)
    total = np.where(is_defined, values, 0).sum(axis=axis)
    means = total / np.maximum(counts, 1)
    return np.where(counts > 0, means, NAN)


def costs_table(runs: Sequence[Run]) -> pd.DataFrame:
    """Return seconds per training step (median) and peak memory (maximum) of each row's seeds.

    The seconds are nnU-Net's time of an epoch over its number of steps, median over epochs: they
    include what the epoch spends on validation batches, and whatever else the machine did
    meanwhile. The memory is the peak of the training's own process, without its loader workers.
    """
    import pandas as pd

    lines = []
    for run in runs:
        line = {"row": run.row.name, "step_s": step_seconds(run), **_memory(run)}
        lines.append(line)

    by_row = pd.DataFrame(lines).groupby("row", sort=False)
    aggregates = {"step_s": "median", "memory_gb": "max", "gpu_gb": "max"}
    return by_row.agg(aggregates).reset_index()


def step_seconds(run: Run) -> float:
    """Return the median over all epochs in the run's training logs; NaN without any."""
    settings = {**run.suite.budget, **run.row.settings}
    steps = int(settings.get("num_iterations_per_epoch", 250))
    times: list[float] = []
    for log in run.training.folder.glob("training_log_*.txt"):
        text = log.read_text(encoding="utf-8", errors="replace")
        times += map(float, EPOCH_TIME.findall(text))

    if not times:
        return NAN
    epoch_seconds = float(np.median(times))
    return epoch_seconds / steps


def _memory(run: Run) -> dict[str, float]:
    peaks = {}
    if run.measured.is_file():
        peaks = json.loads(run.measured.read_text())
    return {
        "memory_gb": peaks.get("memory_bytes", NAN) / 1e9,
        "gpu_gb": peaks.get("gpu_bytes", NAN) / 1e9,
    }
