"""Examples of an export: source, synthetic image, label, and the target image that matches."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from nnunet_ext.canvas import COLORS, in_default_style, literal, new_figure, saved, set_title
from nnunet_ext.synthesis.export import read_slice_stack, written_files
from nnunet_ext.synthesis.label_values import lesion_mask
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
    labels: Mapping[str, Any],
    matched: Mapping[str, str] | None = None,
    beside: Sequence[Path] = (),
) -> Figure:
    """Draw some cases in a row each: source, translation, translation with label, match, others.

    Args:
        folder: of the exported data set.
        cases: of the source; cases with lesions are preferred, at even distances in their order.
        window: grey scale of synthetic and target images.
        path: file to write.
        labels: of the source's dataset.json; ignored pixels are not outlined.
        matched: case -> image file of the most similar target slice, for a column of its own.
        beside: folders of further data sets of the same source, for a column each.
    """
    shown = _examples(folder, cases, labels)
    columns = ["source", "synthetic", "label"]
    if matched:
        columns.append("matched target")
    columns += [other.name for other in beside]

    row_inches = PANEL_INCHES + 0.2
    width = len(columns) * PANEL_INCHES
    height = len(shown) * row_inches + 0.5
    figure = new_figure(width, height)
    axes = figure.subplots(len(shown), len(columns), squeeze=False)
    for axis in axes.ravel():
        axis.set_axis_off()

    first_row = axes[0]
    for axis, title in zip(first_row[1:], columns[1:], strict=True):
        axis.set_title(literal(title), fontsize=8)

    for row, (case, place) in zip(axes, shown, strict=True):
        _draw_case(row, folder, case, place, window, labels)
        if matched and case.name in matched:
            _draw_if_readable(row[3], matched[case.name], 0, window)

        first = len(columns) - len(beside)
        for axis, other in zip(row[first:], beside, strict=True):
            other_synthetic, *_ = written_files(other, case)
            _draw_if_readable(axis, other_synthetic, place, window)

    low, high = window
    set_title(figure, f"{folder.name}: source, synthetic image in {low:g} to {high:g}")
    return saved(figure, path)


def _draw_if_readable(
    axis: Axes, file: Path | str, place: int, window: tuple[float, float]
) -> None:
    """Show a slice of an image of the target domain, or nothing where it cannot be read."""
    try:
        image = read_slice_stack(file)[place]
    except (RuntimeError, IndexError):  # SimpleITK's, and an image with fewer slices
        return

    low, high = window
    axis.imshow(
        image,
        cmap="gray",
        vmin=low,
        vmax=high,
    )


def _draw_case(
    row: Sequence[Axes],
    folder: Path,
    case: RawCase,
    place: int,
    window: tuple[float, float],
    labels: Mapping[str, Any],
) -> None:
    """Show a slice of the source, its translation, and the translation with the label."""
    synthetic_file, *_, label_file = written_files(folder, case)
    source = read_slice_stack(case.images[0])[place]
    synthetic = read_slice_stack(synthetic_file)[place]
    label = read_slice_stack(label_file)[place]

    source_axis, synthetic_axis, label_axis = row[:3]
    bright = np.percentile(source, 99.5)
    brightest = max(float(bright), 1e-6)
    source_axis.imshow(source, cmap="gray", vmax=brightest)
    source_axis.set_title(literal(case.name), fontsize=6)

    low, high = window
    for axis in (synthetic_axis, label_axis):
        axis.imshow(
            synthetic,
            cmap="gray",
            vmin=low,
            vmax=high,
        )

    lesion = lesion_mask(label, labels)
    if lesion.any():
        label_axis.contour(
            lesion.astype(float),
            levels=[0.5],
            colors=[COLORS[4]],
            linewidths=0.8,
        )


def _examples(
    folder: Path, cases: Sequence[RawCase], labels: Mapping[str, Any]
) -> list[tuple[RawCase, int]]:
    """Return up to six cases, each with the slice that shows most of its lesions."""
    examples = []
    with_lesion = []
    for case in spread(cases, 4 * ROWS):
        *_, label_file = written_files(folder, case)
        label = read_slice_stack(label_file)
        is_lesion = lesion_mask(label, labels)
        pixels_of_slices = is_lesion.sum((1, 2))

        place = int(pixels_of_slices.argmax())
        example = (case, place)
        examples.append(example)
        if is_lesion.any():
            with_lesion.append(example)

    return spread(with_lesion or examples, ROWS)
