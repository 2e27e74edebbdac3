"""The exact fixed point of one token: with and without a norm in the loop, value and gradient; which ones count."""

from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fprnn.layers import FPRNN, FPMamba, FPRNNEquation, TokenEquation, solve_token
from fprnn.mixers import Gain, HouseholderMixer, IdentityMixer, KroneckerMixer, LowRankMixer, Mixer, MixerContext
from fprnn.solvers import AndersonSolver, AutomaticSolver, PicardSolver, SequentialSolver
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
    state, hidden, *_ = solve_token(TokenEquation(mixer, mixer.activate(raw), base, gate, drive, norm))
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


def one_token_each(make: Any, seeds: range) -> Any:
    """The equations of one token for fresh layers of many seeds, as one batch: ten inputs of each, two of them large.

    One token has no predecessor, so what differs between layers lies in what they made of their input.
    """
    made, size = [], torch.tensor([1.0] * 8 + [5.0] * 2, dtype=torch.float64)[:, None, None]
    for seed in seeds:
        torch.manual_seed(seed)
        layer = make().double()
        projected = layer.project(size * torch.randn(10, 1, 2, dtype=torch.float64))
        made.append(layer.equation(projected) if isinstance(layer, FPRNN) else layer.equation(*projected[:3]))
    first, count = made[0], 10 * len(seeds)
    context = first.context._replace(projected=torch.cat([each.context.projected for each in made]))
    if isinstance(first, FPRNNEquation):
        names = ("decay", "gate", "drive")
        return first._replace(context=context, **{n: torch.cat([getattr(each, n) for each in made]) for n in names})
    before = type(first.before)(*(part[:1].expand(count, *part.shape[1:]) for part in first.before))
    selected = tuple(torch.cat(parts) for parts in zip(*(each.selected for each in made), strict=True))
    return first._replace(context=context, selected=selected, x=torch.cat([each.x for each in made]), before=before)


def left(equation: Any, state: Tensor, steps: int = 300) -> Tensor:
    """Which sequences the plain iteration has moved away from a state after a push of 1e-6, ``(B,)``."""
    pushed = state + 1e-6 * torch.randn_like(state)
    for _ in range(steps):
        pushed = equation.step(pushed)
    return (pushed - state).abs().amax((1, 2)) > 1e-3


FRESH = {
    "householder": partial(FPRNN, 2, in_loop_norm=True),
    "three reflections": partial(FPRNN, 2, partial(HouseholderMixer, rank=3), in_loop_norm=True),
    "low rank": partial(FPRNN, 2, partial(LowRankMixer, rank=3), in_loop_norm=True),
    "beta 2": partial(FPRNN, 2, partial(HouseholderMixer, rank=2, beta=2.0), in_loop_norm=True),
    "fpmamba": partial(FPMamba, 2, d_state=4),
}


@torch.no_grad()
@pytest.mark.parametrize(("name", "seeds", "least"), [("householder", 300, 1.0), *((n, 60, 0.9) for n in [*FRESH][1:])])
def test_the_iteration_stays_at_every_fixed_point_that_counts(name: str, seeds: int, least: float) -> None:
    """On one token of fresh layers. Newton's method alone also ends at points that the iteration leaves."""
    equation = one_token_each(FRESH[name], range(seeds))
    state, statistics = SequentialSolver("flag")(equation)
    assert not (left(equation, state) & statistics.converged).any()
    assert statistics.converged.float().mean() >= least
    found = statistics.converged[:, None, None]
    torch.testing.assert_close(equation.step(state) * found, state * found, atol=1e-9, rtol=0)


@torch.no_grad()
@pytest.mark.parametrize("kind", ["householder", "fpmamba"])
def test_the_iteration_stays_at_solutions_of_whole_sequences(kind: str) -> None:
    for seed in range(6):
        torch.manual_seed(seed)
        layer = FRESH[kind]().double()
        projected = layer.project(torch.randn(20, 12, 2, dtype=torch.float64))
        equation = layer.equation(projected) if isinstance(layer, FPRNN) else layer.equation(*projected[:3])
        state, statistics = SequentialSolver("flag")(equation)
        assert statistics.converged.float().mean() >= 0.9
        assert not (left(equation, state) & statistics.converged).any()


@torch.no_grad()
@pytest.mark.parametrize(("name", "seeds"), [("low rank", 60), ("fpmamba", 100)])
def test_an_unstable_fixed_point_is_returned_but_does_not_count(
    name: str, seeds: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    equation = one_token_each(FRESH[name], range(seeds))
    monkeypatch.setattr("fprnn.solvers.newton.RETREATS", 0)
    state, statistics = SequentialSolver("flag")(equation)
    lost = left(equation, state)
    assert 0 < lost.sum() < 0.05 * len(lost)
    assert torch.equal(~statistics.converged, lost)
    assert (statistics.residual < 1e-10).all()
    with pytest.warns(UserWarning, match=rf"in {int(lost.sum())} of {10 * seeds} sequences, or none that the itera"):
        SequentialSolver()(equation)


@pytest.mark.parametrize("solver", [AndersonSolver(), AutomaticSolver(AndersonSolver())])
def test_anderson_refuses_a_norm(solver: Any) -> None:
    for make in (partial(FPRNN, 2, in_loop_norm=True), partial(FPMamba, 2)):
        with pytest.raises(ValueError, match="solver=AndersonSolver: with a norm in the loop it finds fixed points"):
            make(solver=solver)
    with pytest.raises(ValueError, match="use PicardSolver"):
        solver(sequence(layer_norm()))


def eigenvalues(mixer: Mixer, parameters: Any, gain: Gain) -> Tensor:
    """The spectral radius by the eigenvalues of the whole matrix."""
    eye = torch.eye(mixer.d_inner, dtype=torch.float64)
    return torch.linalg.eigvals(gain.rows((eye - mixer.dense(parameters)).mT).mT).abs().amax(-1)


@pytest.mark.parametrize(
    ("mixer", "tolerance"),
    [
        (HouseholderMixer(D), 1e-12),
        (HouseholderMixer(D, 3, beta=2.0), 0.02),
        (LowRankMixer(D, 2), 0.02),
        (KroneckerMixer(D, beta=2.0), 0.02),
    ],
)
def test_contraction_is_the_spectral_radius(mixer: Mixer, tolerance: float) -> None:
    """Never too low for reflections. Power iteration errs where two eigenvalues are nearly as large."""
    mixer = mixer.double()
    parameters = mixer.activate(torch.randn(200, mixer.projection.outputs, dtype=torch.float64))
    gate, normalized_, scale = torch.rand(3, 200, D, dtype=torch.float64)
    for gain in (Gain(gate), Gain(gate, normalized_, 3 * scale)):
        ours, exact = mixer.contraction(parameters, gain), eigenvalues(mixer, parameters, gain)
        assert ((ours - exact).abs() < tolerance * exact).float().mean() > 0.95
        assert isinstance(mixer, KroneckerMixer) or (ours > exact * (1 - 1e-9)).all()
    assert not IdentityMixer(D).contraction(torch.empty(200, 0), gain).any()


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
