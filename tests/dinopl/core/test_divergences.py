"""The fused cross-entropy and KL divergence against the separate functions and float64."""

import pytest
import torch
from torch import Tensor

from dinopl.core import divergences
from dinopl.core.divergences import cross_entropy, cross_entropy_and_kl, kl_divergence
from dinopl.distillation.heads import plain_unit_rows, unit_rows
from dinopl.distillation.losses import CrossEntropyViews, KLViews


@pytest.fixture(params=[3, 64], ids=["rows of several blocks", "few blocks"])
def blocks(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes small matrices count as large."""
    monkeypatch.setattr(divergences, "LARGE", 8)
    monkeypatch.setattr(divergences, "BLOCK", request.param)


def logits(dtype: torch.dtype, scale: float = 3.0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    student, teacher = (scale * torch.randn(7, 11, generator=generator, dtype=torch.float64) for _ in range(2))
    return student.to(dtype).requires_grad_(), teacher.to(dtype)


@pytest.mark.numerical
@pytest.mark.usefixtures("blocks")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_blocks_equal_the_separate_functions(dtype: torch.dtype) -> None:
    student, teacher = logits(dtype)
    weights = torch.rand(7)
    loss, kl = cross_entropy_and_kl(student, teacher)
    (loss * weights).sum().backward()
    twin = student.detach().requires_grad_()
    expected = cross_entropy(twin, teacher)
    (expected * weights).sum().backward()
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(kl, kl_divergence(student.detach(), teacher))
    torch.testing.assert_close(student.grad, twin.grad)
    assert loss.dtype == torch.promote_types(dtype, torch.float32)
    assert not kl.requires_grad


@pytest.mark.usefixtures("blocks")
def test_blocks_leave_a_teachers_copy_by_rounding_only() -> None:
    _, teacher = logits(torch.float32)
    student = teacher.clone().requires_grad_()
    loss, kl = cross_entropy_and_kl(student, teacher)
    loss.mean().backward()
    assert not kl.any()
    assert student.grad is not None
    assert student.grad.abs().max() < 1e-6


@pytest.mark.usefixtures("blocks")
def test_blocks_without_a_gradient_strided_and_differentiated_twice() -> None:
    student, teacher = logits(torch.float64)
    with torch.no_grad():
        loss, _ = cross_entropy_and_kl(student, teacher)
    assert not loss.requires_grad
    wide = torch.cat([student.detach(), student.detach()], 1).t()[:11].t()
    torch.testing.assert_close(cross_entropy_and_kl(wide, teacher)[0], loss)
    assert torch.autograd.gradcheck(lambda x: cross_entropy_and_kl(x, teacher)[0], student)
    assert torch.autograd.gradgradcheck(lambda x: cross_entropy_and_kl(x, teacher)[0], student)


@pytest.mark.usefixtures("blocks")
def test_the_loss_takes_them_for_one_pair_of_views() -> None:
    student, teacher = logits(torch.float64)
    loss, kl = CrossEntropyViews(student_temperature=0.5)([student], [teacher])
    assert loss.grad_fn is not None
    torch.testing.assert_close(loss, cross_entropy(student / 0.5, teacher))
    torch.testing.assert_close(kl, kl_divergence(student / 0.5, teacher).detach())
    both, _ = CrossEntropyViews(pairing="all")([student, student], [teacher])
    torch.testing.assert_close(both, cross_entropy(student, teacher))
    other, _ = KLViews()([student], [teacher])
    torch.testing.assert_close(other, kl_divergence(student, teacher))


@pytest.mark.numerical
@pytest.mark.usefixtures("blocks")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_unit_rows_in_blocks(dtype: torch.dtype) -> None:
    rows = torch.randn(13, 5, dtype=dtype, requires_grad=True)
    twin = rows.detach().requires_grad_()
    upstream = torch.randn(13, 5, dtype=dtype)
    ours, theirs = unit_rows(rows), plain_unit_rows(twin)
    ours.backward(upstream)
    theirs.backward(upstream)
    torch.testing.assert_close(ours, theirs)
    torch.testing.assert_close(rows.grad, twin.grad)
    assert torch.autograd.gradgradcheck(unit_rows, rows.detach().double().requires_grad_())
    torch.testing.assert_close(torch.func.vmap(unit_rows)(rows.detach()[None].expand(2, -1, -1))[1], ours)
