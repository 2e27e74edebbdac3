import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dinopl.core.random import derived_keys, integers, mix, sample_keys, stream_seed, uniform

MASK = (1 << 64) - 1
GOLDEN = 0x9E3779B97F4A7C15


def reference_mix(x: int) -> int:
    """The finaliser of splitmix64 in Python's integers."""
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & MASK
    return x ^ (x >> 31)


@given(st.lists(st.integers(-(1 << 63), (1 << 63) - 1), min_size=1, max_size=8))
@settings(max_examples=50, deadline=None)
def test_mix_agrees_with_big_integers(values: list[int]) -> None:
    mixed = mix(torch.tensor(values)).tolist()
    assert [value & MASK for value in mixed] == [reference_mix(value & MASK) for value in values]


def test_mix_gives_the_published_sequence() -> None:
    # splitmix64 seeded with 1234567, as tabulated on Rosetta Code
    states = torch.arange(1, 6) * (GOLDEN - (1 << 64)) + 1234567
    assert [value & MASK for value in mix(states).tolist()] == [
        6457827717110365317,
        3203168211198807973,
        9817491932198370423,
        4593380528125082431,
        16408922859458223821,
    ]


def test_a_key_depends_on_seed_epoch_and_index_only() -> None:
    index = torch.arange(1000)
    keys = sample_keys(3, 5, index)
    order = torch.randperm(1000, generator=torch.Generator().manual_seed(0))
    assert torch.equal(sample_keys(3, 5, index[order]), keys[order])
    assert torch.equal(sample_keys(3, 5, index[7:8]), keys[7:8])
    everything = [sample_keys(seed, epoch, index) for seed in (0, 1, 1 << 62) for epoch in (0, 1, 2)]
    assert len(torch.cat(everything).unique()) == 9 * 1000


def test_keys_neither_read_nor_move_the_generator() -> None:
    before = torch.random.get_rng_state()
    uniform(sample_keys(0, 0, torch.arange(4)), 0, 2)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_draws_are_uniform_and_independent() -> None:
    draws = uniform(sample_keys(1, 0, torch.arange(20_000)), 0, 3)
    assert draws.shape == (3, 20_000)
    assert draws.min() >= 0
    assert draws.max() < 1
    assert draws.mean(1) == pytest.approx([0.5] * 3, abs=0.01)
    assert draws.var(1) == pytest.approx([1 / 12] * 3, abs=0.003)
    off_diagonal = torch.corrcoef(draws) - torch.eye(3)
    assert off_diagonal.abs().max() < 0.03


def test_a_draw_is_the_same_whatever_is_drawn_with_it() -> None:
    keys = sample_keys(1, 2, torch.arange(50))
    assert torch.equal(uniform(keys, 0, 3)[2], uniform(keys, 2, 1)[0])
    assert torch.equal(derived_keys(keys, 4, 2)[0], derived_keys(keys, 4)[0])
    assert torch.equal(integers(keys, 0, (5, 7))[1], integers(keys, 1, (7,))[0])


def test_integers_take_each_value_equally_often() -> None:
    (drawn,) = integers(sample_keys(0, 0, torch.arange(9000)), 0, (9,))
    counts = torch.bincount(drawn, minlength=9)
    assert len(counts) == 9
    chi_square = ((counts - 1000).double().square() / 1000).sum()
    assert chi_square < 26.1  # the 99.9 % point for 8 degrees of freedom


@given(st.integers(0, (1 << 63) - 1), st.lists(st.integers(0, 1 << 40), min_size=1, max_size=6))
@settings(max_examples=30, deadline=None)
def test_samples_may_be_in_different_epochs(seed: int, epochs: list[int]) -> None:
    index = torch.arange(len(epochs)) * 7
    together = sample_keys(seed, torch.tensor(epochs), index)
    alone = [int(sample_keys(seed, epoch, index[i : i + 1])) for i, epoch in enumerate(epochs)]
    assert together.tolist() == alone


def test_the_streams_that_figures_rest_on_stay_equal() -> None:
    keys = sample_keys(3, 5, torch.tensor([0, 1, 49_999]))
    assert keys.tolist() == [-7175774103404287790, -3346543296005785204, 827044777634941632]
    assert sample_keys(3, torch.tensor([0, 1, 7]), torch.tensor([2, 2, 2])).tolist() == [
        -611641117034138492,
        -1646277969831384412,
        -1185422542236783058,
    ]
    assert derived_keys(keys, 4, 2).tolist() == [
        [-6033981358567427719, -2349683944345473440, 771559394327967596],
        [67603766294621387, -2587103300288566897, 6830232788253091577],
    ]
    assert uniform(keys, 0, 2).mul(1 << 24).long().tolist() == [
        [12923166, 114042, 16398834],
        [603970, 2602480, 9022253],
    ]
    assert [each.tolist() for each in integers(keys, 0, (9, 9, 2))] == [[5, 1, 3], [4, 6, 5], [1, 1, 0]]
    assert (stream_seed("student", 0), stream_seed("augmentation", 1 << 40)) == (
        409236633090529362,
        8531614383004514846,
    )
