"""The fused exact solve against the loop over tokens and against the dense matrices: values and gradients."""

from typing import NamedTuple

import pytest
import torch
from torch import Tensor

from fprnn.layers import FPRNNEquation, RecurrentState, dense_recurrence, solve_reflections
from fprnn.mixers import HouseholderMixer, LowRankMixer, MixerContext, ReflectionMixer
from fprnn.solvers import SequentialSolver
from fprnn.solvers.sequential import solve_by_token


class Recurrence(NamedTuple):
    """The operands of ``solve_reflections``, time first."""

    projected: Tensor
    weight: Tensor | None
    decay: Tensor
    gate: Tensor
    drive: Tensor
    initial: Tensor


D = 6
MIXERS = {
    "one": lambda: HouseholderMixer(D),
    "product": lambda: HouseholderMixer(D, 3),
    "twice": lambda: HouseholderMixer(D, 2, beta=2.0),
    "sum": lambda: LowRankMixer(D, 3),
    "tanh": lambda: HouseholderMixer(D, 2, activation=torch.tanh),
}


def problem(mixer: ReflectionMixer, length: int = 5, batch: int = 3, dtype: torch.dtype = torch.float64) -> Recurrence:
    """Random operands of the kind that a layer makes, all requiring gradients."""
    torch.manual_seed(0)
    outputs = mixer.projection.outputs
    decay = torch.rand(length, batch, D, dtype=dtype)
    tensors = Recurrence(
        torch.randn(length, batch, outputs, dtype=dtype),
        0.3 * torch.randn(outputs, D, dtype=dtype),
        decay,
        1 - decay + 0.1 * torch.rand(length, batch, D, dtype=dtype),
        torch.randn(length, batch, D, dtype=dtype),
        torch.randn(batch, D, dtype=dtype),
    )
    return Recurrence(*(tensor.requires_grad_() for tensor in tensors))


def equation(mixer: ReflectionMixer, p: Recurrence) -> FPRNNEquation:
    decay, gate, drive, projected = (x.transpose(0, 1) for x in (p.decay, p.gate, p.drive, p.projected))
    before = RecurrentState(p.initial, p.initial)
    return FPRNNEquation(mixer, MixerContext(projected, p.weight), decay, gate, drive, before=before)


def by_token(mixer: ReflectionMixer, p: Recurrence) -> Tensor:
    return solve_by_token(equation(mixer, p)).state.transpose(0, 1)


def by_matrices(mixer: ReflectionMixer, p: Recurrence) -> Tensor:
    return dense_recurrence(equation(mixer, p)).transpose(0, 1)


def gradients(states: Tensor, p: Recurrence) -> list[Tensor]:
    weights = torch.linspace(-1, 1, states.numel(), dtype=states.dtype).reshape(states.shape)
    leaves = [tensor for tensor in p if tensor is not None]
    return list(torch.autograd.grad(states, leaves, weights))


@pytest.mark.parametrize("reference", [by_token, by_matrices])
@pytest.mark.parametrize("name", MIXERS)
def test_equals_the_references(name: str, reference: object) -> None:
    mixer = MIXERS[name]().double()
    p = problem(mixer)
    fused, slow = solve_reflections(mixer, *p), reference(mixer, p)
    torch.testing.assert_close(fused, slow, atol=1e-10, rtol=1e-9)
    for ours, theirs in zip(gradients(fused, p), gradients(slow, p), strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-9, rtol=1e-8)


@pytest.mark.parametrize("name", ["one", "product"])
def test_without_hidden_dependence(name: str) -> None:
    mixer = MIXERS[name]().double()
    p = problem(mixer)._replace(weight=None)
    fused, slow = solve_reflections(mixer, *p), by_matrices(mixer, p)
    for ours, theirs in zip([fused, *gradients(fused, p)], [slow, *gradients(slow, p)], strict=True):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("name", ["one", "product", "sum"])
def test_passes_gradcheck(name: str) -> None:
    mixer = MIXERS[name]().double()
    p = problem(mixer, length=3, batch=2)
    assert torch.autograd.gradcheck(lambda *tensors: solve_reflections(mixer, *tensors), tuple(p))


@pytest.mark.parametrize("length", [0, 1])
def test_short_sequences(length: int) -> None:
    mixer = HouseholderMixer(D, 2).double()
    p = problem(mixer, length=length)
    states = solve_reflections(mixer, *p)
    assert states.shape == (length, 3, D)
    torch.testing.assert_close(states, by_matrices(mixer, p))


def test_strided_operands_in_single_precision() -> None:
    mixer = HouseholderMixer(D, 4)
    p = problem(mixer, length=40, dtype=torch.float32)
    strided = Recurrence(*(torch.stack([x, x], -1)[..., 0] for x in p))
    expected = solve_reflections(HouseholderMixer(D, 4).double(), *(x.double() for x in p))
    torch.testing.assert_close(solve_reflections(mixer, *strided).double(), expected, atol=1e-5, rtol=1e-5)


def test_many_tokens_are_differentiated_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    mixer = HouseholderMixer(D, 2).double()
    p = problem(mixer, length=7)
    whole = gradients(solve_reflections(mixer, *p), p)
    monkeypatch.setattr("fprnn.solvers.reflections.CACHED_ELEMENTS", 3 * 3 * 2 * D)
    for ours, theirs in zip(gradients(solve_reflections(mixer, *p), p), whole, strict=True):
        torch.testing.assert_close(ours, theirs)


def test_a_strength_of_zero_has_no_gradient_and_no_nan() -> None:
    mixer = HouseholderMixer(D, 2)
    p = problem(mixer, dtype=torch.float32)
    with torch.no_grad():
        p.projected[..., -1] = -1e4
    for gradient in gradients(solve_reflections(mixer, *p), p):
        assert gradient.isfinite().all()


def test_a_second_derivative_is_refused() -> None:
    mixer = HouseholderMixer(D).double()
    p = problem(mixer)
    with pytest.raises(RuntimeError, match="solve_reflections has no second derivative"):
        torch.autograd.grad(solve_reflections(mixer, *p).sum(), p.drive, create_graph=True)


def test_what_is_not_finite_is_reported_per_sequence() -> None:
    mixer = HouseholderMixer(D).double()
    p = problem(mixer)
    with torch.no_grad():
        p.drive[2, 1] = torch.nan
    solution = SequentialSolver("flag")(equation(mixer, p))
    assert solution.statistics.finite.tolist() == [True, False, True]
    assert solution.statistics.converged.tolist() == [True, False, True]
    assert solution.statistics.iterations.tolist() == [1, 1, 1]
