"""Mean over cases with a bootstrap confidence interval."""

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

_ELEMENTS_PER_BATCH = 5_000_000  # bounds the memory of resampling tens of thousands of 2D cases


@dataclass(frozen=True)
class MeanWithInterval:
    """Mean of ``n`` cases; ``interval`` is ``"BCa"``, or says why ``low`` and ``high`` are NaN."""

    mean: float
    low: float
    high: float
    n: int
    n_undefined: int
    interval: str


def mean_with_interval(values: npt.ArrayLike, *, resamples: int = RESAMPLES, seed: int = SEED) -> MeanWithInterval:
    """Mean over cases and its 95 % confidence interval, by a seeded BCa bootstrap over cases.

    BCa (bias-corrected and accelerated) rather than percentile, because per-case Dice is skewed towards failures.
    NaN marks a case for which the metric is undefined: it is left out and counted in ``n_undefined``. With fewer than
    two cases or equal values the interval is NaN, since resampling cannot tell anything about the spread.

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
    n, nan = len(defined), float("nan")
    mean = float(defined.mean()) if n else nan
    if n < 2 or np.ptp(defined) < 1e-12:
        return MeanWithInterval(mean, nan, nan, n, len(array) - n, TOO_FEW if n < 2 else CONSTANT)
    low, high = _bca_interval(defined, resamples, seed)
    usable = bool(np.isfinite([low, high]).all())
    return MeanWithInterval(mean, low, high, n, len(array) - n, METHOD if usable else UNDEFINED)


def _bca_interval(values: npt.NDArray[np.float64], resamples: int, seed: int) -> tuple[float, float]:
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
    return float(result.confidence_interval.low), float(result.confidence_interval.high)
