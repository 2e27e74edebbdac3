"""The study's statistics where their value is known in closed form, and against SciPy."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import linregress, spearmanr, t

from kd.study import (
    Factor,
    amplification,
    area_between,
    data_efficiency,
    data_efficiency_intervals,
    gap_summaries,
    gaps,
    overtaken_at,
    power_law,
    power_law_slope,
    recovered_gap,
    relative_error_reduction,
    share_of_gap,
)

KAPPA = [0.02, 0.05, 0.1, 0.25, 0.5, 1.0]
LABELS = np.array([[0.74, 0.89, 0.92, 0.95, 0.96, 0.97], [0.76, 0.87, 0.91, 0.95, 0.97, 0.98]])
DISTILLED = np.array([[0.90, 0.95, 0.96, 0.97, 0.97, 0.97], [0.88, 0.94, 0.97, 0.96, 0.97, 0.97]])


def test_gaps_are_paired_and_summarised_at_each_fraction() -> None:
    np.testing.assert_allclose(gaps(LABELS, DISTILLED)[0], [0.16, 0.06, 0.04, 0.02, 0.01, 0.0], atol=1e-12)
    first = gap_summaries(LABELS, DISTILLED)[0]
    assert first.mean == pytest.approx(0.14)
    assert first.sd == pytest.approx(math.sqrt(2 * 0.02**2))
    assert first.interval is not None
    assert first.interval.high - 0.14 == pytest.approx(t.ppf(0.975, 1) * 0.02)
    assert gaps([0.5, 0.6], [0.7, 0.7]).shape == (1, 2)


def test_parts_of_the_error_and_of_the_way_to_the_teacher() -> None:
    np.testing.assert_allclose(relative_error_reduction([0.2, 0.1, 0.0], [0.1, 0.12, 0.0]), [0.5, -0.2, np.nan])
    np.testing.assert_allclose(
        recovered_gap([0.8, 0.9, 0.957, 0.97], [0.9, 0.88, 0.96, 0.96], 0.96), [0.625, -1 / 3, np.nan, np.nan]
    )
    assert recovered_gap(95.7, 95.85, 96.0, least=0.2) == pytest.approx(0.5)


def test_the_share_of_the_gap_that_a_control_recovers() -> None:
    control = LABELS + np.array([0.035, 0.0, -0.01, 0.01, 0.0, 0.0])
    share = share_of_gap(LABELS, control, DISTILLED)
    np.testing.assert_allclose(share[:3], [0.25, 0.0, -0.01 / 0.05], atol=1e-12)
    assert np.isnan(share[-1])  # distillation gains nothing there


def test_a_gap_that_grows_with_falling_fraction_is_amplified() -> None:
    found = amplification(KAPPA, LABELS, DISTILLED)
    assert found.rank_correlation == pytest.approx(1)
    assert found.difference.mean == pytest.approx(((0.16 - 0.0) + (0.12 + 0.01)) / 2)
    assert found.largest_at == 0.02
    assert found.difference.interval is not None
    half = t.ppf(0.975, 1) * abs(0.16 - 0.13) / 2
    assert found.difference.interval.low == pytest.approx(0.145 - half)
    assert not found.amplified  # two seeds that differ so much do not exclude 0
    steady = LABELS + np.array([[0.16, 0.08, 0.05, 0.02, 0.01, 0.0], [0.159, 0.08, 0.05, 0.02, 0.01, 0.0]])
    assert amplification(KAPPA, LABELS, steady).amplified
    assert not amplification(KAPPA, steady, LABELS).amplified
    assert not amplification(KAPPA, LABELS[:1], steady[:1]).amplified  # one seed has no interval


def test_the_largest_gap_need_not_be_at_the_smallest_fraction() -> None:
    peaked = LABELS + np.array([0.01, 0.1, 0.05, 0.02, 0.01, 0.0])
    assert amplification(KAPPA, LABELS, peaked).largest_at == 0.05
    assert math.isnan(amplification(KAPPA, LABELS, LABELS).rank_correlation)


@given(st.lists(st.integers(-4, 4), min_size=2, max_size=8).filter(lambda gap: len(set(gap)) > 1))
@settings(max_examples=40, deadline=None)
def test_the_rank_correlation_is_spearmans(gap: list[int]) -> None:
    kappa = np.geomspace(0.01, 1, len(gap))
    found = amplification(kappa, np.zeros((1, len(gap))), np.array([gap]))
    assert found.rank_correlation == pytest.approx(spearmanr(gap, -np.log(kappa)).statistic)


@given(st.floats(0.2, 5.0), st.integers(2, 9))
@settings(max_examples=40, deadline=None)
def test_curves_that_are_shifted_by_a_factor_have_that_factor(factor: float, count: int) -> None:
    """Accuracy linear in log kappa: distillation at kappa is labels at factor * kappa."""
    kappa = np.geomspace(0.01, 1, count)
    found = data_efficiency(kappa, 0.9 + 0.1 * np.log(kappa), 0.9 + 0.1 * np.log(factor * kappa))
    for at, (value, bound) in zip(kappa, found, strict=True):
        if factor * at > 1 + 1e-9:
            assert (bound, value) == (">", pytest.approx(1 / at))
        elif factor * at < 0.01 - 1e-9:
            assert (bound, value) == ("<", pytest.approx(0.01 / at))
        elif abs(math.log(factor * at)) > 1e-6 and abs(math.log(factor * at / 0.01)) > 1e-6:
            assert (bound, value) == ("=", pytest.approx(factor))


def test_a_label_curve_is_made_monotone_first_and_flat_parts_count_from_their_start() -> None:
    labels = [0.5, 0.75, 0.625, 0.875]  # isotonic: 0.5, 0.6875, 0.6875, 0.875
    found = data_efficiency([0.1, 0.2, 0.4, 0.8], labels, [0.6875, 0.6875, 0.59375, 0.9])
    assert [str(factor) for factor in found] == ["2", "1", "0.35", ">1"]
    assert found[2].value == pytest.approx(0.1 * 2**0.5 / 0.4)
    assert str(Factor(0.25, "<")) == "<0.25"
    assert math.isnan(data_efficiency([0.1, 1.0], [0.5, 0.6], [math.nan, 0.6])[0].value)


def test_intervals_of_the_factor_come_from_seeds_drawn_jointly_and_keep_their_bounds() -> None:
    kappa = np.geomspace(0.01, 1, 5)
    slope = 0.1 * np.log(kappa)
    shift = 0.1 * np.log([1.5, 2.0, 3.0])[:, None]
    offset = np.array([[0.0], [0.02], [-0.03]])  # a seed's own luck, which pairing takes out
    labels, distilled = 0.6 + slope + offset, 0.6 + slope + offset + shift
    low, high = data_efficiency_intervals(kappa, labels, distilled, resamples=300)[1]
    assert low == ("=", "=") or 1.5 - 1e-9 <= low.value < 2.1 < high.value <= 3 + 1e-9
    last = data_efficiency_intervals(kappa, labels, distilled, resamples=300)[-1]
    assert [factor.bound for factor in last] == [">", ">"]
    one = data_efficiency_intervals(kappa, labels[1:2], distilled[1:2], resamples=20)[1]
    assert one[0] == one[1]
    assert one[0].value == pytest.approx(2.0)


def test_the_area_is_the_mean_gap_over_the_logarithm() -> None:
    kappa = [0.01, 0.1, 1.0]
    assert area_between(kappa, np.zeros((2, 3)), [[1, 1, 1], [4, 2, 0]]).tolist() == pytest.approx([1, 2])
    uneven = area_between([0.01, 0.1, 0.1 * 10**0.5], np.zeros((1, 3)), [[3, 0, 0]])
    assert uneven.tolist() == pytest.approx([1.0])


@given(st.floats(-2, 2), st.floats(-3, 3), st.integers(2, 8), st.integers(0, 99))
@settings(max_examples=40, deadline=None)
def test_a_power_law_is_found_as_scipy_does(slope: float, intercept: float, count: int, seed: int) -> None:
    x = np.geomspace(0.02, 1, count)
    exact = np.exp(intercept) * x**slope
    assert power_law(x, exact) == pytest.approx((slope, intercept), abs=1e-9)
    noisy = exact * np.exp(0.3 * np.random.default_rng(seed).standard_normal(count))
    line = linregress(np.log(x), np.log(noisy))
    assert power_law(x, noisy) == pytest.approx((line[0], line.intercept))


def test_a_power_law_leaves_out_what_has_no_logarithm() -> None:
    assert power_law([0.1, 0.4, 1.0], [1.0, 0.5, 0.0])[0] == pytest.approx(-0.5)
    assert math.isnan(power_law([0.1, 1.0], [1.0, 0.0])[0])


def test_the_slopes_interval_covers_the_seeds() -> None:
    x = np.array([0.02, 0.1, 0.25])
    curves = np.stack([0.1 * (x / x[0]) ** b for b in (-0.4, -0.5, -0.6, -0.7)])
    slope, (low, high, method) = power_law_slope(x, curves)
    assert -0.6 < slope < -0.5
    assert -0.7 <= low < slope < high <= -0.4
    assert method == "bootstrap"


@pytest.mark.parametrize("kappa", [[0.0, 1.0], [0.5, 0.1], [0.5, 0.5], [1.0]])
def test_fractions_that_do_not_increase_are_refused(kappa: list[float]) -> None:
    with pytest.raises(ValueError, match="must be at least 2 fractions, positive and increasing"):
        amplification(kappa, [[0.5] * len(kappa)], [[0.6] * len(kappa)])


def test_curves_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match=r"curves=\(1, 3\): do not fit 2 fractions"):
        data_efficiency([0.1, 1.0], [0.5, 0.6], [0.5, 0.6, 0.7])


def test_labels_overtake_where_the_gap_last_falls_below_zero() -> None:
    labels = np.zeros((2, 4))
    kappa = [0.01, 0.1, 1.0, 10.0]
    assert overtaken_at(kappa, labels, [[-1, 2, 1, -1], [-1, 2, 1, -1]]) == pytest.approx(math.sqrt(10))
    assert overtaken_at(kappa, labels, [[2, 1, 0, -3]] * 2) == pytest.approx(1.0)
    assert overtaken_at(kappa, labels, [[-1, -1, -1, -1]] * 2) == 0.01
    assert overtaken_at(kappa, labels, [[-1, -1, -1, 0]] * 2) == math.inf
    with pytest.raises(ValueError, match="do not fit"):
        overtaken_at([0.1], labels, labels)
