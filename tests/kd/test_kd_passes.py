import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from dinopl.data import OrderSampler, epoch_order
from kd.samplers import PassSampler, SelectedSampler, steps_per_pass


def batches(sampler: PassSampler) -> list[tuple[int, list[int]]]:
    """What a loader makes of it: pass and samples of each batch."""
    found = []
    for order, visits, parts in sampler.blocks():
        for part in parts:
            passes = set(visits[part.start : part.stop].tolist())
            assert len(passes) == 1
            sampler.advance(part)
            found.append((passes.pop(), order[part.start : part.stop].tolist()))
    return found


def naive(index: Tensor, batch: int, seed: int, steps: int, epoch: int) -> list[tuple[int, list[int]]]:
    """Pass after pass, batch after batch, from the very first step on."""
    found: list[tuple[int, list[int]]] = []
    number = 0
    while len(found) < steps * (epoch + 1):
        order = index[epoch_order(len(index), seed, number)].tolist()
        cut = [order[i : i + batch] for i in range(0, len(order), batch)]
        found += [(number, part) for part in cut if len(part) == batch or len(order) < batch]
        number += 1
    return found[steps * epoch : steps * (epoch + 1)]


@given(st.integers(1, 40), st.integers(1, 16), st.integers(1, 700), st.integers(0, 2), st.integers(0, 9))
@settings(max_examples=60, deadline=None)
def test_an_epoch_has_exactly_the_steps_asked_for(size: int, batch: int, steps: int, epoch: int, seed: int) -> None:
    index = torch.arange(size) * 3 + 1
    sampler = PassSampler(index, batch, seed=seed, steps=steps)
    sampler.set_epoch(epoch)
    assert len(sampler) == steps
    assert batches(sampler) == naive(index, batch, seed, steps, epoch)


@given(st.integers(1, 40), st.integers(1, 16), st.integers(0, 3))
@settings(max_examples=40, deadline=None)
def test_without_steps_an_epoch_is_one_pass_as_any_sampler_makes_it(size: int, batch: int, epoch: int) -> None:
    sampler = PassSampler(torch.arange(size), batch, seed=5)
    plain = OrderSampler(size, batch, seed=5)
    for one in (sampler, plain):
        one.set_epoch(epoch)
    assert len(sampler) == -(-size // batch) == steps_per_pass(size, batch, whole_batches=False)
    assert [samples for _, samples in batches(sampler)] == [part.tolist() for part in plain]
    assert batches(PassSampler(torch.arange(size), batch, seed=5))[0][0] == 0


@given(st.integers(1, 40), st.integers(1, 6), st.integers(1, 5), st.sampled_from([None, 1, 7, 30]), st.integers(0, 2))
@settings(max_examples=60, deadline=None)
def test_processes_share_each_batch(size: int, batch: int, world: int, steps: int | None, epoch: int) -> None:
    index = torch.arange(size) + 100
    whole = PassSampler(index, batch * world, seed=1, steps=steps)
    ranks = [PassSampler(index, batch, rank, world, seed=1, steps=steps) for rank in range(world)]
    for sampler in (whole, *ranks):
        sampler.set_epoch(epoch)
    shares = [[part.share for _, _, parts in sampler.blocks() for part in parts] for sampler in ranks]
    seen = [batches(sampler) for sampler in ranks]
    for number, (visit, samples) in enumerate(batches(whole)):
        parts = [(seen[r][number], shares[r][number]) for r in range(world)]
        assert [s for (_, own), share in parts if share for s in own] == samples
        assert {number_of_pass for (number_of_pass, _), _ in parts} == {visit}
        weights = {s: share / len(own) / world for (_, own), share in parts if share for s in own}
        assert list(weights.values()) == pytest.approx([1 / len(samples)] * len(samples))


@given(st.integers(1, 30), st.integers(1, 9), st.sampled_from([None, 5, 40, 600]), st.data())
@settings(max_examples=60, deadline=None)
def test_a_restart_in_mid_epoch_goes_on_where_it_was(
    size: int, batch: int, steps: int | None, data: st.DataObject
) -> None:
    def sampler() -> PassSampler:
        return PassSampler(torch.arange(size), batch, seed=3, steps=steps)

    first = sampler()
    first.set_epoch(1)
    stop = data.draw(st.integers(0, len(first)))
    seen, whole = [], batches(first)
    again = sampler()
    again.set_epoch(1)
    for _, _, parts in again.blocks():
        for part in parts:
            if len(seen) == stop:
                break
            again.advance(part)
            seen.append(part)
    resumed = sampler()
    resumed.load_state_dict(again.state_dict())
    resumed.set_epoch(1)  # as Lightning does; it is the current one
    assert batches(resumed) == whole[stop:]
    resumed.set_epoch(2)
    fresh = sampler()
    fresh.set_epoch(2)
    assert batches(resumed) == batches(fresh)


def test_passes_differ_and_cover_all_samples_but_the_last_few() -> None:
    sampler = PassSampler(torch.arange(70), 16, seed=0, steps=12)
    found = batches(sampler)
    passes = [[s for visit, own in found if visit == number for s in own] for number in range(3)]
    assert [len(set(one)) for one in passes] == [64, 64, 64]  # four whole batches of 70 samples
    assert passes[0] != passes[1] != passes[2]
    assert steps_per_pass(70, 16, whole_batches=True) == 4
    assert steps_per_pass(10, 16, whole_batches=True) == 1


def test_selected_samples_come_once_in_order() -> None:
    sampler = SelectedSampler(torch.tensor([4, 9, 2, 30]), 3, visit=6)
    ((order, visits, _),) = sampler.blocks()
    assert order.tolist() == [4, 9, 2, 30]
    assert visits.tolist() == [6] * 4
    assert [part.tolist() for part in sampler] == [[4, 9, 2], [30]]
    pair = [SelectedSampler(torch.tensor([4, 9, 2, 30, 5]), 2, rank, 2) for rank in range(2)]
    assert sorted(s for one in pair for part in one for s in part.tolist()) == [2, 4, 5, 9, 30]


def test_a_last_batch_that_is_not_full_is_dropped_where_it_is_asked_for() -> None:
    for steps in (None, 5):
        sampler = PassSampler(torch.arange(9), 4, seed=0, steps=steps, drop_last=True)
        assert {part.stop - part.start for _, _, parts in sampler.blocks() for part in parts} == {4}
        assert (sampler.smallest, len(sampler)) == (4, steps or 2)
    alone = PassSampler(torch.arange(3), 4, seed=0, drop_last=True)
    assert (alone.smallest, len(alone)) == (3, 1)  # the only one


def test_a_sampler_that_repeats_has_the_batches_of_the_first_epoch() -> None:
    sampler = PassSampler(torch.arange(9), 4, seed=0, steps=3)
    seen = []
    for repeats in (False, True):
        sampler.repeats = repeats
        sampler.set_epoch(0)
        for epoch in range(3):
            sampler.set_epoch(epoch)
            seen.append(
                [order[part.start : part.stop].tolist() for order, _, parts in sampler.blocks() for part in parts]
            )
    assert seen[0] != seen[1] != seen[2]
    assert seen[3] == seen[4] == seen[5] == seen[0]
