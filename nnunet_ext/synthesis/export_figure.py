"""Examples of an export: source, synthetic image, label, and the target image that matches."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from nnunet_ext.canvas import COLORS, in_default_style, literal, new_figure, saved, set_title
from nnunet_ext.synthesis.export import read_slice_stack, written_files
from nnunet_ext.synthesis.match_figure import spread

if TYPE_CHECKING:
    from matplotlib.axes import Axes
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
    """Draw some cases, a row each: source, translation, translation with label, match.

    Args:
        folder: of the exported data set.
        cases: of the source; those with lesions are preferred, at even distances in their order.
        window: grey scale of synthetic and target images.
        path: file to write.
        matched: case -> image file of the most similar target slice; without it there is no such
            column.
    """
    shown = _examples(folder, cases)
    columns = ["source", "synthetic", "label"]
    if matched:
        columns.append("matched target")

    figure = new_figure(len(columns) * PANEL_INCHES, len(shown) * (PANEL_INCHES + 0.2) + 0.5)
    axes = figure.subplots(len(shown), len(columns), squeeze=False)
    for axis in axes.ravel():
        axis.set_axis_off()
    for axis, title in zip(axes[0][1:], columns[1:], strict=True):
        axis.set_title(title, fontsize=8)

    low, high = window
    for row, (case, place) in zip(axes, shown, strict=True):
        _draw_case(row, folder, case, place, window)
        if matched and case.name in matched:
            target = read_slice_stack(matched[case.name])[0]
            row[3].imshow(target, cmap="gray", vmin=low, vmax=high)

    set_title(figure, f"{folder.name}: source, synthetic image in {low:g} to {high:g}")
    return saved(figure, path)


def _draw_case(
    row: Sequence[Axes], folder: Path, case: RawCase, place: int, window: tuple[float, float]
) -> None:
    """Show a slice of the source, its translation, and the translation with the label."""
    synthetic_file, *_, label_file = written_files(folder, case)
    source = read_slice_stack(case.images[0])[place]
    synthetic = read_slice_stack(synthetic_file)[place]
    lesion = read_slice_stack(label_file)[place] > 0

    brightest = max(float(np.percentile(source, 99.5)), 1e-6)
    row[0].imshow(source, cmap="gray", vmax=brightest)
    row[0].set_title(literal(case.name), fontsize=6)
    for axis in row[1:3]:
        axis.imshow(synthetic, cmap="gray", vmin=window[0], vmax=window[1])
    if lesion.any():
        row[2].contour(lesion.astype(float), levels=[0.5], colors=[COLORS[4]], linewidths=0.8)


def _examples(folder: Path, cases: Sequence[RawCase]) -> list[tuple[RawCase, int]]:
    """Return up to six cases, each with the slice that shows most of its lesions."""
    tried = spread(cases, 4 * ROWS)
    examples = []
    for case in tried:
        label = read_slice_stack(written_files(folder, case)[-1])
        pixels = (label > 0).sum((1, 2))
        examples.append((case, int(pixels.argmax()), int(pixels.max())))

    with_lesion = [example for example in examples if example[2]] or examples
    return [(case, place) for case, place, _ in spread(with_lesion, ROWS)]
