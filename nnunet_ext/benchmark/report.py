"""The report of a suite: one table in Markdown, CSV and JSON, tests between rows, and figures."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nnunet_ext.benchmark.figures import draw_overlays, rows_figure
from nnunet_ext.benchmark.published_tables import published_records, published_tables
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
    rows = rows_table(suite, cases, planned)
    rows = rows.merge(costs, on="row", how="left")
    tests = comparisons_table(cases, suite.metric)

    folder = place.root / "report"
    folder.mkdir(exist_ok=True)
    _write_table(folder / "cases.csv", cases)
    _write_table(folder / "rows.csv", rows)
    _write_table(folder / "tests.csv", tests)
    failed = {run.name: run.reason for run in tested if not run.finished}
    _write_summary(folder / "summary.json", suite, rows, tests, failed)

    text = _markdown(suite, place, rows, tests, planned)
    text += _without_result(failed)
    _write(folder / "summary.md", text)
    rows_figure(suite, rows, cases, folder / "rows.png")
    draw_overlays(finished, folder / "overlays.png")
    return text


def _write(path: Path, text: str) -> None:
    with whole_file(path) as unfinished:
        unfinished.write_text(text, encoding="utf-8")


def _write_table(path: Path, table: pd.DataFrame) -> None:
    plain = plain_table(table)
    _write(path, plain.to_csv(index=False))


def _write_summary(
    path: Path, suite: Suite, rows: pd.DataFrame, tests: pd.DataFrame, failed: dict[str, str]
) -> None:
    content = {
        "suite": suite.declared(),
        "metric": suite.metric,
        "lower": suite.lower,
        "upper": suite.upper,
        "interval": {"level": CONFIDENCE_LEVEL, "resamples": RESAMPLES, "seed": SEED},
        "rows": _records(rows),
        "tests": _records(tests),
        "missing": dict(failed),
        "published": published_records(suite.published),
    }
    write_json(content, path)


def _records(table: pd.DataFrame) -> Any:
    """Return the lines of a table as plain JSON, undefined numbers as null."""
    text = table.to_json(orient="records")
    return json.loads(text)


def _markdown(
    suite: Suite, place: Place, rows: pd.DataFrame, tests: pd.DataFrame, planned: Mapping[str, int]
) -> str:
    lines = [f"# {suite.name}: {escaped(suite.title)}", ""]
    is_of_metric = rows["metric"] == suite.metric
    for label in rows["label"].unique():
        is_of_label = rows["label"] == label
        chosen = rows[is_of_label & is_of_metric]
        lines += [f"## {escaped(label)}", ""]
        lines += [*_rows(suite, chosen, planned), ""]
        if len(tests):
            of_label = tests[tests["label"] == label]
            lines += ["Differences between rows:", ""]
            lines += [*_tests(suite, of_label), ""]
    lines += published_tables(suite.published, rows, suite.metric)
    lines += ["## How it was measured", ""]
    lines += [*_settings(suite, rows, place), ""]
    return "\n".join(lines)


def _without_result(failed: Mapping[str, str]) -> str:
    if not failed:
        return ""
    lines = ["", "## Runs without result", ""]
    for name, reason in failed.items():
        lines.append(f"- {name}: {escaped(reason)}")
    return "\n".join([*lines, ""])


def _rows(suite: Suite, rows: pd.DataFrame, planned: Mapping[str, int]) -> list[str]:
    """Return one line per row; those without any result have no numbers."""
    header = _header(suite, rows)
    lines = [_row(suite, row) for row in rows.to_dict("records")]
    with_result = set(rows["row"])
    for name, seeds in planned.items():
        if name in with_result:
            continue
        trainer = suite.row(name).trainer
        line = [escaped(name), trainer, "", f"**none of {seeds}**"]
        missing = len(header) - len(line)
        lines.append(line + [""] * missing)
    return markdown_table(header, lines)


def _header(suite: Suite, rows: pd.DataFrame) -> list[str]:
    metric = METRICS[suite.metric]
    header = ["row", "trainer", "cases", "seeds"]
    header.append(f"{metric.header_with_arrow} [{CONFIDENCE_LEVEL:.0%} CI]")
    if "difference" in rows:
        header.append(f"minus {suite.lower}")
    if "gap" in rows:
        header.append("gap closed")
    return [*header, "s per step", "memory"]


def _row(suite: Suite, row: dict[Any, Any]) -> list[str]:
    seeds = str(row["seeds"])
    if row["seeds"] != row["planned"]:
        seeds = f"**only {row['seeds']} of {row['planned']}**"

    name = row["row"]
    cells = [
        escaped(name),
        suite.row(name).trainer,
        str(row["cases"]),
        seeds,
        _with_interval(row, "mean", "ci", suite.metric),
    ]
    if "difference" in row:
        cells.append(_with_interval(row, "difference", "difference", suite.metric))
    if "gap" in row:
        cells.append(_share(row))
    cells.append(_seconds(row))
    cells.append(_memory(row))
    return cells


def _with_interval(row: dict[Any, Any], value: str, bounds: str, metric: str) -> str:
    if math.isnan(row[value]):
        return ""
    formatted = METRICS[metric].formatted
    middle = formatted(row[value])
    low = formatted(row[f"{bounds}_low"])
    high = formatted(row[f"{bounds}_high"])
    return f"{middle} [{low}, {high}]"


def _share(row: dict[Any, Any]) -> str:
    gap = row["gap"]
    if math.isnan(gap):
        return ""
    low = row["gap_low"]
    high = row["gap_high"]
    return f"{gap:.0%} [{low:.0%}, {high:.0%}]"


def _seconds(row: dict[Any, Any]) -> str:
    seconds = row["step_s"]
    if math.isnan(seconds):
        return ""
    return f"{seconds:.3f}"


def _memory(row: dict[Any, Any]) -> str:
    memory_gb = row["memory_gb"]
    if math.isnan(memory_gb):
        return ""
    text = f"{memory_gb:.1f} GB"
    if row["gpu_gb"] > 0:
        text += f" + {row['gpu_gb']:.1f} GB GPU"
    return text


def _tests(suite: Suite, tests: pd.DataFrame) -> list[str]:
    header = ["rows", "cases", "seeds", "difference", "p over cases", "p over seeds"]
    lines = []
    for test in tests.to_dict("records"):
        line = [
            escaped(f"{test['first']} - {test['second']}"),
            str(test["cases"]),
            str(test["seeds"]),
            _with_interval(test, "difference", "difference", suite.metric),
            p_value(test["cases_p_holm"]),
            p_value(test["seeds_p_holm"]),
        ]
        lines.append(line)
    return markdown_table(header, lines)


def _settings(suite: Suite, rows: pd.DataFrame, place: Place) -> list[str]:
    budget = ", ".join(f"{name}={value}" for name, value in suite.budget.items())
    network = f"; features {suite.features}" if suite.features else ""
    batch = f"; batch {suite.batch_size}" if suite.batch_size else ""
    test_set = ", ".join(suite.test_sets)
    if len(suite.test_sets) > 1:
        test_set += ", one per seed, in turn"
    on_gpu = (rows["gpu_gb"] > 0).any()  # jobs may have run on other machines than this one
    device = "cuda" if on_gpu else place.device
    lines = [
        f"- Budget of every row: {budget}{network}{batch}. Test set: {test_set}, profile "
        f"`{suite.profile}`. Device: {device}.",
        f"- Intervals: bootstrap over seeds and cases, percentiles, {RESAMPLES} resamples, seed "
        f"{SEED}. All rows draw the same seeds and cases. Differences and gaps compare only the "
        "seeds and cases that the rows have in common.",
        "- p: paired, two-sided, after Holm's correction over the pairs of a label. Over cases: "
        "Wilcoxon on the means over seeds. Over seeds: t-test on the means over cases; it tells "
        "whether a further training would agree.",
        "- s per step: an epoch's time over its steps, validation batches included; median over "
        "epochs and seeds, affected by other work on the machine. Memory: peak of the training "
        "process without its loaders.",
    ]
    if len(suite.test_sets) > 1:
        lines.append(
            "- A seed is a fold. Folds share most of their training cases, so p over seeds is too "
            "small."
        )
    if suite.lower and suite.upper:
        lines.append(
            f"- Gap closed: (row - {suite.lower}) / ({suite.upper} - {suite.lower}); empty unless "
            f"{suite.upper} is better by more than chance."
        )
    if rows["seeds"].min() < _FEW_SEEDS:
        lines.append(
            f"- Fewer than {_FEW_SEEDS} seeds: the intervals are too narrow; read them as a hint."
        )
    return lines
