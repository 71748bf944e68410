"""Statistics of a few returns, and of a few runs on several tasks: means, interquartile means, 95 % intervals."""

import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtrit

RESAMPLES = 10_000
_BOOTSTRAP_SEED = 0  # fixed, so that the same returns give the same intervals


@dataclass(frozen=True)
class Summary:
    """Statistics of n returns. std has n - 1 in its denominator; std and intervals are nan if n is 1.

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
    """Return the statistics of one or more returns."""
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
    """Return the mean along an axis of n values without the lowest and the highest floor(n / 4) of them."""
    from scipy.stats import trim_mean

    return trim_mean(values, 0.25, axis=axis)


def bootstrap_interval(
    values: NDArray[np.float64], statistic: Callable[..., NDArray[np.float64]]
) -> tuple[float, float]:
    """Return the 95 % BCa bootstrap interval of statistic(values, axis) (Efron 1987), 10,000 seeded resamples.

    Where BCa is undefined (a constant jackknife) it is the percentile interval. If all values are equal, both ends are
    that value; a single value gives nan.
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
                warnings.simplefilter("ignore")  # where scipy warns, the second method applies
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
    """Return mean, std, and Student's 95 % interval of the mean: mean -+ t(0.975, n - 1) std / sqrt(n).

    For a few seeds, which are too few to resample; for a single one, std and interval are nan.
    """
    mean, count = float(np.mean(values)), len(values)
    if count < 2:
        return mean, math.nan, math.nan, math.nan
    std = float(np.std(values, ddof=1))
    half = float(stdtrit(count - 1, 0.975)) * std / math.sqrt(count)
    return mean, std, mean - half, mean + half


# ---------------------------------------------------------------- several tasks

Scores = Sequence[NDArray[np.float64]]  # one array a task, runs along its last axis


def mean_of_tasks(scores: Scores) -> NDArray[np.float64]:
    """Return the mean over tasks of the mean over runs."""
    return np.mean([task.mean(-1) for task in scores], 0)


def interquartile_mean_of_runs(scores: Scores) -> NDArray[np.float64]:
    """Return the interquartile mean over the runs of all tasks (Agarwal et al. 2021, arXiv 2108.13264)."""
    return interquartile_mean(np.concatenate(list(scores), -1))


def difference_of_means(ours: Scores, theirs: Scores) -> NDArray[np.float64]:
    """Return the mean over tasks of our mean minus theirs, task by task."""
    return mean_of_tasks(ours) - mean_of_tasks(theirs)


def probability_of_improvement(ours: Scores, theirs: Scores) -> NDArray[np.float64]:
    """Return how likely a run of ours beats one of theirs on a task drawn at random (arXiv 2108.13264, section 4.3).

    A tie counts as half.
    """
    chances = []
    for mine, other in zip(ours, theirs, strict=True):
        lead = mine[..., :, None] - other[..., None, :]
        chances.append(((lead > 0) + 0.5 * (lead == 0)).mean((-2, -1)))
    return np.mean(chances, 0)


def stratified_interval(statistic: Callable[..., NDArray[np.float64]], *samples: Scores) -> tuple[float, float, float]:
    """Return statistic(*samples) and its 95 % percentile interval by a stratified bootstrap (arXiv 2108.13264).

    Each of 10,000 seeded resamples draws runs with replacement within every task of every sample. The interval is nan
    where a task has a single run: what cannot vary has no interval.
    """
    value = float(statistic(*samples))
    if any(task.shape[-1] < 2 for scores in samples for task in scores):
        return value, math.nan, math.nan
    random = np.random.default_rng(_BOOTSTRAP_SEED)

    def draw(task: NDArray[np.float64]) -> NDArray[np.float64]:
        return task[random.integers(0, len(task), (RESAMPLES, len(task)))]

    low, high = np.quantile(statistic(*[[draw(task) for task in scores] for scores in samples]), (0.025, 0.975))
    return value, float(low), float(high)
