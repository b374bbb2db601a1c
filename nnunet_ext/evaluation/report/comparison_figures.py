"""Figures that compare methods over cases, from a cases table.

Box plots, Bland-Altman, and scores over lesion volume.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from nnunet_ext.canvas import COLORS, in_default_style, literal, new_figure, saved, set_title
from nnunet_ext.evaluation.metrics.declarations import METRICS

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

_LIMITS = 1.96  # standard deviations: 95 % of differences, if they are normal
_NAME_INCHES = 2.1  # of 20 characters in a legend


@in_default_style
def box_plots_figure(
    cases: "pd.DataFrame", metrics: tuple[str, ...], path: Path, title: str = ""
) -> "Figure":
    """Draw a row per label and a panel per metric, with every case as a point.

    Boxes are quartiles, whiskers reach to 1.5 interquartile ranges.

    Args:
        cases: table of `cases_table`; slices of a case are averaged.
        metrics: its columns to draw.
        path: file to write.
        title: above the figure, such as the profile.
    """
    methods = list(cases["method"].unique())
    labels = list(cases["label"].unique())
    panel = max(2.6, 0.9 + 0.55 * len(methods))
    figure = new_figure(panel * len(metrics) + 0.4, 3.0 * len(labels) + 0.6)
    axes = figure.subplots(len(labels), len(metrics), squeeze=False)
    jitter = np.random.default_rng(0)  # so that the same table gives the same picture
    for line, label in zip(axes, labels, strict=True):
        by_method = {method: _by_case(cases, method, label) for method in methods}
        for ax, metric in zip(line, metrics, strict=True):
            _draw_boxes(ax, by_method, metric, jitter)
        line[0].set_ylabel(literal(label), fontsize=11)
    set_title(figure, title)
    return saved(figure, path)


def _draw_boxes(
    ax: Any, by_method: "dict[str, pd.DataFrame]", metric: str, jitter: np.random.Generator
) -> None:
    names = []
    for position, (method, table) in enumerate(by_method.items()):
        values = table[metric].dropna().to_numpy()
        names.append(f"{literal(method)}, n = {len(values)}")
        box = ax.boxplot(
            [values], positions=[position], widths=0.6, showfliers=False, patch_artist=True
        )
        box["boxes"][0].set(facecolor=_color(position), alpha=0.35)
        box["medians"][0].set(color="black")
        places = position + jitter.uniform(-0.15, 0.15, len(values))
        ax.plot(places, values, ".", color=_color(position), markersize=4)

    ax.set_xticks(range(len(names)), names, rotation=30, ha="right", fontsize=9)
    ax.set_title(METRICS[metric].header_with_arrow, fontsize=11)
    ax.grid(axis="y", alpha=0.3)
    ax.spines[["top", "right"]].set_visible(False)


@in_default_style
def bland_altman_figure(cases: "pd.DataFrame", path: Path, title: str = "") -> "Figure":
    """Draw predicted minus reference volume over their mean; a row per label, a panel per method.

    The lines are the mean difference and the limits of agreement, 1.96 standard deviations away.
    Volumes are in ml, or pixels where a file is a picture or stores no spacing.

    Reference: Bland and Altman 1986, Statistical methods for assessing agreement between two
    methods.
    """
    methods = list(cases["method"].unique())
    labels = list(cases["label"].unique())
    figure = new_figure(3.2 * len(methods) + 0.5, 2.8 * len(labels) + 0.3)
    axes = figure.subplots(len(labels), len(methods), squeeze=False, sharey="row")
    unit = _unit(cases)
    for line, label in zip(axes, labels, strict=True):
        for position, method in enumerate(methods):
            volumes = _by_case(cases, method, label)
            name = literal(method) if len(labels) == 1 else f"{literal(method)}, {literal(label)}"
            ax = line[position]
            _draw_agreement(ax, volumes, _color(position))
            ax.set_title(f"{name}, n = {len(volumes)}", fontsize=11)
            ax.set_xlabel(f"mean volume [{unit}]", fontsize=9)
            ax.spines[["top", "right"]].set_visible(False)
        line[0].set_ylabel(f"predicted - reference [{unit}]", fontsize=9)
    set_title(figure, title)
    return saved(figure, path)


def _draw_agreement(ax: Any, volumes: "pd.DataFrame", color: str) -> None:
    predicted = volumes["prediction_volume"]
    reference = volumes["reference_volume"]
    difference = predicted - reference
    mean = difference.mean()
    ax.plot((predicted + reference) / 2, difference, "o", color=color, markersize=4, alpha=0.8)
    ax.axhline(0, color="grey", linewidth=0.8)
    ax.axhline(mean, color="black", linewidth=1.2, label=f"mean {mean:.3g}")
    if len(difference) > 1:
        reach = _LIMITS * difference.std()
        style: dict[str, Any] = {"color": "black", "linewidth": 1, "linestyle": "--"}
        ax.axhline(mean - reach, label=f"limits {mean - reach:.3g} to {mean + reach:.3g}", **style)
        ax.axhline(mean + reach, **style)
    ax.legend(fontsize=8, frameon=False, loc="upper left", bbox_to_anchor=(0, -0.22), ncols=2)


@in_default_style
def score_over_volume_figure(
    cases: "pd.DataFrame", metric: str, path: Path, title: str = ""
) -> "Figure":
    """Draw a metric over the reference's lesion volume (logarithmic), one panel per label.

    Methods have colours. Cases without lesion are left out.
    """
    methods = list(cases["method"].unique())
    labels = list(cases["label"].unique())
    figure = new_figure(4.2 * len(labels), 3.4)
    axes = figure.subplots(1, len(labels), squeeze=False, sharey=True)[0]
    for ax, label in zip(axes, labels, strict=True):
        for position, method in enumerate(methods):
            values = _by_case(cases, method, label)
            values = values[values["reference_volume"] > 0].dropna(subset=[metric])
            ax.plot(
                values["reference_volume"],
                values[metric],
                "o",
                color=_color(position),
                markersize=4,
                alpha=0.8,
                label=literal(method),
            )
        _logarithmic(ax)
        ax.set_title(literal(label), fontsize=11)
        ax.set_xlabel(f"reference volume [{_unit(cases)}]", fontsize=10)
        ax.grid(alpha=0.3)
        ax.spines[["top", "right"]].set_visible(False)
    axes[0].set_ylabel(METRICS[metric].header, fontsize=10)
    set_title(figure, title)

    columns = max(1, int(figure.get_figwidth() // _NAME_INCHES))
    handles = axes[0].get_legend_handles_labels()
    figure.legend(*handles, loc="outside lower center", ncols=columns, frameon=False, fontsize=9)
    return saved(figure, path)


def _logarithmic(ax: Any) -> None:
    from matplotlib.ticker import FormatStrFormatter, LogLocator, NullFormatter

    ax.set_xscale("log")
    ax.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    ax.xaxis.set_major_formatter(FormatStrFormatter("%g"))
    ax.xaxis.set_minor_formatter(NullFormatter())


def _by_case(cases: "pd.DataFrame", method: str, label: str) -> "pd.DataFrame":
    """Return mean metrics and whole volumes of each case."""
    rows = cases[(cases["method"] == method) & (cases["label"] == label)]
    groups = rows.groupby("case", sort=False)
    table = groups.mean(numeric_only=True)
    voxel = 1.0 if _unit(cases) == "pixels" else table["voxel_ml"]
    sums = groups[["tp", "fp", "fn"]].sum()
    return table.assign(
        prediction_volume=(sums["tp"] + sums["fp"]) * voxel,
        reference_volume=(sums["tp"] + sums["fn"]) * voxel,
    )


def _unit(cases: "pd.DataFrame") -> str:
    return "pixels" if cases["voxel_ml"].isna().any() else "ml"


def _color(i: int) -> str:
    return COLORS[i % len(COLORS)]
