"""The report of a suite: one table in Markdown, CSV and JSON, tests between rows, and figures."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nnunet_ext.benchmark.figures import draw_overlays, rows_figure
from nnunet_ext.benchmark.results import cases_table, comparisons_table, costs_table, rows_table
from nnunet_ext.benchmark.run import Place, Run
from nnunet_ext.benchmark.suite import Suite
from nnunet_ext.evaluation.metrics.declarations import METRICS
from nnunet_ext.evaluation.report.statistics import CONFIDENCE_LEVEL, RESAMPLES, SEED
from nnunet_ext.evaluation.report.texts import escaped, markdown_table, p_value
from nnunet_ext.files.atomic_json import write_json
from nnunet_ext.files.csv_cells import plain_table
from nnunet_ext.files.whole_file import whole_file

if TYPE_CHECKING:
    import pandas as pd

_FEW_SEEDS = 5


def write_report(suite: Suite, place: Place, runs: Sequence[Run]) -> str:
    """Write ``report`` from the finished runs and return its Markdown; the others are marked.

    Args:
        suite: declares rows and metric.
        place: folder of the runs.
        runs: all that were asked for.
    """
    tested = [run for run in runs if run.row.tested]
    finished = [run for run in tested if run.finished]
    planned = Counter(run.row.name for run in tested)
    cases = cases_table(finished)
    costs = costs_table(finished)
    rows = rows_table(suite, cases, planned).merge(costs, on="row", how="left")
    tests = comparisons_table(cases, suite.metric)

    folder = place.root / "report"
    folder.mkdir(exist_ok=True)
    for name, table in (("cases", cases), ("rows", rows), ("tests", tests)):
        _write(folder / f"{name}.csv", plain_table(table).to_csv(index=False))
    failed = {run.name: run.reason for run in tested if not run.finished}
    _write_summary(folder / "summary.json", suite, rows, tests, failed)

    text = _markdown(suite, place, rows, tests, planned) + _without_result(failed)
    _write(folder / "summary.md", text)
    rows_figure(suite, rows, cases, folder / "rows.png")
    draw_overlays(finished, folder / "overlays.png")
    return text


def _write(path: Path, text: str) -> None:
    with whole_file(path) as unfinished:
        unfinished.write_text(text, encoding="utf-8")


def _write_summary(
    path: Path, suite: Suite, rows: pd.DataFrame, tests: pd.DataFrame, failed: dict[str, str]
) -> None:
    content = {
        "suite": suite.declared(),
        "rows": _records(rows),
        "tests": _records(tests),
        "missing": dict(failed),
    }
    write_json(content, path)


def _records(table: pd.DataFrame) -> Any:
    """Return the lines of a table as plain JSON, undefined numbers as null."""
    return json.loads(table.to_json(orient="records"))


def _markdown(
    suite: Suite, place: Place, rows: pd.DataFrame, tests: pd.DataFrame, planned: Mapping[str, int]
) -> str:
    lines = [f"# {suite.name}: {escaped(suite.title)}", ""]
    for label in rows["label"].unique():
        chosen = rows[(rows["label"] == label) & (rows["metric"] == suite.metric)]
        lines += [f"## {escaped(label)}", "", *_rows(suite, chosen, planned), ""]
        if len(tests):
            of_label = tests[tests["label"] == label]
            lines += ["Differences between rows:", "", *_tests(suite, of_label), ""]
    lines += ["## How it was measured", "", *_settings(suite, rows, place), ""]
    return "\n".join(lines)


def _without_result(failed: Mapping[str, str]) -> str:
    if not failed:
        return ""
    reasons = [f"- {name}: {escaped(reason)}" for name, reason in failed.items()]
    return "\n".join(["", "## Runs without result", "", *reasons, ""])


def _rows(suite: Suite, rows: pd.DataFrame, planned: Mapping[str, int]) -> list[str]:
    """Return one line per row; those without any result have no numbers."""
    header = _header(suite, rows)
    lines = [_row(suite, row) for row in rows.to_dict("records")]
    for name, seeds in planned.items():
        if name not in set(rows["row"]):
            line = [escaped(name), suite.row(name).trainer, "", f"**none of {seeds}**"]
            empty = [""] * (len(header) - len(line))
            lines.append(line + empty)
    return markdown_table(header, lines)


def _header(suite: Suite, rows: pd.DataFrame) -> list[str]:
    metric = METRICS[suite.metric].header_with_arrow
    header = ["row", "trainer", "cases", "seeds", f"{metric} [{CONFIDENCE_LEVEL:.0%} CI]"]
    if "difference" in rows:
        header.append(f"minus {suite.lower}")
    if "gap" in rows:
        header.append("gap closed")
    return [*header, "s per step", "memory"]


def _row(suite: Suite, row: dict[Any, Any]) -> list[str]:
    seeds = str(row["seeds"])
    if row["seeds"] != row["planned"]:
        seeds = f"**only {row['seeds']} of {row['planned']}**"
    cells = [escaped(row["row"]), suite.row(row["row"]).trainer, str(row["cases"]), seeds]
    cells.append(_with_interval(row, "mean", "ci", suite.metric))
    if "difference" in row:
        cells.append(_with_interval(row, "difference", "difference", suite.metric))
    if "gap" in row:
        cells.append(_share(row))
    return [*cells, _seconds(row), _memory(row)]


def _with_interval(row: dict[Any, Any], value: str, bounds: str, metric: str) -> str:
    if math.isnan(row[value]):
        return ""
    formatted = METRICS[metric].formatted
    low = formatted(row[f"{bounds}_low"])
    high = formatted(row[f"{bounds}_high"])
    return f"{formatted(row[value])} [{low}, {high}]"


def _share(row: dict[Any, Any]) -> str:
    if math.isnan(row["gap"]):
        return ""
    return f"{row['gap']:.0%} [{row['gap_low']:.0%}, {row['gap_high']:.0%}]"


def _seconds(row: dict[Any, Any]) -> str:
    return "" if math.isnan(row["step_s"]) else f"{row['step_s']:.3f}"


def _memory(row: dict[Any, Any]) -> str:
    if math.isnan(row["memory_gb"]):
        return ""
    if row["gpu_gb"] > 0:
        return f"{row['memory_gb']:.1f} GB + {row['gpu_gb']:.1f} GB GPU"
    return f"{row['memory_gb']:.1f} GB"


def _tests(suite: Suite, tests: pd.DataFrame) -> list[str]:
    header = ["rows", "cases", "seeds", "difference", "p over cases", "p over seeds"]
    cells = []
    for test in tests.to_dict("records"):
        names = escaped(f"{test['first']} - {test['second']}")
        difference = _with_interval(test, "difference", "difference", suite.metric)
        p = [p_value(test["cases_p_holm"]), p_value(test["seeds_p_holm"])]
        cells.append([names, str(test["cases"]), str(test["seeds"]), difference, *p])
    return markdown_table(header, cells)


def _settings(suite: Suite, rows: pd.DataFrame, place: Place) -> list[str]:
    budget = ", ".join(f"{name}={value}" for name, value in suite.budget.items())
    network = f"; features {suite.features}" if suite.features else ""
    batch = f"; batch {suite.batch_size}" if suite.batch_size else ""
    test_set = ", ".join(suite.test_sets)
    if len(suite.test_sets) > 1:
        test_set += " in turn of the seeds"
    lines = [
        f"- Budget of every row: {budget}{network}{batch}. Test set: {test_set}, profile "
        f"`{suite.profile}`. Device: {place.device}.",
        f"- Intervals: bootstrap over seeds and cases, percentiles, {RESAMPLES} resamples, seed "
        f"{SEED}. All rows draw the same cases; each draws its own seeds.",
        "- p: paired, two-sided, after Holm's correction over the pairs of a label. Over cases: "
        "Wilcoxon on the means over seeds. Over seeds: t-test on the means over cases; it tells "
        "whether a further training would agree.",
        "- s per step: an epoch's time over its steps, validation batches included; median over "
        "epochs and seeds, beside whatever else the machine did. Memory: peak of the training "
        "process without its loaders.",
    ]
    if suite.lower and suite.upper:
        lines.append(
            f"- Gap closed: (row - {suite.lower}) / ({suite.upper} - {suite.lower}); empty where "
            f"the interval of the gap itself holds 0."
        )
    if rows["seeds"].min() < _FEW_SEEDS:
        lines.append(
            f"- Fewer than {_FEW_SEEDS} seeds: the intervals are too narrow; read them as a hint."
        )
    return lines
