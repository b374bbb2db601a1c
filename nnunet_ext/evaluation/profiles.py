"""How each paper measures: a profile says which metrics, on what unit, and what an empty mask counts.

The definition of the profile in use stands in every table, because numbers of two profiles are not comparable.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from nnunet_ext.errors import InputError
from nnunet_ext.evaluation.infnet_metrics import INFNET_METRICS
from nnunet_ext.evaluation.metrics import COUNT_METRICS, EmptyPolicy
from nnunet_ext.evaluation.surface_metrics import SURFACE_METRICS

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Profile:
    """One paper's way to measure.

    ``empty`` None leaves the decision to the user. ``aggregates`` are numbers of a whole method rather than means over
    cases: each takes the cases' rows. ``soft``: on probability maps instead of labels, with Inf-Net's toolbox.
    """

    name: str
    definition: str
    metrics: tuple[str, ...]
    per_slice: bool = False
    lesion_slices: bool = False
    soft: bool = False
    empty: EmptyPolicy | None = None
    tolerance_mm: float = 3.0
    aggregates: tuple[str, ...] = ()

    @property
    def count_metrics(self) -> tuple[str, ...]:
        """Metrics that follow from voxel counts."""
        return () if self.soft else tuple(m for m in self.metrics if m in COUNT_METRICS)

    @property
    def array_metrics(self) -> tuple[str, ...]:
        """Metrics that need the arrays themselves."""
        return tuple(m for m in self.metrics if m not in self.count_metrics)


def _pooled_dice(cases: "pd.DataFrame") -> float:
    total = cases[["tp", "fp", "fn"]].sum()
    denominator = 2 * total["tp"] + total["fp"] + total["fn"]
    return float(2 * total["tp"] / denominator) if denominator else float("nan")


def _voe_of_mean_dice(cases: "pd.DataFrame") -> float:
    mean = float(cases["dice"].mean())
    return 1 - mean / (2 - mean)


AGGREGATES: dict[str, Callable[["pd.DataFrame"], float]] = {
    "pooled_dice": _pooled_dice,
    "voe_of_mean_dice": _voe_of_mean_dice,
    "abs_mean_rvd": lambda cases: abs(float(cases["rvd"].mean())),
}

PROFILES = {
    profile.name: profile
    for profile in (
        Profile(
            "plain",
            "textbook metrics of each case, then the mean over cases",
            ("dice", "sensitivity", "specificity", "precision", "mae"),
        ),
        Profile(
            "infnet",
            "Inf-Net's toolbox on each slice's soft map, stretched to [0, 1] and rounded to 8 bits; Dice, sensitivity "
            "and specificity are averages over 256 thresholds and 0 at each threshold without a true positive, hence 0 "
            "for an empty reference, and 0.99609 is the highest specificity of a binary mask",
            INFNET_METRICS,
            per_slice=True,
            soft=True,
            empty="zero",
        ),
        Profile(
            "covid-benchmark",
            "Dice and surface Dice of each case as in the COVID-19-CT-Seg benchmark; a case where both masks are empty "
            "is left out",
            ("dice", "surface_dice"),
            empty="nan",
        ),
        Profile(
            "ncovsegnet",
            "as in nCoVSegNet, on each patient's volume; 0/0 counts as perfect. VOE and RVD in both aggregations: mean "
            "over patients of VOE and of |RVD|; VOE of the mean Dice and |mean of the signed RVD|, as the paper prints",
            ("dice", "sensitivity", "specificity", "precision", "voe", "abs_rvd", "rvd"),
            empty="one",
            aggregates=("voe_of_mean_dice", "abs_mean_rvd"),
        ),
        Profile(
            "slice",
            "each slice whose reference holds the label, then the mean over slices; pooled Dice: one Dice of the "
            "voxels of all slices together, those without lesion included",
            ("dice", "sensitivity", "specificity", "precision"),
            per_slice=True,
            lesion_slices=True,
            empty="nan",
            aggregates=("pooled_dice",),
        ),
        Profile(
            "smooth1",
            "Dice of each slice with 1 added above and below, (2 TP + 1) / (2 TP + FP + FN + 1), over all slices: one "
            "where both masks are empty counts 1",
            ("dice_smooth1",),
            per_slice=True,
            empty="one",
        ),
    )
}

METRIC_NAMES = tuple(dict.fromkeys((*COUNT_METRICS, *SURFACE_METRICS, *INFNET_METRICS)))


def chosen_profile(name: str, metrics: tuple[str, ...] = (), tolerance_mm: float | None = None) -> Profile:
    """A profile, with other metrics or tolerance where the user names them; its definition then says so.

    Raises:
        InputError: the profile cannot measure one of the metrics.
    """
    profile = PROFILES[name]
    possible = (
        INFNET_METRICS if profile.soft else COUNT_METRICS if profile.per_slice else COUNT_METRICS + SURFACE_METRICS
    )
    if wrong := [m for m in metrics if m not in possible]:
        raise InputError(f"--metrics {' '.join(wrong)}: profile {name} can measure {', '.join(possible)}")
    if metrics:
        profile = replace(profile, metrics=metrics, aggregates=())
        profile = replace(profile, definition=f"{profile.definition} (metrics chosen with --metrics)")
    if tolerance_mm is not None:
        if "surface_dice" not in profile.metrics:
            raise InputError("--tolerance: for surface_dice only, which this profile does not measure; leave it out")
        profile = replace(profile, tolerance_mm=tolerance_mm)
    if "surface_dice" in profile.metrics:
        profile = replace(profile, definition=f"{profile.definition}; surface Dice at {profile.tolerance_mm:g} mm")
    return profile
