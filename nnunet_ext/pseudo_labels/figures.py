"""Pictures of pseudo-labels: image, confidence, and the label that is trained on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from nnunet_ext.canvas import COLORS, in_default_style, literal, new_figure, saved, set_title

if TYPE_CHECKING:
    from matplotlib.figure import Figure

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
    """Draw rows of cases: image, confidence, and the image under its label.

    Voxels without a label are grey.

    Args:
        pictures: at least one.
        classes: foreground labels by name.
        ignore: label of voxels without a label.
        path: file to write.
        title: above the figure.
    """
    shapes = [picture.image.shape for picture in pictures]
    ratio = max(height / width for height, width in shapes)
    width = PANEL_INCHES * len(COLUMNS) + 0.8
    height = (PANEL_INCHES * ratio + 0.1) * len(pictures) + 0.8
    figure = new_figure(width, height)
    axes = figure.subplots(len(pictures), len(COLUMNS), squeeze=False)

    colors: dict[int, str] = {}
    for place, value in enumerate(classes.values()):
        colors[value] = COLORS[1 + place % (len(COLORS) - 1)]
    least_confidence = 1 / (len(classes) + 1)

    for row, picture in zip(axes, pictures, strict=True):
        low, high = np.percentile(picture.image, (1, 99))
        for ax in (row[0], row[2]):
            ax.imshow(picture.image, cmap="gray", vmin=low, vmax=high)
        shown = row[1].imshow(picture.confidence, cmap="cividis", vmin=least_confidence, vmax=1)
        row[2].imshow(_coloured(picture.label, {**colors, ignore: IGNORED_COLOR}))
        row[0].set_ylabel(literal(picture.name), fontsize=8)
        for ax in row:
            ax.set(xticks=[], yticks=[])
            ax.spines[:].set_visible(False)

    for ax, column in zip(axes[0], COLUMNS, strict=True):
        ax.set_title(column, fontsize=11)
    figure.colorbar(shown, ax=axes, shrink=0.7, aspect=30, pad=0.02)
    _add_legend(figure, {name: colors[value] for name, value in classes.items()})
    set_title(figure, title)
    return saved(figure, path)


def _add_legend(figure: Figure, colors: dict[str, str]) -> None:
    """Say below the pictures what the colours stand for."""
    from matplotlib.patches import Patch

    keys = [Patch(color=color, label=literal(name)) for name, color in colors.items()]
    keys.append(Patch(color=IGNORED_COLOR, label="no label"))
    figure.legend(
        handles=keys, loc="outside lower center", ncols=min(4, len(keys)), fontsize=9, frameon=False
    )


def _coloured(label: npt.NDArray[Any], colors: dict[int, str]) -> npt.NDArray[np.float64]:
    """Return a label map as RGBA, transparent where it is background."""
    from matplotlib.colors import to_rgba

    picture = np.zeros((*label.shape, 4))
    for value, color in colors.items():
        picture[label == value] = to_rgba(color, 0.6)
    return picture
