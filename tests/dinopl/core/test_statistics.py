"""Means, intervals and paired differences against scipy, and against loops."""

import math
import random
import statistics

import numpy as np
import pytest
import scipy.stats
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from dinopl.core.statistics import BOOTSTRAP_FROM, bootstrap_interval, t_interval
from dinopl.reports import paired_differences, summarize

numbers = st.integers(-(10**9), 10**9).map(lambda number: number / 1000)
levels = st.floats(0.5, 0.999)


@settings(max_examples=60, deadline=None)
@given(st.lists(numbers, min_size=2, max_size=BOOTSTRAP_FROM - 1), levels)
def test_below_ten_values_it_is_students_interval(values, level):
    assume(len(set(values)) > 1)
    summary = summarize(values, level)
    assert (summary.n, summary.interval.method) == (len(values), "t")
    assert summary.mean == pytest.approx(statistics.fmean(values))
    assert summary.sd == pytest.approx(statistics.stdev(values))
    expected = scipy.stats.t.interval(level, len(values) - 1, loc=np.mean(values), scale=scipy.stats.sem(values))
    assert summary.interval[:2] == pytest.approx(expected, abs=1e-9 * max(map(abs, values)))


def test_from_ten_values_it_is_the_bootstrap():
    values = list(np.random.default_rng(3).normal(size=BOOTSTRAP_FROM))
    summary = summarize(values, 0.9)
    assert summary.interval.method == "bootstrap"
    assert summary == summarize(values, 0.9)  # the same each time
    expected = scipy.stats.bootstrap(
        (values,), np.mean, confidence_level=0.9, n_resamples=20_000, method="percentile", rng=np.random.default_rng(1)
    ).confidence_interval
    spread = summary.interval.high - summary.interval.low
    assert summary.interval[:2] == pytest.approx(tuple(expected), abs=0.03 * spread)
    assert spread < t_interval(values, 0.9).high - t_interval(values, 0.9).low


def test_the_bootstrap_resamples_with_replacement():
    """Three values have 27 resamples of equal chance: the quantiles of their means are known."""
    values = [0.0, 1.0, 5.0]
    means = sorted((a + b + c) / 3 for a in values for b in values for c in values)
    interval = bootstrap_interval(values, 0.5)
    assert interval.low == pytest.approx(means[6])
    assert interval.high == pytest.approx(means[20])


@pytest.mark.parametrize(("size", "interval"), [(5, t_interval), (12, bootstrap_interval)])
def test_intervals_cover_the_mean_as_often_as_they_say(size, interval):
    generator = np.random.default_rng(0)
    hits = 0
    for _ in range(300):
        low, high, _ = interval(generator.normal(0.7, 0.1, size).tolist(), 0.8)
        hits += low <= 0.7 <= high
    assert 0.7 < hits / 300 < 0.88


def test_few_values():
    assert summarize([]) == (0, None, None, None)
    assert summarize([0.25]) == (1, 0.25, None, None)
    constant = summarize([0.5] * 3)
    assert (constant.sd, constant.interval[:2]) == (0, (0.5, 0.5))


@pytest.mark.parametrize(("values", "level"), [([1.0, math.nan], 0.95), ([1.0, math.inf], 0.95), ([1.0, 2.0], 1.0)])
def test_what_has_no_summary(values, level):
    with pytest.raises(ValueError, match=r"finite|level"):
        summarize(values, level)


@settings(max_examples=30, deadline=None)
@given(st.dictionaries(st.integers(0, 8), numbers), st.dictionaries(st.integers(0, 8), numbers))
def test_differences_are_over_shared_keys(values, baseline):
    shared = [seed for seed in values if seed in baseline]
    differences = paired_differences(values, baseline)
    assert list(differences) == shared
    assert all(differences[seed] == values[seed] - baseline[seed] for seed in shared)


def test_pairing_removes_what_seeds_have_in_common():
    """The paired test of scipy as oracle; the unpaired interval is far wider."""
    draw = random.Random(0)
    baseline = {seed: draw.gauss(0.7, 0.1) for seed in range(6)}
    values = {seed: value + 0.02 + draw.gauss(0, 0.005) for seed, value in baseline.items()}
    paired = summarize(list(paired_differences(values, baseline).values()))
    expected = scipy.stats.ttest_rel(list(values.values()), list(baseline.values())).confidence_interval(0.95)
    assert paired.interval[:2] == pytest.approx(tuple(expected))
    unpaired = scipy.stats.ttest_ind(list(values.values()), list(baseline.values())).confidence_interval(0.95)
    assert paired.interval.low > 0 > unpaired.low
