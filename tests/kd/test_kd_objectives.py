import math
import re

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import log_softmax, rel_entr, softmax

import kd
from dinopl.core.divergences import entropy, kl_divergence, mean_squared_error
from kd.losses import (
    ConfidenceWeighted,
    DecoupledKL,
    FeaturesAlone,
    HardTeacher,
    JensenShannon,
    KLDistillation,
    LabelCrossEntropy,
    LabelSmoothing,
    LogitMSE,
    Mixture,
    Objective,
    OneHotMSE,
    PartialLogitMSE,
    ReverseKL,
    SoftCrossEntropy,
    TeacherOutputs,
    VirtualTeacher,
    WhereTeacherKnows,
    centred_mean_squared_error,
    jensen_shannon,
    kl_distillation,
    label_cross_entropy,
    logit_margin,
    non_target_kl,
    reverse_kl,
    smoothed_cross_entropy,
    soft_cross_entropy,
    target_class_kl,
    virtual_distillation,
    virtual_teacher,
)

B, C = 64, 10


def logits(seed, *shape, scale=3.0, dtype=torch.float64):
    shape = shape or (B, C)
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).mul(scale).to(dtype)


def labels(seed=2, count=B, classes=C):
    return torch.randint(classes, (count,), generator=torch.Generator().manual_seed(seed))


def outputs(teacher, label):
    return TeacherOutputs(teacher, label, torch.arange(len(label)))


Z, U, Y = logits(0), logits(1), labels()

OBJECTIVES = [
    LabelCrossEntropy(),
    LabelCrossEntropy(4.0),
    LabelSmoothing(0.1),
    LabelSmoothing(0.1, "others"),
    VirtualTeacher(),
    VirtualTeacher(variant="code"),
    OneHotMSE(),
    KLDistillation(),
    KLDistillation(4.0, student_temperature=1.0, scaled=False),
    KLDistillation(math.inf),
    SoftCrossEntropy(4.0),
    ReverseKL(4.0),
    JensenShannon(4.0),
    LogitMSE(),
    LogitMSE(centred=True),
    PartialLogitMSE(5),
    PartialLogitMSE(5, "random", seed=0),
    HardTeacher(),
    DecoupledKL(1.0, 8.0, 4.0),
    Mixture(0.3),
    WhereTeacherKnows(),
    ConfidenceWeighted(),
]


def call(objective, student, teacher, label, prepared=True):
    if prepared:
        objective.prepare(outputs(U, Y))
    return objective(student, teacher, label)


def gradient(function, student, *rest):
    student = student.clone().requires_grad_()
    return torch.autograd.grad(function(student, *rest).mean(), student)[0]


# Each by hand on 2 x 3 logits, in plain numpy.

z = np.array([[1.0, -2.0, 0.5], [0.0, 3.0, -1.0]])
u = np.array([[2.0, 0.0, -1.0], [1.0, -1.5, 0.5]])
y = np.array([0, 2])
p, q = softmax(z / 4, axis=1), softmax(u / 4, axis=1)
one_hot = np.eye(3)[y]
at_label = (np.arange(2), y)


@pytest.mark.parametrize(
    ("objective", "expected"),
    [
        (LabelCrossEntropy(4.0), -np.log(p[at_label])),
        (LabelSmoothing(0.3), -((0.7 * one_hot + 0.1) * log_softmax(z, axis=1)).sum(1)),
        (LabelSmoothing(0.3, "others"), -((0.7 * one_hot + 0.15 * (1 - one_hot)) * log_softmax(z, axis=1)).sum(1)),
        (KLDistillation(4.0), 16 * rel_entr(q, p).sum(1)),
        (KLDistillation(4.0, scaled=False), rel_entr(q, p).sum(1)),
        (KLDistillation(4.0, 1.0, scaled=False), rel_entr(q, softmax(z, axis=1)).sum(1)),
        (SoftCrossEntropy(4.0), -16 * (q * np.log(p)).sum(1)),
        (ReverseKL(4.0), 16 * rel_entr(p, q).sum(1)),
        (JensenShannon(4.0), 8 * (rel_entr(p, (p + q) / 2) + rel_entr(q, (p + q) / 2)).sum(1)),
        (LogitMSE(), ((z - u) ** 2).mean(1)),
        (LogitMSE(centred=True), ((z - u - (z - u).mean(1, keepdims=True)) ** 2).mean(1)),
        (OneHotMSE(2.5), ((z - 2.5 * one_hot) ** 2).mean(1)),
        (HardTeacher(), -log_softmax(z, axis=1)[:, 0]),
        (PartialLogitMSE(2), np.array([(1 + 1.5**2) / 2, (1 + 4.5**2) / 2])),  # classes 0 and 2, then 0 and 1
        (Mixture(0.3, KLDistillation(4.0)), -0.3 * log_softmax(z, axis=1)[at_label] + 0.7 * 16 * rel_entr(q, p).sum(1)),
        (
            WhereTeacherKnows(1, KLDistillation(4.0)),  # the teacher's first class is 0 in both: right, then wrong
            np.array([16 * rel_entr(q, p).sum(1)[0], -log_softmax(z, axis=1)[1, 2]]),
        ),
        (
            ConfidenceWeighted(4.0, over_batch=True),
            -log_softmax(z, axis=1)[at_label] * q.max(1) / q.max(1).mean(),
        ),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Objective) else "",
)
def test_values_by_hand(objective, expected):
    got = objective(torch.tensor(z), torch.tensor(u), torch.tensor(y))
    np.testing.assert_allclose(got, expected, rtol=1e-12)


@pytest.mark.parametrize("objective", OBJECTIVES, ids=lambda o: type(o).__name__)
class TestEveryObjective:
    def test_one_finite_loss_a_sample_whatever_else_is_in_the_batch(self, objective):
        whole = call(objective, Z, U, Y)
        assert whole.shape == (B,)
        assert whole.isfinite().all()
        alone = torch.cat([objective(Z[i : i + 1], U[i : i + 1], Y[i : i + 1]) for i in range(B)])
        torch.testing.assert_close(whole, alone)
        assert call(objective, Z[:0], U[:0], Y[:0]).shape == (0,)

    def test_loss_stays_float32_under_autocast(self, objective):
        s, t = Z.bfloat16(), U.bfloat16()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            low = call(objective, s, t, Y)
        assert low.dtype == torch.float32
        torch.testing.assert_close(low, objective(s.float(), t.float(), Y))
        assert objective(Z, U, Y).dtype == torch.float64

    def test_only_the_student_gets_a_gradient(self, objective):
        student, teacher = Z.clone().requires_grad_(), U.clone().requires_grad_()
        call(objective, student, teacher, Y).sum().backward()
        assert student.grad.isfinite().all()
        assert student.grad.any()
        assert teacher.grad is None

    def test_extreme_logits_stay_finite(self, objective):
        student = (1e4 * torch.sign(Z)).float().requires_grad_()
        loss = call(objective, student, (-1e4 * torch.sign(Z)).float(), Y)
        loss.sum().backward()
        assert loss.isfinite().all()
        assert student.grad.isfinite().all()

    def test_the_teacher_is_asked_for_where_it_is_needed(self, objective):
        if objective.needs_teacher:
            with pytest.raises(ValueError, match="needs a teacher"):
                call(objective, Z, None, Y)
        else:
            torch.testing.assert_close(call(objective, Z, None, Y), objective(Z, U, Y))


# The Kullback-Leibler divergence


@pytest.mark.parametrize("temperature", [0.1, 1.0, 4.0, 20.0, 1000.0])
def test_gradient_of_scaled_kl(temperature):
    """d(T^2 KL)/dz = T (p_T(z) - p_T(u)) a sample, over the batch's size for its mean."""
    closed = temperature * (torch.softmax(Z / temperature, 1) - torch.softmax(U / temperature, 1)) / B
    torch.testing.assert_close(gradient(kl_distillation, Z, U, temperature), closed, atol=1e-12, rtol=1e-9)
    single = gradient(kl_distillation, Z.float(), U.float(), temperature)
    torch.testing.assert_close(single, closed.float(), atol=1e-6, rtol=0)
    same = gradient(soft_cross_entropy, Z, U, temperature)
    torch.testing.assert_close(same, closed, atol=1e-12, rtol=1e-9)


def test_sum_over_classes_and_mean_over_the_batch():
    ours = kl_distillation(Z, U, 4.0).mean()
    theirs = 16 * F.kl_div(F.log_softmax(Z / 4, 1), F.softmax(U / 4, 1), reduction="batchmean")
    torch.testing.assert_close(ours, theirs)


def test_high_temperature_is_half_the_centred_squared_difference():
    limit = kl_distillation(Z, U, math.inf)
    torch.testing.assert_close(limit, 0.5 * centred_mean_squared_error(Z, U))
    assert kl_distillation(Z, U, 1000.0).mean().item() == pytest.approx(limit.mean().item(), rel=1e-3)
    assert kl_distillation(Z, U, 1e5).mean().item() == pytest.approx(limit.mean().item(), rel=1e-5)
    torch.testing.assert_close(reverse_kl(Z, U, 1e5), limit, rtol=1e-3, atol=0)
    torch.testing.assert_close(jensen_shannon(Z, U, 1e5), limit / 4, rtol=1e-3, atol=0)
    shifted = Z + logits(5, B, 1)  # softmax and the centred error do not see it, the plain error does
    torch.testing.assert_close(kl_distillation(shifted, U, math.inf), limit)
    assert mean_squared_error(shifted, U).mean() > 2 * limit.mean() + 1


def test_low_temperature_leaves_only_the_match_of_the_largest():
    t = 1e-3
    wanted = Z.amax(1) - Z.gather(1, U.argmax(1, keepdim=True)).squeeze(1)
    torch.testing.assert_close(t * kl_distillation(Z, U, t, scaled=False), wanted, atol=t * math.log(C), rtol=1e-9)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**31), st.integers(2, 12), st.sampled_from([0.5, 1.0, 20.0]))
def test_decoupled_parts_add_up_to_the_whole(seed, classes, temperature):
    """KL = TCKD + (1 - p_label) NCKD."""
    s, t, label = logits(seed, 5, classes), logits(seed + 1, 5, classes), labels(seed, 5, classes)
    p_label = torch.softmax(t / temperature, 1).gather(1, label[:, None]).squeeze(1)
    parts = target_class_kl(s, t, label, temperature) + (1 - p_label) * non_target_kl(s, t, label, temperature)
    torch.testing.assert_close(parts, kl_divergence(s / temperature, t / temperature), rtol=1e-9, atol=1e-12)


def test_decoupled_parts_alone():
    """Against the definition: renormalised probabilities of the others, and the pair (label, rest)."""
    p, q = softmax(U.numpy() / 4, axis=1), softmax(Z.numpy() / 4, axis=1)
    keep = np.arange(C) != Y.numpy()[:, None]
    p_rest, q_rest = (x[keep].reshape(B, C - 1) for x in (p, q))
    dark = rel_entr(p_rest / p_rest.sum(1, keepdims=True), q_rest / q_rest.sum(1, keepdims=True)).sum(1)
    pair = rel_entr(p_rest.sum(1), q_rest.sum(1)) + rel_entr(p[~keep], q[~keep])
    np.testing.assert_allclose(DecoupledKL(0.0, 1.0, 4.0)(Z, U, Y), 16 * dark, rtol=1e-9)
    np.testing.assert_allclose(DecoupledKL(1.0, 0.0, 4.0)(Z, U, Y), 16 * pair, rtol=1e-9)
    moved = U + 3 * F.one_hot(Y, C)  # the teacher's confidence is no dark knowledge
    torch.testing.assert_close(DecoupledKL(0.0, 1.0)(Z, U, Y), DecoupledKL(0.0, 1.0)(Z, moved, Y))


def test_jensen_shannon_is_symmetric_and_bounded():
    torch.testing.assert_close(jensen_shannon(Z, U, 4.0), jensen_shannon(U, Z, 4.0))
    apart = jensen_shannon(100 * F.one_hot(Y, C).double(), 100 * F.one_hot((Y + 1) % C, C).double(), 1.0)
    torch.testing.assert_close(apart, torch.full_like(apart, math.log(2)))
    assert (jensen_shannon(Z, U, 1.0) < math.log(2)).all()


@pytest.mark.parametrize("function", [kl_distillation, reverse_kl, jensen_shannon, centred_mean_squared_error])
def test_equal_logits_cost_nothing(function):
    assert function(Z, Z.clone()).abs().max() < 1e-12


# Labels and what is made of them


def test_label_smoothing_is_torchs_and_its_parts_are_known():
    ours = smoothed_cross_entropy(Z, Y, 0.2)
    torch.testing.assert_close(ours, F.cross_entropy(Z, Y, reduction="none", label_smoothing=0.2))
    to_uniform = kl_divergence(Z, torch.zeros_like(Z)) + math.log(C)
    torch.testing.assert_close(ours, 0.8 * label_cross_entropy(Z, Y) + 0.2 * to_uniform)
    others = smoothed_cross_entropy(Z, Y, 0.18, "others")  # 0.2 over all ten is 0.18 over the other nine
    torch.testing.assert_close(ours, others)
    torch.testing.assert_close(smoothed_cross_entropy(Z, Y, 0.0, "others"), label_cross_entropy(Z, Y))


@pytest.mark.parametrize("confidence", [0.9, 0.99])
def test_virtual_teacher_is_a_distribution(confidence):
    v = virtual_teacher(Y, C, confidence).double()
    torch.testing.assert_close(v.sum(1), torch.ones(B).double())
    assert (v > 0).all()
    assert torch.equal(v.argmax(1), Y)
    torch.testing.assert_close(v.amax(1), torch.full((B,), confidence).double())


def test_virtual_distillation_by_its_definition():
    v = virtual_teacher(Y, C, 0.9).double().numpy()
    tempered = v ** (1 / 20) / (v ** (1 / 20)).sum(1, keepdims=True)
    expected = 400 * rel_entr(tempered, softmax(Z.numpy() / 20, axis=1)).sum(1)
    np.testing.assert_allclose(virtual_distillation(Z, Y, 0.9, 20.0), expected, rtol=1e-6)
    code = rel_entr(softmax(v / 20, axis=1), softmax(Z.numpy(), axis=1)).sum(1)
    np.testing.assert_allclose(virtual_distillation(Z, Y, 0.9, 20.0, "code"), code, rtol=1e-6)
    assert softmax(v / 20, axis=1).max() < 0.105  # nearly uniform: what the published code really teaches


def test_virtual_teacher_at_temperature_one_is_label_smoothing():
    """The same gradient as smoothing by 0.1 over the others; the values differ by the target's entropy."""
    target = torch.full((C,), 0.1 / 9).index_fill(0, torch.tensor(0), 0.9).double()
    smoothed = smoothed_cross_entropy(Z, Y, 0.1, "others") - entropy(target.log())
    torch.testing.assert_close(virtual_distillation(Z, Y, 0.9, 1.0), smoothed, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("classes", [10, 100])
def test_magnitude_of_one_hot_logits(classes):
    teacher = logits(3, 50, classes)
    rows = teacher.numpy()
    by_hand = np.mean([row.max() - np.delete(row, row.argmax()).mean() for row in rows])
    assert logit_margin(teacher).mean().item() == pytest.approx(by_hand)
    objective, label = OneHotMSE(), labels(4, 50, classes)
    assert objective.needs_subset
    assert not objective.needs_teacher
    with pytest.raises(RuntimeError, match=r"call prepare\(\)"):
        objective(teacher, None, label)
    objective.prepare(outputs(teacher.half(), label))
    assert objective.magnitude == pytest.approx(by_hand, rel=1e-3)
    perfect = by_hand * F.one_hot(label, classes)
    assert objective(perfect, None, label).max() < 1e-3
    assert not OneHotMSE(3.0).needs_subset


def test_hard_labels_of_a_teacher_that_is_right_are_the_labels():
    right = F.one_hot(Y, C) * 5.0
    assert torch.equal(HardTeacher()(Z, right, Y), LabelCrossEntropy()(Z, None, Y))


# Objectives made of others


class Counted(LabelCrossEntropy):
    needs_teacher = True
    calls = 0

    def supervise(self, student, label):
        self.calls += 1
        return torch.full((len(label),), math.nan) * student.sum()


def test_mixture_at_its_ends():
    labels_only, distilled = Mixture(1.0, Counted()), Mixture(0.0, KLDistillation(4.0), Counted())
    assert torch.equal(labels_only(Z, None, Y), LabelCrossEntropy()(Z, None, Y))
    assert torch.equal(distilled(Z, U, Y), KLDistillation(4.0)(Z, U, Y))
    assert labels_only.distillation.calls == distilled.labels.calls == 0
    assert not labels_only.needs_teacher
    assert distilled.needs_teacher
    assert Mixture(0.5).temperature == 20.0
    assert Mixture(1.0).needs_teacher is False


def test_mixtures_prepare_their_parts():
    for objective in (Mixture(0.5, ConfidenceWeighted()), WhereTeacherKnows(10, ConfidenceWeighted())):
        assert objective.needs_subset
        with pytest.raises(RuntimeError, match=r"call prepare\(\)"):
            objective(Z, U, Y)
        call(objective, Z, U, Y)


def test_conditional_counts_the_labels_rank():
    teacher = torch.arange(5.0).expand(5, -1)  # class 4 is first, class 0 last
    label = torch.arange(5)
    objective = WhereTeacherKnows(3, LogitMSE())
    from_teacher = objective(teacher, teacher, label) == 0
    assert from_teacher.tolist() == [False, False, True, True, True]


def test_confidence_weights_have_mean_one():
    over_subset, over_batch = ConfidenceWeighted(2.0), ConfidenceWeighted(2.0, over_batch=True)
    assert not over_batch.needs_subset
    weights = call(over_subset, Z, U, Y) / LabelCrossEntropy()(Z, None, Y)
    assert weights.mean().item() == pytest.approx(1.0)
    largest = softmax(U.numpy() / 2, axis=1).max(1)
    np.testing.assert_allclose(weights, largest / largest.mean(), rtol=1e-9)
    torch.testing.assert_close(over_batch(Z, U, Y), over_subset(Z, U, Y))
    assert not torch.allclose(over_batch(Z[:2], U[:2], Y[:2]), over_subset(Z[:2], U[:2], Y[:2]))


def test_random_classes_are_those_of_the_seed():
    first, again, other = (PartialLogitMSE(3, "random", seed=seed) for seed in (0, 0, 1))
    assert torch.equal(first(Z, U, Y), again(Z, U, Y))
    assert not torch.equal(first(Z, U, Y), other(Z, U, Y))
    torch.testing.assert_close(PartialLogitMSE(C, "random")(Z, U, Y), LogitMSE()(Z, U, Y))


def test_features_alone_ask_nothing_of_the_logits():
    objective, student = FeaturesAlone(), Z.clone().requires_grad_()
    loss = objective(student, None, Y)
    loss.sum().backward()
    assert torch.equal(loss, torch.zeros(B).double())
    assert torch.equal(student.grad, torch.zeros(B, C).double())  # and not None: no parameter is left out of a step
    assert not objective.needs_teacher


# Mistakes


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: KLDistillation(0.0), "^temperature=0.0: must be above 0 in KLDistillation"),
        (lambda: KLDistillation(math.nan), "^temperature=nan: must be above 0 in KLDistillation"),
        (lambda: KLDistillation(math.inf, scaled=False), "above 0 and finite"),
        (
            lambda: KLDistillation(4.0, student_temperature=0.0),
            "^student_temperature=0.0: must be above 0",
        ),
        (lambda: JensenShannon(math.inf), "above 0 and finite"),
        (lambda: DecoupledKL(temperature=-1.0), "^temperature=-1.0: must be .* in DecoupledKL"),
        (lambda: DecoupledKL(0.0, 0.0), "not both 0"),
        (lambda: VirtualTeacher(1.0), "^confidence=1.0: must be above 0 and below 1"),
        (lambda: LabelSmoothing(1.5), "^smoothing=1.5: must be from 0 to 1 in LabelSmoothing"),
        (lambda: Mixture(-0.1), "^label_weight=-0.1: must be from 0 to 1 in Mixture"),
        (lambda: WhereTeacherKnows(0), "^k=0: must be at least 1 in WhereTeacherKnows"),
        (lambda: PartialLogitMSE(11)(Z, U, Y), "above the number of classes, 10"),
        (lambda: kl_distillation(Z, U, math.inf, scaled=False), "leave student_temperature at None"),
        (lambda: LogitMSE()(Z, U[:, :9], Y), r"teacher=\(64, 9\): the shape of the student's logits is \(64, 10\)"),
    ],
)
def test_mistakes_are_one_line(make, message):
    with pytest.raises(ValueError, match=message) as caught:
        make()
    assert re.match(r"--model\.|[a-z_]+=", str(caught.value))  # the command makes the whole name of the latter
    assert "\n" not in str(caught.value)


def test_the_packages_names_are_found():
    assert all(getattr(kd, name).__name__ == name for name in kd.__all__)
    assert dir(kd) == kd.__all__
    with pytest.raises(AttributeError, match="no attribute 'KLDistilation'"):
        kd.KLDistilation  # noqa: B018
