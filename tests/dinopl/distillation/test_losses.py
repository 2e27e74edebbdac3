import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import log_softmax, rel_entr, softmax

from dinopl.core.divergences import cross_entropy, entropy, kl_divergence, mean_squared_error
from dinopl.distillation.losses import CrossEntropyViews, KLViews, MSEViews, view_pairs

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
