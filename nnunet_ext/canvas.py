"""The canvas of a figure: own Agg canvas, matplotlib's default style, PNG or PDF by the ending of
the path.

No pyplot, hence no global state and no display. Matplotlib is imported inside.
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
    """nnU-Net's progress plot leaves seaborn's large fonts behind in the process; draw without
    them.
    """

    @functools.wraps(draw)
    def styled(*args: Arguments.args, **kwargs: Arguments.kwargs) -> Result:
        from matplotlib import style

        with style.context("default"):
            return draw(*args, **kwargs)

    return styled


def new_figure(width: float, height: float) -> "Figure":
    """An empty figure, size in inches."""
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
    """A name as it is, also with dollar signs, or with the leading underscore that hides it in a
    legend.
    """
    text = str(name).replace("$", r"\$")
    return f" {text}" if text.startswith("_") else text


def set_title(figure: "Figure", title: str) -> None:
    """Above the whole figure, in as many lines as its width needs."""
    characters = max(20, int(11 * figure.get_figwidth()))  # of 11 points, per inch
    figure.suptitle("\n".join(textwrap.wrap(literal(title), characters)), fontsize=11)
