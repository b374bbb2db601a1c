"""Numbers of a whole method rather than means over cases, from the rows of its cases."""

import math
from typing import TYPE_CHECKING

from nnunet_ext.evaluation.metrics.metric import Better, Metric

if TYPE_CHECKING:
    import pandas as pd


def pooled_dice(cases: "pd.DataFrame") -> float:
    """Return one Dice of the voxels of all rows together; NaN if no mask holds any."""
    total = cases[["tp", "fp", "fn"]].sum()
    overlap = 2 * total["tp"]
    denominator = overlap + total["fp"] + total["fn"]
    if not denominator:
        return float("nan")
    return float(overlap / denominator)


def voe_of_mean_dice(cases: "pd.DataFrame") -> float:
    """Return the volumetric overlap error that belongs to the mean Dice D: 1 - D / (2 - D)."""
    mean_dice = float(cases["dice"].mean())
    jaccard = mean_dice / (2 - mean_dice)
    return 1 - jaccard


def abs_mean_rvd(cases: "pd.DataFrame") -> float:
    """Return the size of the mean signed RVD, in which over- and under-segmentation cancel."""
    mean_rvd = float(cases["rvd"].mean())
    return abs(mean_rvd)


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
