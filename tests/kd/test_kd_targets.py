import math
import re

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import brentq
from scipy.special import softmax
from torch import nn

from dinopl.core.divergences import entropy
from dinopl.core.random import seeded
from kd.losses import (
    DecoupledKL,
    HardTeacher,
    JensenShannon,
    KLDistillation,
    LogitMSE,
    ReverseKL,
    SoftCrossEntropy,
    TeacherOutputs,
)
from kd.targets import (
    ClassMean,
    ConfidenceMatchedSmoothing,
    CorrectedTeacher,
    EntropyMatchedSmoothing,
    NoisyLogits,
    PermutedNonTargets,
    RandomHead,
    ShuffledSamples,
    TargetTransform,
    TopClasses,
    TransformChain,
    UniformRest,
    WholeTeacher,
    class_means,
    expanded,
    partners,
    smoothing_of_confidence,
    smoothing_of_entropy,
    top_logits,
    with_random_head,
)
from kd.targets.base import normal, permutations, visit_keys

B, C = 60, 10
TEMPERATURES = [1.0, 4.0, 20.0]


def logits(seed, *shape, scale=3.0, dtype=torch.float64):
    shape = shape or (B, C)
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).mul(scale).to(dtype)


U = logits(0)
Y = U.argmax(1)
Y[::5] = (Y[::5] + 3) % C  # the teacher errs on every fifth sample
INDEX = torch.arange(B) * 7 + 100
SUBSET = TeacherOutputs(U, Y, INDEX)


def probs(x, temperature):
    return torch.softmax(x / temperature, dim=1)


def transforms():
    return [
        WholeTeacher(),
        PermutedNonTargets(seed=0),
        PermutedNonTargets("visit", seed=0),
        PermutedNonTargets("class", seed=0),
        UniformRest(),
        TopClasses(3),
        TopClasses(C),
        EntropyMatchedSmoothing(),
        ConfidenceMatchedSmoothing(),
        ClassMean(),
        ClassMean("probs"),
        CorrectedTeacher(),
        NoisyLogits(0.5, seed=0),
        NoisyLogits(0.5, per_visit=True, seed=0),
        ShuffledSamples(seed=0),
        ShuffledSamples(within_class=False, per_visit=True, seed=0),
        RandomHead(),
        TransformChain([CorrectedTeacher(), ClassMean(), PermutedNonTargets(seed=0)]),
    ]


def prepared(transform, temperature=20.0):
    transform.prepare(SUBSET, temperature)
    return transform


@pytest.mark.parametrize("transform", transforms(), ids=lambda t: type(t).__name__)
class TestEveryTransform:
    def test_a_target_depends_on_its_sample_alone(self, transform):
        """Whatever the batch, its order and the visits of others; again and again."""
        prepared(transform)
        visit = torch.arange(B) % 3
        whole = transform(U, Y, INDEX, visit, 20.0)
        assert whole.shape == (B, C)
        assert whole.isfinite().all()
        order = torch.randperm(B, generator=torch.Generator().manual_seed(1))
        parts = [transform(U[i], Y[i], INDEX[i], visit[i], 20.0) for i in order.split(7)]
        # Logarithms and powers may round differently in a vector register and in what is left over at its end.
        torch.testing.assert_close(torch.cat(parts), whole[order], rtol=1e-12, atol=1e-12)
        one = transform(U[5:6], Y[5:6], INDEX[5:6], int(visit[5]), 20.0)
        torch.testing.assert_close(one, whole[5:6], rtol=1e-12, atol=1e-12)

    @pytest.mark.parametrize(
        "objective",
        [KLDistillation(), SoftCrossEntropy(), ReverseKL(), JensenShannon(), DecoupledKL(), HardTeacher(), LogitMSE()],
        ids=lambda o: type(o).__name__,
    )
    def test_every_objective_can_use_it(self, transform, objective):
        temperature = objective.temperature
        if math.isinf(temperature) and "Smoothing" in type(transform).__name__:
            with pytest.raises(ValueError, match=r"temperature=inf: .*Smoothing needs an objective with a finite"):
                transform.prepare(SUBSET, temperature)
            return
        transform.prepare(SUBSET, temperature)
        student = logits(9, dtype=torch.float32).requires_grad_()
        loss = objective(student, transform(U.float(), Y, INDEX, 0, temperature), Y)
        loss.sum().backward()
        assert loss.isfinite().all()
        assert student.grad.isfinite().all()

    def test_it_tells_whether_it_reads_the_index(self, transform):
        prepared(transform)
        moved = transform(U, Y, INDEX.roll(1), 0, 20.0)
        assert transform.needs_index != torch.equal(moved, transform(U, Y, INDEX, 0, 20.0))

    def test_half_precision_outputs_serve(self, transform):
        """A cache may hold float16: the result is of the same target, in at least float32 but for the whole teacher."""
        wanted = prepared(transform)(U.half().double(), Y, INDEX, 0, 20.0)
        got = transform(U.half(), Y, INDEX, 0, 20.0)
        torch.testing.assert_close(probs(got.double(), 20.0), probs(wanted, 20.0), rtol=2e-3, atol=0)


def test_the_whole_teacher_is_bitwise_the_teacher():
    assert WholeTeacher()(U, Y, INDEX, 0, 20.0) is U


# Permuted


@pytest.mark.parametrize("per", ["sample", "visit", "class"])
def test_permutation_keeps_the_largest_and_the_set_of_values(per):
    target = PermutedNonTargets(per, seed=0)(U, Y, INDEX, 3, 20.0)
    assert torch.equal(target.argmax(1), U.argmax(1))
    assert torch.equal(target.amax(1), U.amax(1))
    assert torch.equal(target.sort(1).values, U.sort(1).values)
    assert (target != U).any(1).all()


def test_what_has_a_permutation_of_its_own():
    """Of one vector on all samples: one order a sample, one a visit, or one for all of a class."""
    same = torch.arange(C).double().expand(B, C)

    def orders(per, visit):
        return PermutedNonTargets(per, seed=0)(same, Y, INDEX, visit, 20.0)

    assert torch.equal(orders("sample", 0), orders("sample", 1))
    assert len(orders("sample", 0).unique(dim=0)) == B
    assert not (orders("visit", 0) == orders("visit", 1)).all(1).any()
    assert len(orders("class", 0).unique(dim=0)) == 1
    assert torch.equal(orders("class", 0), orders("class", 1))


def test_orders_are_uniform():
    """Every order of three others comes equally often, and every visit's mean tends to a uniform rest."""
    count = 12000
    orders = permutations(visit_keys(0, torch.arange(count)), 3)
    codes = (orders * torch.tensor([9, 3, 1])).sum(1)
    found, times = codes.unique(return_counts=True)
    assert len(found) == 6
    assert (times - count / 6).abs().max() < 4 * math.sqrt(count / 6)
    transform = PermutedNonTargets("visit", seed=0)
    row = probs(U[:1], 4.0).expand(count, C)
    mean = transform(row, Y[:1].expand(count), INDEX[:1].expand(count), torch.arange(count), 4.0).mean(0)
    rest = probs(UniformRest()(U[:1], Y[:1], INDEX[:1], 0, 4.0), 4.0)[0]
    torch.testing.assert_close(mean, rest, atol=3e-3, rtol=0)


def test_random_transforms_are_the_same_in_every_process():
    """Numbers that were once drawn, on this or another machine."""
    u, i = torch.arange(6.0).expand(3, 6), torch.arange(3)
    by_visit = [[1, 4, 0, 3, 2, 5], [1, 2, 3, 0, 4, 5], [1, 4, 3, 0, 2, 5]]
    by_sample = [[1, 4, 3, 0, 2, 5], [1, 3, 0, 2, 4, 5], [0, 1, 2, 3, 4, 5]]
    assert PermutedNonTargets("visit", seed=3)(u, i, i, 2, 1.0).tolist() == by_visit
    assert PermutedNonTargets("sample", seed=3)(u, i, i, 2, 1.0).tolist() == by_sample
    noise = NoisyLogits(1.0, seed=3)(u, i, i, 0, 1.0)[:, 0]
    torch.testing.assert_close(noise, torch.tensor([0.5852672, 1.3411684, -0.2282045]))


def test_streams_follow_the_runs_seed_and_differ():
    def seeds(root):
        with seeded(root):
            torch.manual_seed(root)
            return [PermutedNonTargets().seed, NoisyLogits(1.0).seed, ShuffledSamples().seed, RandomHead().seed]

    assert seeds(1) == seeds(1)
    assert len({*seeds(1), *seeds(2)}) == 8


def test_corrected_teacher_is_right_and_keeps_its_values():
    target = CorrectedTeacher()(U, Y, INDEX, 0, 20.0)
    assert torch.equal(target.argmax(1), Y)
    assert torch.equal(target.sort(1).values, U.sort(1).values)
    right = U.argmax(1) == Y
    assert torch.equal(target[right], U[right])
    moved = (target != U).sum(1)
    assert moved[~right].tolist() == [2] * int((~right).sum())


def test_noise_is_normal():
    noise = normal(visit_keys(0, torch.arange(4000)), C)
    assert noise.isfinite().all()
    assert noise.mean().abs() < 0.02
    assert noise.std().item() == pytest.approx(1, abs=0.02)
    assert noise.abs().gt(1.96).float().mean().item() == pytest.approx(0.05, abs=0.005)
    assert torch.corrcoef(noise.T).fill_diagonal_(0).abs().max() < 0.07
    target = NoisyLogits(0.5, seed=1)(U, Y, INDEX, 0, 20.0)
    assert (target - U).std().item() == pytest.approx(0.5, abs=0.05)
    assert torch.equal(NoisyLogits(0.0)(U, Y, INDEX, 0, 20.0), U)
    again, other = (NoisyLogits(0.5, True, seed=1)(U, Y, INDEX, visit, 20.0) for visit in (0, 1))
    assert torch.equal(again, target)
    assert not torch.equal(other, target)


# Levelled


@pytest.mark.parametrize("temperature", TEMPERATURES)
@pytest.mark.parametrize("k", [1, 2, 3, 5, C])
def test_top_classes_are_kept_and_the_rest_is_level(k, temperature):
    """Against the definition on probabilities."""
    p = softmax(U.numpy() / temperature, axis=1)
    expected = p.copy()
    for row in expected:
        rest = np.argsort(row)[: C - k]
        row[rest] = row[rest].mean() if len(rest) else 0
    target = probs(TopClasses(k)(U, Y, INDEX, 0, temperature), temperature)
    np.testing.assert_allclose(target, expected, rtol=1e-9)
    np.testing.assert_allclose(target.sum(1), 1, rtol=1e-12)
    assert torch.equal(target.argmax(1), U.argmax(1))


def test_uniform_rest_keeps_the_largest_and_is_top_one():
    target = UniformRest()(U, Y, INDEX, 0, 4.0)
    assert torch.equal(target, TopClasses(1)(U, Y, INDEX, 0, 4.0))
    torch.testing.assert_close(probs(target, 4.0).amax(1), probs(U, 4.0).amax(1))
    assert (entropy(target / 4) >= entropy(U / 4) - 1e-12).all()
    in_the_limit = UniformRest()(U, Y, INDEX, 0, math.inf)
    torch.testing.assert_close(in_the_limit, UniformRest()(U, Y, INDEX, 0, 1e7), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(in_the_limit.mean(1), U.mean(1))


def test_a_cache_of_top_logits_is_the_transform():
    kept = top_logits(U, 3, 4.0)
    assert kept[0].shape == kept[1].shape == (B, 3)
    assert torch.equal(expanded(*kept, C), TopClasses(3)(U, Y, INDEX, 0, 4.0))
    full = top_logits(U, C, 4.0)
    assert full[2].isfinite().all()
    assert torch.equal(expanded(*full, C), U)


def test_ties_keep_the_class_that_argmax_names():
    level = torch.zeros(4, C)
    target = TopClasses(1)(level, Y[:4], INDEX[:4], 0, 1.0)
    assert torch.equal(target, level)
    _, classes, _ = top_logits(level, 1, 1.0)
    assert torch.equal(classes[:, 0], level.argmax(1))


# Matched smoothing


@settings(max_examples=40, deadline=None)
@given(st.integers(2, 1000), st.floats(1e-6, 1 - 1e-9))
def test_smoothing_that_solves_for_an_entropy(classes, share):
    wanted = share * math.log(classes)

    def entropy_of(e):
        q = np.full(classes, e / classes)
        q[0] += 1 - e
        return -(q * np.log(q)).sum()

    e = smoothing_of_entropy(wanted, classes)
    assert entropy_of(e) == pytest.approx(wanted, abs=1e-9)
    root = brentq(lambda x: entropy_of(x) - wanted, 1e-12, 1, xtol=1e-15)
    assert e == pytest.approx(root, rel=1e-3)


@pytest.mark.parametrize("temperature", TEMPERATURES)
def test_smoothing_matches_the_teachers_mean(temperature):
    by_entropy = prepared(EntropyMatchedSmoothing(), temperature)
    target = by_entropy(U, Y, INDEX, 0, temperature)
    assert abs(entropy(target / temperature).mean() - entropy(U / temperature).mean()) < 1e-4
    by_confidence = prepared(ConfidenceMatchedSmoothing(), temperature)
    other = by_confidence(U, Y, INDEX, 0, temperature)
    assert abs(probs(other, temperature).amax(1) - probs(U, temperature).amax(1).mean()).max() < 1e-6
    for q, e in (
        (probs(target, temperature), by_entropy.smoothing),
        (probs(other, temperature), by_confidence.smoothing),
    ):
        assert torch.equal(q.argmax(1), Y)
        rest = q.scatter(1, Y[:, None], e / C)
        torch.testing.assert_close(rest, torch.full_like(rest, e / C), rtol=1e-5, atol=1e-9)


def test_smoothing_of_a_certain_and_of_an_ignorant_teacher():
    certain = TeacherOutputs(1e4 * torch.nn.functional.one_hot(Y, C).float(), Y, INDEX)
    ignorant = TeacherOutputs(torch.zeros(B, C), Y, INDEX)
    for transform in (EntropyMatchedSmoothing(), ConfidenceMatchedSmoothing()):
        transform.prepare(certain, 1.0)
        target = transform(U, Y, INDEX, 0, 1.0)
        assert target.isfinite().all()
        torch.testing.assert_close(probs(target, 1.0).amax(1), torch.ones(B).double())
        transform.prepare(ignorant, 1.0)
        assert transform(U, Y, INDEX, 0, 1.0).abs().max() < 1e-2
    assert smoothing_of_confidence(1 / C, C) == 1.0


# Pooled over the subset


@pytest.mark.parametrize("temperature", [*TEMPERATURES, math.inf])
def test_class_means(temperature):
    plain, pooled = class_means(SUBSET, math.inf), class_means(SUBSET, temperature)
    for c in Y.unique().tolist():
        members = U[Y.eq(c)]
        torch.testing.assert_close(plain[c], members.mean(0))
        torch.testing.assert_close(pooled[c].mean(), members.mean())
        if math.isfinite(temperature):
            wanted = probs(members, temperature).mean(0)
            torch.testing.assert_close(torch.softmax(pooled[c] / temperature, 0), wanted)
    torch.testing.assert_close(class_means(SUBSET, 1e6), plain, rtol=1e-4, atol=1e-4)


def test_class_mean_gives_each_sample_that_of_its_label():
    target = prepared(ClassMean())(logits(5), Y, INDEX, 0, 20.0)
    for c in Y.unique().tolist():
        torch.testing.assert_close(target[Y.eq(c)], U[Y.eq(c)].mean(0).expand(int(Y.eq(c).sum()), C))
    outside = TeacherOutputs(U[Y == 0], Y[Y == 0], INDEX[Y == 0])
    assert class_means(outside, 4.0)[1].isnan().all()


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(0, 3), min_size=1, max_size=12), st.integers(0, 1000))
def test_partners_are_one_cycle_in_each_group(groups, seed):
    group = torch.tensor(groups)
    partner = partners(visit_keys(seed, torch.arange(len(group))), group)
    assert torch.equal(partner.sort().values, torch.arange(len(group)))
    assert torch.equal(group[partner], group)
    for start in range(len(group)):
        size, at = 1, int(partner[start])
        while at != start:
            size, at = size + 1, int(partner[at])
        assert size == groups.count(groups[start])


@pytest.mark.parametrize("within_class", [True, False])
def test_shuffled_samples_use_each_output_once(within_class):
    order = torch.randperm(B, generator=torch.Generator().manual_seed(3))
    transform = ShuffledSamples(within_class, seed=0)
    transform.prepare(TeacherOutputs(U[order], Y[order], INDEX[order]), 20.0)
    target = transform(logits(5), Y, INDEX, 0, 20.0)
    source = (target[:, None] == U[None]).all(2).float().argmax(1)
    assert torch.equal(source.sort().values, torch.arange(B))
    alone = torch.bincount(Y, minlength=C)[Y] == 1
    assert torch.equal(source == torch.arange(B), alone & within_class)
    assert within_class == torch.equal(Y[source], Y)
    with pytest.raises(ValueError, match="not all are in the subset"):
        transform(U[:1], Y[:1], INDEX[:1] + 1, 0, 20.0)


def test_shuffled_samples_by_visit():
    transform = prepared(ShuffledSamples(False, per_visit=True, seed=0))
    first, second = (transform(U, Y, INDEX, visit, 20.0) for visit in (0, 1))
    assert not torch.equal(first, second)
    assert torch.equal(first, transform(U, Y, INDEX, 0, 20.0))
    fixed = prepared(ShuffledSamples(False, seed=0))
    assert torch.equal(first, fixed(U, Y, INDEX, 1, 20.0))


# A random head, and several transforms


def network():
    return nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, C))


def test_random_head_draws_the_head_and_nothing_else():
    teacher = network()
    before = {name: value.clone() for name, value in teacher.state_dict().items()}
    first, again = RandomHead(seed=1).adapt_teacher(teacher), RandomHead("2", seed=1).adapt_teacher(teacher)
    other = with_random_head(teacher, None, seed=2)
    for name, value in teacher.state_dict().items():
        assert torch.equal(value, before[name])
        assert torch.equal(first.state_dict()[name], again.state_dict()[name])
        assert torch.equal(first.state_dict()[name], value) == name.startswith("0")
        assert torch.equal(first.state_dict()[name], other.state_dict()[name]) == name.startswith("0")
    assert WholeTeacher().adapt_teacher(teacher) is teacher


def test_chain_prepares_each_with_what_the_one_before_returns():
    chain = prepared(TransformChain([CorrectedTeacher(), ClassMean()]))
    assert chain.needs_subset
    corrected = CorrectedTeacher()(U, Y, INDEX, 0, 20.0)
    torch.testing.assert_close(chain(U, Y, INDEX, 0, 20.0)[Y == 4][0], corrected[Y == 4].mean(0))
    assert not TransformChain([CorrectedTeacher()]).needs_subset
    teacher = network()
    adapted = TransformChain([WholeTeacher(), RandomHead(seed=1)]).adapt_teacher(teacher)
    assert torch.equal(adapted[2].weight, with_random_head(teacher, None, 1)[2].weight)


# Mistakes


@pytest.mark.parametrize("transform", [t for t in transforms() if t.needs_subset], ids=lambda t: type(t).__name__)
def test_unprepared_transforms_say_so(transform):
    with pytest.raises(RuntimeError, match=r"call prepare\(\)"):
        transform(U, Y, INDEX, 0, 20.0)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: TopClasses(0), "k=0: TopClasses keeps at least 1 class"),
        (lambda: NoisyLogits(-1.0), "sigma=-1.0: must be at least 0"),
        (lambda: TransformChain([]), "needs at least one"),
        (lambda: with_random_head(network(), "3", 0), "head=3: no module of Sequential; did you mean"),
        (lambda: with_random_head(network(), "1", 0), "has no layer that can be drawn again"),
        (lambda: with_random_head(nn.Sequential(nn.ReLU()), None, 0), "head=head: no module of Sequential"),
    ],
)
def test_mistakes_are_one_line(make, message):
    with pytest.raises(ValueError, match=message) as caught:
        make()
    assert re.match(r"\w+=.*: ", str(caught.value))
    assert "\n" not in str(caught.value)


def test_transforms_are_an_interface():
    with pytest.raises(TypeError):
        TargetTransform()
