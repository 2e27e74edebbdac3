"""What this study reads off its curves: how much distillation gains, and whether it gains more on less data.

"Revisiting Knowledge Distillation: The Hidden Role of Dataset Size" (Lanzillotta et al., arXiv 2510.15516) claims that
the advantage of distillation over labels grows as the fraction kappa of the teacher's data shrinks. Runs of one seed
share samples, order and initialisation, so differences are taken seed by seed. The statistics are ours, since the
paper's own could not be had.

Accuracies are fractions or points, alike in all arguments of a call. Arrays over seeds and fractions are ``(S, K)``,
fractions ``(K,)`` increasing; fewer values are means over seeds.
"""

import math
from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dinopl.core.statistics import Interval, Summary, summarize

Array = NDArray[np.float64]


class Factor(NamedTuple):
    """A data-efficiency factor, which may lie beyond what was measured."""

    value: float
    """Not a number where there is nothing to compare with."""
    bound: Literal["=", ">", "<"] = "="
    """``>``: at least ``value``, as the distilled student beats every label run; ``<``: at most, as it beats none."""

    def __str__(self) -> str:
        return f"{'' if self.bound == '=' else self.bound}{self.value:.2g}"


class Amplification(NamedTuple):
    """Whether the gap grows as the fraction shrinks."""

    rank_correlation: float
    """Spearman's, of the mean gap with ``-log kappa``; not a number where all gaps are equal."""
    difference: Summary
    """Of the gap at the smallest less that at the largest fraction, seed by seed."""
    largest_at: float
    """The fraction where the mean gap is largest. It need not be the smallest, where both may be at chance."""

    @property
    def amplified(self) -> bool:
        """Whether correlation and difference are positive, and the difference's interval excludes 0."""
        interval = self.difference.interval
        return self.rank_correlation > 0 and interval is not None and interval.low > 0


def gaps(labels: ArrayLike, distilled: ArrayLike) -> Array:
    """``distilled - labels``, seed by seed: ``(S, K)`` of each to ``(S, K)``."""
    return _curves(distilled) - _curves(labels)


def relative_error_reduction(labels: ArrayLike, distilled: ArrayLike) -> Array:
    """``(e_L - e_D) / e_L`` of error rates of any shape; not a number where labels make no error."""
    before, after = np.asarray(labels, dtype=np.float64), np.asarray(distilled, dtype=np.float64)
    return np.where(before > 0, before - after, np.nan) / np.where(before > 0, before, 1.0)


def recovered_gap(labels: ArrayLike, distilled: ArrayLike, teacher: ArrayLike, least: float = 0.005) -> Array:
    """``(a_D - a_L) / (a_T - a_L)`` of accuracies of any shape: which part of the way to the teacher distillation goes.

    Not a number where the teacher is not better than labels by ``least``: by default half a point of fractions.
    """
    low, high, top = (np.asarray(part, dtype=np.float64) for part in (labels, distilled, teacher))
    way = top - low
    return np.where(way >= least, high - low, np.nan) / np.where(way >= least, way, 1.0)


def share_of_gap(labels: ArrayLike, control: ArrayLike, distilled: ArrayLike) -> Array:
    """``mean gap of a control / mean gap of distillation`` at each fraction: ``(S, K)`` of each to ``(K,)``.

    Not a number where distillation gains nothing. An explanation whose control, such as label smoothing, recovers
    little of the gap is refuted.
    """
    whole, part = gaps(labels, distilled).mean(axis=0), gaps(labels, control).mean(axis=0)
    return np.where(whole > 0, part, np.nan) / np.where(whole > 0, whole, 1.0)


def gap_summaries(labels: ArrayLike, distilled: ArrayLike, level: float = 0.95) -> list[Summary]:
    """Mean, deviation and interval of the paired gap at each fraction: ``(S, K)`` of each to K summaries."""
    return [summarize(column.tolist(), level) for column in gaps(labels, distilled).T]


def amplification(kappa: ArrayLike, labels: ArrayLike, distilled: ArrayLike, level: float = 0.95) -> Amplification:
    """Whether the gap, from ``(S, K)`` of each, is larger at small fractions, of which there must be at least two.

    Raises:
        ValueError: if the fractions are not increasing and positive, or shapes do not fit.
    """
    from scipy.stats import spearmanr

    fractions, gap = _fractions(kappa, at_least=2), gaps(labels, distilled)
    _check_fit(fractions, gap)
    mean = gap.mean(axis=0)
    correlation = math.nan if (mean == mean[0]).all() else spearmanr(mean, -np.log(fractions)).statistic
    return Amplification(
        rank_correlation=float(correlation),
        difference=summarize((gap[:, 0] - gap[:, -1]).tolist(), level),
        largest_at=float(fractions[mean.argmax()]),
    )


def data_efficiency(kappa: ArrayLike, labels: ArrayLike, distilled: ArrayLike) -> list[Factor]:
    """How many times more data label training needs for the accuracy of distillation, at each fraction.

    ``kappa' / kappa``, where label training reaches at ``kappa'`` what distillation has at ``kappa``; curves are
    ``(S, K)`` or means ``(K,)``. The label curve is first made non-decreasing by isotonic regression, then interpolated
    linearly in ``log kappa``; where it is flat the smallest ``kappa'`` counts.

    Raises:
        ValueError: if the fractions are not increasing and positive, or shapes do not fit.
    """
    from sklearn.isotonic import isotonic_regression

    fractions, low, high = _fractions(kappa), _curves(labels), _curves(distilled)
    _check_fit(fractions, low)
    _check_fit(fractions, high)
    curve = isotonic_regression(low.mean(axis=0))
    return [_factor(fractions, curve, at, target) for at, target in zip(fractions, high.mean(axis=0), strict=True)]


def data_efficiency_intervals(
    kappa: ArrayLike,
    labels: ArrayLike,
    distilled: ArrayLike,
    level: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> list[tuple[Factor, Factor]]:
    """Percentile bootstrap over seeds, drawn jointly for both methods, of ``data_efficiency`` of curves ``(S, K)``.

    Returns:
        Lowest and highest factor at each fraction. An end of the interval that lies beyond what was measured keeps its
        bound.
    """
    low, high = _curves(labels), _curves(distilled)
    rows = np.random.default_rng(seed).integers(len(low), size=(resamples, len(low)))
    drawn = [data_efficiency(kappa, low[chosen], high[chosen]) for chosen in rows]
    return [_percentiles([factors[k] for factors in drawn], level) for k in range(low.shape[1])]


def area_between(kappa: ArrayLike, labels: ArrayLike, distilled: ArrayLike) -> Array:
    """Mean gap over ``log kappa``, seed by seed: the area between the curves over the width of the axis, ``(S,)``."""
    fractions, gap = _fractions(kappa, at_least=2), gaps(labels, distilled)
    _check_fit(fractions, gap)
    x = np.log(fractions)
    area: Array = ((gap[:, 1:] + gap[:, :-1]) / 2 * np.diff(x)).sum(axis=1) / (x[-1] - x[0])
    return area


def overtaken_at(kappa: ArrayLike, labels: ArrayLike, distilled: ArrayLike) -> float:
    """The fraction from which on label training is ahead in the mean: where the gap last falls below 0.

    Interpolated linearly in ``log kappa``: the smallest fraction if labels are always ahead, infinite if they are not
    at the largest one.
    """
    fractions, gap = _fractions(kappa), gaps(labels, distilled)
    _check_fit(fractions, gap)
    mean = gap.mean(axis=0)
    if not mean[-1] < 0:
        return math.inf
    ahead = np.flatnonzero(mean >= 0)
    if len(ahead) == 0:
        return float(fractions[0])
    left = int(ahead[-1])
    part = mean[left] / (mean[left] - mean[left + 1])
    return float(fractions[left] ** (1 - part) * fractions[left + 1] ** part)


def power_law(x: ArrayLike, y: ArrayLike) -> tuple[float, float]:
    """Slope and intercept of the line of least squares through ``(log x, log y)``: ``y = exp(intercept) * x^slope``.

    Values of y ``(K,)`` that are not above 0 have no logarithm and are left out. Not numbers where fewer than two
    different x, ``(K,)`` above 0, are left.
    """
    from scipy.stats import linregress

    at, value = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
    kept = value > 0
    if len(np.unique(at[kept])) < 2:
        return math.nan, math.nan
    line = linregress(np.log(at[kept]), np.log(value[kept]))
    return float(line.slope), float(line.intercept)


def power_law_slope(
    x: ArrayLike, curves: ArrayLike, level: float = 0.95, resamples: int = 2000, seed: int = 0
) -> tuple[float, Interval]:
    """Slope of the mean curve in logarithms, with a percentile bootstrap over seeds.

    Args:
        x: ``(K,)`` above 0.
        curves: ``(S, K)``, such as the fidelity gap: agreement on training less agreement on test samples.
        level: of the interval.
        resamples: how many are drawn.
        seed: of the draws.
    """
    values = _curves(curves)
    rows = np.random.default_rng(seed).integers(len(values), size=(resamples, len(values)))
    drawn = np.array([power_law(x, values[chosen].mean(axis=0))[0] for chosen in rows])
    drawn = drawn[np.isfinite(drawn)]
    low, high = np.quantile(drawn, [0.5 - level / 2, 0.5 + level / 2]) if len(drawn) else (math.nan, math.nan)
    return power_law(x, values.mean(axis=0))[0], Interval(float(low), float(high), "bootstrap")


def _factor(fractions: Array, curve: Array, at: float, target: float) -> Factor:
    if not math.isfinite(target) or not np.isfinite(curve).all():
        return Factor(math.nan)
    if target > curve[-1]:
        return Factor(float(fractions[-1] / at), ">")
    if target < curve[0]:
        return Factor(float(fractions[0] / at), "<")
    right = int(np.searchsorted(curve, target, side="left"))
    if curve[right] == target:
        return Factor(float(fractions[right] / at))
    step = (target - curve[right - 1]) / (curve[right] - curve[right - 1])
    log_x = np.log(fractions[[right - 1, right]])
    return Factor(float(np.exp(log_x[0] + step * (log_x[1] - log_x[0])) / at))


def _percentiles(factors: Sequence[Factor], level: float) -> tuple[Factor, Factor]:
    """The lowest and the highest factor that are left when the tails are cut off."""

    def position(factor: Factor) -> tuple[float, int]:
        return factor.value, {"<": -1, "=": 0, ">": 1}[factor.bound]

    known = sorted((factor for factor in factors if math.isfinite(factor.value)), key=position)
    if not known:
        return Factor(math.nan), Factor(math.nan)
    low, high = (min(int(part * len(known)), len(known) - 1) for part in (0.5 - level / 2, 0.5 + level / 2))
    return known[low], known[high]


def _curves(values: ArrayLike) -> Array:
    """``(S, K)``; means ``(K,)`` count as one seed."""
    return np.atleast_2d(np.asarray(values, dtype=np.float64))


def _fractions(kappa: ArrayLike, at_least: int = 1) -> Array:
    fractions = np.asarray(kappa, dtype=np.float64)
    if fractions.ndim != 1 or len(fractions) < at_least or not (np.diff(fractions, prepend=0.0) > 0).all():
        raise ValueError(f"kappa={fractions.tolist()}: must be at least {at_least} fractions, positive and increasing")
    return fractions


def _check_fit(fractions: Array, curves: Array) -> None:
    if curves.ndim != 2 or curves.shape[1] != len(fractions):
        raise ValueError(f"curves={curves.shape}: do not fit {len(fractions)} fractions; give (seeds, K)")
