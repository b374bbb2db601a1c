"""Examples of an export: source, synthetic image, label, and the target image that matches."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from nnunet_ext.canvas import COLORS, in_default_style, literal, new_figure, saved, set_title
from nnunet_ext.synthesis.export import read_slices, written_files

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from nnunet_ext.training.streams.raw_cases import RawCase

ROWS = 6
PANEL_INCHES = 2.1


@in_default_style
def export_figure(
    folder: Path,
    cases: Sequence[RawCase],
    window: tuple[float, float],
    path: Path,
    matched: Mapping[str, str] | None = None,
) -> Figure:
    """Draw some cases, a row each: the source, its translation, the translation with the label, the
    match.

    Args:
        folder: of the exported data set.
        cases: of the source; those with lesions are preferred, at even distances in their order.
        window: grey scale of synthetic and target images.
        path: file to write.
        matched: case -> image file of the most similar target slice; without it there is no such
            column.
    """
    shown = _examples(folder, cases)
    columns = ["source", "synthetic", "label", *(["matched target"] if matched else [])]
    figure = new_figure(len(columns) * PANEL_INCHES, len(shown) * (PANEL_INCHES + 0.2) + 0.5)
    axes = figure.subplots(len(shown), len(columns), squeeze=False)
    for axis in axes.ravel():
        axis.set_axis_off()

    for row, (case, place) in zip(axes, shown, strict=True):
        synthetic_file, *_, label_file = written_files(folder, case)
        source = read_slices(case.images[0])[place]
        synthetic, label = read_slices(synthetic_file)[place], read_slices(label_file)[place]
        row[0].imshow(source, cmap="gray", vmax=max(float(np.percentile(source, 99.5)), 1e-6))
        for axis in row[1:3]:
            axis.imshow(synthetic, cmap="gray", vmin=window[0], vmax=window[1])
        if (label > 0).any():
            row[2].contour(
                (label > 0).astype(float), levels=[0.5], colors=[COLORS[4]], linewidths=0.8
            )

        if matched and case.name in matched:
            row[3].imshow(
                read_slices(matched[case.name])[0], cmap="gray", vmin=window[0], vmax=window[1]
            )

        row[0].set_title(literal(case.name), fontsize=6)

    for axis, title in zip(axes[0][1:], columns[1:], strict=True):
        axis.set_title(title, fontsize=8)
    set_title(figure, f"{folder.name}: source, synthetic image in {window[0]:g} to {window[1]:g}")
    return saved(figure, path)


def _examples(folder: Path, cases: Sequence[RawCase]) -> list[tuple[RawCase, int]]:
    """Return up to six cases, each with the slice that shows most of its lesions."""
    tried = [
        cases[place]
        for place in np.unique(np.linspace(0, len(cases) - 1, 4 * ROWS).round().astype(int))
    ]
    pixels = {
        case.name: (read_slices(written_files(folder, case)[-1]) > 0).sum((1, 2)) for case in tried
    }
    with_lesion = [case for case in tried if pixels[case.name].any()] or tried
    places = np.unique(np.linspace(0, len(with_lesion) - 1, ROWS).round().astype(int))
    return [(with_lesion[place], int(pixels[with_lesion[place].name].argmax())) for place in places]
