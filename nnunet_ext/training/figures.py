"""Figures of a training: curves of its terms, relation matrices, rows of pictures."""

import math
from collections.abc import Collection, Mapping, Sequence
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
    """One small panel per numeric column (loss terms, weights, relation distances) over the epochs in the index.

    Raises:
        ValueError: the table has no rows or no columns.
    """
    from matplotlib.ticker import MaxNLocator

    if table.empty:
        raise ValueError("no epochs or no columns to draw")
    columns = min(3, table.shape[1])
    rows = math.ceil(table.shape[1] / columns)
    figure = new_figure(3.4 * columns, 2.2 * rows + (0.4 if title else 0.0))
    axes = figure.subplots(rows, columns, squeeze=False, sharex=True).ravel()
    marker = "." if len(table) < 25 else None
    for ax, name in zip(axes, table.columns, strict=False):
        ax.plot(table.index, table[name], color="#0072B2", linewidth=1.6, marker=marker)
        ax.set_title(str(name).replace("_", " "), fontsize=11)
        ax.grid(alpha=0.3)
        ax.spines[["top", "right"]].set_visible(False)
        ax.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        ax.yaxis.set_major_locator(MaxNLocator(4))
        ax.ticklabel_format(axis="y", useOffset=False)
    for i, ax in enumerate(axes):
        if i >= table.shape[1]:
            ax.remove()
        elif i + columns >= table.shape[1]:  # nothing below it
            ax.set_xlabel("epoch")
            ax.tick_params(labelbottom=True)
    figure.suptitle(title, fontsize=13)
    return saved(figure, path)


@in_default_style
def relation_matrices_figure(
    matrices: Mapping[str, Mapping[str, npt.NDArray[Any]]], path: Path, title: str = ""
) -> "Figure":
    """Grid of C x C relation matrices on one colour scale.

    Args:
        matrices: by row title (such as an epoch), then by column title (encoder and its data, such as ``$R_G(X^n)$``);
            every row has the same columns.
        path: file to write.
        title: above the grid.

    The scale ends at the 99.5th percentile of the absolute values off the diagonal, since the diagonal of such a
    matrix is far above the relations between channels; it is symmetric about 0 only where there are more than a few
    small negative values.

    Raises:
        ValueError: no matrices, rows with different columns, or a matrix that is not square and finite.
    """
    from matplotlib.colors import Normalize

    _require_matrices(matrices)
    columns = list(next(iter(matrices.values())))
    everything = [np.asarray(matrix, dtype=float) for row in matrices.values() for matrix in row.values()]
    off_diagonal = np.concatenate([m[~np.eye(len(m), dtype=bool)] if len(m) > 1 else m.ravel() for m in everything])
    high = float(np.percentile(np.abs(off_diagonal), 99.5)) or 1.0
    signed = bool(np.percentile(off_diagonal, 0.5) < -0.1 * high)  # a few small negative values need no second colour
    norm, cmap = Normalize(-high if signed else 0.0, high), "RdBu_r" if signed else "cividis"
    figure = new_figure(2.9 * len(columns) + 0.9, 2.9 * len(matrices) + (0.5 if title else 0.1))
    axes = figure.subplots(len(matrices), len(columns), squeeze=False)
    for i, (row_title, row) in enumerate(matrices.items()):
        for ax, column in zip(axes[i], columns, strict=True):
            channels = len(row[column])
            image = ax.imshow(row[column], norm=norm, cmap=cmap)  # default interpolation averages when it shrinks
            ticks = sorted({0, max(0, channels // 2 - 1), channels - 1})
            ax.set_xticks(ticks, [str(t + 1) for t in ticks], fontsize=9)  # counted from 1
            ax.set_yticks(ticks, [str(t + 1) for t in ticks], fontsize=9)
            if i == 0:
                ax.set_title(column, fontsize=12)
        axes[i][0].set_ylabel(f"{row_title}\nchannel", fontsize=11)
    for ax in axes[-1]:
        ax.set_xlabel("channel", fontsize=11)
    bar = figure.colorbar(image, ax=axes, extend="both" if signed else "max", shrink=0.9, aspect=30, pad=0.02)
    bar.set_label("relation", fontsize=11)
    figure.suptitle(title, fontsize=13)
    return saved(figure, path)


@in_default_style
def array_rows_figure(
    rows: Mapping[str, Mapping[str, npt.NDArray[Any]]],
    path: Path,
    title: str = "",
    *,
    colored: Collection[str] = (),
    same_scale: Collection[str] = (),
) -> "Figure":
    """Rows of named pictures: inputs beside confidence maps, reconstructions, pseudo-CTs or label maps of an epoch.

    Args:
        rows: by row title (a case, an epoch), then by column title; every row has the same columns, 2D arrays.
        path: file to write.
        title: above the rows.
        colored: columns of numbers in [0, 1], drawn in colour with a common bar, such as confidence maps.
        same_scale: columns that share one grey scale within a row, such as an input and its reconstruction. Other
            columns have a scale of their own. A scale runs from the 1st to the 99th percentile.

    Raises:
        ValueError: no rows, rows with different columns, unknown columns, or an array that is not 2D and finite.
    """
    columns = _require_picture_rows(rows, {*colored, *same_scale})
    ratio = max(np.shape(a)[0] / np.shape(a)[1] for row in rows.values() for a in row.values())
    width = _PANEL_INCHES * len(columns) + (0.8 if colored else 0.3)
    figure = new_figure(width, _PANEL_INCHES * ratio * len(rows) + (0.8 if title else 0.4))
    axes = figure.subplots(len(rows), len(columns), squeeze=False)
    in_color = None
    for line, (row_title, row) in zip(axes, rows.items(), strict=True):
        shared = _grey_range([row[column] for column in columns if column in same_scale])
        for ax, column in zip(line, columns, strict=True):
            low, high = shared if column in same_scale else _grey_range([row[column]])
            if column in colored:
                in_color = ax.imshow(row[column], cmap="cividis", vmin=0, vmax=1)
            else:
                ax.imshow(row[column], cmap="gray", vmin=low, vmax=high)
            ax.set(xticks=[], yticks=[])
            ax.spines[:].set_visible(False)
        line[0].set_ylabel(row_title, fontsize=11)
    for ax, column in zip(axes[0], columns, strict=True):
        ax.set_title(column, fontsize=12)
    if in_color is not None:
        figure.colorbar(in_color, ax=axes, shrink=0.9, aspect=30, pad=0.02)
    figure.suptitle(title, fontsize=13)
    return saved(figure, path)


def _grey_range(arrays: Sequence[npt.NDArray[Any]]) -> tuple[float, float]:
    if not arrays:
        return 0.0, 1.0
    low, high = np.percentile(np.concatenate([np.ravel(a) for a in arrays]).astype(float), (1, 99))
    return float(low), float(high)


def _require_picture_rows(rows: Mapping[str, Mapping[str, npt.NDArray[Any]]], named: set[str]) -> list[str]:
    columns = list(next(iter(rows.values()), ()))
    if not columns:
        raise ValueError("no pictures to draw")
    if unknown := sorted(named - set(columns)):
        raise ValueError(f"unknown columns {unknown}; the rows have {columns}")
    for title, row in rows.items():
        if list(row) != columns:
            raise ValueError(f"{title}: columns {list(row)}, expected {columns}")
        for column, array in row.items():
            if np.ndim(array) != 2 or not np.isfinite(array).all():
                raise ValueError(f"{title}, {column}: expected a finite 2D array, got shape {np.shape(array)}")
    return columns


def _require_matrices(matrices: Mapping[str, Mapping[str, npt.NDArray[Any]]]) -> None:
    rows = list(matrices.values())
    if not rows or not rows[0]:
        raise ValueError("no matrices to draw")
    for title, row in matrices.items():
        if list(row) != list(rows[0]):
            raise ValueError(f"{title}: columns {list(row)}, expected {list(rows[0])}")
        for column, matrix in row.items():
            if np.ndim(matrix) != 2 or np.shape(matrix)[0] != np.shape(matrix)[1]:
                raise ValueError(f"{title}, {column}: expected a square matrix, got shape {np.shape(matrix)}")
            if not np.isfinite(matrix).all():
                raise ValueError(f"{title}, {column}: the matrix holds NaN or infinity")
