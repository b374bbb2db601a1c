"""Pictures of pseudo-labels: image, confidence, and the label used for training."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from nnunet_ext.canvas import COLORS, in_default_style, literal, new_figure, saved, set_title

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.image import AxesImage

PANEL_INCHES = 2.4
COLUMNS = ("image", "confidence", "label")
IGNORED_COLOR = "#BBBBBB"


@dataclass(frozen=True)
class PseudoLabelPicture:
    """A slice of a case: 2D arrays of one shape."""

    name: str
    image: npt.NDArray[Any]
    confidence: npt.NDArray[Any]  # in [0, 1]
    label: npt.NDArray[Any]  # classes, or `ignore`


@in_default_style
def pseudo_labels_figure(
    pictures: Sequence[PseudoLabelPicture],
    classes: dict[str, int],
    ignore: int,
    path: Path,
    title: str,
) -> Figure:
    """Draw rows of cases: image, confidence, and the image with its label.

    Voxels without a label are grey.

    Args:
        pictures: at least one.
        classes: foreground labels by name.
        ignore: label of voxels without a label.
        path: file to write.
        title: above the figure.
    """
    tallest = 0.0
    for picture in pictures:
        rows, columns = picture.image.shape
        tallest = max(tallest, rows / columns)
    row_inches = PANEL_INCHES * tallest + 0.1
    width = PANEL_INCHES * len(COLUMNS) + 0.8
    height = row_inches * len(pictures) + 0.8
    figure = new_figure(width, height)
    axes = figure.subplots(len(pictures), len(COLUMNS), squeeze=False)

    color_of_class = _colors_by_class(classes)
    colors = {classes[name]: color for name, color in color_of_class.items()}
    colors[ignore] = IGNORED_COLOR
    least_confidence = 1 / (len(classes) + 1)
    for row, picture in zip(axes, pictures, strict=True):
        shown = _draw_row(row, picture, colors, least_confidence)

    for ax, column in zip(axes[0], COLUMNS, strict=True):
        ax.set_title(column, fontsize=11)
    figure.colorbar(shown, ax=axes, shrink=0.7, aspect=30, pad=0.02)
    _add_legend(figure, color_of_class)
    set_title(figure, title)
    return saved(figure, path)


def _colors_by_class(classes: Iterable[str]) -> dict[str, str]:
    """Return a colour for each class; they repeat if there are many."""
    _, *usable = COLORS
    return dict(zip(classes, itertools.cycle(usable), strict=False))


def _draw_row(
    row: Sequence[Axes],
    picture: PseudoLabelPicture,
    colors: dict[int, str],
    least_confidence: float,
) -> AxesImage:
    """Draw one case; return the confidence map, for the colour bar."""
    image_axis, confidence_axis, label_axis = row
    low, high = np.percentile(picture.image, (1, 99))
    for ax in (image_axis, label_axis):
        ax.imshow(picture.image, cmap="gray", vmin=low, vmax=high)
    label_axis.imshow(_coloured(picture.label, colors))
    shown = confidence_axis.imshow(
        picture.confidence,
        cmap="cividis",
        vmin=least_confidence,
        vmax=1,
    )

    image_axis.set_ylabel(literal(picture.name), fontsize=8)
    for ax in row:
        ax.set(xticks=[], yticks=[])
        ax.spines[:].set_visible(False)
    return shown


def _add_legend(figure: Figure, colors: dict[str, str]) -> None:
    """Explain the colours below the pictures."""
    from matplotlib.patches import Patch

    keys = []
    for name, color in colors.items():
        key = Patch(color=color, label=literal(name))
        keys.append(key)
    keys.append(Patch(color=IGNORED_COLOR, label="no label"))

    figure.legend(
        handles=keys,
        loc="outside lower center",
        ncols=min(4, len(keys)),
        fontsize=9,
        frameon=False,
    )


def _coloured(label: npt.NDArray[Any], colors: dict[int, str]) -> npt.NDArray[np.float64]:
    """Return a label map as RGBA, with a transparent background."""
    from matplotlib.colors import to_rgba

    picture = np.zeros((*label.shape, 4))
    for value, color in colors.items():
        picture[label == value] = to_rgba(color, 0.6)
    return picture
