"""How metrics are written in tables and figures, and which way is better."""

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd

HEADERS = {
    "dice": "Dice",
    "dice_smooth1": "Dice (smooth 1)",
    "dice_hits": "Dice (0 without a hit)",
    "jaccard": "Jaccard",
    "sensitivity": "Sensitivity",
    "specificity": "Specificity",
    "precision": "Precision",
    "voe": "VOE",
    "rvd": "RVD (signed)",
    "abs_rvd": "|RVD|",
    "mae": "MAE",
    "surface_dice": "Surface Dice",
    "hd95": "HD95 [mm]",
    "assd": "ASSD [mm]",
    "s_measure": "S-measure",
    "e_measure": "E-measure",
    "pooled_dice": "Dice (pooled)",
    "voe_of_mean_dice": "VOE of mean Dice",
    "abs_mean_rvd": "|mean RVD|",
}
_LOWER = ("voe", "rvd", "abs_rvd", "mae", "hd95", "assd", "voe_of_mean_dice", "abs_mean_rvd")
_DECIMALS = {"specificity": 4, "mae": 4, "hd95": 2, "assd": 2}  # background dominates; millimetres


def formatted(metric: str, value: float) -> str:
    """With the metric's number of decimals, ``nan`` where undefined."""
    return "nan" if math.isnan(value) else f"{value:.{_DECIMALS.get(metric, 3)}f}"


def arrow(metric: str) -> str:
    """Up where more is better, to 0 where the sign tells over- from under-segmentation."""
    return "→ 0" if metric == "rvd" else "↓" if metric in _LOWER else "↑"


def badness(metric: str, values: "pd.Series") -> "pd.Series":
    """Rises from the best to the worst value."""
    return values.abs() if metric in _LOWER else -values


def best(metric: str, values: dict[str, float]) -> set[str]:
    """Names with the best value as it is printed, so that ties are all best; none where there is
    nothing to choose.
    """
    sign = -1.0 if metric in _LOWER else 1.0
    scores = {
        name: sign * abs(float(formatted(metric, v)))
        for name, v in values.items()
        if not math.isnan(v)
    }
    if len(values) < 2 or len(set(scores.values())) < 2:
        return set()
    return {name for name, score in scores.items() if score == max(scores.values())}
