"""Published figures in a suite's report: a table each, with the suite's own means beside them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from nnunet_ext.benchmark.published import Published, PublishedTable
from nnunet_ext.evaluation.metrics.declarations import METRICS
from nnunet_ext.evaluation.report.texts import escaped, markdown_table

if TYPE_CHECKING:
    import pandas as pd


def published_tables(
    tables: Sequence[PublishedTable], rows: pd.DataFrame, metric: str
) -> list[str]:
    """Return the Markdown of all tables; none if there are none.

    Args:
        tables: of papers.
        rows: of :func:`nnunet_ext.benchmark.results.rows_table`.
        metric: whose means stand beside the published figures.
    """
    if not tables:
        return []

    lines = ["## Published figures", ""]
    lines += ["These figures are the papers'. Only the column `here` was measured in this run.", ""]
    for table in tables:
        lines += [f"### {escaped(table.source)}", ""]
        lines += [f"{table.measured} {table.differs}", ""]
        lines += [*_table(table, rows, metric), ""]
    return lines


def published_records(tables: Sequence[PublishedTable]) -> list[dict[str, Any]]:
    """Return the tables as plain JSON."""
    records = []
    for table in tables:
        record = dict(vars(table))
        record["columns"] = list(table.columns)
        record["lines"] = [_record(line) for line in table.lines]
        records.append(record)
    return records


def _record(line: Published) -> dict[str, Any]:
    return {**vars(line), "values": list(line.values)}


def _table(table: PublishedTable, rows: pd.DataFrame, metric: str) -> list[str]:
    header = ["in the paper", *table.columns, "row here"]
    header.append(f"here: {METRICS[metric].header_with_arrow}")
    means = _means(table.label, rows, metric)

    lines = []
    for line in table.lines:
        cells = [escaped(line.method)]
        cells += [f"{value:.{table.decimals}f}" for value in line.values]
        cells += [escaped(line.row), _measured(means, line.row, metric)]
        lines.append(cells)
    return markdown_table(header, lines)


def _means(label: str, rows: pd.DataFrame, metric: str) -> dict[str, float]:
    """Return the mean of every row that the suite measured."""
    is_of_label = rows["label"] == label
    is_of_metric = rows["metric"] == metric
    chosen = rows[is_of_label & is_of_metric]
    return dict(zip(chosen["row"], chosen["mean"], strict=True))


def _measured(means: dict[str, float], row: str, metric: str) -> str:
    if row not in means:
        return ""
    return METRICS[metric].formatted(means[row])
