"""How each paper measures: which metrics, on what unit, and what an empty mask counts.

The definition of the profile in use stands in every table, because numbers of two profiles are not
comparable.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from nnunet_ext.errors import InputError
from nnunet_ext.evaluation.metrics.calibration import CALIBRATION_METRICS
from nnunet_ext.evaluation.metrics.declarations import METRICS
from nnunet_ext.evaluation.metrics.infnet import INFNET_METRICS
from nnunet_ext.evaluation.metrics.lesions import LESION_METRICS
from nnunet_ext.evaluation.metrics.metric import EmptyPolicy, Metric


@dataclass(frozen=True)
class Profile:
    """One paper's way to measure.

    Args:
        name: as in ``--profile``.
        definition: in words, for every table.
        metrics: means over the units.
        per_slice: whether the unit is a slice.
        lesion_slices: whether only slices with the label in the reference count.
        soft: whether probability maps are measured in place of labels: those of slices with
            Inf-Net's toolbox, those of cases as they are.
        empty: what 0/0 counts; None leaves the decision to the user.
        tolerance_mm: of metrics that use one.
        aggregates: numbers of a whole method rather than means over cases.
        per_patient: whether a patient's cases are pooled.
        remark: what was special in this evaluation.
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
        if not self.remark:
            return self.name
        return f"{self.name} ({self.remark})"

    @property
    def unit(self) -> str:
        """What the means are over."""
        if self.per_slice:
            return "slices"
        return "patients" if self.per_patient else "cases"

    @property
    def measures_probabilities(self) -> bool:
        """Whether soft maps are measured as they are."""
        return self.soft and not self.per_slice

    @property
    def array_metrics(self) -> tuple[str, ...]:
        """Metrics that need the arrays themselves."""
        if self.soft:
            return self.metrics

        names = []
        for name in self.metrics:
            if METRICS[name].from_counts is None:
                names.append(name)
        return tuple(names)

    @property
    def tolerance_metrics(self) -> list[Metric]:
        """Those of the metrics that depend on the tolerance."""
        metrics = [METRICS[name] for name in self.metrics]
        return [metric for metric in metrics if metric.uses_tolerance]

    @property
    def possible_metrics(self) -> tuple[str, ...]:
        """Names of all metrics that it could measure."""
        possible = []
        for name, metric in METRICS.items():
            if self.measures_probabilities:
                can = metric.from_probabilities is not None
            elif self.soft:
                can = metric.from_soft_map is not None
            else:
                from_masks = metric.from_masks is not None and not self.per_slice
                can = metric.from_counts is not None or from_masks
            if can:
                possible.append(name)
        return tuple(possible)


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
            "bits; Dice, sensitivity and specificity are averages over 256 thresholds and 0 at "
            "each threshold without a true positive, hence 0 for an empty reference, and 0.99609 "
            "is the highest specificity of a binary mask",
            INFNET_METRICS,
            per_slice=True,
            soft=True,
            empty="zero",
        ),
        Profile(
            "covid-benchmark",
            "Dice and surface Dice of each case as in the COVID-19-CT-Seg benchmark; a case where "
            "both masks are empty is left out",
            ("dice", "surface_dice"),
            empty="nan",
        ),
        Profile(
            "ncovsegnet",
            "as in nCoVSegNet, on each patient's volume; 0/0 counts as perfect. VOE and RVD in "
            "both aggregations: mean over patients of VOE and of |RVD|; VOE of the mean Dice and "
            "|mean of the signed RVD|, as the paper prints",
            ("dice", "sensitivity", "specificity", "precision", "voe", "abs_rvd", "rvd"),
            empty="one",
            aggregates=("voe_of_mean_dice", "abs_mean_rvd"),
            per_patient=True,
        ),
        Profile(
            "slice",
            "each slice whose reference holds the label, then the mean over slices; pooled Dice: "
            "one Dice of the voxels of all slices together, those without lesion included",
            ("dice", "sensitivity", "specificity", "precision"),
            per_slice=True,
            lesion_slices=True,
            empty="nan",
            aggregates=("pooled_dice",),
        ),
        Profile(
            "hits",
            "Dice of each case in two readings: dice leaves out a case where both masks are empty; "
            "dice_hits counts every case, and one without a true positive as 0",
            ("dice", "dice_hits"),
            empty="nan",
        ),
        Profile(
            "lesions",
            "lesions of each case, which are connected components (26 neighbours, 8 in slices); "
            "one is found, or true, if it shares a voxel with the other mask; panoptic quality "
            "matches lesions whose IoU exceeds 0.5",
            ("dice", *LESION_METRICS),
            empty="nan",
        ),
        Profile(
            "calibration",
            "probabilities of each case as they are, every voxel; ECE with 15 bins of equal width, "
            "over all voxels and over those with a probability of at least 0.01",
            CALIBRATION_METRICS,
            soft=True,
            empty="nan",
        ),
        Profile(
            "smooth1",
            "Dice of each slice with 1 added above and below, (2 TP + 1) / (2 TP + FP + FN + 1), "
            "over all slices: one where both masks are empty counts 1",
            ("dice_smooth1",),
            per_slice=True,
            empty="one",
        ),
    )
}


def chosen_profiles(
    names: Sequence[str], metrics: Sequence[str] = (), tolerance_mm: float | None = None
) -> list[Profile]:
    """Return the profiles, with other metrics or tolerance where the user names them.

    Their definitions then say so. Of several profiles each takes the metrics that it can measure.

    Raises:
        InputError: a name is given twice, nothing can measure a metric, a profile none, or nothing
            needs the tolerance.
    """
    _require_once("--profile", names)
    _require_once("--metrics", metrics)
    chosen = [PROFILES[name] for name in names]
    if metrics:
        _require_possible(chosen, metrics)
        chosen = [_with_metrics(profile, metrics) for profile in chosen]

    if tolerance_mm is not None:
        _require_use_of_tolerance(chosen)
    return [_with_tolerance(profile, tolerance_mm) for profile in chosen]


def _require_use_of_tolerance(profiles: Sequence[Profile]) -> None:
    for profile in profiles:
        if profile.tolerance_metrics:
            return

    users = [name for name, metric in METRICS.items() if metric.uses_tolerance]
    raise InputError(
        f"--tolerance: for {', '.join(users)} only, which this profile does not measure; "
        f"leave it out"
    )


def _require_once(option: str, given: Sequence[str]) -> None:
    for name in given:
        times = given.count(name)
        if times > 1:
            raise InputError(f"{option}: {name} is given twice")


def _require_possible(profiles: Sequence[Profile], metrics: Sequence[str]) -> None:
    measurable: set[str] = set()
    possible = []
    for profile in profiles:
        measurable.update(profile.possible_metrics)
        names = ", ".join(profile.possible_metrics)
        possible.append(f"profile {profile.name} can measure {names}")

    for metric in metrics:
        if metric not in measurable:
            raise InputError(f"--metrics {metric}: {'; '.join(possible)}")


def _with_metrics(profile: Profile, metrics: Sequence[str]) -> Profile:
    possible = profile.possible_metrics
    taken = tuple(metric for metric in metrics if metric in possible)
    if not taken:
        raise InputError(
            f"--metrics: profile {profile.name} can measure none of them, but {', '.join(possible)}"
        )
    definition = f"{profile.definition} (metrics chosen with --metrics)"
    return replace(profile, metrics=taken, aggregates=(), definition=definition)


def _with_tolerance(profile: Profile, tolerance_mm: float | None) -> Profile:
    metrics = profile.tolerance_metrics
    if not metrics:
        return profile

    tolerance_mm = tolerance_mm or profile.tolerance_mm
    names = []
    for metric in metrics:
        first, rest = metric.header[:1], metric.header[1:]
        names.append(first.lower() + rest)
    definition = f"{profile.definition}; {' and '.join(names)} at {tolerance_mm:g} mm"
    return replace(profile, tolerance_mm=tolerance_mm, definition=definition)
