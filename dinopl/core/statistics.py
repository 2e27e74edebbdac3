"""Means over seeds, and paired differences over shared seeds, with their intervals: pure functions of numbers.

An interval is Student's t below ten values, which is right for values that are about normal, and the percentile
bootstrap from ten values on, which needs no such assumption but has too narrow intervals for fewer. Both are of the
mean. The bootstrap has a seed of its own, so that a report comes out the same each time.
"""

from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple, TypeVar

import numpy as np

BOOTSTRAP_FROM = 10
RESAMPLES = 10_000

Method = Literal["t", "bootstrap"]
K = TypeVar("K")


class Interval(NamedTuple):
    """An interval of a mean, and how it was computed."""

    low: float
    high: float
    method: Method


class Summary(NamedTuple):
    """What is known of the mean of some values.

    Attributes:
        n: number of values.
        mean: None without values.
        sd: standard deviation (divided by ``n - 1``); None below two values.
        interval: of the mean; None below two values.
    """

    n: int
    mean: float | None
    sd: float | None
    interval: Interval | None


def summarize(values: Sequence[float], level: float = 0.95) -> Summary:
    """Mean, standard deviation and interval.

    Args:
        values: finite numbers.
        level: of the interval, between 0 and 1.

    Raises:
        ValueError: if a value is not finite, or ``level`` is not between 0 and 1.
    """
    if not 0 < level < 1:
        raise ValueError(f"level {level}: give a number between 0 and 1, such as 0.95")
    array = np.asarray(values, dtype=np.float64)
    if not np.isfinite(array).all():
        raise ValueError("values that are not finite have no mean: leave them out and say how many there were")
    if array.size < 2:
        return Summary(array.size, float(array[0]) if array.size else None, None, None)
    interval = t_interval if array.size < BOOTSTRAP_FROM else bootstrap_interval
    return Summary(array.size, float(array.mean()), float(array.std(ddof=1)), interval(array.tolist(), level))


def t_interval(values: Sequence[float], level: float = 0.95) -> Interval:
    """``mean ± t * sd / sqrt(n)``, with the quantile ``t`` of Student's distribution at ``n - 1`` degrees of freedom.

    Args:
        values: at least two.
        level: between 0 and 1.
    """
    from scipy import stats  # scikit-learn brings scipy

    # Not t.interval with a scale of 0, which is not a number: equal values have an interval of no width.
    half = float(stats.t.ppf(0.5 + level / 2, len(values) - 1)) * float(stats.sem(values))
    mean = float(np.mean(values))
    return Interval(mean - half, mean + half, "t")


def bootstrap_interval(
    values: Sequence[float], level: float = 0.95, resamples: int = RESAMPLES, seed: int = 0
) -> Interval:
    """Percentiles of the means of resamples, each as large as the sample and drawn from it with replacement.

    Args:
        values: at least two.
        level: between 0 and 1.
        resamples: how many are drawn.
        seed: of the draws.
    """
    from scipy import stats

    found = stats.bootstrap(
        (np.asarray(values, dtype=np.float64),),
        np.mean,
        n_resamples=resamples,
        confidence_level=level,
        method="percentile",
        rng=np.random.default_rng(seed),
    ).confidence_interval
    return Interval(float(found.low), float(found.high), "bootstrap")


def paired_differences(values: Mapping[K, float], baseline: Mapping[K, float]) -> dict[K, float]:
    """``values - baseline`` for the keys, such as seeds, that both have; in the order of ``values``."""
    return {key: value - baseline[key] for key, value in values.items() if key in baseline}
