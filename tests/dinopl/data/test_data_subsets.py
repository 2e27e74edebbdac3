from math import ceil, floor

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dinopl.data.subsets import class_sequence, count_of, stratified_split, stratified_subset

labels = st.lists(st.integers(-1, 6), min_size=1, max_size=70).map(torch.tensor)


@given(st.lists(st.integers(1, 40), min_size=1, max_size=9))
@settings(max_examples=80, deadline=None)
def test_every_prefix_stays_within_its_quotas(counts: list[int]) -> None:
    total = sum(counts)
    sequence = class_sequence(counts, total)
    given_so_far = np.zeros(len(counts), dtype=int)
    for m, chosen in enumerate(sequence, start=1):
        given_so_far[chosen] += 1
        for have, count in zip(given_so_far, counts, strict=True):
            assert floor(m * count / total) <= have <= ceil(m * count / total)
    assert given_so_far.tolist() == counts


@given(labels, st.sampled_from([None, 0, 5]), st.data())
@settings(max_examples=80, deadline=None)
def test_subsets_are_exact_proportional_and_nested(label: torch.Tensor, seed: int | None, data: st.DataObject) -> None:
    n = len(label)
    small, large = sorted(data.draw(st.lists(st.integers(1, n), min_size=2, max_size=2)))
    rows = {size: stratified_subset(label, size, seed) for size in (small, large)}
    for size, chosen in rows.items():
        assert chosen.tolist() == sorted(set(chosen.tolist()))
        assert len(chosen) == size
        for value in label.unique():
            quota = size * int((label == value).sum()) / n
            assert abs(int((label[chosen] == value).sum()) - quota) < 1
    assert set(rows[small].tolist()) <= set(rows[large].tolist())


@given(labels, st.data())
@settings(max_examples=40, deadline=None)
def test_a_split_is_a_partition(label: torch.Tensor, data: st.DataObject) -> None:
    if len(label) == 1:
        label = label.repeat(2)
    size = data.draw(st.integers(1, len(label) - 1))
    rest, held = stratified_split(label, size, seed=1)
    assert torch.equal(torch.cat([rest, held]).sort().values, torch.arange(len(label)))
    assert torch.equal(held, stratified_subset(label, size, seed=1))


def test_balanced_classes_get_equal_parts() -> None:
    label = torch.arange(10).repeat(50)
    rows = stratified_subset(label, 100, seed=0)
    assert torch.bincount(label[rows]).tolist() == [10] * 10


def test_the_seed_chooses_the_samples() -> None:
    label = torch.arange(10).repeat(50)
    assert not torch.equal(stratified_subset(label, 100, 0), stratified_subset(label, 100, 1))
    assert torch.equal(stratified_subset(label, 100, 0), stratified_subset(label, 100, 0))


def test_without_a_seed_the_first_samples_of_each_class_are_taken() -> None:
    label = torch.tensor([1, 1, 0, 1, 0, 0, 1, 0])
    assert stratified_subset(label, 4).tolist() == [0, 1, 2, 4]


@pytest.mark.parametrize("size", [0, -1, 5])
def test_a_size_out_of_range_is_refused(size: int) -> None:
    with pytest.raises(ValueError, match=f"cannot take {size} of 4 samples; give a number from 1 to 4"):
        stratified_subset(torch.zeros(4, dtype=torch.long), size)


def test_everything_cannot_be_held_out() -> None:
    with pytest.raises(ValueError, match="cannot take 4 of 4 samples; give a number from 1 to 3"):
        stratified_split(torch.zeros(4, dtype=torch.long), 4)


@pytest.mark.parametrize("label", [torch.zeros(4), torch.zeros(2, 2, dtype=torch.long), torch.zeros(4).bool()])
def test_labels_must_be_integers(label: torch.Tensor) -> None:
    with pytest.raises(ValueError, match="labels must be one integer per sample"):
        stratified_subset(label, 1)


@pytest.mark.parametrize(
    ("size", "count"), [(0, 0), (7, 7), (10, 10), (0.0, 0), (0.25, 2), (0.5, 5), (1.0, 10), (7.0, 7)]
)
def test_counts_and_fractions(size: float, count: int) -> None:
    assert count_of(size, 10, "val_size") == count


@pytest.mark.parametrize("size", [-1, 11, 11.0, -0.1, 1.5, float("nan"), float("inf"), True])
def test_an_impossible_size_names_its_option(size: float) -> None:
    with pytest.raises(ValueError, match=f"val_size={size}: give a count of at most 10"):
        count_of(size, 10, "val_size")
