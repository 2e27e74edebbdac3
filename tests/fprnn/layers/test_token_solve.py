"""The exact fixed point of one token: with and without a norm in the loop, value and gradient."""

import pytest
import torch
from torch import Tensor, nn

from fprnn.layers import FPRNNEquation, TokenEquation, solve_token
from fprnn.mixers import HouseholderMixer, KroneckerMixer, Mixer, MixerContext
from fprnn.solvers import PicardSolver, SequentialSolver
from fprnn.solvers.newton import LoopNorm, normalized

D = 6
MIXERS = {"householder": lambda: HouseholderMixer(D, 2), "kronecker": lambda: KroneckerMixer(D)}


def leaves(mixer: Mixer, batch: int = 3) -> list[Tensor]:
    """Raw mixer parameters, base, gate and drive; large enough for a unique fixed point under the norm."""
    torch.manual_seed(0)
    raw = torch.randn(batch, mixer.projection.outputs, dtype=torch.float64)
    base, drive = 4 * torch.randn(2, batch, D, dtype=torch.float64)
    return [x.requires_grad_() for x in (raw, base, torch.rand(batch, D, dtype=torch.float64), drive)]


def layer_norm() -> nn.LayerNorm:
    torch.manual_seed(1)
    norm = nn.LayerNorm(D, dtype=torch.float64)
    nn.init.uniform_(norm.weight, 0.5, 1.5)
    nn.init.normal_(norm.bias)
    return norm


def rms_norm() -> nn.RMSNorm:
    torch.manual_seed(1)
    norm = nn.RMSNorm(D, eps=1e-5, dtype=torch.float64)
    nn.init.uniform_(norm.weight, 0.5, 1.5)
    return norm


NORMS = {"linear": lambda: None, "layer-norm": layer_norm, "rms-norm": rms_norm}


def solve(mixer: Mixer, norm: LoopNorm | None, *tensors: Tensor) -> tuple[Tensor, Tensor]:
    raw, base, gate, drive = tensors
    state, hidden, _, _ = solve_token(TokenEquation(mixer, mixer.activate(raw), base, gate, drive, norm))
    return state, hidden


@pytest.mark.parametrize("kind", NORMS)
@pytest.mark.parametrize("name", MIXERS)
def test_is_the_fixed_point(name: str, kind: str) -> None:
    mixer, norm = MIXERS[name]().double(), NORMS[kind]()
    raw, base, gate, drive = leaves(mixer)
    state, hidden = solve(mixer, norm, raw, base, gate, drive)
    delta = hidden - drive
    again = base + gate * (delta - (mixer.dense(mixer.activate(raw)) @ delta.unsqueeze(-1)).squeeze(-1))
    torch.testing.assert_close(state, again)
    torch.testing.assert_close(hidden, again if norm is None else norm(again))


@pytest.mark.parametrize("kind", NORMS)
@pytest.mark.parametrize("name", MIXERS)
def test_passes_gradcheck_for_state_and_hidden(name: str, kind: str) -> None:
    mixer, norm = MIXERS[name]().double(), NORMS[kind]()
    assert torch.autograd.gradcheck(lambda *x: solve(mixer, norm, *x), tuple(leaves(mixer, batch=2)), atol=1e-5)


def test_the_norms_own_parameters_get_their_gradient() -> None:
    mixer, norm = HouseholderMixer(D).double(), layer_norm()
    tensors = [x.detach() for x in leaves(mixer)]

    def hidden(weight: Tensor, bias: Tensor) -> Tensor:
        copy = nn.LayerNorm(D, dtype=torch.float64)
        del copy.weight, copy.bias
        copy.weight, copy.bias = weight, bias
        return solve(mixer, copy, *tensors)[1]

    weight, bias = norm.weight.detach().requires_grad_(), norm.bias.detach().requires_grad_()
    assert torch.autograd.gradcheck(hidden, (weight, bias), atol=1e-5)


def sequence(norm: nn.LayerNorm | None, spread: float = 4.0, batch: int = 4, length: int = 8) -> FPRNNEquation:
    torch.manual_seed(0)
    mixer = HouseholderMixer(D, 2).double()
    decay = torch.rand(batch, length, D, dtype=torch.float64)
    projected = torch.randn(batch, length, mixer.projection.outputs, dtype=torch.float64)
    weight = 0.3 * torch.randn(mixer.projection.outputs, D, dtype=torch.float64)
    drive = spread * torch.randn(batch, length, D, dtype=torch.float64)
    return FPRNNEquation(mixer, MixerContext(projected, weight), decay, 1 - decay, drive, norm)


def test_with_a_norm_it_agrees_with_the_parallel_iteration_where_the_fixed_point_is_unique() -> None:
    equation = sequence(layer_norm())
    exact = SequentialSolver()(equation)
    parallel, statistics = PicardSolver(tol=1e-12, max_iterations=500).iterate(equation)
    assert statistics.converged.all()
    torch.testing.assert_close(exact.state, parallel, atol=1e-8, rtol=1e-8)
    assert exact.statistics.converged.all()
    assert 1 < exact.statistics.iterations.max() < 30


def test_with_a_norm_a_token_that_finds_no_fixed_point_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fprnn.solvers.newton.ITERATION_CAP", 1)
    with pytest.warns(UserWarning, match="no fixed point of some token in 4 of 4 sequences"):
        statistics = SequentialSolver()(sequence(layer_norm())).statistics
    assert not statistics.converged.any()
    assert (statistics.residual > 1e-3).all()


def test_results_with_a_norm_do_not_depend_on_the_batch() -> None:
    equation = sequence(layer_norm())
    together = SequentialSolver()(equation).state
    alone = equation._replace(
        context=equation.context._replace(projected=equation.context.projected[1:2]),
        decay=equation.decay[1:2],
        gate=equation.gate[1:2],
        drive=equation.drive[1:2],
    )
    torch.testing.assert_close(SequentialSolver()(alone).state[0], together[1], atol=1e-12, rtol=1e-12)


def test_second_derivatives_are_refused() -> None:
    mixer = KroneckerMixer(D).double()
    tensors = leaves(mixer)
    with pytest.raises(RuntimeError, match="solve_token has no second derivative"):
        torch.autograd.grad(solve(mixer, None, *tensors)[1].sum(), tensors[1], create_graph=True)


def test_norms_in_half_precision_are_promoted() -> None:
    norm, state = nn.LayerNorm(D).bfloat16(), torch.randn(2, D)
    assert normalized(norm, state).dtype == torch.float32
    assert normalized(None, state) is state
