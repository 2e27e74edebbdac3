from itertools import chain

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dinopl.data.order import EvalSampler, OrderSampler, epoch_order, eval_slices, train_slices

sizes = {"n": st.integers(1, 60), "batch": st.integers(1, 9), "world": st.integers(1, 5)}


def test_an_order_is_a_permutation_that_seed_and_epoch_determine() -> None:
    first = epoch_order(100, seed=1, epoch=0)
    assert first.sort().values.tolist() == list(range(100))
    assert torch.equal(first, epoch_order(100, seed=1, epoch=0))
    assert not torch.equal(first, epoch_order(100, seed=1, epoch=1))
    assert not torch.equal(first, epoch_order(100, seed=2, epoch=0))


def test_an_order_leaves_the_global_generator_alone() -> None:
    before = torch.random.get_rng_state()
    epoch_order(10, 0, 0)
    assert torch.equal(torch.random.get_rng_state(), before)


@given(**sizes, epoch=st.integers(0, 3))
@settings(max_examples=80, deadline=None)
def test_ranks_together_see_what_one_process_with_the_larger_batch_sees(
    n: int, batch: int, world: int, epoch: int
) -> None:
    samplers = [OrderSampler(n, batch, rank, world, seed=7) for rank in range(world)]
    single = OrderSampler(n, batch * world, seed=7)
    for sampler in (*samplers, single):
        sampler.set_epoch(epoch)
    order, seen = epoch_order(n, 7, epoch).tolist(), []
    per_rank = [[(part, sampler.order()) for part in sampler.begin()] for sampler in samplers]
    whole = list(single)
    assert {len(parts) for parts in per_rank} == {len(single)} == {-(-n // (batch * world))}
    for number, batch_of_all in enumerate(whole):
        parts = [parts[number] for parts in per_rank]
        real = [order_[part.start : part.stop].tolist() for part, order_ in parts if part.share > 0]
        assert (
            list(chain(*real)) == batch_of_all.tolist() == order[number * batch * world : (number + 1) * batch * world]
        )
        assert all(1 <= part.stop - part.start <= batch for part, _ in parts)
        seen += list(chain(*real))
    assert sorted(seen) == list(range(n))


@given(**sizes)
@settings(max_examples=80, deadline=None)
def test_shares_make_the_mean_over_ranks_the_mean_over_samples(n: int, batch: int, world: int) -> None:
    values = np.random.default_rng(0).normal(size=n)
    ranks = [train_slices(n, batch, rank, world) for rank in range(world)]
    for number, parts in enumerate(zip(*ranks, strict=True)):
        mean_over_ranks = sum(part.share * values[part.start : part.stop].mean() for part in parts) / world
        wanted = values[number * batch * world : (number + 1) * batch * world].mean()
        assert mean_over_ranks == pytest.approx(wanted, abs=1e-12)


def test_a_full_global_batch_has_share_one_exactly() -> None:
    parts = [train_slices(24, 4, rank, 3) for rank in range(3)]
    assert {part.share for rank in parts for part in rank} == {1.0}


def test_a_rank_without_samples_takes_part_with_share_zero() -> None:
    last = [train_slices(9, 4, rank, 2)[-1] for rank in range(2)]
    assert [(part.start, part.stop, part.share) for part in last] == [(8, 9, 0.0), (8, 9, 2.0)]


@given(**sizes, data=st.data())
@settings(max_examples=60, deadline=None)
def test_a_resumed_sampler_yields_exactly_the_remaining_batches(
    n: int, batch: int, world: int, data: st.DataObject
) -> None:
    rank = data.draw(st.integers(0, world - 1))
    stop = data.draw(st.integers(0, -(-n // (batch * world))))
    sampler = OrderSampler(n, batch, rank, world, seed=3)
    sampler.set_epoch(2)
    whole, iterator = [part.tolist() for part in sampler], iter(sampler)
    done = [next(iterator).tolist() for _ in range(stop)]
    state = sampler.state_dict()
    resumed = OrderSampler(n, batch, rank, world, seed=3)
    resumed.load_state_dict(state if stop else {"epoch": 2, "offset": 0})
    resumed.set_epoch(2)  # as a trainer does
    assert done + [part.tolist() for part in resumed] == whole
    assert [part.tolist() for part in resumed] == whole  # the next pass is a whole one
    assert len(resumed) == len(whole)


def test_a_new_epoch_starts_at_its_first_batch_whatever_was_loaded() -> None:
    sampler = OrderSampler(10, 2, seed=0)
    sampler.load_state_dict({"epoch": 0, "offset": 6})
    sampler.set_epoch(1)
    assert len(list(sampler)) == 5


def test_an_offset_holds_for_another_number_of_processes() -> None:
    two = OrderSampler(20, 2, 0, 2, seed=0)
    iterator = iter(two)
    next(iterator)
    state = two.state_dict()
    assert state == {"epoch": 0, "offset": 4}
    one = OrderSampler(20, 4, seed=0)
    one.load_state_dict(state)
    assert torch.equal(torch.cat(list(one)), epoch_order(20, 0, 0)[4:])


@given(**sizes)
@settings(max_examples=40, deadline=None)
def test_dropping_the_last_batch_leaves_only_full_ones(n: int, batch: int, world: int) -> None:
    parts = train_slices(n, batch, world - 1, world, drop_last=True)
    assert len(parts) == n // (batch * world)
    assert all(part.stop - part.start == batch and part.share == 1.0 for part in parts)


def test_without_a_seed_the_order_is_the_data_sets() -> None:
    sampler = OrderSampler(7, 3)
    sampler.set_epoch(4)
    assert [part.tolist() for part in sampler] == [[0, 1, 2], [3, 4, 5], [6]]


@given(**sizes)
@settings(max_examples=80, deadline=None)
def test_evaluation_sees_each_sample_on_one_rank_once(n: int, batch: int, world: int) -> None:
    if n < world:
        with pytest.raises(ValueError, match=f"{world} processes cannot share {n} evaluation images"):
            eval_slices(n, batch, 0, world)
        return
    ranks = [[part.tolist() for part in EvalSampler(n, batch, rank, world)] for rank in range(world)]
    assert sorted(i for rank in ranks for part in rank for i in part) == list(range(n))
    assert len({len(rank) for rank in ranks}) == 1  # or collective operations would wait for ever
    assert all(1 <= len(part) <= batch + 1 for rank in ranks for part in rank)
    if world == 1:
        assert ranks[0] == [list(range(n))[low : low + batch] for low in range(0, n, batch)]


def test_evaluation_batches_have_no_share() -> None:
    assert {part.share for part in EvalSampler(10, 3, 0, 2).begin()} == {1.0}


def test_an_order_that_repeats_has_the_samples_of_the_first_epoch() -> None:
    once, repeated = OrderSampler(10, 4, seed=3), OrderSampler(10, 4, seed=3)
    repeated.repeats = True
    first = [batch.tolist() for batch in once]
    for epoch in range(3):
        repeated.set_epoch(epoch)
        assert [batch.tolist() for batch in repeated] == first
    once.set_epoch(1)
    assert [batch.tolist() for batch in once] != first


def test_the_smallest_batch_is_known_beforehand() -> None:
    for options in ({}, {"rank": 1, "world_size": 2}, {"drop_last": True}):
        sampler = OrderSampler(9, 4, **options)
        assert sampler.smallest == min(len(batch) for batch in sampler)
