"""Figures of images, on arrays; those that compare methods are in ``comparison_figures``."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from nnunet_ext.canvas import in_default_style, literal, new_figure, saved, set_title
from nnunet_ext.evaluation.metrics.overlap import dice

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# From the palette of Okabe and Ito, which colour-blind readers tell apart; in the legend's order.
ERROR_COLORS = {"true positive": "#56B4E9", "missed": "#F0E442", "false alarm": "#D55E00"}
_REFERENCE_COLOR = "#009E73"
_FILL = 0.6
_PANEL_INCHES = 2.5


@dataclass(frozen=True)
class OverlayCase:
    """One row of an overlay figure: 2D arrays of one shape.

    In the masks everything but 0 is foreground. ``window`` are the grey values shown black and
    white; None stands for the 1st to the 99th percentile.
    """

    name: str
    image: npt.NDArray[Any]
    reference: npt.NDArray[Any]
    predictions: Mapping[str, npt.NDArray[Any]]
    window: tuple[float, float] | None = None


def largest_lesion_slice(reference: npt.NDArray[Any]) -> int:
    """Return the index of the slice with most foreground; the middle one if the mask is empty.

    Args:
        reference: mask, shape (slices, rows, columns).

    Raises:
        ValueError: the mask is not three-dimensional.
    """
    if reference.ndim != 3:
        raise ValueError(f"expected (slices, rows, columns), got shape {reference.shape}")

    areas = np.count_nonzero(reference, axis=(1, 2))
    if not areas.any():
        return len(areas) // 2
    return int(areas.argmax())


@in_default_style
def overlay_figure(cases: Sequence[OverlayCase], path: Path, title: str = "") -> "Figure":
    """Draw a row per case: image, reference contour, then each method's hits and errors.

    Raises:
        ValueError: no cases, cases with different methods, or arrays of a case that are not 2D and
            of one shape.
    """
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    _require_overlay_cases(cases)
    methods = list(cases[0].predictions)
    columns = ["image", "reference", *methods]
    width_inches = _PANEL_INCHES * len(columns)
    figure = new_figure(width_inches, _height_inches(cases))
    axes = figure.subplots(len(cases), len(columns), squeeze=False)
    for row, case in zip(axes, cases, strict=True):
        _draw_case(row, case, methods)
    for ax, column in zip(axes[0], columns, strict=True):
        ax.set_title(literal(column), fontsize=12)
    set_title(figure, title)

    contour = Line2D([], [], color=_REFERENCE_COLOR, linewidth=2, label="reference")
    keys: list[Any] = [contour]
    for label, color in ERROR_COLORS.items():
        keys.append(Patch(color=color, label=label))
    figure.legend(
        handles=keys,
        loc="outside lower center",
        ncols=len(keys),
        frameon=False,
        fontsize=11,
    )
    return saved(figure, path)


def _height_inches(cases: Sequence[OverlayCase]) -> float:
    """Return the height of the figure: a row per case, as high as the tallest image needs."""
    ratios = []
    for case in cases:
        rows, columns = case.image.shape
        ratios.append(rows / columns)
    row_inches = _PANEL_INCHES * max(ratios) + 0.25
    return row_inches * len(cases) + 0.7


def _draw_case(axes: Sequence[Any], case: OverlayCase, methods: Sequence[str]) -> None:
    low, high = case.window or np.percentile(case.image, (1, 99))
    for ax in axes:
        ax.imshow(case.image, cmap="gray", vmin=low, vmax=high)
        ax.set(xticks=[], yticks=[])
        ax.spines[:].set_visible(False)

    image_ax, reference_ax, *method_axes = axes
    reference = np.asarray(case.reference) != 0
    image_ax.set_ylabel(literal(case.name), fontsize=11)
    _draw_contour(reference_ax, reference)
    for ax, method in zip(method_axes, methods, strict=True):
        prediction = np.asarray(case.predictions[method]) != 0
        _draw_errors(ax, prediction, reference)


def _draw_contour(ax: Any, mask: npt.NDArray[np.bool_]) -> None:
    has_line = mask.any() and not mask.all()
    if has_line:  # else contour warns
        ax.contour(mask, levels=[0.5], colors=_REFERENCE_COLOR, linewidths=1.5)


def _draw_errors(
    ax: Any, prediction: npt.NDArray[np.bool_], reference: npt.NDArray[np.bool_]
) -> None:
    from matplotlib.colors import to_rgb

    areas = {
        "true positive": reference & prediction,
        "missed": reference & ~prediction,
        "false alarm": ~reference & prediction,
    }
    overlay = np.zeros((*reference.shape, 4))
    for name, area in areas.items():
        color = to_rgb(ERROR_COLORS[name])
        overlay[area] = (*color, _FILL)
    ax.imshow(overlay, interpolation="nearest")

    score = dice(prediction, reference)
    text = f"Dice {score:.3f}"
    if math.isnan(score):
        text = "both empty"
    ax.set_xlabel(text, fontsize=11)


def _require_overlay_cases(cases: Sequence[OverlayCase]) -> None:
    if not cases:
        raise ValueError("no cases to draw")

    methods = list(cases[0].predictions)
    for case in cases:
        found = list(case.predictions)
        if found != methods:
            raise ValueError(f"{case.name}: methods {found}, expected {methods}")
        arrays = (case.image, case.reference, *case.predictions.values())
        shapes = {np.shape(array) for array in arrays}
        if len(shapes) != 1 or case.image.ndim != 2:
            raise ValueError(
                f"{case.name}: arrays must be 2D and of one shape, got {sorted(shapes)}"
            )
