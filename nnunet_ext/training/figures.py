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
    """One small panel per numeric column (loss terms, weights, relation distances) over the epochs
    in the index.

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
        matrices: by row title (such as an epoch), then by column title (encoder and its data, such
            as ``$R_G(X^n)$``); every row has the same columns.
        path: file to write.
        title: above the grid.

    The scale ends at the 99.5th percentile of the absolute values off the diagonal, since the
    diagonal of such a matrix is far above the relations between channels; it is symmetric about 0
    only where there are more than a few small negative values.

    Raises:
        ValueError: no matrices, rows with different columns, or a matrix that is not square and
            finite.
    """
    from matplotlib.colors import Normalize

    _require_matrices(matrices)
    columns = list(next(iter(matrices.values())))
    everything = [
        np.asarray(matrix, dtype=float) for row in matrices.values() for matrix in row.values()
    ]
    off_diagonal = np.concatenate(
        [m[~np.eye(len(m), dtype=bool)] if len(m) > 1 else m.ravel() for m in everything]
    )
    high = float(np.percentile(np.abs(off_diagonal), 99.5)) or 1.0
    signed = bool(
        np.percentile(off_diagonal, 0.5) < -0.1 * high
    )  # a few small negative values need no second colour
    norm, cmap = Normalize(-high if signed else 0.0, high), "RdBu_r" if signed else "cividis"
    figure = new_figure(2.9 * len(columns) + 0.9, 2.9 * len(matrices) + (0.5 if title else 0.1))
    axes = figure.subplots(len(matrices), len(columns), squeeze=False)
    for i, (row_title, row) in enumerate(matrices.items()):
        for ax, column in zip(axes[i], columns, strict=True):
            channels = len(row[column])
            image = ax.imshow(
                row[column], norm=norm, cmap=cmap
            )  # default interpolation averages when it shrinks
            ticks = sorted({0, max(0, channels // 2 - 1), channels - 1})
            ax.set_xticks(ticks, [str(t + 1) for t in ticks], fontsize=9)  # counted from 1
            ax.set_yticks(ticks, [str(t + 1) for t in ticks], fontsize=9)
            if i == 0:
                ax.set_title(column, fontsize=12)
        axes[i][0].set_ylabel(f"{row_title}\nchannel", fontsize=11)
    for ax in axes[-1]:
        ax.set_xlabel("channel", fontsize=11)
    bar = figure.colorbar(
        image, ax=axes, extend="both" if signed else "max", shrink=0.9, aspect=30, pad=0.02
    )
    bar.set_label("relation", fontsize=11)
    figure.suptitle(title, fontsize=13)
    return saved(figure, path)


@in_default_style
def picture_rows_figure(
    rows: Mapping[str, Sequence[npt.NDArray[Any]]], path: Path, title: str = ""
) -> "Figure":
    """Rows of pictures: inputs beside reconstructions, confidence maps, pseudo-CTs or label maps of
    an epoch.

    Pictures whose values lie within [0, 1] are drawn in colour with a common bar, such as
    confidence maps. The others of a row share one grey scale, from the 1st to the 99th percentile,
    such as an input and its reconstruction.

    Args:
        rows: 2D arrays by row title.
        path: file to write.
        title: above the rows.

    Raises:
        ValueError: no rows, an empty row, or an array that is not 2D and finite.
    """
    _require_pictures(rows)
    columns = max(len(row) for row in rows.values())
    ratio = max(
        np.shape(picture)[0] / np.shape(picture)[1] for row in rows.values() for picture in row
    )
    figure = new_figure(_PANEL_INCHES * columns + 0.8, _PANEL_INCHES * ratio * len(rows) + 0.6)
    axes = figure.subplots(len(rows), columns, squeeze=False)
    in_color = None
    for line, (row_title, row) in zip(axes, rows.items(), strict=True):
        low, high = _grey_range([picture for picture in row if not _is_fraction(picture)])
        for ax, picture in zip(line, row, strict=False):
            if _is_fraction(picture):
                in_color = ax.imshow(picture, cmap="cividis", vmin=0, vmax=1)
            else:
                ax.imshow(picture, cmap="gray", vmin=low, vmax=high)

        for ax in line:
            ax.set(xticks=[], yticks=[])
            ax.spines[:].set_visible(False)
        line[0].set_ylabel(row_title.replace("_", " "), fontsize=11)

    if in_color is not None:
        figure.colorbar(in_color, ax=axes, shrink=0.9, aspect=30, pad=0.02)
    figure.suptitle(title, fontsize=13)
    return saved(figure, path)


def _is_fraction(picture: npt.NDArray[Any]) -> bool:
    return bool(np.min(picture) >= 0 and np.max(picture) <= 1)


def _grey_range(pictures: Sequence[npt.NDArray[Any]]) -> tuple[float, float]:
    if not pictures:
        return 0.0, 1.0
    values = np.concatenate([np.ravel(picture) for picture in pictures]).astype(float)
    low, high = np.percentile(values, (1, 99))
    return float(low), float(high)


def _require_pictures(rows: Mapping[str, Sequence[npt.NDArray[Any]]]) -> None:
    if not rows:
        raise ValueError("no pictures to draw")
    for title, row in rows.items():
        if not row:
            raise ValueError(f"{title}: no pictures to draw")
        for picture in row:
            if np.ndim(picture) != 2 or not np.isfinite(picture).all():
                raise ValueError(
                    f"{title}: expected finite 2D arrays, got shape {np.shape(picture)}"
                )


def _require_matrices(matrices: Mapping[str, Mapping[str, npt.NDArray[Any]]]) -> None:
    rows = list(matrices.values())
    if not rows or not rows[0]:
        raise ValueError("no matrices to draw")
    for title, row in matrices.items():
        if list(row) != list(rows[0]):
            raise ValueError(f"{title}: columns {list(row)}, expected {list(rows[0])}")
        for column, matrix in row.items():
            if np.ndim(matrix) != 2 or np.shape(matrix)[0] != np.shape(matrix)[1]:
                raise ValueError(
                    f"{title}, {column}: expected a square matrix, got shape {np.shape(matrix)}"
                )
            if not np.isfinite(matrix).all():
                raise ValueError(f"{title}, {column}: the matrix holds NaN or infinity")
