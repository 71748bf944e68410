"""What one may say of a few returns: their mean and interquartile mean, with 95 % intervals."""

import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtrit

RESAMPLES = 10_000
_BOOTSTRAP_SEED = 0  # the same returns have the same intervals


@dataclass(frozen=True)
class Summary:
    """Figures of n returns. std has n - 1 in its denominator; std and intervals are nan where n is 1.

    interval_low, interval_high: the 95 % BCa bootstrap interval of the mean; iqm_low, iqm_high: that of the
    interquartile mean, which leaves out the lowest and the highest floor(n / 4) returns.
    """

    mean: float
    std: float
    interval_low: float
    interval_high: float
    iqm: float
    iqm_low: float
    iqm_high: float
    lowest: float
    highest: float


def summarize(returns: Sequence[float]) -> Summary:
    """The figures of one return or more."""
    values = np.asarray(returns, float)
    std = float(np.std(values, ddof=1)) if len(values) > 1 else math.nan
    return Summary(
        float(values.mean()),
        std,
        *bootstrap_interval(values, np.mean),
        float(interquartile_mean(values)),
        *bootstrap_interval(values, interquartile_mean),
        float(values.min()),
        float(values.max()),
    )


def interquartile_mean(values: NDArray[np.float64], axis: int = -1) -> NDArray[np.float64]:
    """Mean along an axis of n values without the lowest and the highest floor(n / 4) of them."""
    from scipy.stats import trim_mean

    return trim_mean(values, 0.25, axis=axis)


def bootstrap_interval(
    values: NDArray[np.float64], statistic: Callable[..., NDArray[np.float64]]
) -> tuple[float, float]:
    """The 95 % BCa bootstrap interval of statistic(values, axis) (Efron 1987), 10,000 resamples from a fixed seed.

    The percentile interval where BCa has no value (a jackknife that does not vary), both ends at the value where all
    are equal, nan where there is a single one.
    """
    if len(values) < 2:
        return math.nan, math.nan
    if np.ptp(values) == 0:
        return float(values[0]), float(values[0])
    from scipy.stats import bootstrap

    low = high = math.nan
    for method in ("BCa", "percentile"):
        if not (math.isfinite(low) and math.isfinite(high)):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # scipy warns of what is answered here by the second method
                found = bootstrap(
                    (values,),
                    statistic,
                    n_resamples=RESAMPLES,
                    batch=1000,
                    vectorized=True,
                    method=method,
                    random_state=np.random.default_rng(_BOOTSTRAP_SEED),
                )
            low, high = (float(bound) for bound in found.confidence_interval)
    return low, high


def student_interval(values: Sequence[float]) -> tuple[float, float, float, float]:
    """Mean, std, and the 95 % interval of the mean by Student's t: mean -+ t(0.975, n - 1) std / sqrt(n).

    For the means of a few seeds, which are too few to resample; nan but for the mean where there is one.
    """
    mean, count = float(np.mean(values)), len(values)
    if count < 2:
        return mean, math.nan, math.nan, math.nan
    std = float(np.std(values, ddof=1))
    half = float(stdtrit(count - 1, 0.975)) * std / math.sqrt(count)
    return mean, std, mean - half, mean + half
