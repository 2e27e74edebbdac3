"""FPRNN as a layer: its limit, causality, batch invariance, decoding, precision, gradients, and its two controls."""

import copy
from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor, nn

from fprnn.layers import FPRNN, DenseRNN, DenseSolver, DiagonalRNN, FPRNNEquation, dense_recurrence, shift
from fprnn.mixers import (
    AlternatingMixer,
    ConstantMixer,
    DenseMixer,
    FrobeniusScaling,
    HouseholderMixer,
    KroneckerMixer,
    LowRankMixer,
    Mixer,
    MixerContext,
    MonarchMixer,
)
from fprnn.solvers import (
    AndersonSolver,
    AutomaticSolver,
    FixedCountSolver,
    FixedPointGradient,
    FixedPointSolver,
    ImplicitGradient,
    OneStepGradient,
    PicardSolver,
    ScanSolver,
    SequentialSolver,
    TruncatedGradient,
)

MIXERS: dict[str, Callable[[int], Mixer]] = {
    "householder-1": HouseholderMixer,
    "householder-4": lambda d: HouseholderMixer(d, 4),
    "low-rank": LowRankMixer,
    "kronecker": KroneckerMixer,
    "symmetric": lambda d: HouseholderMixer(d, 2, dependence="symmetric"),
    "input": lambda d: HouseholderMixer(d, 2, dependence="input"),
    "monarch": MonarchMixer,
    "dense": DenseMixer,
    "alternating": AlternatingMixer,
    "constant": ConstantMixer,
}
FOUR = ["householder-1", "householder-4", "low-rank", "kronecker"]
FINE = {"tol": 1e-6, "max_iterations": 500}


def layer(mixer: str = "householder-4", seed: int = 0, d_model: int = 8, **options: object) -> FPRNN:
    torch.manual_seed(seed)
    return FPRNN(d_model, MIXERS[mixer], **options)


def equation(mixer: str, dtype: torch.dtype, dependence: str = "concatenate") -> FPRNNEquation:
    """A random problem at T = 32, d = 16, with reflections of every strength."""
    torch.manual_seed(0)
    made = MIXERS[mixer](16)
    for part in made.factors if isinstance(made, AlternatingMixer) else [made]:
        part.projection.dependence = dependence
        with torch.no_grad():
            part.projection.direction[0].normal_()
            part.projection.magnitude[0].fill_(1.0)
    x, drive = torch.randn(2, 4, 32, 16)
    decay = torch.rand(4, 32, 16)
    made = made.to(dtype)
    with torch.no_grad():
        context = made.prepare(x.to(dtype))
    return FPRNNEquation(made, context, decay.to(dtype), (1 - decay).to(dtype), drive.to(dtype))


@pytest.mark.parametrize("dependence", ["concatenate", "input"])
@pytest.mark.parametrize(("dtype", "tol", "error"), [(torch.float64, 1e-13, 1e-10), (torch.float32, 5e-7, 1e-5)])
@pytest.mark.parametrize("mixer", FOUR)
def test_every_solver_finds_the_dense_limit(
    mixer: str, dtype: torch.dtype, tol: float, error: float, dependence: str
) -> None:
    problem = equation(mixer, dtype, dependence)
    limit = dense_recurrence(problem)
    solvers: list[FixedPointSolver] = [PicardSolver(tol, 500), AndersonSolver(tol=tol, max_iterations=500)]
    for solver in [*solvers, SequentialSolver()]:
        solution = solver(problem)
        assert solution.statistics.converged.all(), type(solver)
        assert (solution.state - limit).abs().max() < error, type(solver)


@pytest.mark.parametrize("dependence", ["concatenate", "input"])
@pytest.mark.parametrize("mixer", [*FOUR, "alternating"])
def test_the_unnormalised_form_has_its_own_limit(mixer: str, dependence: str) -> None:
    """Equation 5, without the input gate: ``A = Q^-1 Lambda``; where Lambda is so small that A does not expand."""
    problem = equation(mixer, torch.float64, dependence)
    problem = problem._replace(gate=torch.ones_like(problem.gate), decay=0.25 * problem.decay)
    h, states = torch.zeros(4, 16, dtype=torch.float64), []
    for t in range(32):
        q = problem.mixer.dense(problem.mixer.condition(problem.context.token(t), h))
        h = torch.linalg.solve(q, problem.decay[:, t] * h) + problem.drive[:, t]
        states.append(h)
    expected = torch.stack(states, 1)
    for solver in (PicardSolver(1e-13, 3000), SequentialSolver()):
        assert (solver(problem).state - expected).abs().max() < 1e-9


@pytest.mark.parametrize("gradient", [OneStepGradient(), TruncatedGradient(2), ImplicitGradient(1e-12, 300)])
@pytest.mark.parametrize("mixer", ["householder-4", "kronecker", "constant"])
def test_gradients_against_the_dense_limits(mixer: str, gradient: object) -> None:
    """Implicit is exact; fewer terms leave the direction (specification, section 3.6)."""
    model = layer(mixer, solver=PicardSolver(1e-13, 500, gradient=gradient)).double()
    u = torch.randn(3, 12, 8, dtype=torch.float64)
    ours, exact = parameter_gradient(model, u), parameter_gradient(with_solver(model, DenseSolver()), u)
    if isinstance(gradient, ImplicitGradient):
        torch.testing.assert_close(ours, exact, atol=1e-8, rtol=1e-8)
    assert nn.functional.cosine_similarity(ours, exact, dim=0) > 0.9


def reflections(rank: int, strongest: float) -> tuple[Tensor, Tensor]:
    directions = torch.randn(4, 32, rank, 16, dtype=torch.float64)
    strengths = strongest * torch.rand(4, 32, rank, dtype=torch.float64) / directions.square().sum(-1)
    return directions, strengths


def kronecker_factors(strength: float) -> tuple[Tensor, Tensor]:
    """Positive semi-definite, of Frobenius norm 1, their product times the strength."""
    triangles = torch.randn(2, 4, 32, 4, 4, dtype=torch.float64).triu()
    left, right = FrobeniusScaling()(triangles @ triangles.mT)
    return strength * left, right


@pytest.mark.parametrize("strongest", [0.5, 0.95])
@pytest.mark.parametrize(
    ("mixer", "draw"),
    [
        ("householder-4", partial(reflections, 1)),
        ("householder-4", partial(reflections, 3)),
        ("kronecker", kronecker_factors),
    ],
    ids=["householder-1", "householder-3", "kronecker"],
)
def test_truncated_gradients_point_where_the_exact_one_does(
    mixer: str, draw: Callable[[float], tuple[Tensor, Tensor]], strongest: float
) -> None:
    """Section 3.6 of the specification: input-only mixers of given strength; better with each term."""
    problem = equation(mixer, torch.float64, "input")
    parameters = draw(strongest)
    leaves = [leaf.requires_grad_() for leaf in (*parameters, problem.drive, problem.decay)]
    problem = problem._replace(parameters=parameters, drive=leaves[2], decay=leaves[3])
    problem = problem._replace(gate=1 - problem.decay)

    def gradient(k: FixedPointGradient) -> Tensor:
        state = PicardSolver(1e-13, 500, gradient=k)(problem).state
        weights = torch.linspace(-1, 1, state.numel(), dtype=state.dtype).reshape(state.shape)
        return torch.cat([g.flatten() for g in torch.autograd.grad((state * weights).sum(), leaves)])

    exact = gradient(ImplicitGradient(1e-12, 500))
    cosines = [nn.functional.cosine_similarity(gradient(TruncatedGradient(k)), exact, dim=0) for k in (0, 1, 3)]
    assert 0.9 <= cosines[0] < cosines[1] < cosines[2] < 1
    assert cosines[2] > 0.99


@pytest.mark.parametrize("mixer", MIXERS)
def test_the_exact_solvers_gradient_is_the_dense_limits(mixer: str) -> None:
    model = layer(mixer, conv_width=4).double()
    u = torch.randn(2, 7, 8, dtype=torch.float64)
    ours = parameter_gradient(with_solver(model, SequentialSolver()), u)
    torch.testing.assert_close(ours, parameter_gradient(with_solver(model, DenseSolver()), u), atol=1e-9, rtol=1e-7)


def with_solver(model: FPRNN, solver: FixedPointSolver) -> FPRNN:
    model = copy.deepcopy(model)
    model.solver = solver
    return model


def parameter_gradient(model: FPRNN, u: Tensor) -> Tensor:
    leaf = u.detach().requires_grad_()
    out = model(leaf)
    weights = torch.linspace(-1, 1, out.numel(), dtype=out.dtype).reshape(out.shape)
    grads = torch.autograd.grad((out * weights).sum(), [leaf, *model.parameters()])
    return torch.cat([grad.flatten() for grad in grads])


def test_the_equation_is_the_papers() -> None:
    """Equation 8 written out for one sequence, with everything but the mixer by hand."""
    model = layer().double()
    u = torch.randn(1, 5, 8, dtype=torch.float64)
    x, z = (u @ model.in_proj.weight.T).chunk(2, -1)
    b = nn.functional.silu(x @ model.input_gate.weight.T)
    decay = torch.sigmoid(x @ model.decay_gate.weight.T + model.decay_gate.bias)
    problem = model.equation(model.project(u))
    h = model.solver.train(False)(problem).state
    q = model.mixer.dense(model.mixer.condition(model.mixer.prepare(x), shift(h)))
    mixed = (q @ (b * x - h).unsqueeze(-1)).squeeze(-1) + h
    state = torch.zeros(1, 16, dtype=torch.float64)
    for t in range(5):
        state = decay[:, t] * state + (1 - decay[:, t]) * mixed[:, t]
        torch.testing.assert_close(state, h[:, t], atol=0.1, rtol=0.1)  # to the solver's tolerance
    h = SequentialSolver()(problem).state
    c = nn.functional.silu(torch.cat([x, shift(h)], -1) @ model.output_gate.weight.T)
    y = nn.functional.silu(z) * c * h
    y = y / (y.square().mean(-1, keepdim=True) + 1e-6).sqrt() * model.out_norm.weight
    torch.testing.assert_close(with_solver(model, SequentialSolver())(u), y @ model.out_proj.weight.T)


def test_shift_is_the_previous_token() -> None:
    x = torch.arange(6.0).reshape(1, 3, 2)
    assert shift(x).tolist() == [[[0, 0], [0, 1], [2, 3]]]
    assert shift(x, torch.tensor([[8.0, 9.0]]))[0, 0].tolist() == [8, 9]
    assert shift(x[:, :0]).shape == (1, 0, 2)


def test_mixer_parameters_read_the_previous_token_only() -> None:
    problem = equation("householder-4", torch.float64)
    state = torch.randn(4, 32, 16, dtype=torch.float64)
    changed = state.clone()
    changed[:, 10:] += torch.randn(4, 22, 16, dtype=torch.float64)
    before, after = (problem.mixer.condition(problem.context, shift(x)) for x in (state, changed))
    assert len(before) == 2  # directions and strengths
    for left, right in zip(before, after, strict=True):
        torch.testing.assert_close(left[:, :11], right[:, :11], atol=0, rtol=0)
        assert (left[:, 11:] != right[:, 11:]).any(-1).all()


@pytest.mark.parametrize(("tol", "error"), [(0.1, 0.1), (1e-6, 1e-4)])
@pytest.mark.parametrize("conv_width", [None, 4])
def test_prefix_consistency(conv_width: int | None, tol: float, error: float) -> None:
    """Later tokens change earlier outputs within the tolerance only: their iterations may go on longer."""
    model = layer(conv_width=conv_width, solver=PicardSolver(tol, 500)).eval()
    u = torch.randn(4, 20, 8)
    with torch.no_grad():
        whole, prefix = model(u)[:, :9], model(u[:, :9])
        assert (whole - prefix).norm() / whole.norm() < error
        exact, u = with_solver(model, SequentialSolver()).double(), u.double()  # lengths may round differently
        torch.testing.assert_close(exact(u)[:, :9], exact(u[:, :9]), atol=1e-10, rtol=1e-9)


@pytest.mark.parametrize("solver", [PicardSolver(), AndersonSolver(), SequentialSolver(), FixedCountSolver(5)])
def test_outputs_do_not_depend_on_the_batch(solver: FixedPointSolver) -> None:
    """But for rounding, which may depend on the shape of a matrix product; in float64, where it is far below 1e-10."""
    model = layer(solver=solver).double()
    u = torch.randn(6, 12, 8, dtype=torch.float64) * torch.tensor([0.1, 1.0, 5.0, 1.0, 2.0, 0.5])[:, None, None]
    order = torch.tensor([3, 0, 5, 1, 4, 2])
    with torch.no_grad():
        together = model(u)
        assert (model(u[order]) - together[order]).abs().max() < 1e-10
        assert (model(u[:2]) - together[:2]).abs().max() < 1e-10
        assert torch.equal(model(u), together)  # and are the same every time


@pytest.mark.parametrize("conv_width", [None, 1, 4])
@pytest.mark.parametrize("mixer", MIXERS)
def test_decoding_equals_the_parallel_form(mixer: str, conv_width: int | None) -> None:
    model = layer(mixer, conv_width=conv_width, solver=PicardSolver(**FINE))
    u = torch.randn(3, 14, 8)
    with torch.no_grad():
        parallel, cache, outputs = model(u), model.initial_state(3), []
        for t in range(14):
            out, cache = model.step(u[:, t], cache)
            outputs.append(out)
        torch.testing.assert_close(torch.stack(outputs, 1), parallel, atol=1e-4, rtol=1e-4)
        first, middle = model.advance(u[:, :6], model.initial_state(3))
        last, end = model.advance(u[:, 6:], middle)
        torch.testing.assert_close(torch.cat([first, last], 1), parallel, atol=1e-4, rtol=1e-4)
    assert [x.shape for x in tensors(cache)] == [x.shape for x in tensors(model.initial_state(3))]  # constant memory
    for ours, theirs in zip(tensors(cache), tensors(end), strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)


def tensors(cache: object) -> list[Tensor]:
    if isinstance(cache, Tensor):
        return [cache]
    return [] if cache is None else [tensor for part in cache for tensor in tensors(part)]


def test_decoding_equals_the_parallel_form_with_a_norm_in_the_loop() -> None:
    """Where the drive is not small beside the norm, so that there is one fixed point."""
    model = layer(in_loop_norm=True, solver=PicardSolver(**FINE))
    u = 20 * torch.randn(3, 9, 8)
    with torch.no_grad():
        parallel, cache, outputs = model(u), model.initial_state(3), []
        assert model.statistics.converged.all()
        for t in range(9):
            out, cache = model.step(u[:, t], cache)
            outputs.append(out)
        torch.testing.assert_close(torch.stack(outputs, 1), parallel, atol=1e-4, rtol=1e-4)
        first, middle = model.advance(u[:, :4], model.initial_state(3))
        last, _ = model.advance(u[:, 4:], middle)
        torch.testing.assert_close(torch.cat([first, last], 1), parallel, atol=1e-4, rtol=1e-4)


def test_an_in_loop_norm_keeps_the_released_scale_finite() -> None:
    torch.manual_seed(0)
    model = FPRNN(8, lambda d: HouseholderMixer(d, 2, beta=2.0), PicardSolver(), in_loop_norm=True)
    with torch.no_grad():
        model.mixer.projection.magnitude[0].mul_(3)
        assert model(torch.randn(4, 20, 8)).isfinite().all()
    assert parameter_gradient(model, torch.randn(4, 20, 8)).isfinite().all()


@pytest.mark.parametrize("solver", [PicardSolver(), SequentialSolver(), AutomaticSolver()])
@pytest.mark.parametrize("conv_width", [None, 4])
@pytest.mark.parametrize("in_loop_norm", [False, True])
@pytest.mark.parametrize("mixer", ["householder-4", "kronecker", "constant"])
def test_every_parameter_gets_a_gradient(
    mixer: str, solver: FixedPointSolver, conv_width: int | None, in_loop_norm: bool
) -> None:
    solver.on_divergence = "flag"
    model = layer(mixer, solver=solver, conv_width=conv_width, in_loop_norm=in_loop_norm)
    model(5 * torch.randn(2, 6, 8)).square().sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name


@pytest.mark.parametrize("solver", [PicardSolver(1e-3), SequentialSolver()])
def test_half_precision_keeps_the_state_in_single_precision(solver: FixedPointSolver) -> None:
    model = layer(solver=solver, conv_width=4)
    u = torch.randn(4, 10, 8)
    expected = model(u)
    with torch.autocast("cpu", torch.bfloat16):
        out = model(u)
    out.sum().backward()
    assert out.dtype == torch.bfloat16
    assert (out - expected).norm() / expected.norm() < 0.05
    assert model.statistics.residual.dtype == torch.float32
    half = copy.deepcopy(model).bfloat16()
    out = half(u.bfloat16())
    assert out.dtype == torch.bfloat16
    assert (out - expected).norm() / expected.norm() < 0.1
    step, cache = half.step(u[:, 0].bfloat16(), half.initial_state(4))
    assert step.dtype == torch.bfloat16
    assert cache.recurrent.state.dtype == torch.float32


@pytest.mark.parametrize("length", [0, 1])
@pytest.mark.parametrize("solver", [PicardSolver(), SequentialSolver(), DenseSolver()])
@pytest.mark.parametrize("conv_width", [None, 4])
def test_short_sequences(solver: FixedPointSolver, length: int, conv_width: int | None) -> None:
    for mixer in ("householder-4", "kronecker"):
        model = layer(mixer, solver=solver, conv_width=conv_width)
        out, cache = model.advance(torch.randn(2, length, 8), model.initial_state(2))
        assert out.shape == (2, length, 8)
        assert cache.recurrent.hidden.shape == (2, 16)


def test_a_fixed_number_of_iterations_compiles_without_a_break() -> None:
    model = layer(solver=FixedCountSolver(3), conv_width=4)
    u = torch.randn(2, 6, 8)
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(u), model(u))
    torch.testing.assert_close(parameter_gradient(compiled, u), parameter_gradient(model, u))


def test_statistics_tell_how_the_last_call_was_solved() -> None:
    model = layer(solver=PicardSolver(1e-5, 3, eval_max_iterations=400))
    u = torch.randn(4, 30, 8)
    model(u)
    assert model.statistics.iterations.tolist() == [3] * 4
    assert model.statistics.capped == 1
    model.eval()(u)
    assert (model.statistics.iterations > 3).all()
    assert model.statistics.capped == 0
    assert not model.statistics.residual.requires_grad


def test_a_diverging_solve_is_an_error() -> None:
    torch.manual_seed(0)
    model = FPRNN(8, lambda d: HouseholderMixer(d, 4, beta=200.0), PicardSolver(1e-3, 2000))
    with pytest.raises(RuntimeError, match="diverged in 4 of 4 sequences"):
        model(torch.randn(4, 30, 8))


def strong(beta: float, rank: int, cap: int) -> FPRNN:
    """A layer whose mixer takes out almost all of its directions, where ``beta=2`` does not contract."""
    torch.manual_seed(0)
    model = FPRNN(16, lambda d: HouseholderMixer(d, rank, beta), PicardSolver(0.1, cap))
    with torch.no_grad():
        for name, parameter in model.mixer.named_parameters():
            if name.endswith("bias"):
                parameter[-rank:] += 3.0
    return model


@pytest.mark.parametrize(("rank", "length"), [(1, 16), (4, 64)])
def test_a_solve_that_diverges_but_stays_finite_is_an_error_too(rank: int, length: int) -> None:
    u = torch.randn(8, length, 16)
    with pytest.raises(RuntimeError, match=r"diverged in . of 8 sequences within 100 iterations: use beta=1"):
        strong(2.0, rank, 100)(u)


@pytest.mark.parametrize("cap", [2, 4, 8, 16, 100])
def test_a_layer_that_contracts_is_never_taken_for_one_that_diverges(cap: int) -> None:
    """Untrained, and with an output that is hardly solved for; warnings are errors."""
    model = strong(1.0, 4, cap)
    model.solver.tol = 1e-6
    model(torch.randn(8, 64, 16))
    assert model.statistics.growth.max() < 5
    assert model.statistics.capped == (0 if cap == 100 else 1)


def test_each_layer_has_its_own_solver() -> None:
    solver = AutomaticSolver()
    assert layer(solver=solver).solver is not layer(solver=solver).solver


def test_initialisation_and_size() -> None:
    model = FPRNN(8, HouseholderMixer, conv_width=4)
    assert not model.decay_gate.bias.any()
    assert all(not p.any() for name, p in model.named_parameters() if name == "mixer.projection.bias")
    d, mixer = 16, 17 * 33 + 1
    linear = 8 * 2 * d + d * d + d * (d + 1) + 2 * d * d + d * 8
    assert sum(p.numel() for p in model.parameters()) == linear + mixer + d + 4 * 5 * d + 5 * 2 * d
    assert FPRNN(8, d_inner=10).d_inner == 10


def test_state_dict_round_trip_with_every_part() -> None:
    model = layer(solver=AutomaticSolver(), conv_width=4, in_loop_norm=True)
    twin = layer(seed=1, solver=AutomaticSolver(), conv_width=4, in_loop_norm=True)
    twin.load_state_dict(model.state_dict())
    u = torch.randn(2, 5, 8)
    torch.testing.assert_close(twin(u), model(u))
    assert all(isinstance(value, Tensor) for value in model.state_dict().values())


@pytest.mark.parametrize("conv_width", [None, 4])
def test_the_diagonal_control_is_one_scan(conv_width: int | None) -> None:
    torch.manual_seed(0)
    model = DiagonalRNN(8, conv_width=conv_width)
    u = torch.randn(3, 7, 8)
    problem = model.equation(model.project(u))
    h, states = torch.zeros(3, 16), []
    for t in range(7):
        h = problem.decay[:, t] * h + (1 - problem.decay[:, t]) * problem.drive[:, t]
        states.append(h)
    torch.testing.assert_close(model.solver(problem).state, torch.stack(states, 1))
    cache, outputs = model.initial_state(3), []
    for t in range(7):
        out, cache = model.step(u[:, t], cache)
        outputs.append(out)
    torch.testing.assert_close(torch.stack(outputs, 1), model(u))
    assert model.statistics.iterations.tolist() == [1] * 3
    model(u).sum().backward()
    assert all(p.grad is not None for p in model.parameters())  # as distributed training demands


def test_one_iteration_from_zero_is_a_diagonal_recurrence_of_a_mixed_input() -> None:
    problem = equation("householder-4", torch.float64)
    mixed = problem.mixer.mix(problem.mixer.condition(problem.context, problem.initial()), problem.drive)
    h = torch.zeros(4, 16, dtype=torch.float64)
    for t in range(32):
        h = problem.decay[:, t] * h + problem.gate[:, t] * mixed[:, t]
        torch.testing.assert_close(problem.step(problem.initial())[:, t], h)


def test_the_dense_oracle_is_a_layer_too() -> None:
    torch.manual_seed(0)
    model = DenseRNN(8, KroneckerMixer)
    u = torch.randn(2, 5, 8)
    torch.testing.assert_close(model(u), with_solver(model, SequentialSolver())(u), atol=1e-5, rtol=1e-4)
    problem = equation("householder-1", torch.float64)
    with pytest.raises(ValueError, match="in_loop_norm=True: has no dense limit"):
        dense_recurrence(problem._replace(norm=nn.LayerNorm(16)))
    with pytest.raises(ValueError, match="equation=int: DenseSolver solves that of FPRNN only"):
        DenseSolver()(1)


def test_without_hidden_dependence_the_mixer_is_computed_once() -> None:
    calls = []
    model = layer("input", solver=FixedCountSolver(5))
    activate = model.mixer.activate
    model.mixer.activate = lambda raw: calls.append(1) or activate(raw)
    model(torch.randn(2, 4, 8))
    assert len(calls) == 1


def test_a_context_of_another_mixer_is_refused() -> None:
    with pytest.raises(ValueError, match="was not made by ConstantMixer"):
        ConstantMixer(4).condition(MixerContext(torch.zeros(1, 0), None), torch.zeros(1, 4))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"d_model": 0}, "d_model: 0 is too small; use 1 or more"),
        ({"expand": 0}, "expand: 0 is too small; use 1 or more"),
        ({"d_inner": -3}, "d_inner: -3 is too small; use 1 or more"),
        ({"norm_eps": -1.0}, "norm_eps=-1.0 must be positive"),
        (
            {"solver": ScanSolver()},
            "solver=ScanSolver: applies the map once, which solves nothing with HouseholderMixer",
        ),
        ({"solver": DenseSolver(), "in_loop_norm": True}, "in_loop_norm=True: has no dense limit"),
        ({"d_inner": 13, "mixer": KroneckerMixer}, "d_inner=13: is prime"),
        ({"conv_width": 0}, "conv_width=0: must be at least 1"),
        (
            {"mixer": HouseholderMixer(16)},
            "mixer: got an instance of HouseholderMixer; give a class, or a partial of one",
        ),
        ({"mixer": None}, "mixer: got an instance of NoneType; give a class"),
        ({"solver": ScanSolver}, "solver: got the class ScanSolver; give an instance of a solver"),
        ({"solver": "picard"}, "solver: got an instance of str; give an instance of a solver"),
    ],
)
def test_bad_input_is_refused_in_one_line(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message) as error:
        FPRNN(**{"d_model": 8, **options})
    assert "\n" not in str(error.value)
