"""Figures of a suite: rows with their intervals and seeds, and test cases as rows segment them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from nnunet_ext.benchmark.run import Run
from nnunet_ext.benchmark.suite import Suite
from nnunet_ext.canvas import COLORS, in_default_style, literal, new_figure, saved, set_title
from nnunet_ext.evaluation.metrics.declarations import METRICS

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


@in_default_style
def rows_figure(suite: Suite, rows: pd.DataFrame, cases: pd.DataFrame, path: Path) -> Figure:
    """Draw a panel per label: each row's mean with its interval, and its seeds as small dots.

    Lines mark the means of the lower and the upper row.

    Args:
        suite: names metric, lower and upper row.
        rows: of `rows_table`.
        cases: of `cases_table`.
        path: file to write.
    """
    labels = list(rows["label"].unique())
    names = list(rows["row"].unique())
    width_inches = 4.6 * len(labels) + 1.4
    height_inches = 0.36 * len(names) + 1.5
    figure = new_figure(width_inches, height_inches)
    axes = figure.subplots(1, len(labels), squeeze=False, sharey=True)[0]
    is_of_metric = rows["metric"] == suite.metric
    for ax, label in zip(axes, labels, strict=True):
        is_of_label = rows["label"] == label
        chosen = rows[is_of_label & is_of_metric].set_index("row")
        of_label = cases[cases["label"] == label]
        for position, name in enumerate(names):
            of_row = of_label[of_label["row"] == name]
            _draw_row(ax, position, chosen.loc[name], of_row, suite.metric)
        for name in (suite.lower, suite.upper):
            if name in chosen.index:
                mean = chosen.loc[name, "mean"]
                ax.axvline(mean, color="grey", linewidth=0.8, linestyle="--")

        ax.set_title(literal(label), fontsize=11)
        ax.set_xlabel(METRICS[suite.metric].header_with_arrow, fontsize=10)
        ax.grid(axis="x", alpha=0.3)
        ax.spines[["top", "right"]].set_visible(False)

    first = axes[0]
    shown = [literal(name) for name in names]
    first.set_yticks(range(len(names)), shown, fontsize=10)
    first.set_ylim(len(names) - 0.5, -0.5)
    set_title(figure, f"{suite.name}: mean, 95 % interval over seeds and cases, single seeds")
    return saved(figure, path)


def _draw_row(ax: Axes, position: int, row: pd.Series, cases: pd.DataFrame, metric: str) -> None:
    color = COLORS[position % len(COLORS)]
    of_seeds = cases.groupby("seed")[metric].mean()
    heights = np.full(len(of_seeds), position)
    ax.plot(of_seeds, heights, "o", color=color, markersize=3.5, alpha=0.5)

    interval = [row["ci_low"], row["ci_high"]]
    ax.plot(interval, [position, position], color=color, linewidth=2.5)
    mean = [row["mean"]]
    ax.plot(mean, [position], "D", color=color, markersize=7, markeredgecolor="black")


def draw_overlays(runs: Sequence[Run], path: Path, count: int = 4) -> None:
    """Draw test cases, spread evenly over the set, as the first seed of every row segments them."""
    from nnunet_ext.evaluation.cases.array_measures import as_slices
    from nnunet_ext.evaluation.cases.counting import pair_cases
    from nnunet_ext.evaluation.cases.label_files import read_image_file, read_label_file
    from nnunet_ext.evaluation.report.figures import (
        OverlayCase,
        largest_lesion_slice,
        overlay_figure,
    )
    from nnunet_ext.evaluation.report.gallery import image_files

    first: dict[str, Run] = {}
    for run in runs:
        first.setdefault(run.row.name, run)
    test_set = runs[0].test_set
    methods = {}
    for name, run in first.items():
        if run.test_set == test_set:
            methods[name] = run.predictions

    cases, _ = pair_cases(test_set / "labelsTs", methods)
    count = min(count, len(cases))
    places = np.linspace(0, len(cases) - 1, count)
    chosen = [cases[round(place)] for place in places]
    images = image_files(test_set / "imagesTs", chosen)

    overlays = []
    for case in chosen:
        reference = as_slices(read_label_file(case.reference).array)
        z = largest_lesion_slice(reference)
        image = as_slices(read_image_file(images[case.name]))
        predictions = {}
        for name, file in case.predictions.items():
            predicted = as_slices(read_label_file(file).array)
            predictions[name] = predicted[z]
        overlays.append(OverlayCase(case.name, image[z], reference[z], predictions))
    overlay_figure(overlays, path)
