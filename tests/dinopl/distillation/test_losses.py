import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import log_softmax, rel_entr, softmax

from dinopl.core.divergences import cross_entropy, entropy, kl_divergence, mean_squared_error
from dinopl.core.schedules import LinearSchedule
from dinopl.distillation.losses import CrossEntropyViews, EntropyViews, KLViews, MSEViews, view_pairs

LOSSES = [CrossEntropyViews, KLViews, MSEViews]


def logits(*shape, seed=0, scale=1.0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).mul(scale).to(dtype)


@settings(max_examples=40, deadline=None)
@given(
    batch=st.integers(0, 4), m=st.integers(1, 9), scale=st.sampled_from([1e-3, 1.0, 100.0]), seed=st.integers(0, 2**31)
)
def test_functions_equal_scipy(batch, m, scale, seed):
    s, t = logits(batch, m, seed=seed, scale=scale), logits(batch, m, seed=seed + 1, scale=scale)
    p, q = softmax(s.numpy(), axis=-1), softmax(t.numpy(), axis=-1)
    log_p, log_q = log_softmax(s.numpy(), axis=-1), log_softmax(t.numpy(), axis=-1)
    close = {"rtol": 1e-9, "atol": 1e-12}
    np.testing.assert_allclose(cross_entropy(s, t), -(q * log_p).sum(-1), **close)
    np.testing.assert_allclose(kl_divergence(s, t), (q * (log_q - log_p)).sum(-1), **close)
    np.testing.assert_allclose(entropy(s), -(p * log_p).sum(-1), **close)
    np.testing.assert_allclose(mean_squared_error(s, t), ((s - t).numpy() ** 2).mean(-1), **close)
    np.testing.assert_allclose(cross_entropy(s, t), kl_divergence(s, t) + entropy(t), **close)


def test_kl_equals_relative_entropy():
    s, t = logits(5, 8), logits(5, 8, seed=1)
    expected = rel_entr(softmax(t.numpy(), axis=-1), softmax(s.numpy(), axis=-1)).sum(-1)
    np.testing.assert_allclose(kl_divergence(s, t), expected, rtol=1e-9)


@pytest.mark.parametrize("m", [1024, 65536])
def test_small_kl_survives_float32(m):
    """A mean KL of 1e-6 between logits of the paper's scale.

    A sample's KL is off by the rounding of ``log m``, with a standard deviation of 2e-7 to 8e-7 that depends on the
    processor's vector width; so the mean is over 256 samples, where that leaves 5e-8.
    """
    exact, ours = [], []
    for seed in range(0, 32, 2):
        t = logits(16, m, seed=seed, scale=0.06)
        s = t + logits(16, m, seed=seed + 1, scale=1.5e-3)
        exact.append(kl_divergence(s, t))
        ours.append(kl_divergence(s.float(), t.float()).double())
    exact, ours = (float(torch.cat(found).mean()) for found in (exact, ours))
    assert 5e-7 < exact < 2e-6
    assert ours == pytest.approx(exact, rel=0.2)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
def test_equal_logits_of_any_precision(dtype):
    x = logits(4, 300, dtype=dtype)
    assert torch.equal(kl_divergence(x, x.clone()), torch.zeros(4, dtype=torch.promote_types(dtype, torch.float32)))
    assert not mean_squared_error(x, x.clone()).any()


@pytest.mark.parametrize("function", [cross_entropy, kl_divergence, mean_squared_error])
def test_at_least_float32(function):
    s, t = logits(4, 300, dtype=torch.bfloat16), logits(4, 300, seed=1, dtype=torch.bfloat16)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        low = function(s, t)
    assert low.dtype == torch.float32
    torch.testing.assert_close(low, function(s.float(), t.float()))
    assert function(s.double(), t.double()).dtype == torch.float64


def test_extreme_logits_stay_finite():
    s, t = torch.tensor([[1e4, -1e4, 0.0]]), torch.tensor([[-1e4, 1e4, 0.0]])
    assert cross_entropy(s, t).item() == kl_divergence(s, t).item() == 2e4
    assert entropy(s).item() == 0


def test_gradients_of_cross_entropy_and_kl_are_equal():
    s, t = logits(6, 1024, dtype=torch.float32), logits(6, 1024, seed=1, dtype=torch.float32)
    s.requires_grad_()
    (ce,) = torch.autograd.grad(cross_entropy(s, t).mean(), s)
    (kl,) = torch.autograd.grad(kl_divergence(s, t).mean(), s)
    torch.testing.assert_close(ce, kl, atol=1e-6, rtol=0)
    closed = (torch.softmax(s.detach(), -1) - torch.softmax(t, -1)) / 6
    torch.testing.assert_close(ce, closed, atol=1e-6, rtol=0)


def test_what_moves_a_student_that_equals_its_teacher():
    """Rounding alone moves it under cross-entropy, and nothing moves it under MSE."""
    t = logits(64, 1024, dtype=torch.float32)
    gradients = {}
    for loss in LOSSES:
        s = t.clone().requires_grad_()
        loss()([s], [t])[0].mean().backward()
        gradients[loss] = s.grad
    assert 0 < gradients[CrossEntropyViews].norm() < 1e-6
    assert 0 < gradients[KLViews].norm() < 1e-6
    assert not gradients[MSEViews].any()


@pytest.mark.parametrize(("pairing", "count"), [("opposite", 10), ("same", 2), ("all", 12)])
def test_pair_counts_of_multi_crop(pairing, count):
    pairs = view_pairs(2, 6, pairing)
    assert len(pairs) == len(set(pairs)) == count
    assert all(0 <= i < 2 and 0 <= j < 6 for i, j in pairs)
    assert all((i == j) == (pairing == "same") for i, j in pairs if pairing != "all")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((1, 1, "opposite"), "leaves no pair"),
        ((0, 3, "all"), "leaves no pair"),
        ((1, 1, "some"), "same, opposite, all"),
    ],
)
def test_bad_pairings(arguments, message):
    with pytest.raises(ValueError, match=message) as caught:
        view_pairs(*arguments)
    assert str(caught.value).startswith(f"pairing={arguments[2]}: ")


@pytest.mark.parametrize(
    ("loss", "function"),
    [(CrossEntropyViews, cross_entropy), (KLViews, kl_divergence), (MSEViews, mean_squared_error)],
)
@pytest.mark.parametrize("pairing", ["same", "opposite", "all"])
def test_modules_equal_functions(loss, function, pairing):
    student = [logits(5, 7, seed=j) for j in range(3)]
    teacher = [logits(5, 7, seed=10 + i) for i in range(2)]
    losses, divergences = loss(pairing, student_temperature=0.5, teacher_temperature=0.1)(student, teacher)
    pairs = view_pairs(2, 3, pairing)
    expected = [function(student[j] / 0.5, teacher[i] / 0.1) for i, j in pairs]
    kl = [kl_divergence(student[j] / 0.5, teacher[i] / 0.1) for i, j in pairs]
    torch.testing.assert_close(losses, sum(expected) / len(pairs))
    torch.testing.assert_close(divergences, sum(kl) / len(pairs))
    assert losses.shape == divergences.shape == (5,)


@pytest.mark.parametrize("loss", LOSSES)
def test_only_the_loss_of_the_student_carries_a_gradient(loss):
    student, teacher = logits(5, 7).requires_grad_(), logits(5, 7, seed=1)
    losses, divergences = loss()([student], [teacher])
    assert losses.requires_grad
    assert not divergences.requires_grad
    assert torch.autograd.gradcheck(lambda s: loss()([s], [teacher])[0], student)


def test_views_of_one_sample_do_not_mix_with_others():
    student, teacher = logits(5, 7), logits(5, 7, seed=1)
    whole = CrossEntropyViews()([student], [teacher])[0]
    alone = torch.cat([CrossEntropyViews()([student[i : i + 1]], [teacher[i : i + 1]])[0] for i in range(5)])
    torch.testing.assert_close(whole, alone)


def test_loss_of_unrelated_paper_heads():
    s, t = logits(4, 65536, scale=1 / 16), logits(4, 65536, seed=1, scale=1 / 16)
    assert CrossEntropyViews()([s], [t])[0].mean().item() == pytest.approx(math.log(65536), abs=0.01)


@pytest.mark.parametrize("temperature", [0.0, -1.0, math.nan])
@pytest.mark.parametrize("side", ["student", "teacher"])
def test_bad_temperatures(side, temperature):
    with pytest.raises(ValueError, match=f"{side}_temperature={temperature}: must be positive"):
        CrossEntropyViews(**{f"{side}_temperature": temperature})


def test_bad_view_sets_are_refused():
    with pytest.raises(ValueError, match="leaves no pair of 1 teacher and 1 student views"):
        CrossEntropyViews("opposite")([logits(2, 3)], [logits(2, 3)])


def test_views_are_paired_by_their_numbers_whatever_their_places():
    """The teacher sees views 1 and 2, the student 0 and 1."""
    assert view_pairs([1, 2], [0, 1], "same") == [(0, 1)]
    assert view_pairs([1, 2], [0, 1], "opposite") == [(0, 0), (1, 0), (1, 1)]
    assert len(view_pairs([1, 2], [0, 1], "all")) == 4
    with pytest.raises(ValueError, match="pairing=same: leaves no pair of 1 teacher and 2 student views"):
        view_pairs([2], [0, 1], "same")


@pytest.mark.parametrize("pairing", ["same", "opposite", "all"])
def test_the_entropy_loss_is_a_mean_over_the_students_views(pairing):
    student, teacher = [logits(5, 7, seed=j) for j in range(6)], [logits(5, 7, seed=10 + i) for i in range(2)]
    losses, kl = EntropyViews(pairing, student_temperature=0.5)(student, teacher)
    torch.testing.assert_close(losses, sum(entropy(view / 0.5) for view in student) / 6)
    torch.testing.assert_close(kl, KLViews(pairing, student_temperature=0.5)(student, teacher)[0])
    p = student[0].clone().requires_grad_()
    EntropyViews("all")([p], teacher)[0].mean().backward()
    descended = p.detach() - 0.1 * p.grad
    assert entropy(descended).mean() < entropy(p.detach()).mean()


def test_two_steps_by_hand_give_the_centre_which_moves_after_its_use():
    student = [[logits(5, 7, seed=s + 10 * step) for s in range(3)] for step in range(2)]
    teacher = [[logits(5, 7, seed=100 + t + 10 * step) for t in range(2)] for step in range(2)]
    loss = CrossEntropyViews("opposite", 0.1, 0.04, student_centre_momentum=0.5, teacher_centre_momentum=0.9)
    centres = {"student": np.zeros(7), "teacher": np.zeros(7)}
    for s, t in zip(student, teacher, strict=True):
        found = loss(s, t)[0].mean()
        pairs = [(i, j) for i in range(2) for j in range(3) if i != j]
        q = [softmax((x.numpy() - centres["teacher"]) / 0.04, axis=-1) for x in t]
        log_p = [log_softmax((x.numpy() - centres["student"]) / 0.1, axis=-1) for x in s]
        assert found.item() == pytest.approx(np.mean([-(q[i] * log_p[j]).sum(-1) for i, j in pairs]), rel=1e-12)
        loss.update_centres(s, t)
        for side, momentum, views in (("student", 0.5, s), ("teacher", 0.9, t)):
            mean = np.mean([view.numpy() for view in views], axis=(0, 1))
            centres[side] = momentum * centres[side] + (1 - momentum) * mean
            np.testing.assert_allclose(getattr(loss, f"{side}_centre"), centres[side], rtol=1e-12)


def test_without_a_momentum_there_is_no_centre():
    loss = CrossEntropyViews()
    loss.update_centres([logits(5, 7)], [logits(5, 7)])
    assert loss.teacher_centre is loss.student_centre is None
    assert not loss.state_dict()


def test_centres_survive_a_checkpoint():
    loss = KLViews(teacher_centre_momentum=0.9)
    loss.update_centres([logits(5, 7)], [logits(5, 7, seed=1)])
    other = KLViews(teacher_centre_momentum=0.9)
    other.load_state_dict(loss.state_dict())
    assert torch.equal(other.teacher_centre, loss.teacher_centre)
    assert other.teacher_centre.any()


def test_temperatures_and_momenta_follow_their_schedules():
    temperature, momentum = LinearSchedule(0.04, 0.07), LinearSchedule(1, 0.9)
    loss = CrossEntropyViews(teacher_temperature=temperature, teacher_centre_momentum=momentum)
    loss.advance(5, 11, 1)
    assert loss.teacher_temperature == pytest.approx(0.055)
    assert loss.teacher_centre_momentum == pytest.approx(0.95)
    fixed = CrossEntropyViews(teacher_temperature=0.055)
    s, t = [logits(5, 7)], [logits(5, 7, seed=1)]
    torch.testing.assert_close(loss(s, t), fixed(s, t))


def test_schedules_out_of_range_are_refused():
    with pytest.raises(ValueError, match="teacher_temperature=-1: must be positive"):
        CrossEntropyViews(teacher_temperature=LinearSchedule(0.04, -1))
    with pytest.raises(ValueError, match=r"student_centre_momentum=1.5: must be in \[0, 1\]"):
        CrossEntropyViews(student_centre_momentum=1.5)


def waves(view, phase):
    """Logits that any program can make: ``(4, 6)`` values of a sine."""
    return 2 * torch.sin(torch.arange(24, dtype=torch.float64).view(4, 6) * (view + 1) * 0.7 + phase)


# lightly 1.6.0, torch 2.14.1, in float64: DINOLoss(output_dim=6, warmup_teacher_temp=0.04, teacher_temp=0.04,
# warmup_teacher_temp_epochs=0, student_temp=0.1, center_momentum=0.9).double(), called three times with
# (teacher_out, student_out, epoch=0) as in the test: each value, the norm of the first student view's gradient; and its
# buffer `center` after them.
LIGHTLY = [
    (15.54508230071601, 1.158689938232673),
    (14.65276627728795, 1.1356106918075937),
    (10.016889712394708, 1.0950052106985502),
]
LIGHTLY_CENTRE = [
    0.1287320596870165,
    0.0833514830628937,
    -0.0312642294470772,
    -0.0635791188174924,
    -0.012979665271251,
    -0.0058518129345394,
]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_the_loss_of_dino_is_that_of_lightly(dtype):
    """2 + 2 crops over three steps, to 1e-6: lightly keeps its temperature in float32."""
    loss = CrossEntropyViews("opposite", 0.1, 0.04, teacher_centre_momentum=0.9)
    for step, (value, norm) in enumerate(LIGHTLY):
        student = [waves(view, 0.3 * step).to(dtype).requires_grad_() for view in range(4)]
        teacher = [waves(view, 0.3 * step + 1).to(dtype) for view in range(2)]
        found = loss(student, teacher)[0].mean()
        loss.update_centres(student, teacher)
        found.backward()
        assert found.item() == pytest.approx(value, rel=1e-6)
        assert student[0].grad.norm().item() == pytest.approx(norm, rel=1e-6)
    np.testing.assert_allclose(loss.teacher_centre, LIGHTLY_CENTRE, atol=1e-6)


def centre_of_a_part(rank, folder, sizes, result):
    """What one of two processes makes of its part of a batch."""
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    loss = CrossEntropyViews("opposite", teacher_centre_momentum=0.9)
    for step in range(2):
        views = [logits(sum(sizes), 7, seed=10 * step + v).split(sizes)[rank] for v in range(2)]
        loss.update_centres(views, views, share=sizes[rank] * 2 / sum(sizes))
    result[rank] = loss.teacher_centre
    torch.distributed.destroy_process_group()


def test_two_processes_have_the_centre_of_the_global_batch(tmp_path):
    """A ragged batch: three samples on one process, two on the other."""
    result = torch.zeros(2, 7, dtype=torch.float64).share_memory_()
    arguments = (tmp_path, [3, 2], result)
    torch.multiprocessing.start_processes(centre_of_a_part, arguments, nprocs=2, start_method="fork")
    whole = CrossEntropyViews("opposite", teacher_centre_momentum=0.9)
    for step in range(2):
        views = [logits(5, 7, seed=10 * step + v) for v in range(2)]
        whole.update_centres(views, views)
    assert torch.equal(result[0], result[1])
    torch.testing.assert_close(result[0], whole.teacher_centre, rtol=1e-12, atol=1e-12)
