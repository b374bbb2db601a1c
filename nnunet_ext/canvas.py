"""The canvas of a figure: matplotlib's default style, PNG or PDF by the ending of the path.

Each figure has its own Agg canvas: no pyplot, hence no global state and no display. Matplotlib is
imported inside.
"""

import functools
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, ParamSpec, TypeVar

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")

DPI = 150
# The palette of Okabe and Ito, which colour-blind readers tell apart.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#F0E442")


def in_default_style(draw: Callable[Arguments, Result]) -> Callable[Arguments, Result]:
    """Draw without seaborn's large fonts, which nnU-Net's progress plot leaves in the process."""

    @functools.wraps(draw)
    def styled(*args: Arguments.args, **kwargs: Arguments.kwargs) -> Result:
        from matplotlib import style

        with style.context("default"):
            return draw(*args, **kwargs)

    return styled


def new_figure(width: float, height: float) -> "Figure":
    """Return an empty figure; its size is in inches."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def saved(figure: "Figure", path: Path) -> "Figure":
    """Write the figure, whole or not at all, and return it."""
    from nnunet_ext.files.whole_file import whole_file

    path.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(path) as unfinished:
        figure.savefig(unfinished, dpi=DPI)
    return figure


def literal(name: object) -> str:
    """Return a name that matplotlib shows as it is.

    Dollar signs would begin a formula, and a leading underscore would hide it in a legend.
    """
    text = str(name).replace("$", r"\$")
    if text.startswith("_"):
        return f" {text}"
    return text


def set_title(figure: "Figure", title: str) -> None:
    """Write a title above the whole figure, in as many lines as its width needs."""
    characters = max(20, int(11 * figure.get_figwidth()))  # of 11 points, per inch
    lines = textwrap.wrap(literal(title), characters)
    figure.suptitle("\n".join(lines), fontsize=11)
