"""Fixed-point solvers: the stopping rule on scripted maps, freezing, statistics, gradients, the automatic choice."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fprnn.layers import FPRNN, FPMamba, FPMamba2
from fprnn.mixers import ConstantMixer, HouseholderMixer, IdentityMixer, KroneckerMixer
from fprnn.solvers import (
    AndersonSolver,
    AutomaticSolver,
    DivergenceError,
    FixedCountSolver,
    FixedPointSolver,
    ImplicitGradient,
    IterativeSolver,
    OneStepGradient,
    PicardSolver,
    ScanSolver,
    SequentialSolver,
    TruncatedGradient,
    break_even,
    relative_change,
)
from fprnn.solvers.automatic import ACCELERATOR, CPU
from fprnn.solvers.base import smallest_tolerance
from fprnn.solvers.newton import TokenEquation
from fprnn.solvers.picard import LaggedFlag
from fprnn.solvers.reference import picard


class Scripted:
    """A map that returns given images in turn, the same for every token; images are ``(B, d)``."""

    def __init__(self, *images: list[list[float]], linear: bool = True) -> None:
        self.images = [torch.tensor(image).unsqueeze(1) for image in images]
        self.calls = 0
        self.linear, self.state_parameters = linear, 0

    def initial(self) -> Tensor:
        return torch.zeros_like(self.images[0])

    def step(self, state: Tensor) -> Tensor:
        image = self.images[min(self.calls, len(self.images) - 1)]
        self.calls += 1
        return image.clone()

    def closed_form(self) -> None:
        return None

    def start(self) -> None:
        return None

    def token(self, t: int, before: None) -> tuple[TokenEquation, Callable[[Tensor, Tensor], None]]:
        """``h = image``, whatever the mixer: it does not depend on h."""
        image = self.images[-1][:, t].clone()
        identity = IdentityMixer(image.shape[1])
        return TokenEquation(identity, image[:, :0], image, image, image, None), lambda state, hidden: None


class Affine:
    """``h = W h + b`` on ``(B, 1, d)``, whose fixed point and gradient are known."""

    def __init__(self, matrix: Tensor, offset: Tensor) -> None:
        self.matrix, self.offset = matrix, offset
        self.linear, self.state_parameters = True, 0

    def initial(self) -> Tensor:
        return torch.zeros_like(self.offset)

    def step(self, state: Tensor) -> Tensor:
        return state @ self.matrix.T + self.offset

    def closed_form(self) -> None:
        return None

    def start(self) -> None:
        return None

    def token(self, t: int, before: None) -> tuple[TokenEquation, Callable[[Tensor, Tensor], None]]:
        """``h = b + 1 (I - Q) (h - 0)`` with ``Q = I - W``."""
        offset, eye = self.offset[:, t], torch.eye(len(self.matrix), dtype=self.matrix.dtype)
        ones, zeros = torch.ones_like(offset), torch.zeros_like(offset)
        mixer = ConstantMixer(len(self.matrix)).double()
        return TokenEquation(mixer, eye - self.matrix, offset, ones, zeros, None), lambda state, hidden: None

    def solution(self) -> Tensor:
        """By a factorised matrix."""
        eye = torch.eye(len(self.matrix), dtype=self.matrix.dtype)
        return torch.linalg.solve(eye - self.matrix, self.offset.mT).mT


def affine(radius: float = 0.6, batch: int = 3, d: int = 4, seed: int = 0) -> Affine:
    generator = torch.Generator().manual_seed(seed)
    matrix = torch.randn(d, d, generator=generator, dtype=torch.float64)
    matrix = radius * matrix / torch.linalg.matrix_norm(matrix, 2)
    offset = torch.randn(batch, 1, d, generator=generator, dtype=torch.float64)
    return Affine(matrix.requires_grad_(), offset.requires_grad_())


def halving(start: float, count: int) -> list[list[list[float]]]:
    """Images 1 + start, 1 + start / 2, ...: the change halves each time."""
    return [[[1 + start * 0.5**k]] for k in range(count)]


def test_relative_change_is_the_worst_tokens() -> None:
    old = torch.tensor([[[1.0, 2.0], [4.0, 0.0]], [[0.0, 0.0], [0.0, 0.0]]])
    new = torch.tensor([[[1.0, 2.5], [4.0, 1.0]], [[0.0, 0.0], [0.0, 0.0]]])
    torch.testing.assert_close(relative_change(new, old), torch.tensor([0.25, 0.0]))


def test_stops_at_the_exact_iteration() -> None:
    """Changes 1, .5/1.5, .25/1.25, .125/1.125 (= .111), .0625/1.0625 (= .059): below .1 at the fifth."""
    equation = Scripted(*halving(1.0, 20))
    state, statistics = PicardSolver(tol=0.1).iterate(equation)
    assert equation.calls == 5
    assert statistics.iterations.tolist() == [5]
    assert statistics.converged.all()
    assert state.item() == 1 + 1 / 16
    torch.testing.assert_close(statistics.residual, torch.tensor([0.0625 / 1.0625]))


def test_returns_one_application_more_than_it_iterates() -> None:
    equation = Scripted(*halving(1.0, 20))
    assert PicardSolver(tol=0.1)(equation).state.item() == 1 + 1 / 32
    assert equation.calls == 6


@pytest.mark.parametrize(("training", "calls"), [(True, 3), (False, 5)])
def test_caps_in_training_and_in_evaluation(training: bool, calls: int) -> None:
    equation = Scripted(*halving(1.0, 20))
    solver = PicardSolver(tol=1e-6, max_iterations=3, eval_max_iterations=5).train(training)
    _, statistics = solver.iterate(equation)
    assert equation.calls == calls
    assert statistics.capped == 1
    solver.eval_max_iterations, solver.max_iterations = None, 7
    assert solver.cap == 7


TWO_SPEEDS = [[[1.0], [1.0]], [[1.0], [2.0]], [[1.0], [4.0]], [[1.0], [8.0]], [[9.0], [8.0]]]


@pytest.mark.parametrize(("quantile", "calls"), [(0.5, 2), (1.0, 5)])
def test_quantile_of_the_batch(quantile: float, calls: int) -> None:
    """The first sequence has converged at the second iteration, the other at the fifth."""
    equation = Scripted(*TWO_SPEEDS)
    solver = PicardSolver(tol=0.3, quantile=quantile)
    _, statistics = solver.iterate(equation)
    assert equation.calls == calls
    assert statistics.converged.tolist() == [True, quantile == 1]
    equation.calls = 0
    solver.eval().iterate(equation)
    assert equation.calls == 5  # evaluation waits for all


@pytest.mark.parametrize(("freeze", "value"), [(True, 1.0), (False, 9.0)])
def test_a_converged_sequence_is_frozen(freeze: bool, value: float) -> None:
    state, statistics = PicardSolver(tol=0.3, freeze=freeze).iterate(Scripted(*TWO_SPEEDS))
    assert state.flatten().tolist() == [value, 8.0]
    assert statistics.iterations.tolist() == ([2, 5] if freeze else [5, 5])


def test_damping_shrinks_after_patience_iterations_without_improvement() -> None:
    """Section 5: step .99, then .99 * .9 = .891 after 15 stalls; the state is the average that the step says."""
    alternating = [[[1.0 if k % 2 else -1.0]] for k in range(200)]
    equation = Scripted(*alternating)
    solver = PicardSolver(tol=1e-3, max_iterations=16, damping=0.99, damping_decay=0.9, patience=15)
    before, statistics = solver.iterate(equation)
    assert statistics.iterations.item() == 16
    expected = 0.0
    for k in range(16):
        expected += 0.99 * (alternating[k][0][0] - expected)
    assert before.item() == pytest.approx(expected, rel=1e-5)
    solver.max_iterations, equation.calls = 17, 0
    after, _ = solver.iterate(equation)
    assert after.item() == pytest.approx(expected + 0.891 * (alternating[16][0][0] - expected), rel=1e-5)


def test_a_sequence_whose_step_has_vanished_gives_up() -> None:
    equation = Scripted(*[[[(-1.0) ** k]] for k in range(100)])
    solver = PicardSolver(tol=1e-3, damping_decay=0.05, patience=1, max_iterations=90)
    _, statistics = solver.iterate(equation)
    assert statistics.iterations.item() < 90
    assert not statistics.converged.any()


def test_values_that_are_not_finite_are_raised_or_flagged_and_stay_out_of_the_state() -> None:
    images = [[[1.0], [1.0]], [[1.0], [float("nan")]], [[1.0], [3.0]]]
    with pytest.raises(DivergenceError, match="PicardSolver diverged in 1 of 2 sequences") as error:
        PicardSolver()(Scripted(*images))
    assert "\n" not in str(error.value)
    state, statistics = PicardSolver(on_divergence="flag").iterate(Scripted(*images))
    assert state.flatten().tolist() == [1.0, 1.0]
    assert statistics.finite.tolist() == [True, False]
    assert statistics.converged.tolist() == [True, False]


@pytest.mark.parametrize("quantile", [0.9, 1.0])
def test_a_sequence_that_diverges_at_once_does_not_stop_the_others(quantile: float) -> None:
    images = [[[v], [float("inf")]] for row in halving(1.0, 9) for (v,) in row]
    _, statistics = PicardSolver(on_divergence="flag", quantile=quantile).iterate(Scripted(*images))
    assert statistics.converged.tolist() == [True, False]
    assert statistics.iterations.tolist() == [5, 1]


def growing(sequences: int, of: int = 8) -> Scripted:
    """Some sequences double at every iteration, a relative change of 1/2 for ever; the others flip between 1 and -1."""
    images = [[[2.0**k if row < sequences else (-1.0) ** k] for row in range(of)] for k in range(30)]
    return Scripted(*images)


@pytest.mark.filterwarnings("error")
def test_training_on_states_that_grow_without_end_is_refused() -> None:
    solver = PicardSolver(tol=1e-3, max_iterations=20)
    with pytest.raises(DivergenceError, match=r"PicardSolver diverged in 3 of 8 sequences within 20 iterations: use "):
        solver(growing(3))
    _, statistics = solver.iterate(growing(3))
    assert statistics.finite.all()
    assert statistics.diverged.tolist() == [True] * 3 + [False] * 5
    assert statistics.growth[:3].tolist() == [2.0**19] * 3
    assert (statistics.residual[3:] == 2).all()  # as large as a residual gets, and yet nothing grows
    solver.max_iterations = 5
    solver(growing(8))  # cut off before it has gone far
    assert PicardSolver(on_divergence="flag", max_iterations=20)(growing(8)).statistics.diverged.all()


def test_a_few_that_grow_and_any_in_evaluation_are_told_once() -> None:
    training = PicardSolver(tol=1e-3, max_iterations=20)
    evaluation = PicardSolver(tol=1e-3, eval_max_iterations=20).eval()
    for solver, count in ((training, 2), (evaluation, 8)):
        with pytest.warns(
            UserWarning, match=rf"diverged in {count} of 8 .* and the answers there are wrong: use beta=1"
        ):
            solver(growing(count))
        solver(growing(count))  # a second warning would be an error here


def test_growth_is_measured_from_the_first_image_or_a_larger_start() -> None:
    equation = affine(0.5)
    first = equation.step(equation.initial()).abs().amax((1, 2))
    solver = PicardSolver(tol=1e-12, max_iterations=200)
    state, statistics = solver.iterate(equation)
    torch.testing.assert_close(statistics.growth, state.abs().amax((1, 2)) / first, rtol=1e-6, atol=0)
    counted = FixedCountSolver(60)(equation).statistics
    torch.testing.assert_close(counted.growth, statistics.growth)
    with torch.no_grad():
        equation.matrix.copy_(2 * torch.eye(4))
    assert FixedCountSolver(12)(equation).statistics.diverged.all()  # flagged
    equation.initial = lambda: torch.full_like(equation.offset, 1e6)  # type: ignore[method-assign]
    assert not FixedCountSolver(2)(equation).statistics.diverged.any()


def test_tolerances_below_the_precision_are_refused() -> None:
    with pytest.raises(ValueError, match=r"tol=1e-07: too small for torch.float32; use 2.4e-07 or more"):
        PicardSolver(tol=1e-7).iterate(Scripted([[1.0]]))
    assert smallest_tolerance(torch.float64) < 1e-15


class FakeEvent:
    """Stands for a CUDA event."""

    def record(self) -> None:
        self.recorded = True

    def synchronize(self) -> None:
        assert self.recorded


def test_on_an_accelerator_the_flag_is_read_one_block_late(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "Event", FakeEvent)
    flag = LaggedFlag(torch.device("cuda"))
    assert [flag.read(torch.tensor(value)) for value in (True, False, False)] == [True, True, False]


@pytest.mark.parametrize("freeze", [True, False])
def test_iterations_beyond_the_stop_change_nothing(freeze: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    solver = PicardSolver(tol=1e-3, freeze=freeze, quantile=0.5, max_iterations=90)
    state, statistics = solver.iterate(affine(batch=5))
    monkeypatch.setattr(LaggedFlag, "read", lambda self, flag: True)  # the host never hears of the stop
    later_state, later = solver.iterate(affine(batch=5))
    assert torch.equal(state, later_state)
    for ours, theirs in zip(statistics, later, strict=True):
        assert torch.equal(ours, theirs)


def test_empty_sequences_are_solved_without_an_iteration() -> None:
    equation = affine(batch=2)
    equation.offset = equation.offset[:, :0]
    for solver in (PicardSolver(), AndersonSolver(), FixedCountSolver(2)):
        solution = solver(equation)
        assert solution.state.shape == (2, 0, 4)
        assert solution.statistics.converged.all()


LAYERS = {
    "fprnn": lambda d: FPRNN(d, lambda width: HouseholderMixer(width, 2)),
    "kronecker": lambda d: FPRNN(d, KroneckerMixer),
    "fprnn with a norm": lambda d: FPRNN(d, in_loop_norm=True),
    "fpmamba": lambda d: FPMamba(d, d_state=4),
    "fpmamba2": lambda d: FPMamba2(d, d_state=4, head_dim=4),
}


@pytest.mark.parametrize(("dtype", "tolerances"), [(torch.float32, (0.1, 1e-3)), (torch.float64, (0.1, 1e-3, 1e-10))])
@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("length", [0, 1, 11])
def test_picard_is_the_reference(name: str, length: int, dtype: torch.dtype, tolerances: tuple[float, ...]) -> None:
    torch.manual_seed(0)
    layer = LAYERS[name](8).to(dtype)
    u = torch.randn(length, 5, 8, dtype=dtype).transpose(0, 1)
    projected = layer.project(u)
    equation = layer.equation(projected) if isinstance(layer, FPRNN) else layer.equation(*projected[:3])
    for tol in tolerances:
        for cap in (3, 500):
            fast, statistics = PicardSolver(tol, cap).iterate(equation)
            assert fast.dtype == dtype
            # The same operations in one process and one batch shape, hence the same bits.
            assert torch.equal(fast, picard(equation, tol, cap))
            assert cap == 3 or statistics.converged.all()


def released(equation: Any, quantile: float, damping: float, decay: float, cap: int) -> tuple[Tensor, int]:
    """The released code's iteration in plain loops: the batch goes on until a share of it has converged."""
    state, batch = equation.initial(), len(equation.initial())
    best, step, patience = [float("inf")] * batch, [damping] * batch, [15] * batch
    count = 0
    while count < cap:
        count += 1
        image = equation.step(state)
        for row in range(batch):
            change = (image[row] - state[row]).abs().amax(-1) / (image[row].abs().amax(-1) + 1e-8)
            state[row] = step[row] * image[row] + (1 - step[row]) * state[row]
            better = float(change.max()) < best[row]
            best[row], patience[row] = min(best[row], float(change.max())), 15 if better else patience[row] - 1
            if patience[row] == 0:
                step[row], patience[row] = step[row] * decay, 15
        if torch.tensor(best).quantile(quantile) < 0.1 or max(step) < 1e-3:
            break
    return state, count


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(
    ("name", "options"), [("fpmamba", {"quantile": 0.75, "damping": 0.99, "decay": 0.9}), ("fprnn", {"quantile": 0.9})]
)
@torch.no_grad()
def test_the_released_solvers_are_options(name: str, options: dict[str, float], training: bool) -> None:
    torch.manual_seed(0)
    layer = LAYERS[name](8).double()
    projected = layer.project(2 * torch.randn(9, 40, 8, dtype=torch.float64))
    equation = layer.equation(projected) if isinstance(layer, FPRNN) else layer.equation(*projected[:3])
    quantile, damping, decay = options["quantile"], options.get("damping", 1.0), options.get("decay", 1.0)
    chosen = {"quantile": quantile, "damping": damping, "damping_decay": decay}
    state, count = released(equation, quantile if training else 1.0, damping, decay, 1000)
    ours, statistics = PicardSolver(**chosen, freeze=False, max_iterations=1000).train(training).iterate(equation)
    assert statistics.iterations.tolist() == [count] * 9
    torch.testing.assert_close(ours, state, atol=1e-12, rtol=1e-12)
    frozen, _ = PicardSolver(**chosen, max_iterations=1000).train(training).iterate(equation)
    assert (frozen - state).abs().max() > 1e-3  # which is what freezing changes, within the tolerance of 0.1


@pytest.mark.parametrize("solver", [PicardSolver, AndersonSolver])
def test_iterations_find_the_fixed_point(solver: type[IterativeSolver]) -> None:
    equation = affine(0.8)
    state, statistics = solver(tol=1e-12, max_iterations=300).iterate(equation)
    torch.testing.assert_close(state, equation.solution(), atol=1e-10, rtol=0)
    assert statistics.converged.all()


def test_anderson_needs_fewer_iterations_on_a_linear_map() -> None:
    counts = [
        solver(tol=1e-10, max_iterations=500).iterate(affine(0.95))[1].iterations.max().item()
        for solver in (PicardSolver, AndersonSolver)
    ]
    assert counts[1] < counts[0] / 3


def test_anderson_falls_back_to_the_plain_step_where_its_system_is_singular() -> None:
    state, statistics = AndersonSolver(tol=0.1).iterate(Scripted([[2.0]], [[2.0]], [[2.0]]))
    assert state.item() == 2
    assert statistics.converged.all()


@pytest.mark.parametrize("solver", [PicardSolver(tol=1e-6), AndersonSolver(tol=1e-6)])
def test_results_do_not_depend_on_the_batch(solver: IterativeSolver) -> None:
    equation = affine(0.9, batch=5)
    scale = torch.tensor([1.0, 1e-3, 10.0, 1.0, 5.0], dtype=torch.float64)[:, None, None]
    together, _ = solver.iterate(Affine(equation.matrix, equation.offset * scale))
    for index in range(5):
        alone, _ = solver.iterate(Affine(equation.matrix, (equation.offset * scale)[index : index + 1]))
        torch.testing.assert_close(alone[0], together[index], atol=1e-12, rtol=1e-12)


def gradient(equation: Affine, solver: FixedPointSolver) -> Tensor:
    weights = torch.linspace(-1, 1, equation.offset.numel(), dtype=torch.float64).reshape(equation.offset.shape)
    grads = torch.autograd.grad((solver(equation).state * weights).sum(), [equation.matrix, equation.offset])
    return torch.cat([grad.flatten() for grad in grads])


@pytest.mark.parametrize("k", [0, 1, 3])
def test_truncated_gradient_is_the_series_up_to_k(k: int) -> None:
    equation = affine()
    solver = PicardSolver(tol=1e-14, max_iterations=200, gradient=TruncatedGradient(k) if k else OneStepGradient())
    state = solver(equation).state
    weights = torch.ones_like(state)
    (grad,) = torch.autograd.grad(state, equation.offset, weights)
    series = sum(torch.linalg.matrix_power(equation.matrix.T, i) for i in range(k + 1))
    torch.testing.assert_close(grad.squeeze(1), weights.squeeze(1) @ series.T)


def test_implicit_gradient_is_the_exact_one() -> None:
    equation = affine()
    iterated = gradient(equation, PicardSolver(tol=1e-14, max_iterations=300, gradient=ImplicitGradient(1e-14, 300)))
    torch.testing.assert_close(iterated, gradient(equation, SequentialSolver()), atol=1e-10, rtol=1e-10)


def test_implicit_gradient_passes_gradcheck_and_refuses_a_second_derivative() -> None:
    equation = affine(batch=2, d=3)
    solver = PicardSolver(tol=1e-14, max_iterations=400, gradient=ImplicitGradient(1e-14, 400))

    def solve(matrix: Tensor, offset: Tensor) -> Tensor:
        return solver(Affine(matrix, offset)).state

    assert torch.autograd.gradcheck(solve, (equation.matrix, equation.offset))
    state = solve(equation.matrix, equation.offset)
    with pytest.raises(RuntimeError, match="ImplicitGradient has no second derivative"):
        torch.autograd.grad(state.sum(), equation.offset, create_graph=True)


def test_implicit_gradient_that_diverges_is_raised() -> None:
    equation = affine()
    with torch.no_grad():
        equation.matrix.mul_(1e10)
    solver = FixedCountSolver(0, gradient=ImplicitGradient(max_iterations=40))
    with pytest.raises(DivergenceError, match="ImplicitGradient diverged"):
        solver(equation).state.sum().backward()


def test_implicit_gradient_that_is_not_done_at_its_cap_says_so_once() -> None:
    implicit = ImplicitGradient(tol=1e-6, max_iterations=5)
    solver = PicardSolver(tol=1e-10, max_iterations=500, gradient=implicit)
    equation = affine(0.9, batch=3)
    told = r"stopped at max_iterations=5 with .* above tol=1e-06, in 3 of 3 sequences of 1 tokens, .*: raise max_iterat"
    with pytest.warns(UserWarning, match=told):
        solver(equation).state.sum().backward()
    solver(equation).state.sum().backward()  # a second warning would be an error here
    assert implicit.statistics is not None
    assert implicit.statistics.capped == 1
    assert implicit.statistics.iterations.tolist() == [5] * 3
    enough = ImplicitGradient(tol=1e-6, max_iterations=500)
    PicardSolver(tol=1e-10, max_iterations=500, gradient=enough)(equation).state.sum().backward()
    assert enough.statistics is not None
    assert enough.statistics.converged.all()
    assert 5 < enough.statistics.iterations[0] < 500


def test_implicit_gradient_without_gradients_is_one_application() -> None:
    equation = affine()
    with torch.no_grad():
        state = FixedCountSolver(2, gradient=ImplicitGradient())(equation).state
    torch.testing.assert_close(state, equation.step(equation.step(equation.offset)))


def test_fixed_count_never_checks_but_reports() -> None:
    equation = Scripted(*halving(1.0, 20))
    solution = FixedCountSolver(3, tol=0.2)(equation)
    assert equation.calls == 4
    assert solution.statistics.iterations.tolist() == [3]
    assert solution.statistics.converged.all()
    assert not FixedCountSolver(0)(Scripted([[float("nan")]])).statistics.finite.any()


def test_scan_solver_applies_the_map_once() -> None:
    equation = Scripted([[2.0]], [[5.0]])
    solution = ScanSolver()(equation)
    assert solution.state.item() == 2
    assert solution.statistics.iterations.tolist() == [1]
    with pytest.raises(DivergenceError, match="ScanSolver"):
        ScanSolver()(Scripted([[float("inf")]]))


class Tracking(Scripted):
    """A long problem on which the iteration takes as long as the script says."""

    def __init__(self, converges_after: int, **options: bool) -> None:
        super().__init__(*[[[1.0 + k]] for k in range(converges_after)], **options)
        self.images = [image.repeat(1, 1000, 1) for image in self.images]

    def closed_form(self) -> tuple[Any, ...]:  # type: ignore[override]
        """``h_t = 0 h_{t-1} + 1 (I (drive_t - h_t) + h_t)``: the last image, with one reflection of strength zero."""
        drive = self.images[-1].transpose(0, 1)
        zeros, raw = torch.zeros_like(drive), torch.full((*drive.shape[:2], 2), -1e4)
        return HouseholderMixer(1), raw, None, zeros, torch.ones_like(drive), drive, zeros[0]


def test_automatic_iterates_while_that_is_faster() -> None:
    solver, equation = AutomaticSolver(), Tracking(5)
    limit = solver.break_even(equation)
    assert limit > 20
    assert solver(equation).statistics.iterations.tolist() == [6]


def test_automatic_solves_exactly_once_an_attempt_has_failed_and_tries_again_later() -> None:
    solver = AutomaticSolver(retry_every=3)
    slow = Tracking(1000)
    attempts = []
    for _ in range(6):
        slow.calls = 0
        assert solver(slow).statistics.converged.all()
        attempts.append(slow.calls > 0)
    assert attempts == [True, False, False, False, True, False]
    fresh = AutomaticSolver(retry_every=3)
    fresh.load_state_dict(solver.state_dict())
    slow.calls = 0
    fresh(slow)
    assert slow.calls == 0  # a restored run goes on waiting
    fresh.eval()(slow)
    assert slow.calls > 0  # evaluation is judged apart


def test_automatic_always_iterates_with_a_norm_in_the_loop() -> None:
    equation = Tracking(30, linear=False)
    AutomaticSolver(PicardSolver(max_iterations=5))(equation)
    assert equation.calls == 6


def test_automatic_leaves_what_diverges_to_the_exact_solver() -> None:
    equation = Tracking(3)
    equation.images[1].fill_(float("nan"))
    solution = AutomaticSolver()(equation)
    assert solution.statistics.finite.all()
    assert solution.statistics.iterations.tolist() == [1]  # the exact solver's
    assert torch.equal(solution.state, equation.images[-1])


def test_break_even_follows_length_width_and_device() -> None:
    long, wide = (8, 1024, 64), (512, 16, 64)
    assert break_even(wide, 65, True, CPU, gradient=True) < 2  # one application costs more than what 16 tokens add
    assert break_even(long, 65, True, CPU, gradient=True) > 20
    assert break_even(long, 65, True, CPU, gradient=True, threads=2) > break_even(long, 65, True, CPU, gradient=True)
    assert break_even(long, 65, False, CPU, gradient=False) > break_even(long, 65, True, CPU, gradient=False)
    assert break_even(wide, 65, True, ACCELERATOR, gradient=True) > break_even(wide, 65, True, CPU, gradient=True)


def test_solvers_follow_the_models_mode() -> None:
    model = nn.ModuleList([AutomaticSolver()]).eval()
    assert not model[0].iterative.training
    assert not list(model.parameters())


def test_a_printed_solver_shows_its_tolerance_and_caps() -> None:
    shown = "tol=0.001, max_iterations=7, eval_max_iterations=None, gradient=OneStepGradient, on_divergence='raise'"
    assert repr(PicardSolver(1e-3, 7, None)) == f"PicardSolver({shown})"
    assert repr(FixedCountSolver(3)) == "FixedCountSolver(count=3, tol=0.1, gradient=OneStepGradient)"
    assert repr(SequentialSolver("flag")) == "SequentialSolver(on_divergence='flag')"
    text = repr(AutomaticSolver(PicardSolver(1e-3, 7, None), retry_every=5))
    assert "retry_every=5" in text
    assert f"(iterative): PicardSolver({shown})" in text


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: PicardSolver(tol=0), "tol=0: must be positive"),
        (lambda: PicardSolver(max_iterations=0), "max_iterations=0: must be positive"),
        (lambda: PicardSolver(eval_max_iterations=0), "eval_max_iterations=0: must be positive"),
        (lambda: PicardSolver(quantile=1.5), "quantile=1.5: must be above 0 and at most 1"),
        (lambda: PicardSolver(damping=0), "damping=0: must be above 0"),
        (lambda: PicardSolver(on_divergence="ignore"), "on_divergence=ignore: unknown"),
        (lambda: AndersonSolver(memory=0), "memory=0: must be positive"),
        (lambda: FixedCountSolver(-1), "count=-1: must be at least 0"),
        (lambda: TruncatedGradient(-1), "k=-1: must be at least 0"),
        (lambda: ImplicitGradient(tol=0), "tol=0: must be positive"),
        (lambda: AutomaticSolver(retry_every=0), "retry_every=0: must be positive"),
    ],
)
def test_bad_input_is_refused_in_one_line(make: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message) as error:
        make()
    assert "\n" not in str(error.value)
