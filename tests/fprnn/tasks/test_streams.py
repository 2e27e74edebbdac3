"""Streams against numpy itself, which defines them."""

import hashlib

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dinopl.core.random import stream_seed
from fprnn.tasks.task import Streams, sequence_seeds

EDGE_SEEDS = [0, 1, 2**32 - 1, 2**32, 2**63 + 7, 2**64 - 1]
SEEDS = st.lists(st.integers(0, 2**64 - 1) | st.sampled_from(EDGE_SEEDS), min_size=1, max_size=4)
SPANS = st.sampled_from([1, 2, 3, 5, 60, 120, 2**16 + 1])
# About one draw in four of this span is rejected and drawn again.
WASTEFUL = st.just(3 * 2**30)
CALLS = st.lists(st.tuples(st.integers(-3, 9), SPANS | WASTEFUL, st.integers(0, 7)), min_size=1, max_size=5)


@given(SEEDS, CALLS)
@settings(max_examples=60, deadline=None)
def test_streams_draw_what_numpy_draws(seeds: list[int], calls: list[tuple[int, int, int]]) -> None:
    streams = Streams(np.array(seeds, dtype=np.uint64))
    drawn = [streams.integers(low, low + span, count) for low, span, count in calls]
    for row, seed in enumerate(seeds):
        generator = np.random.default_rng(seed)
        for ours, (low, span, count) in zip(drawn, calls, strict=True):
            np.testing.assert_array_equal(ours[row], generator.integers(low, low + span, size=count))


def test_long_streams_draw_what_numpy_draws() -> None:
    drawn = Streams(np.array(EDGE_SEEDS, dtype=np.uint64)).integers(0, 60, 3001)
    for row, seed in enumerate(EDGE_SEEDS):
        np.testing.assert_array_equal(drawn[row], np.random.default_rng(seed).integers(60, size=3001))


def test_a_scalar_draw_takes_half_an_output_like_numpy() -> None:
    streams, generator = Streams(np.array([42], dtype=np.uint64)), np.random.default_rng(42)
    for high in (5, 7, 11):
        assert streams.integers(0, high, 1)[0, 0] == generator.integers(0, high)
        np.testing.assert_array_equal(streams.integers(0, 60, 4)[0], generator.integers(0, 60, size=4))


def test_no_seeds_draw_nothing() -> None:
    assert Streams(np.empty(0, dtype=np.uint64)).integers(0, 3, 5).shape == (0, 5)


def test_stream_seed_is_the_head_of_a_sha256() -> None:
    expected = int(hashlib.sha256(b"7/train").hexdigest()[:16], 16) // 2
    assert stream_seed("train", 7) == expected < 2**63
    assert stream_seed("val", 7) != expected != stream_seed("train", 8)


def test_stream_seed_follows_the_global_seed() -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        torch.rand(3)
        assert stream_seed("train") == stream_seed("train", 7)


@pytest.mark.parametrize("stream", [5, 2**64 - 2])
def test_sequence_seeds_are_consecutive(stream: int) -> None:
    seeds = sequence_seeds(stream, 3, 4)
    assert [int(seed) for seed in seeds] == [(stream + 3 + index) % 2**64 for index in range(4)]
