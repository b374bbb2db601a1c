"""Example pairs of a matching: source slices beside their most similar target slices."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from nnunet_ext.canvas import COLORS, in_default_style, literal, new_figure, saved, set_title
from nnunet_ext.synthesis.matches import Matches
from nnunet_ext.synthesis.slice_measures import LesionBand, Measuring, above_background

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

ROWS = 5
TARGETS = 3
PANEL_INCHES = 2.1

Item = TypeVar("Item")


@in_default_style
def match_figure(matches: Matches, source: Measuring, target: Measuring, path: Path) -> Figure:
    """Draw source slices from the best to the worst matched, each with its nearest targets.

    Args:
        matches: of both data sets.
        source: its labels are outlined.
        target: its lesions by the band are outlined.
        path: file to write.
    """

    def by_distance(case: str) -> tuple[float, str]:
        similar = matches.source_cases[case]
        return similar.distances[0], case

    best_first = sorted(matches.source_cases, key=by_distance)
    shown = spread(best_first, ROWS)
    source_cases = {case.name: case for case in source.files.cases}
    target_cases = {case.name: case for case in target.files.cases}

    columns = 1 + TARGETS
    row_inches = PANEL_INCHES + 0.3
    height = len(shown) * row_inches + 0.4
    figure = new_figure(columns * PANEL_INCHES, height)
    axes = figure.subplots(len(shown), columns, squeeze=False)
    for row, name in zip(axes, shown, strict=True):
        for axis in row:
            axis.set_axis_off()

        source_axis, *target_axes = row
        case = source_cases[name]
        image = source.files.read(case)
        lesion = source.files.read_lesion(case)
        _draw(source_axis, image, source.window, lesion, name)

        similar = matches.source_cases[name]
        found = zip(target_axes, similar.targets, similar.distances, strict=False)
        for axis, target_name, distance in found:
            target_case = target_cases[target_name]
            image = target.files.read(target_case)
            assert isinstance(target.band, LesionBand)
            lesion = target.band(image)
            title = f"{target_name}\ndistance {distance:.0f}"
            _draw(axis, image, target.window, lesion, title)

    set_title(
        figure,
        f"{matches.source}: from the best to the worst matched slice; {matches.target}: most "
        "similar",
    )
    return saved(figure, path)


def spread(items: Sequence[Item], count: int) -> list[Item]:
    """Return up to ``count`` of the items, at even distances in their order."""
    last = len(items) - 1
    evenly = np.linspace(0, last, count)
    whole_numbers = evenly.round().astype(int)
    places = np.unique(whole_numbers)
    return [items[place] for place in places]


def _draw(
    axis: Axes,
    image: np.ndarray,
    window: tuple[float, float] | None,
    lesion: np.ndarray,
    title: str,
) -> None:
    """Show one slice with the outline of its lesion."""
    shown = above_background(image, window)
    bright = np.percentile(shown, 99.5)
    brightest = max(float(bright), 1e-6)
    axis.imshow(shown, cmap="gray", vmin=0, vmax=brightest)
    if lesion.any():
        axis.contour(
            lesion.astype(float),
            levels=[0.5],
            colors=[COLORS[4]],
            linewidths=0.7,
        )
    axis.set_title(literal(title), fontsize=6)
