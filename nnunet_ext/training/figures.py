"""Figures of a training: curves of its terms, relation matrices, rows of pictures."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from nnunet_ext.canvas import in_default_style, new_figure, saved

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

_PANEL_INCHES = 2.5


@in_default_style
def loss_curves_figure(table: "pd.DataFrame", path: Path, title: str = "") -> "Figure":
    """Draw one small panel per numeric column over the epochs in the index.

    Columns are loss terms, weights, or relation distances.

    Raises:
        ValueError: the table has no rows or no columns.
    """
    from matplotlib.ticker import MaxNLocator

    if table.empty:
        raise ValueError("no epochs or no columns to draw")

    panels = table.shape[1]
    columns = min(3, panels)
    rows = math.ceil(panels / columns)
    title_inches = 0.4 if title else 0.0
    figure = new_figure(3.4 * columns, 2.2 * rows + title_inches)
    grid = figure.subplots(rows, columns, squeeze=False, sharex=True)
    axes = grid.ravel()
    marker = "." if len(table) < 25 else None
    for ax, name in zip(axes, table.columns, strict=False):
        heading = str(name).replace("_", " ")
        ax.plot(
            table.index,
            table[name],
            color="#0072B2",
            linewidth=1.6,
            marker=marker,
        )
        ax.set_title(heading, fontsize=11)
        ax.grid(alpha=0.3)
        ax.spines[["top", "right"]].set_visible(False)
        ax.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        ax.yaxis.set_major_locator(MaxNLocator(4))
        ax.ticklabel_format(axis="y", useOffset=False)

    for i, ax in enumerate(axes):
        if i >= panels:
            ax.remove()
        elif i + columns >= panels:  # nothing below it
            ax.set_xlabel("epoch")
            ax.tick_params(labelbottom=True)
    figure.suptitle(title, fontsize=13)
    return saved(figure, path)


@in_default_style
def relation_matrices_figure(
    matrices: Mapping[str, Mapping[str, npt.NDArray[Any]]], path: Path, title: str = ""
) -> "Figure":
    """Draw a grid of C x C relation matrices on one colour scale.

    Args:
        matrices: by row title (such as an epoch), then by column title (encoder and its data, such
            as ``$R_G(X^n)$``); every row has the same columns.
        path: file to write.
        title: above the grid.

    The scale ends at the 99.5th percentile of the absolute values off the diagonal, because the
    diagonal of such a matrix is far larger than the relations between channels. It is symmetric
    about 0 only if there are more than a few small negative values.

    Raises:
        ValueError: no matrices, rows with different columns, or a matrix that is not square and
            finite.
    """
    from matplotlib.colors import Normalize

    _require_matrices(matrices)
    first_row = next(iter(matrices.values()))
    columns = list(first_row)
    low, high = _relation_range(matrices)
    is_signed = low < 0
    norm = Normalize(low, high)
    colours = "RdBu_r" if is_signed else "cividis"

    title_inches = 0.5 if title else 0.1
    width = 2.9 * len(columns) + 0.9
    height = 2.9 * len(matrices) + title_inches
    figure = new_figure(width, height)
    axes = figure.subplots(len(matrices), len(columns), squeeze=False)
    for line, (row_title, row) in zip(axes, matrices.items(), strict=True):
        for ax, column in zip(line, columns, strict=True):
            matrix = row[column]
            # the default interpolation averages when it shrinks
            image = ax.imshow(matrix, norm=norm, cmap=colours)
            _mark_channels(ax, len(matrix))
        line[0].set_ylabel(f"{row_title}\nchannel", fontsize=11)

    for ax, column in zip(axes[0], columns, strict=True):
        ax.set_title(column, fontsize=12)
    for ax in axes[-1]:
        ax.set_xlabel("channel", fontsize=11)
    bar = figure.colorbar(
        image,
        ax=axes,
        extend="both" if is_signed else "max",
        shrink=0.9,
        aspect=30,
        pad=0.02,
    )
    bar.set_label("relation", fontsize=11)
    figure.suptitle(title, fontsize=13)
    return saved(figure, path)


def _relation_range(
    matrices: Mapping[str, Mapping[str, npt.NDArray[Any]]],
) -> tuple[float, float]:
    """Return the range of the colour scale, see :func:`relation_matrices_figure`."""
    relations = []
    for row in matrices.values():
        for given in row.values():
            matrix = np.asarray(given, dtype=float)
            is_shown = ~np.eye(len(matrix), dtype=bool)  # off the diagonal
            if len(matrix) == 1:
                is_shown[:] = True
            relations.append(matrix[is_shown])

    values = np.concatenate(relations)
    sizes = np.abs(values)
    high = float(np.percentile(sizes, 99.5)) or 1.0

    # a few small negative values need no second colour
    lowest = np.percentile(values, 0.5)
    is_signed = lowest < -0.1 * high
    low = -high if is_signed else 0.0
    return low, high


def _mark_channels(ax: Any, channels: int) -> None:
    """Number the first, middle and last channel on both axes, counted from 1."""
    last = channels - 1
    middle = max(0, channels // 2 - 1)
    ticks = sorted({0, middle, last})
    labels = [str(tick + 1) for tick in ticks]
    ax.set_xticks(ticks, labels, fontsize=9)
    ax.set_yticks(ticks, labels, fontsize=9)


@in_default_style
def picture_rows_figure(
    rows: Mapping[str, Sequence[npt.NDArray[Any]]], path: Path, title: str = ""
) -> "Figure":
    """Draw rows of pictures of an epoch, such as inputs beside reconstructions or label maps.

    Pictures with values within [0, 1], such as confidence maps, are drawn in colour with a common
    bar. The others of a row, such as an input and its reconstruction, share one grey scale from the
    1st to the 99th percentile.

    Args:
        rows: 2D arrays by row title.
        path: file to write.
        title: above the rows.

    Raises:
        ValueError: no rows, an empty row, or an array that is not 2D and finite.
    """
    _require_pictures(rows)
    columns = max(map(len, rows.values()))
    row_inches = _PANEL_INCHES * _tallest_ratio(rows)
    width = _PANEL_INCHES * columns + 0.8
    height = row_inches * len(rows) + 0.6
    figure = new_figure(width, height)
    axes = figure.subplots(len(rows), columns, squeeze=False)

    in_color = None
    for line, (row_title, row) in zip(axes, rows.items(), strict=True):
        in_grey = [picture for picture in row if not _is_fraction(picture)]
        low, high = _grey_range(in_grey)
        for ax, picture in zip(line, row, strict=False):
            if _is_fraction(picture):
                in_color = ax.imshow(picture, cmap="cividis", vmin=0, vmax=1)
            else:
                ax.imshow(picture, cmap="gray", vmin=low, vmax=high)

        for ax in line:
            ax.set(xticks=[], yticks=[])
            ax.spines[:].set_visible(False)
        heading = row_title.replace("_", " ")
        line[0].set_ylabel(heading, fontsize=11)

    if in_color is not None:
        figure.colorbar(in_color, ax=axes, shrink=0.9, aspect=30, pad=0.02)
    figure.suptitle(title, fontsize=13)
    return saved(figure, path)


def _tallest_ratio(rows: Mapping[str, Sequence[npt.NDArray[Any]]]) -> float:
    """Return the largest ratio of height to width of all pictures."""
    tallest = 0.0
    for row in rows.values():
        for picture in row:
            height, width = np.shape(picture)
            tallest = max(tallest, height / width)
    return tallest


def _is_fraction(picture: npt.NDArray[Any]) -> bool:
    smallest = np.min(picture)
    largest = np.max(picture)
    return bool(smallest >= 0 and largest <= 1)


def _grey_range(pictures: Sequence[npt.NDArray[Any]]) -> tuple[float, float]:
    if not pictures:
        return 0.0, 1.0

    flat = list(map(np.ravel, pictures))
    values = np.concatenate(flat).astype(float)
    low, high = np.percentile(values, (1, 99))
    return float(low), float(high)


def _require_pictures(rows: Mapping[str, Sequence[npt.NDArray[Any]]]) -> None:
    if not rows:
        raise ValueError("no pictures to draw")
    for title, row in rows.items():
        if not row:
            raise ValueError(f"{title}: no pictures to draw")
        for picture in row:
            shape = np.shape(picture)
            if len(shape) != 2 or not np.isfinite(picture).all():
                raise ValueError(f"{title}: expected finite 2D arrays, got shape {shape}")


def _require_matrices(matrices: Mapping[str, Mapping[str, npt.NDArray[Any]]]) -> None:
    first_row = next(iter(matrices.values()), {})
    expected = list(first_row)
    if not expected:
        raise ValueError("no matrices to draw")

    for title, row in matrices.items():
        columns = list(row)
        if columns != expected:
            raise ValueError(f"{title}: columns {columns}, expected {expected}")
        for column, matrix in row.items():
            _require_matrix(matrix, f"{title}, {column}")


def _require_matrix(matrix: npt.NDArray[Any], name: str) -> None:
    shape = np.shape(matrix)
    is_square = len(shape) == 2 and shape[0] == shape[1]
    if not is_square:
        raise ValueError(f"{name}: expected a square matrix, got shape {shape}")

    is_finite = np.isfinite(matrix)
    if not is_finite.all():
        raise ValueError(f"{name}: the matrix contains NaN or infinity")
