"""Example pairs of a matching: source slices with their labels beside the most similar target
slices.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

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


@in_default_style
def match_figure(matches: Matches, source: Measuring, target: Measuring, path: Path) -> Figure:
    """Draw source slices from the best to the worst matched, each with its three most similar
    targets.

    Args:
        matches: of both data sets.
        source: its labels are outlined.
        target: what its band takes for lesion is outlined.
        path: file to write.
    """
    ordered = sorted(
        matches.source_cases, key=lambda case: (matches.source_cases[case].distances[0], case)
    )
    places = np.unique(np.linspace(0, len(ordered) - 1, ROWS).round().astype(int))
    shown = [ordered[place] for place in places]
    source_files = {case.name: case for case in source.files.cases}
    target_files = {case.name: case for case in target.files.cases}

    figure = new_figure((1 + TARGETS) * PANEL_INCHES, len(shown) * (PANEL_INCHES + 0.3) + 0.4)
    axes = figure.subplots(len(shown), 1 + TARGETS, squeeze=False)
    for row, case in zip(axes, shown, strict=True):
        for axis in row:
            axis.set_axis_off()
        own = source_files[case]
        _draw(row[0], source.files.read(own), source.window, source.files.read_lesion(own), case)

        similar = matches.source_cases[case]
        found = zip(row[1:], similar.targets, similar.distances, strict=False)
        for axis, name, distance in found:
            image = target.files.read(target_files[name])
            assert isinstance(target.band, LesionBand)
            _draw(
                axis, image, target.window, target.band(image), f"{name}\ndistance {distance:.0f}"
            )

    set_title(
        figure,
        f"{matches.source}: from the best to the worst matched slice; {matches.target}: most "
        f"similar",
    )
    return saved(figure, path)


def _draw(
    axis: Axes,
    image: np.ndarray,
    window: tuple[float, float] | None,
    lesion: np.ndarray,
    title: str,
) -> None:
    """Show one slice with the outline of its lesion."""
    shown = above_background(image, window)
    axis.imshow(shown, cmap="gray", vmin=0, vmax=max(float(np.percentile(shown, 99.5)), 1e-6))
    if lesion.any():
        axis.contour(lesion.astype(float), levels=[0.5], colors=[COLORS[4]], linewidths=0.7)
    axis.set_title(literal(title), fontsize=6)
