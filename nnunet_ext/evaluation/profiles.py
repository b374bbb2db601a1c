"""How each paper measures: a profile says which metrics, on what unit, and what an empty mask
counts.

The definition of the profile in use stands in every table, because numbers of two profiles are not
comparable.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from nnunet_ext.errors import InputError
from nnunet_ext.evaluation.metrics.infnet import INFNET_METRICS
from nnunet_ext.evaluation.metrics.overlap import COUNT_METRICS, EmptyPolicy
from nnunet_ext.evaluation.metrics.surfaces import SURFACE_METRICS

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Profile:
    """One paper's way to measure.

    ``empty`` None leaves the decision to the user. ``aggregates`` are numbers of a whole method
    rather than means over cases: each takes the cases' rows. ``soft``: on probability maps instead
    of labels, with Inf-Net's toolbox. ``per_patient``: a patient's cases are pooled. ``remark``
    says what was special in this evaluation.
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
    per_patient: bool = False
    remark: str = ""

    @property
    def title(self) -> str:
        """Name and remark, for every table."""
        return f"{self.name} ({self.remark})" if self.remark else self.name

    @property
    def unit(self) -> str:
        """What the means are over."""
        return "slices" if self.per_slice else "patients" if self.per_patient else "cases"

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


AGGREGATES: dict[str, tuple[Callable[["pd.DataFrame"], float], str]] = {
    "pooled_dice": (_pooled_dice, ""),
    "voe_of_mean_dice": (_voe_of_mean_dice, "dice"),
    "abs_mean_rvd": (lambda cases: abs(float(cases["rvd"].mean())), "rvd"),
}
"""The number, and the metric of whose defined values it is a number; of all voxels where there is
none.
"""

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
            "Inf-Net's toolbox on each slice's soft map, stretched to [0, 1] and rounded to 8 "
            "bits; Dice, sensitivity "
            "and specificity are averages over 256 thresholds and 0 at each threshold without a "
            "true positive, hence 0 "
            "for an empty reference, and 0.99609 is the highest specificity of a binary mask",
            INFNET_METRICS,
            per_slice=True,
            soft=True,
            empty="zero",
        ),
        Profile(
            "covid-benchmark",
            "Dice and surface Dice of each case as in the COVID-19-CT-Seg benchmark; a case where "
            "both masks are empty "
            "is left out",
            ("dice", "surface_dice"),
            empty="nan",
        ),
        Profile(
            "ncovsegnet",
            "as in nCoVSegNet, on each patient's volume; 0/0 counts as perfect. VOE and RVD in "
            "both aggregations: mean "
            "over patients of VOE and of |RVD|; VOE of the mean Dice and |mean of the signed "
            "RVD|, as the paper prints",
            ("dice", "sensitivity", "specificity", "precision", "voe", "abs_rvd", "rvd"),
            empty="one",
            aggregates=("voe_of_mean_dice", "abs_mean_rvd"),
            per_patient=True,
        ),
        Profile(
            "slice",
            "each slice whose reference holds the label, then the mean over slices; pooled Dice: "
            "one Dice of the "
            "voxels of all slices together, those without lesion included",
            ("dice", "sensitivity", "specificity", "precision"),
            per_slice=True,
            lesion_slices=True,
            empty="nan",
            aggregates=("pooled_dice",),
        ),
        Profile(
            "hits",
            "Dice of each case in two readings: dice leaves out a case where both masks are "
            "empty; dice_hits counts "
            "every case, and one without a true positive as 0",
            ("dice", "dice_hits"),
            empty="nan",
        ),
        Profile(
            "smooth1",
            "Dice of each slice with 1 added above and below, (2 TP + 1) / (2 TP + FP + FN + 1), "
            "over all slices: one "
            "where both masks are empty counts 1",
            ("dice_smooth1",),
            per_slice=True,
            empty="one",
        ),
    )
}

METRIC_NAMES = tuple(dict.fromkeys((*COUNT_METRICS, *SURFACE_METRICS, *INFNET_METRICS)))


def chosen_profiles(
    names: Sequence[str], metrics: Sequence[str] = (), tolerance_mm: float | None = None
) -> list[Profile]:
    """Profiles, with other metrics or tolerance where the user names them; their definitions then
    say so.

    Of several profiles each takes those metrics that it can measure.

    Raises:
        InputError: a name is given twice, nothing can measure a metric, a profile none, or nothing
            needs the tolerance.
    """
    for option, given in (("--profile", names), ("--metrics", metrics)):
        if twice := [name for i, name in enumerate(given) if name in given[:i]]:
            raise InputError(f"{option}: {twice[0]} is given twice")
    profiles = [PROFILES[name] for name in names]
    possible = {profile.name: _possible_metrics(profile) for profile in profiles}
    for wrong in metrics:
        if not any(wrong in of_profile for of_profile in possible.values()):
            can = "; ".join(
                f"profile {name} can measure {', '.join(m)}" for name, m in possible.items()
            )
            raise InputError(f"--metrics {wrong}: {can}")
    chosen = [
        _with_metrics(p, tuple(m for m in metrics if m in possible[p.name])) if metrics else p
        for p in profiles
    ]
    if tolerance_mm is not None and not any(
        "surface_dice" in profile.metrics for profile in chosen
    ):
        raise InputError(
            "--tolerance: for surface_dice only, which this profile does not measure; leave it out"
        )
    return [_with_tolerance(profile, tolerance_mm) for profile in chosen]


def _possible_metrics(profile: Profile) -> tuple[str, ...]:
    if profile.soft:
        return INFNET_METRICS
    return COUNT_METRICS if profile.per_slice else COUNT_METRICS + SURFACE_METRICS


def _with_metrics(profile: Profile, metrics: tuple[str, ...]) -> Profile:
    if not metrics:
        raise InputError(
            f"--metrics: profile {profile.name} can measure none of them, but "
            f"{', '.join(_possible_metrics(profile))}"
        )
    definition = f"{profile.definition} (metrics chosen with --metrics)"
    return replace(profile, metrics=metrics, aggregates=(), definition=definition)


def _with_tolerance(profile: Profile, tolerance_mm: float | None) -> Profile:
    if "surface_dice" not in profile.metrics:
        return profile
    tolerance_mm = tolerance_mm or profile.tolerance_mm
    definition = f"{profile.definition}; surface Dice at {tolerance_mm:g} mm"
    return replace(profile, tolerance_mm=tolerance_mm, definition=definition)
