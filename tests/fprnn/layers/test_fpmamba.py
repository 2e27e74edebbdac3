"""FPMamba and FPMamba2 as layers: their formulas, size, start, convergence, decoding, gradients, and their controls.

Inputs are large where a result is compared with another way to it: then the fixed point is unique.
"""

import copy
from collections.abc import Callable
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fprnn.layers import (
    DenseSolver,
    DiagonalMamba,
    DiagonalMamba2,
    FPMamba,
    FPMamba2,
    MatrixStateLayer,
    shift,
    weight_decay_groups,
)
from fprnn.mixers import AlternatingMixer, HouseholderMixer, KroneckerMixer, Mixer, MonarchMixer
from fprnn.model import SequenceModel
from fprnn.solvers import (
    AutomaticSolver,
    FixedCountSolver,
    FixedPointSolver,
    ImplicitGradient,
    OneStepGradient,
    PicardSolver,
    SequentialSolver,
)

MIXERS: dict[str, Callable[[int], Mixer]] = {
    "householder-1": HouseholderMixer,
    "householder-4": lambda d: HouseholderMixer(d, 4),
    "kronecker": KroneckerMixer,
    "symmetric": lambda d: HouseholderMixer(d, dependence="symmetric"),
    "input": lambda d: HouseholderMixer(d, 2, dependence="input"),
    "monarch": MonarchMixer,
}
D, STATES = 8, 3
ALL_DEPEND = {"b_h_dep": True, "c_h_dep": True, "lambda_h_dep": True}
NONE_DEPEND = dict.fromkeys(ALL_DEPEND, False)
VARIANTS = [{}, {"glu_in_loop": True, "conv_width": 4}, {"bc_norm": False, "conv_width": 4} | ALL_DEPEND, NONE_DEPEND]
EACH = ["FPMamba", "FPMamba2"]


def layer(
    kind: str = "FPMamba", mixer: str = "householder-1", tol: float = 1e-6, **options: object
) -> MatrixStateLayer:
    """A layer whose parts all matter: long steps, parameters of every size."""
    torch.manual_seed(0)
    options = {"solver": PicardSolver(tol, 500), "d_state": STATES, **options}
    heads = {"head_dim": 4, "groups": 2} if kind == "FPMamba2" else {}
    made = {"FPMamba": FPMamba, "FPMamba2": FPMamba2}[kind](D, MIXERS[mixer], **heads, **options)
    with torch.no_grad():
        made.selector.step_size.bias.copy_(torch.linspace(-3, 1, len(made.selector.step_size.bias)))
        made.D_skip.copy_(torch.linspace(0.5, 1.5, len(made.D_skip)))
        made.loop_norm.weight.uniform_(0.5, 1.5)
    return made


def inputs(batch: int, length: int, scale: float = 10.0) -> Tensor:
    return scale * torch.randn(batch, length, D)


def reference(model: MatrixStateLayer, u: Tensor, sweeps: int = 60) -> Tensor:
    """Specification, sections 7.2 and 7.3, one token at a time: each token's y is iterated by itself until it rests."""
    two, d = isinstance(model, FPMamba2), 2 * D
    groups, width = (2, 4) if two else (1, 1)
    sizes = [d // 4 if two else 1, groups * STATES, groups * STATES]
    state_weight = None if model.selector.state_projection is None else model.selector.state_projection.weight()
    gate_weight = None if model.read_gate is None else model.read_gate.weight()
    y_before, h, outs, sources = u.new_zeros(len(u), d), u.new_zeros(len(u), d, STATES), [], []
    for t in range(u.shape[1]):
        projected = F.linear(u[:, t], model.in_proj.weight)
        if two:
            z, source, steps = projected.split([d, d + 2 * groups * STATES, sizes[0]], -1)
        else:
            source, z = projected.chunk(2, -1)
        sources.append(source)
        if model.conv is not None:
            taps = zip(reversed(sources), reversed(model.conv.weight.unbind(1)), strict=False)
            source = F.silu(model.conv.bias + sum(weight * past for past, weight in taps))
        x, raw = source[:, :d], source[:, d:]
        raw = torch.cat([steps, raw], -1) if two else F.linear(x, model.x_proj.weight)
        parts = list(raw.split(sizes, -1))
        if state_weight is not None:
            rows = iter(F.linear(y_before, state_weight).split([sizes[i] for i in model.selector.dependent], -1))
            parts = [part + next(rows) if i in model.selector.dependent else part for i, part in enumerate(parts)]
        step = model.selector.step_size
        delta = F.softplus(parts[0] + step.bias if two else F.linear(parts[0], step.weight, step.bias))
        delta = delta.repeat_interleave(width, -1)
        b, c = (part.reshape(len(u), groups, STATES) for part in parts[1:])
        if model.selector.unit_norm:
            b, c = b / b.norm(dim=-1, keepdim=True), c / c.norm(dim=-1, keepdim=True)
        b, c = (vectors.repeat_interleave(d // groups, 1) for vectors in (b, c))
        rates = -model.A_log.exp()
        decay = torch.exp(delta.unsqueeze(-1) * (rates.repeat_interleave(width)[:, None] if two else rates))
        skip = model.D_skip.repeat_interleave(width)
        q = model.mixer.dense(model.mixer.condition(model.mixer.prepare(x), y_before))
        y = torch.zeros_like(x)
        for _ in range(sweeps):
            v = (q @ (x - y).unsqueeze(-1)).squeeze(-1) + y
            new = decay * h + (delta * v).unsqueeze(-1) * b
            o = (new * c).sum(-1) + skip * v
            y = model.loop_norm(o * F.silu(z) if model.glu_in_loop else o)
        h = new
        gated = y if gate_weight is None else F.silu(z + F.linear(y_before, gate_weight)) * y
        outs.append(F.linear(gated, model.out_proj.weight))
        y_before = y
    return torch.stack(outs, 1)


@pytest.mark.parametrize("options", VARIANTS)
@pytest.mark.parametrize("kind", EACH)
def test_equals_the_sequential_reference(kind: str, options: dict[str, object]) -> None:
    model = layer(kind, tol=1e-10, **options).double()
    u = inputs(3, 11).double()
    with torch.no_grad():
        expected = reference(model, u)
        torch.testing.assert_close(model(u), expected, atol=1e-8, rtol=1e-7)
        model.solver = SequentialSolver()
        torch.testing.assert_close(model(u), expected, atol=1e-8, rtol=1e-7)
        single = copy.deepcopy(model).float()
        single.solver = PicardSolver(1e-6, 500)
        torch.testing.assert_close(single(u.float()).double(), expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    "solver", [SequentialSolver(), PicardSolver(1e-12, 500, gradient=ImplicitGradient(1e-13, 500))]
)
@pytest.mark.parametrize("options", VARIANTS)
@pytest.mark.parametrize("kind", EACH)
def test_exact_gradients_are_those_of_the_unrolled_reference(
    kind: str, options: dict[str, object], solver: FixedPointSolver
) -> None:
    model = layer(kind, "kronecker", solver=solver, **options).double()
    u = inputs(2, 4).double()
    ours, exact = (parameter_gradient(run, model, u) for run in (model, lambda x: reference(model, x)))
    for (name, left), right in zip(ours.items(), exact.values(), strict=True):
        torch.testing.assert_close(left, right, atol=1e-8, rtol=1e-6, msg=lambda text, name=name: f"{name}: {text}")


def parameter_gradient(run: Callable[[Tensor], Tensor], model: nn.Module, u: Tensor) -> dict[str, Tensor]:
    leaves = {"u": u.detach().requires_grad_(), **dict(model.named_parameters())}
    out = run(leaves["u"])
    weights = torch.linspace(-1, 1, out.numel(), dtype=out.dtype).reshape(out.shape)
    return dict(zip(leaves, torch.autograd.grad((out * weights).sum(), list(leaves.values())), strict=True))


@pytest.mark.parametrize("kind", EACH)
def test_the_one_step_gradient_points_the_same_way(kind: str) -> None:
    model = layer(kind, solver=PicardSolver(1e-12, 500, gradient=OneStepGradient())).double()
    u = inputs(3, 12).double()
    one = parameter_gradient(model, model, u)
    model.solver = SequentialSolver()
    exact = parameter_gradient(model, model, u)
    left, right = (torch.cat([grad.flatten() for grad in grads.values()]) for grads in (one, exact))
    assert F.cosine_similarity(left, right, dim=0) > 0.9


def parameters(layer: Callable[[int], nn.Module], vocabulary: int, d_model: int, layers: int = 1, pad: int = 8) -> int:
    with torch.device("meta"):
        model = SequenceModel(vocabulary, vocabulary, layer, d_model, layers, tie_head=True, pad_vocab_to=pad)
    return sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize(
    ("options", "mixer", "sizes", "expected"),
    [
        ({}, {"rank": 1}, (67, 512), 4_912_162),
        ({}, {"rank": 2}, (67, 512), 7_012_388),
        ({}, {"rank": 4}, (67, 512), 11_212_840),
        ({}, None, (67, 512), 5_106_880),
        ({"conv_width": 4}, {"rank": 4}, (12, 128, 2, 4), 1_438_672),
        ({"conv_width": 4}, None, (12, 128, 2, 4), 695_904),
        ({"conv_width": 4, "d_state": 32}, {"dependence": "symmetric"}, (30, 1024), 15_329_346),
        ({"conv_width": 4, "glu_in_loop": True}, {"rank": 1}, (50257, 768, 12), 141_168_792),
        ({"conv_width": 4, "glu_in_loop": True}, {"rank": 2}, (50257, 768, 12), 197_847_216),
        ({"conv_width": 4, "glu_in_loop": True}, None, (50257, 768, 12), 150_278_112),
    ],
)
def test_parameter_counts_of_the_paper(
    options: dict[str, object], mixer: dict[str, object] | None, sizes: tuple[int, ...], expected: int
) -> None:
    """Of the whole language model, head tied; a mixer of None is Kronecker's."""

    def make(d: int) -> Mixer:
        return KroneckerMixer(d) if mixer is None else HouseholderMixer(d, **mixer)

    assert parameters(lambda d: FPMamba(d, make, **options), *sizes) == expected


@pytest.mark.parametrize("groups", [1, 2])
def test_size_of_the_second_kind(groups: int) -> None:
    d, d_model, n, heads = 64, 32, 16, 4
    vectors = 2 * groups * n
    model = FPMamba2(d_model, d_state=n, head_dim=16, groups=groups, conv_width=4)
    linear = d_model * (2 * d + vectors + heads) + d * d_model
    normalized = (vectors + d) * (d + 1)  # what the previous output adds to b and c, and to the output gate
    mixer = (d + 1) * (2 * d + 1) + 1
    assert sum(p.numel() for p in model.parameters()) == linear + normalized + mixer + 5 * (d + vectors) + 3 * heads + d


def test_a_model_starts_as_the_paper_says() -> None:
    torch.manual_seed(0)
    layers = [lambda d: FPMamba(d, conv_width=4), lambda d: FPMamba2(d, d_state=16, head_dim=16, conv_width=4)]
    for make in layers:
        model = SequenceModel(10, 10, make, 64, 4, tie_head=True)
        for made in model.layers:
            steps = F.softplus(made.selector.step_size.bias)
            assert 9e-4 < steps.min() < 2e-2 < steps.max() < 0.11
            assert torch.equal(made.D_skip, torch.ones_like(made.D_skip))
            assert made.out_proj.weight.abs().max() <= 1 / 128**0.5 / 4**0.5
        decays, stays = weight_decay_groups(model, 0.1)
        names = {p: name for name, p in model.named_parameters()}
        exempt = {names[p].removeprefix("layers.0.") for p in stays["params"]}
        assert {"A_log", "D_skip", "selector.step_size.bias", "conv.bias", "loop_norm.weight"} <= exempt
        decaying = {names[p].removeprefix("layers.0.") for p in decays["params"]}
        assert {"selector.state_projection.direction.0", "selector.state_projection.magnitude.0"} <= decaying
        assert {"in_proj.weight", "conv.weight", "mixer.projection.magnitude.0"} <= decaying
    first, second = FPMamba(64), FPMamba2(64, head_dim=2)
    torch.testing.assert_close(first.A_log.exp(), torch.arange(1.0, 17).expand(128, 16))
    assert first.selector.step_size.weight.shape == (128, 4)
    assert 0.4 < first.selector.step_size.weight.abs().max() <= 0.5
    assert [FPMamba2(width, d_state=4).head_dim for width in (64, 48, 8)] == [64, 32, 16]
    assert 1 <= second.A_log.exp().min() < 3 < 14 < second.A_log.exp().max() <= 16


@pytest.mark.parametrize("mixer", [HouseholderMixer, lambda d: HouseholderMixer(d, 4), KroneckerMixer])
@pytest.mark.parametrize("kind", [lambda m: FPMamba(32, m), lambda m: FPMamba2(32, m, d_state=16, head_dim=16)])
def test_converges_quickly_at_the_start(kind: Callable[..., MatrixStateLayer], mixer: Callable[[int], Mixer]) -> None:
    torch.manual_seed(0)
    model = kind(mixer).eval()
    for length in (1, 64):
        with torch.no_grad():
            model(torch.randn(8, length, 32))
        assert model.statistics.converged.all()
        assert model.statistics.iterations.max() <= 30


def decoded(model: MatrixStateLayer, u: Tensor) -> tuple[Tensor, object]:
    cache, outputs = model.initial_state(len(u)), []
    for t in range(u.shape[1]):
        out, cache = model.step(u[:, t], cache)
        outputs.append(out)
    return torch.stack(outputs, 1), cache


@pytest.mark.parametrize(
    ("kind", "mixer", "options"),
    [
        *((kind, "householder-1", options) for kind in EACH for options in VARIANTS),
        *(("FPMamba", mixer, {"conv_width": 4}) for mixer in MIXERS),
        *((kind, "kronecker", {"conv_width": 4, "solver": SequentialSolver()}) for kind in EACH),
    ],
)
def test_decoding_equals_the_parallel_form(kind: str, mixer: str, options: dict[str, object]) -> None:
    model = layer(kind, mixer, **options)
    u = inputs(3, 7)
    with torch.no_grad():
        parallel, (steps, cache) = model(u), decoded(model, u)
        torch.testing.assert_close(steps, parallel, atol=1e-4, rtol=0)
        first, middle = model.advance(u[:, :5], model.initial_state(3))
        last, end = model.advance(u[:, 5:], middle)
        torch.testing.assert_close(torch.cat([first, last], 1), parallel, atol=1e-4, rtol=0)
    assert [x.shape for x in tensors(cache)] == [x.shape for x in tensors(model.initial_state(3))]  # constant memory
    for ours, theirs in zip(tensors(cache.recurrent), tensors(end.recurrent), strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-3, rtol=1e-4)


@pytest.mark.parametrize("kind", [lambda: FPMamba(32, conv_width=4), lambda: FPMamba2(32, head_dim=16, conv_width=4)])
def test_decoding_finds_the_fixed_point_that_the_whole_sequence_finds(kind: Callable[[], MatrixStateLayer]) -> None:
    """A fresh layer's x is small beside the norm, so that it has many: which one is found depends on the way there."""
    torch.manual_seed(0)
    model, u = kind(), torch.randn(4, 16, 32)
    model.solver = PicardSolver(1e-6, 500)
    with torch.no_grad():
        parallel = model(u)
        assert model.statistics.converged.all()
        assert (decoded(model, u)[0] - parallel).abs().max() < 1e-4
        first, cache = model.advance(u[:, :7], model.initial_state(4))
        nothing, cache = model.advance(u[:, :0], cache)
        assert nothing.shape == (4, 0, 32)
        last, _ = model.advance(u[:, 7:], cache)
        assert (torch.cat([first, last], 1) - parallel).abs().max() < 1e-4
        model.kept_iterations = 0
        assert (decoded(model, u)[0] - parallel).abs().max() > 0.1


@pytest.mark.parametrize("kind", [FPMamba, lambda d, **options: FPMamba2(d, head_dim=16, **options)])
def test_decoding_equals_the_parallel_form_as_far_as_the_tolerance_goes(kind: Callable[..., MatrixStateLayer]) -> None:
    """With weights as far from fresh ones as training takes them."""
    torch.manual_seed(0)
    model, u, error = kind(32, d_state=8), torch.randn(4, 8, 32), {}
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.5 * parameter.square().mean().sqrt() * torch.randn_like(parameter)
        for tol in (0.1, 1e-5):
            model.solver = PicardSolver(tol, 500)
            parallel = model(u)
            assert model.statistics.converged.all()
            error[tol] = (decoded(model, u)[0] - parallel).abs().max() / parallel.abs().max()
    assert error[1e-5] < 1e-3 < 1e-2 < error[0.1]


def tensors(cache: object) -> list[Tensor]:
    if isinstance(cache, Tensor):
        return [cache]
    return [] if cache is None else [tensor for part in cache for tensor in tensors(part)]


@pytest.mark.parametrize("kind", [FPMamba, FPMamba2])
def test_a_model_generates_what_it_predicts(kind: Callable[..., MatrixStateLayer]) -> None:
    torch.manual_seed(0)
    model = SequenceModel(9, 9, lambda d: kind(d, solver=PicardSolver(1e-6, 500), conv_width=4), 16, 2)
    prompt = torch.randint(9, (2, 5))
    tokens = model.generate(prompt, 4, temperature=0)
    with torch.no_grad():
        predicted = model(torch.cat([prompt, tokens], 1)).argmax(-1)
    assert torch.equal(tokens, predicted[:, 4:-1])


@pytest.mark.parametrize(("flag", "index"), [("lambda_h_dep", 0), ("b_h_dep", 1), ("c_h_dep", 2)])
@pytest.mark.parametrize("kind", EACH)
def test_each_part_depends_on_the_previous_output_if_asked_to(kind: str, flag: str, index: int) -> None:
    model = layer(kind, **NONE_DEPEND | {flag: True})
    equation = model.equation(*model.project(torch.randn(2, 9, D))[:3])
    y = torch.randn(2, 9, 2 * D)
    changed = y.clone()
    changed[:, 4] += 1
    before, after = (
        model.selector.condition(equation.selected, equation.selecting, shift(hidden)) for hidden in (y, changed)
    )
    for i, (left, right) in enumerate(zip(before, after, strict=True)):
        differs = (left != right).flatten(2).any(-1)
        assert differs.nonzero()[:, 1].unique().tolist() == ([5] if i == index else [])


@pytest.mark.parametrize("solver", [PicardSolver(1e-3, 500), SequentialSolver("flag")])
@pytest.mark.parametrize("options", VARIANTS)
@pytest.mark.parametrize("kind", EACH)
def test_every_parameter_gets_a_gradient(kind: str, options: dict[str, object], solver: FixedPointSolver) -> None:
    model = layer(kind, solver=solver, **options)
    model(torch.randn(2, 6, D)).square().sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name


@pytest.mark.parametrize("solver", [PicardSolver(), AutomaticSolver(), SequentialSolver()])
@pytest.mark.parametrize("kind", EACH)
def test_any_solver_leaves_sequences_alone(kind: str, solver: FixedPointSolver) -> None:
    """Those that are frozen at once, too, without the slowest ones of the batch."""
    model = layer(kind, solver=solver, conv_width=4).double()
    u = inputs(6, 12).double() * torch.tensor([0.5, 1.0, 5.0, 1.0, 2.0, 0.8])[:, None, None]
    with torch.no_grad():
        together = model(u)
        assert (model(u.flip(0)) - together.flip(0)).abs().max() < 1e-6
        assert (model(u[2:4]) - together[2:4]).abs().max() < 1e-6


@pytest.mark.parametrize(
    ("solver", "bound"),
    [
        (SequentialSolver(), 1e-6),
        (FixedCountSolver(3), 1e-6),  # one iteration is causal
        (PicardSolver(1e-6, 500), 1e-4),
        (PicardSolver(0.1, 500), 0.1),  # what follows decides how long a prefix goes on changing
    ],
)
@pytest.mark.parametrize("kind", EACH)
def test_a_prefix_is_answered_alike_up_to_the_tolerance(kind: str, solver: FixedPointSolver, bound: float) -> None:
    model = layer(kind, solver=solver, conv_width=4)
    u = inputs(4, 12)
    with torch.no_grad():
        whole, prefix = model(u)[:, :7], model(u[:, :7])
    assert (whole - prefix).norm() < bound * whole.norm()


@pytest.mark.parametrize("options", [{}, {"glu_in_loop": True}])
@pytest.mark.parametrize("kind", [FPMamba, lambda d, **options: FPMamba2(d, head_dim=16, **options)])
def test_the_exact_solver_finds_a_fixed_point_of_a_fresh_layer(
    kind: Callable[..., MatrixStateLayer], options: dict[str, bool]
) -> None:
    """One of many, as the norm makes them; not always the one that the iteration finds."""
    torch.manual_seed(0)
    model = kind(32, d_state=16, solver=SequentialSolver(), **options).double()
    equation = model.equation(*model.project(torch.randn(4, 24, 32, dtype=torch.float64))[:3])
    with torch.no_grad():
        hidden, statistics = model.solver(equation)
        assert statistics.converged.all()
        torch.testing.assert_close(equation.step(hidden), hidden, atol=1e-9, rtol=1e-9)


@pytest.mark.parametrize("kind", [FPMamba, FPMamba2])
def test_the_exact_solver_finds_fixed_points_of_a_whole_batch(kind: Callable[..., MatrixStateLayer]) -> None:
    """In 2,048 tokens are some that pass slowly by where a fixed point almost is; Newton's steps lead away there."""
    torch.manual_seed(0)
    model = kind(64, solver=SequentialSolver())
    equation = model.equation(*model.project(torch.randn(32, 64, 64))[:3])
    with torch.no_grad():
        hidden, statistics = model.solver(equation)
        assert statistics.converged.all()
        change = (equation.step(hidden) - hidden).abs().amax(-1) / hidden.abs().amax(-1)
    assert change.max() < 1e-3


def test_the_exact_solver_tells_where_it_found_no_fixed_point() -> None:
    torch.manual_seed(0)
    model = FPMamba(32, partial(HouseholderMixer, rank=4, beta=2.0), SequentialSolver())
    with (
        torch.no_grad(),
        pytest.warns(UserWarning, match="no fixed point of some token in [1-8] of 8 sequences.*beta=1"),
    ):
        model(torch.randn(8, 16, 32))
    assert not model.statistics.converged.all()


@pytest.mark.parametrize("kind", EACH)
def test_half_precision_keeps_the_state_in_single_precision(kind: str) -> None:
    model = layer(kind, tol=1e-3, conv_width=4)
    u = inputs(4, 10)
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
    assert cache.recurrent.state.dtype == cache.recurrent.hidden.dtype == torch.float32


@pytest.mark.parametrize("length", [0, 1])
@pytest.mark.parametrize("solver", [PicardSolver(), SequentialSolver()])
@pytest.mark.parametrize("kind", EACH)
def test_short_sequences(kind: str, solver: FixedPointSolver, length: int) -> None:
    model = layer(kind, solver=solver, conv_width=4)
    out, cache = model.advance(torch.randn(2, length, D), model.initial_state(2))
    assert out.shape == (2, length, D)
    assert cache.recurrent.state.shape == (2, 2 * D, STATES)
    out.sum().backward()


def test_a_fixed_number_of_iterations_compiles_without_a_break() -> None:
    model = layer(solver=FixedCountSolver(1))
    u = torch.randn(2, 6, D)
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(u), model(u))
    ours, theirs = (parameter_gradient(run, model, u) for run in (compiled, model))
    for left, right in zip(ours.values(), theirs.values(), strict=True):
        torch.testing.assert_close(left, right)


@pytest.mark.parametrize("options", [{}, {"glu_in_loop": True, "conv_width": 4}])
@pytest.mark.parametrize("kind", [DiagonalMamba, DiagonalMamba2])
def test_the_diagonal_controls_are_one_scan(kind: type[MatrixStateLayer], options: dict[str, object]) -> None:
    torch.manual_seed(0)
    heads = {"head_dim": 4, "groups": 2} if kind is DiagonalMamba2 else {}
    model = kind(D, d_state=STATES, **heads, **options).double()
    u = torch.randn(3, 7, D, dtype=torch.float64)
    torch.testing.assert_close(model(u), reference(model, u, sweeps=1), atol=1e-10, rtol=1e-8)
    assert model.statistics.iterations.tolist() == [1] * 3
    cache, outputs = model.initial_state(3), []
    for t in range(7):
        out, cache = model.step(u[:, t], cache)
        outputs.append(out)
    torch.testing.assert_close(torch.stack(outputs, 1), model(u))
    model(u).sum().backward()
    assert all(p.grad is not None for p in model.parameters())  # as distributed training demands


def test_each_layer_has_its_own_solver_and_state_dicts_hold_everything() -> None:
    solver = AutomaticSolver()
    model, twin = layer(solver=solver, **ALL_DEPEND), FPMamba(D, solver=solver, d_state=STATES, **ALL_DEPEND)
    assert model.solver is not twin.solver
    assert twin.solver is not solver
    twin.load_state_dict(model.state_dict())
    u = torch.randn(2, 5, D)
    torch.testing.assert_close(twin(u), model(u))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: FPMamba(0), "d_model: 0 is too small; use 1 or more"),
        (lambda: FPMamba(8, d_state=0), "d_state: 0 is too small; use 1 or more"),
        (lambda: FPMamba(8, d_inner=-2), "d_inner: -2 is too small; use 1 or more"),
        (lambda: FPMamba2(8, d_inner=0, head_dim=4), "d_inner: 0 is too small; use 1 or more"),
        (lambda: FPMamba(8, kept_iterations=-1), "kept_iterations=-1: must be at least 0"),
        (lambda: FPMamba(8, conv_width=0), "conv_width=0: must be at least 1"),
        (lambda: FPMamba(8, KroneckerMixer, d_inner=13), "d_inner=13: is prime"),
        (lambda: FPMamba2(8, head_dim=64), "head_dim=64: times groups=1 must divide the inner width 16"),
        (lambda: FPMamba(8, norm_eps=-1.0), "norm_eps=-1.0 must be positive"),
        (lambda: FPMamba2(8, norm_eps=float("nan")), "norm_eps=nan must be positive"),
        (lambda: FPMamba(8, partial(HouseholderMixer, norm_eps=0.0)), "norm_eps=0.0 must be positive"),
        (lambda: FPMamba(10**12), "d_model: 1000000000000 is too large; use 1000000000 or less"),
        (lambda: AlternatingMixer(16, 10**12), "rank: 1000000000000 is too large; use 10000 or less"),
        (lambda: FPMamba2(8, head_dim=4, groups=3), "head_dim=4: times groups=3 must divide the inner width 16"),
        (lambda: FPMamba(8, HouseholderMixer(16)), "mixer: got an instance of HouseholderMixer; give a class"),
        (lambda: FPMamba(8, solver=PicardSolver), "solver: got the class PicardSolver; give an instance"),
        (lambda: FPMamba2(8, HouseholderMixer(16), head_dim=4), "mixer: got an instance of HouseholderMixer"),
        (lambda: FPMamba2(8, solver=PicardSolver, head_dim=4), "solver: got the class PicardSolver; give an instance"),
        (lambda: layer(solver=DenseSolver())(torch.zeros(1, 2, D)), "DenseSolver solves that of FPRNN only"),
    ],
)
def test_bad_input_is_refused_in_one_line(make: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message) as error:
        make()
    assert "\n" not in str(error.value)
