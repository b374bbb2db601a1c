"""Reliability of soft maps: how often voxels of a probability hold the label, as table and figure.

Reference: Guo et al. 2017, "On calibration of modern neural networks", figure 4.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from nnunet_ext.canvas import COLORS, in_default_style, literal, new_figure, saved, set_title
from nnunet_ext.evaluation.cases.counting import Comparison
from nnunet_ext.evaluation.metrics.calibration import BINS, Reliability, pooled_reliability
from nnunet_ext.evaluation.profiles import Profile

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure


def reliability_table(comparisons: Sequence[Comparison], profile: Profile) -> "pd.DataFrame":
    """Return one row per method, label and bin, over the voxels of all cases.

    Columns: profile, method, label, low and high (the bin's bounds), voxels, mean_probability,
    frequency (the share of them that hold the label); the last two are NaN in an empty bin.
    """
    import pandas as pd

    of_cases: dict[tuple[str, str], list[dict[str, float]]] = {}
    for comparison in comparisons:
        for (method, label, _), measures in comparison.measures[profile.name].items():
            of_cases.setdefault((method, label), []).append(measures)

    rows: list[dict[str, Any]] = []
    for (method, label), cases in of_cases.items():
        identity = {"profile": profile.title, "method": method, "label": label}
        rows += [identity | row for row in _rows_of_bins(pooled_reliability(cases))]
    return pd.DataFrame(rows)


def _rows_of_bins(pooled: Reliability) -> list[dict[str, float]]:
    bounds = np.linspace(0, 1, BINS + 1)
    voxels = np.where(pooled.voxels > 0, pooled.voxels, np.nan)
    mean_probability = pooled.probability / voxels
    frequency = pooled.positives / voxels

    rows = []
    for i in range(BINS):
        rows.append(
            {
                "low": bounds[i],
                "high": bounds[i + 1],
                "voxels": int(pooled.voxels[i]),
                "mean_probability": mean_probability[i],
                "frequency": frequency[i],
            }
        )
    return rows


@in_default_style
def reliability_figure(table: "pd.DataFrame", path: Path, title: str = "") -> "Figure":
    """Draw a panel per label: frequency over probability, a line per method.

    Below the diagonal a method is too sure of itself. The lower panels show how many voxels each
    bin holds, on a logarithmic scale.

    Args:
        table: as `reliability_table` makes it.
        path: file to write.
        title: above the figure, such as the profile.
    """
    labels = list(table["label"].unique())
    figure = new_figure(3.6 * len(labels) + 0.6, 5.2)
    axes = figure.subplots(2, len(labels), squeeze=False, height_ratios=(3, 1), sharex=True)
    for diagram, histogram, label in zip(*axes, labels, strict=True):
        _draw_label(diagram, histogram, table[table["label"] == label])
        diagram.set_title(literal(label), fontsize=12)

    axes[0][0].set_ylabel("frequency of the label")
    axes[1][0].set_ylabel("voxels")
    axes[0][0].legend(loc="upper left", fontsize=9)
    set_title(figure, title)
    return saved(figure, path)


def _draw_label(diagram: Any, histogram: Any, table: "pd.DataFrame") -> None:
    diagram.plot([0, 1], [0, 1], "--", color="gray", linewidth=1)
    for number, (method, rows) in enumerate(table.groupby("method", sort=False)):
        color = COLORS[number % len(COLORS)]
        filled = rows[rows["voxels"] > 0]
        probability = filled["mean_probability"]
        diagram.plot(probability, filled["frequency"], "o-", color=color, label=literal(method))
        histogram.plot(probability, filled["voxels"], "o-", color=color)

    diagram.set(xlim=(0, 1), ylim=(0, 1))
    histogram.set(yscale="log", xlabel="probability")
    for ax in (diagram, histogram):
        ax.grid(alpha=0.3)
        ax.spines[["top", "right"]].set_visible(False)
