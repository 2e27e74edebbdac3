import hashlib
from math import ceil, floor

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor

from dinopl.data.subsets import class_sequence
from kd.fractions import covering_size, draw_subset, index_digest, noisy_labels, preference

labels = st.lists(st.integers(0, 6), min_size=1, max_size=80).map(torch.tensor)
seeds = st.integers(0, 2**63 - 1)
properties = settings(max_examples=60, deadline=None)


def members(rows: Tensor) -> set[int]:
    return set(rows.tolist())


@given(labels, seeds, st.booleans(), st.data())
@properties
def test_smaller_fractions_are_part_of_larger_ones(
    label: Tensor, seed: int, stratified: bool, data: st.DataObject
) -> None:
    n = len(label)
    small, large = sorted(data.draw(st.lists(st.integers(1, n), min_size=2, max_size=2)))
    classes = label if stratified else None
    few, many = (draw_subset(classes, n, size, seed) for size in (small, large))
    assert members(few) <= members(many)
    for rows, size in ((few, small), (many, large)):
        assert rows.tolist() == sorted(members(rows))
        assert len(rows) == size


@given(labels, seeds, st.data())
@properties
def test_each_class_has_its_share_rounded_down_or_up(label: Tensor, seed: int, data: st.DataObject) -> None:
    n = len(label)
    size = data.draw(st.integers(1, n))
    drawn = label[draw_subset(label, n, size, seed)].tolist()
    for value in label.unique().tolist():
        share = size * label.tolist().count(value)
        assert floor(share / n) <= drawn.count(value) <= ceil(share / n)


@given(labels, seeds)
@properties
def test_all_of_the_pool_is_the_pool(label: Tensor, seed: int) -> None:
    assert draw_subset(label, len(label), len(label), seed).tolist() == list(range(len(label)))


@given(st.integers(2, 8), st.integers(2, 12), seeds, st.data())
@properties
def test_balanced_classes_are_all_present_from_as_many_samples_as_classes(
    classes: int, each: int, seed: int, data: st.DataObject
) -> None:
    label = torch.arange(classes).repeat(each)
    size = data.draw(st.integers(classes, classes * each))
    assert covering_size(label) == classes
    assert len(label[draw_subset(label, len(label), size, seed)].unique()) == classes


@given(labels, seeds)
@properties
def test_the_covering_size_is_the_smallest_from_which_on_no_class_is_missing(label: Tensor, seed: int) -> None:
    n, classes = len(label), len(label.unique())
    complete = [len(label[draw_subset(label, n, size, seed)].unique()) == classes for size in range(1, n + 1)]
    assert complete.index(True) + 1 == covering_size(label)
    assert all(complete[covering_size(label) - 1 :])


@given(labels, seeds, seeds, st.booleans(), st.data())
@properties
def test_the_teachers_samples_come_first(
    label: Tensor, teacher_seed: int, seed: int, stratified: bool, data: st.DataObject
) -> None:
    n, classes = len(label), label if stratified else None
    size, teacher_size = data.draw(st.tuples(st.integers(1, n), st.integers(1, n)))
    teacher = draw_subset(classes, n, teacher_size, teacher_seed)
    student = draw_subset(classes, n, size, seed, first=teacher)
    if size <= teacher_size:
        assert members(student) <= members(teacher)
    else:
        assert members(teacher) <= members(student)
    if teacher_seed == seed:
        assert torch.equal(student, draw_subset(classes, n, size, seed))


def test_teacher_and_student_of_one_seed_have_one_order() -> None:
    label = torch.arange(7).repeat_interleave(torch.tensor([3, 50, 20, 1, 9, 30, 11]))
    teacher = draw_subset(label, len(label), 60, seed=4)
    for size in (5, 33, 60, 61, 100):
        assert torch.equal(draw_subset(label, 124, size, 4, first=teacher), draw_subset(label, 124, size, 4))


def test_the_seed_chooses_and_the_global_generators_neither_matter_nor_move() -> None:
    label = torch.arange(10).repeat(30)
    before, first = torch.get_rng_state(), draw_subset(label, 300, 30, seed=1)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(99)
    np.random.seed(99)
    assert torch.equal(draw_subset(label, 300, 30, seed=1), first)
    shared = members(first) & members(draw_subset(label, 300, 30, seed=2))
    assert 0 < len(shared) < 12  # 3 expected


def test_every_sample_is_as_likely_as_any_other() -> None:
    label = torch.arange(3).repeat(20)
    times = sum(torch.bincount(draw_subset(label, 60, 6, seed), minlength=60) for seed in range(2000))
    assert abs(times - 200).max() < 5 * (2000 * 0.1 * 0.9) ** 0.5


def test_sizes_have_draws_of_their_own_where_they_need_not_nest() -> None:
    label = torch.arange(4).repeat(50)
    few, many = (draw_subset(label, 200, size, 3, nested=False) for size in (20, 40))
    assert not members(few) <= members(many)
    assert torch.bincount(label[few]).tolist() == [5] * 4
    assert torch.equal(few, draw_subset(label, 200, 20, 3, nested=False))


def test_any_process_on_any_machine_draws_the_same_samples() -> None:
    """Nothing but integer arithmetic decides, so the digest is a constant."""
    label = torch.arange(10).repeat_interleave(torch.arange(1, 11) * 12)
    rows = draw_subset(label, len(label), 111, 17)
    assert index_digest(rows) == hashlib.sha1(b"".join(row.to_bytes(8, "little") for row in rows.tolist())).hexdigest()
    assert index_digest(rows) == "e0193acdf37a9e91b518d85f4d811c849fd8bb41"
    assert index_digest(rows.int()) == index_digest(rows)


def test_what_cannot_be_drawn_is_refused() -> None:
    label = torch.zeros(5, dtype=torch.int64)
    for size in (0, 6):
        with pytest.raises(ValueError, match=f"size={size}: cannot be drawn of 5 samples"):
            draw_subset(label, 5, size, 0)
    with pytest.raises(ValueError, match=r"size=2: cannot be drawn of 4 samples with labels of shape \(5,\)"):
        draw_subset(label, 4, 2, 0)


@given(st.integers(1, 9), st.integers(1, 9))
@properties
def test_balanced_classes_take_turns_as_the_general_rule_says(classes: int, each: int) -> None:
    """The general rule on counts that are not quite equal, where only the last samples of the larger class differ."""
    assume(each > 1)
    size = classes * each
    assert class_sequence([each] * classes, size) == list(range(classes)) * each
    uneven = class_sequence([each * 1000] * (classes - 1) + [each * 1000 - 1], classes)
    assert uneven == list(range(classes))


def test_preference_is_a_permutation_that_depends_on_numbers_alone() -> None:
    order = preference(50, seed=3)
    assert sorted(order.tolist()) == list(range(50))
    fewer = preference(20, seed=3)
    assert [i for i in order.tolist() if i < 20] == fewer.tolist()
    early = preference(50, 3, first=torch.tensor([7, 30, 2]))
    assert set(early[:3].tolist()) == {7, 30, 2}
    assert [i for i in order.tolist() if i not in (7, 30, 2)] == early[3:].tolist()


@given(st.integers(2, 9), st.floats(0, 1), st.floats(0, 1), seeds)
@properties
def test_noise_grows_with_its_rate_and_agrees_on_every_subset(
    classes: int, one: float, other: float, seed: int
) -> None:
    label = torch.randint(classes, (300,), generator=torch.Generator().manual_seed(1))
    low, high = (noisy_labels(label, rate, classes, seed) for rate in sorted((one, other)))
    replaced = low != label
    assert torch.equal(low[replaced], high[replaced])
    assert set(high.tolist()) <= set(range(classes))
    assert torch.equal(noisy_labels(label[:100], max(one, other), classes, seed), high[:100])
    assert torch.equal(noisy_labels(label, 0.0, classes, seed), label)
    assert bool((noisy_labels(label, 1.0, classes, seed) != label).all())


def test_noise_has_its_rate_and_prefers_no_class() -> None:
    label = torch.full((40_000,), 3)
    noisy = noisy_labels(label, 0.3, 5, seed=8)
    counts = torch.bincount(noisy, minlength=5)
    wanted = torch.tensor([0.075, 0.075, 0.075, 0.7, 0.075]) * 40_000
    assert bool(((counts - wanted).abs() < 5 * (wanted * 0.93).sqrt()).all())
    assert bool((noisy_labels(label, 0.3, 5, seed=9) != noisy).any())
