"""Figures that compare methods over cases, from a cases table: box plots, Bland-Altman, scores over
lesion volume.
"""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from nnunet_ext.canvas import COLORS, in_default_style, literal, new_figure, saved, set_title
from nnunet_ext.evaluation.metrics.names import HEADERS, arrow

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

_LIMITS = 1.96  # standard deviations: 95 % of differences, if they are normal


@in_default_style
def box_plots_figure(
    cases: "pd.DataFrame", metrics: tuple[str, ...], path: Path, title: str = ""
) -> "Figure":
    """A row per label, a panel per metric: quartiles, whiskers to 1.5 interquartile ranges, and
    every case as a point.

    Args:
        cases: table of `cases_table`; slices of a case are averaged.
        metrics: its columns to draw.
        path: file to write.
        title: above the figure, such as the profile.
    """
    methods, labels = list(cases["method"].unique()), list(cases["label"].unique())
    figure = new_figure(
        max(2.6, 0.9 + 0.55 * len(methods)) * len(metrics) + 0.4, 3.0 * len(labels) + 0.6
    )
    axes = figure.subplots(len(labels), len(metrics), squeeze=False)
    jitter = np.random.default_rng(0)  # so that the same table gives the same picture
    for line, label in zip(axes, labels, strict=True):
        for ax, metric in zip(line, metrics, strict=True):
            names = []
            for i, method in enumerate(methods):
                values = _by_case(cases, method, label)[metric].dropna().to_numpy()
                names.append(f"{literal(method)}, n = {len(values)}")
                box = ax.boxplot(
                    [values], positions=[i], widths=0.6, showfliers=False, patch_artist=True
                )
                box["boxes"][0].set(facecolor=_color(i), alpha=0.35)
                box["medians"][0].set(color="black")
                ax.plot(
                    i + jitter.uniform(-0.15, 0.15, len(values)),
                    values,
                    ".",
                    color=_color(i),
                    markersize=4,
                )
            ax.set_xticks(range(len(methods)), names, rotation=30, ha="right", fontsize=9)
            ax.set_title(f"{HEADERS[metric]} {arrow(metric)}", fontsize=11)
            ax.grid(axis="y", alpha=0.3)
            ax.spines[["top", "right"]].set_visible(False)
        line[0].set_ylabel(literal(label), fontsize=11)
    set_title(figure, title)
    return saved(figure, path)


@in_default_style
def bland_altman_figure(cases: "pd.DataFrame", path: Path, title: str = "") -> "Figure":
    """Predicted minus reference volume over their mean; a row per label, a panel per method.

    The lines are the mean difference and the limits of agreement, 1.96 standard deviations away.
    Volumes are in ml, or pixels where a file is a picture or stores no spacing.

    Reference: Bland and Altman 1986, Statistical methods for assessing agreement between two
    methods.
    """
    methods, labels = list(cases["method"].unique()), list(cases["label"].unique())
    figure = new_figure(3.2 * len(methods) + 0.5, 2.8 * len(labels) + 0.3)
    axes = figure.subplots(len(labels), len(methods), squeeze=False, sharey="row")
    for line, label in zip(axes, labels, strict=True):
        for i, (ax, method) in enumerate(zip(line, methods, strict=True)):
            volumes = _by_case(cases, method, label)
            difference = volumes["prediction_volume"] - volumes["reference_volume"]
            middle = (volumes["prediction_volume"] + volumes["reference_volume"]) / 2
            ax.plot(middle, difference, "o", color=_color(i), markersize=4, alpha=0.8)
            ax.axhline(0, color="grey", linewidth=0.8)
            ax.axhline(
                difference.mean(),
                color="black",
                linewidth=1.2,
                label=f"mean {difference.mean():.3g}",
            )
            if len(difference) > 1:
                reach = _LIMITS * difference.std()
                text = f"limits {difference.mean() - reach:.3g} to {difference.mean() + reach:.3g}"
                for sign, name in ((-1, text), (1, None)):
                    ax.axhline(
                        difference.mean() + sign * reach,
                        color="black",
                        linewidth=1,
                        linestyle="--",
                        label=name,
                    )
            ax.legend(
                fontsize=8, frameon=False, loc="upper left", bbox_to_anchor=(0, -0.22), ncols=2
            )
            name = literal(method) if len(labels) == 1 else f"{literal(method)}, {literal(label)}"
            ax.set_title(f"{name}, n = {len(difference)}", fontsize=11)
            ax.set_xlabel(f"mean volume [{_unit(cases)}]", fontsize=9)
            ax.spines[["top", "right"]].set_visible(False)
        line[0].set_ylabel(f"predicted - reference [{_unit(cases)}]", fontsize=9)
    set_title(figure, title)
    return saved(figure, path)


@in_default_style
def score_over_volume_figure(
    cases: "pd.DataFrame", metric: str, path: Path, title: str = ""
) -> "Figure":
    """A metric over the reference's lesion volume (logarithmic), one panel per label, methods in
    colour.

    Cases without lesion are left out.
    """
    from matplotlib.ticker import FormatStrFormatter, LogLocator, NullFormatter

    methods, labels = list(cases["method"].unique()), list(cases["label"].unique())
    figure = new_figure(4.2 * len(labels), 3.4)
    axes = figure.subplots(1, len(labels), squeeze=False, sharey=True)[0]
    for ax, label in zip(axes, labels, strict=True):
        for i, method in enumerate(methods):
            values = _by_case(cases, method, label)
            values = values[values["reference_volume"] > 0].dropna(subset=[metric])
            style = {"color": _color(i), "markersize": 4, "alpha": 0.8, "label": literal(method)}
            ax.plot(values["reference_volume"], values[metric], "o", **style)
        ax.set_xscale("log")
        ax.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        ax.xaxis.set_major_formatter(FormatStrFormatter("%g"))
        ax.xaxis.set_minor_formatter(NullFormatter())
        ax.set_title(literal(label), fontsize=11)
        ax.set_xlabel(f"reference volume [{_unit(cases)}]", fontsize=10)
        ax.grid(alpha=0.3)
        ax.spines[["top", "right"]].set_visible(False)
    axes[0].set_ylabel(HEADERS[metric], fontsize=10)
    set_title(figure, title)
    columns = max(1, int(figure.get_figwidth() // 2.1))  # inches for a name of 20 characters
    handles = axes[0].get_legend_handles_labels()
    figure.legend(*handles, loc="outside lower center", ncols=columns, frameon=False, fontsize=9)
    return saved(figure, path)


def _by_case(cases: "pd.DataFrame", method: str, label: str) -> "pd.DataFrame":
    """Mean metrics and whole volumes of each case."""
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
