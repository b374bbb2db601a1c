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
    panel_inches = max(2.6, 0.9 + 0.55 * len(methods))
    width_inches = panel_inches * len(metrics) + 0.4
    height_inches = 3.0 * len(labels) + 0.6
    figure = new_figure(width_inches, height_inches)
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
            [values],
            positions=[position],
            widths=0.6,
            showfliers=False,
            patch_artist=True,
        )
        color = _color(position)
        box["boxes"][0].set(facecolor=color, alpha=0.35)
        box["medians"][0].set(color="black")
        offsets = jitter.uniform(-0.15, 0.15, len(values))
        ax.plot(position + offsets, values, ".", color=color, markersize=4)

    places = range(len(names))
    ax.set_xticks(places, names, rotation=30, ha="right", fontsize=9)
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
    width_inches = 3.2 * len(methods) + 0.5
    height_inches = 2.8 * len(labels) + 0.3
    figure = new_figure(width_inches, height_inches)
    axes = figure.subplots(len(labels), len(methods), squeeze=False, sharey="row")

    unit = _unit(cases)
    for line, label in zip(axes, labels, strict=True):
        for position, method in enumerate(methods):
            volumes = _by_case(cases, method, label)
            name = literal(method)
            if len(labels) > 1:
                name += f", {literal(label)}"
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
    volume = (predicted + reference) / 2
    difference = predicted - reference
    ax.plot(volume, difference, "o", color=color, markersize=4, alpha=0.8)

    mean = difference.mean()
    ax.axhline(0, color="grey", linewidth=0.8)
    ax.axhline(mean, color="black", linewidth=1.2, label=f"mean {mean:.3g}")
    if len(difference) > 1:
        reach = _LIMITS * difference.std()
        low = mean - reach
        high = mean + reach
        style: dict[str, Any] = {"color": "black", "linewidth": 1, "linestyle": "--"}
        ax.axhline(low, label=f"limits {low:.3g} to {high:.3g}", **style)
        ax.axhline(high, **style)
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
            by_case = _by_case(cases, method, label)
            has_lesion = by_case["reference_volume"] > 0
            drawn = by_case[has_lesion].dropna(subset=[metric])
            ax.plot(
                drawn["reference_volume"],
                drawn[metric],
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
    is_of_method = cases["method"] == method
    is_of_label = cases["label"] == label
    groups = cases[is_of_method & is_of_label].groupby("case", sort=False)

    table = groups.mean(numeric_only=True)
    voxel = 1.0 if _unit(cases) == "pixels" else table["voxel_ml"]
    sums = groups[["tp", "fp", "fn"]].sum()
    predicted = sums["tp"] + sums["fp"]
    present = sums["tp"] + sums["fn"]
    return table.assign(
        prediction_volume=predicted * voxel,
        reference_volume=present * voxel,
    )


def _unit(cases: "pd.DataFrame") -> str:
    is_unknown = cases["voxel_ml"].isna()
    return "pixels" if is_unknown.any() else "ml"


def _color(i: int) -> str:
    place = i % len(COLORS)
    return COLORS[place]
