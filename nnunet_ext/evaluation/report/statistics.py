"""Mean over cases with a bootstrap confidence interval, and paired comparisons of two methods."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

CONFIDENCE_LEVEL = 0.95
RESAMPLES = 9999
SEED = 0
METHOD = "BCa"
TOO_FEW = "not available: fewer than 2 cases"
CONSTANT = "not available: all cases equal"
UNDEFINED = "not available: BCa undefined for these values"

NAN = float("nan")
_EQUAL = 1e-12  # values that differ by less are equal
_ELEMENTS_PER_BATCH = 5_000_000  # bounds the memory of resampling tens of thousands of 2D cases


@dataclass(frozen=True)
class MeanWithInterval:
    """Mean and standard deviation (n - 1) of ``n`` cases.

    ``interval`` is ``"BCa"``, or why there is none (NaN).
    """

    mean: float
    sd: float
    low: float
    high: float
    n: int
    n_undefined: int
    interval: str


def mean_with_interval(
    values: npt.ArrayLike, *, resamples: int = RESAMPLES, seed: int = SEED
) -> MeanWithInterval:
    """Return the mean over cases and its 95 % confidence interval, by a seeded BCa bootstrap.

    BCa (bias-corrected and accelerated) rather than percentile, because per-case Dice is skewed
    towards failures. NaN marks a case for which the metric is undefined: it is left out and counted
    in ``n_undefined``. With fewer than two cases or equal values the interval is NaN, since
    resampling cannot tell anything about the spread.

    Args:
        values: one number per case, shape (cases,).

    Raises:
        ValueError: ``values`` is not one-dimensional.

    Reference: Efron 1987, Better bootstrap confidence intervals.
    """
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1:
        raise ValueError(f"expected one value per case, got shape {array.shape}")

    defined = array[~np.isnan(array)]
    n = len(defined)
    mean, sd, low, high = NAN, NAN, NAN, NAN
    if n:
        mean = float(defined.mean())
    if n > 1:
        sd = float(defined.std(ddof=1))

    if n < 2:
        interval = TOO_FEW
    elif np.ptp(defined) < _EQUAL:
        interval = CONSTANT
    else:
        low, high = _bca_interval(defined, resamples, seed)
        is_defined = np.isfinite([low, high]).all()
        interval = METHOD if is_defined else UNDEFINED
    undefined = len(array) - n
    return MeanWithInterval(mean, sd, low, high, n, undefined, interval)


@dataclass(frozen=True)
class PairedComparison:
    """First minus second method on the ``n`` cases where both are defined.

    The p-values are two-sided and uncorrected. ``cohen_dz`` is the mean difference in
    standard deviations of the differences.
    """

    n: int
    mean_difference: float
    t_p: float
    wilcoxon_p: float
    cohen_dz: float


def compare_paired(first: npt.ArrayLike, second: npt.ArrayLike) -> PairedComparison:
    """Compare two methods on the same cases: t-test, Wilcoxon signed-rank test, effect size.

    Cases where either value is NaN are left out. With fewer than two cases nothing can be tested:
    NaN. Where all differences are 0, both p are 1 and the effect 0; where they are all equal
    otherwise, the t-test and the effect have no spread to compare with: NaN.

    Args:
        first: one number per case, shape (cases,).
        second: the same cases in the same order.

    Raises:
        ValueError: the shapes differ or are not (cases,).

    Reference: Student 1908; Wilcoxon 1945; Cohen 1988, section 2.3.5 (d_z).
    """
    a = np.asarray(first, dtype=np.float64)
    b = np.asarray(second, dtype=np.float64)
    if a.ndim != 1 or a.shape != b.shape:
        raise ValueError(
            f"expected one value per case and method, got shapes {a.shape} and {b.shape}"
        )

    differences = a - b
    differences = differences[~np.isnan(differences)]
    n = len(differences)
    mean = NAN
    if n:
        mean = float(differences.mean())
    if n < 2:
        return PairedComparison(n, mean, NAN, NAN, NAN)
    if not differences.any():
        return PairedComparison(n, 0.0, 1.0, 1.0, 0.0)

    from scipy.stats import ttest_1samp, wilcoxon  # slow to import

    wilcoxon_p = float(wilcoxon(differences).pvalue)
    if np.ptp(differences) < _EQUAL:
        return PairedComparison(n, mean, NAN, wilcoxon_p, NAN)
    t_p = float(ttest_1samp(differences, 0).pvalue)
    effect = mean / float(differences.std(ddof=1))
    return PairedComparison(n, mean, t_p, wilcoxon_p, effect)


def holm(p_values: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """Correct p-values for their number by Holm's step-down method; NaN stays and does not count.

    >>> holm([0.01, 0.04, 0.03]).tolist()
    [0.03, 0.06, 0.06]

    Reference: Holm 1979, A simple sequentially rejective multiple test procedure.
    """
    p = np.asarray(p_values, dtype=np.float64)
    is_test = ~np.isnan(p)
    tests = np.count_nonzero(is_test)
    order = np.argsort(p, kind="stable")[:tests]  # NaN sorts last

    factors = np.arange(tests, 0, -1)
    rising = np.maximum.accumulate(p[order] * factors)
    corrected = np.full_like(p, np.nan)
    corrected[order] = np.minimum(1.0, rising)
    return corrected


def _bca_interval(
    values: npt.NDArray[np.float64], resamples: int, seed: int
) -> tuple[float, float]:
    from scipy.stats import bootstrap  # slow to import

    result = bootstrap(
        (values,),
        np.mean,
        n_resamples=resamples,
        confidence_level=CONFIDENCE_LEVEL,
        method=METHOD,
        batch=max(1, _ELEMENTS_PER_BATCH // len(values)),
        rng=np.random.default_rng(seed),
    )
    interval = result.confidence_interval
    return float(interval.low), float(interval.high)
