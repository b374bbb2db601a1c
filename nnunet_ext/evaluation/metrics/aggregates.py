"""Numbers of a whole method rather than means over cases, from the rows of its cases."""

import math
from typing import TYPE_CHECKING

from nnunet_ext.evaluation.metrics.metric import Better, Metric

if TYPE_CHECKING:
    import pandas as pd


def pooled_dice(cases: "pd.DataFrame") -> float:
    """Return one Dice of the voxels of all rows together; NaN if no mask holds any."""
    total = cases[["tp", "fp", "fn"]].sum()
    denominator = 2 * total["tp"] + total["fp"] + total["fn"]
    return float(2 * total["tp"] / denominator) if denominator else float("nan")


def voe_of_mean_dice(cases: "pd.DataFrame") -> float:
    """Return the volumetric overlap error that belongs to the mean Dice D: 1 - D / (2 - D)."""
    mean = float(cases["dice"].mean())
    return 1 - mean / (2 - mean)


def abs_mean_rvd(cases: "pd.DataFrame") -> float:
    """Return the size of the mean signed RVD, in which over- and under-segmentation cancel."""
    return abs(float(cases["rvd"].mean()))


DECLARED = (
    Metric(
        name="pooled_dice",
        header="Dice (pooled)",
        better=Better.HIGHER,
        decimals=3,
        range=(0, 1),
        from_cases=pooled_dice,
    ),
    Metric(
        name="voe_of_mean_dice",
        header="VOE of mean Dice",
        better=Better.LOWER,
        decimals=3,
        range=(0, 1),
        from_cases=voe_of_mean_dice,
        of_metric="dice",
    ),
    Metric(
        name="abs_mean_rvd",
        header="|mean RVD|",
        better=Better.LOWER,
        decimals=3,
        range=(0, math.inf),
        from_cases=abs_mean_rvd,
        of_metric="rvd",
    ),
)
