"""Parallel solvers: iterate the map on whole sequences until each sequence stops changing.

:func:`fprnn.solvers.reference.picard` is the plain iteration to read, which these are tested against.

"Fixed-Point RNNs" (Movahedi et al., NeurIPS 2025), section 3.4 and appendix D.3. A sequence has converged once its best
residual ``max_t |new_t - old_t|_inf / |new_t|_inf`` is below the tolerance. Different from the released code:

- a sequence that has converged is frozen, so that its result does not depend on what else is in the batch (theirs goes
  on until a quantile of the batch has converged: ``freeze=False, quantile=0.9``);
- the host never waits for the device within the loop: on CUDA it reads one block of iterations late whether to
  continue, and the iterations done meanwhile change nothing;
- a residual that is not finite stops its sequence at its last finite state and is reported.
"""

from abc import abstractmethod
from collections.abc import Callable

import torch
from torch import Tensor

from fprnn.solvers.base import (
    FixedPointEquation,
    FixedPointSolver,
    OnDivergence,
    Solution,
    SolveStatistics,
    growth,
    largest_entry,
    relative_change,
    smallest_tolerance,
)
from fprnn.solvers.gradients import FixedPointGradient, OneStepGradient

SMALLEST_STEP = 1e-3  # a sequence whose damping has shrunk below this has given up
Accelerator = Callable[[Tensor, Tensor, Tensor], Tensor]


class IterationProgress:
    """Per-sequence bookkeeping of an iteration: all of it on the device, so that the host never waits.

    Args:
        state: the first iterate, ``(B, T, ...)``.
        solver: whose tolerance, damping, patience and freezing apply.
        quantile: stop once this share of the batch has converged.
    """

    def __init__(self, state: Tensor, solver: "IterativeSolver", quantile: float) -> None:
        ones = state.new_ones(state.shape[0])
        self.tol, self.freeze, self.quantile = solver.tol, solver.freeze, quantile
        self.damping_decay, self.longest_patience = solver.damping_decay, solver.patience
        self.start = largest_entry(state)
        self.best, self.residual = ones * torch.inf, ones * torch.inf
        self.step_size = ones * solver.damping
        self.patience = torch.full_like(ones, solver.patience, dtype=torch.int64)
        self.iterations = torch.zeros_like(self.patience)
        self.active, self.running = ones.bool(), ones.new_ones((), dtype=torch.bool)

    def record(self, residual: Tensor) -> Tensor:
        """Takes in an iteration's residuals ``(B,)``; returns which sequences are to take its proposal, ``(B,)``."""
        # On CUDA the host learns of the stop a block late, and the iterations until then must leave no trace: what is
        # recorded, and what is returned, is masked by `counted`. Patience and step sizes need no mask, since nothing
        # reads those of a sequence, or of a batch, that has stopped.
        counted = self.active & self.running
        finite = residual.isfinite()
        self.iterations += counted
        self.residual = torch.where(counted, residual, self.residual)
        improved = residual < self.best  # false for NaN, so that `best` stays a number
        self.best = torch.where(counted & improved, residual, self.best)
        self.patience = torch.where(improved, self.longest_patience, self.patience - 1)
        stalled = self.patience == 0
        self.step_size = torch.where(stalled, self.step_size * self.damping_decay, self.step_size)
        self.patience = torch.where(stalled, self.longest_patience, self.patience)
        # One that is not finite keeps its last finite state; one whose step has vanished would not move any more.
        self.active = self.active & finite & (self.step_size >= SMALLEST_STEP)
        if self.freeze:  # by the best residual, as the batch's rule below has it, so that the two agree on who is done
            self.active = self.active & (self.best >= self.tol)
        bounded = self.best.clamp_max(torch.finfo(self.best.dtype).max)  # between infinities, a quantile is NaN
        # Once stopped, always stopped: the late iterations' residuals may be larger again.
        self.running = self.running & self.active.any() & (torch.quantile(bounded, self.quantile) >= self.tol)
        return counted & finite


class LaggedFlag:
    """Reads a device's boolean on the host; on CUDA one reading late, so that the host never waits.

    Args:
        device: where the flag lives.
    """

    def __init__(self, device: torch.device) -> None:
        self.lagged = device.type == "cuda"
        self.pending: tuple[Tensor, torch.cuda.Event] | None = None

    def read(self, flag: Tensor) -> bool:
        """The flag, or on CUDA the one passed the last time (True the first time)."""
        if not self.lagged:
            return bool(flag)
        previous = self.pending
        copy = torch.empty((), dtype=torch.bool, pin_memory=flag.is_cuda).copy_(flag, non_blocking=True)
        event = torch.cuda.Event()  # type: ignore[no-untyped-call]
        event.record()
        self.pending = (copy, event)
        if previous is None:
            return True
        previous[1].synchronize()
        return bool(previous[0])


class IterativeSolver(FixedPointSolver):
    """What the iterating solvers share: the stopping rule, the freezing, the gradient.

    Args:
        tol: largest relative change of a converged sequence.
        max_iterations: cap in training (l_max); may be changed between calls.
        eval_max_iterations: cap in evaluation; None is ``max_iterations``.
        quantile: in training, stop once this share of the batch has converged; 1 waits for all, as evaluation does.
            Below 1, what an unfinished sequence returns depends on its batch.
        freeze: leave a converged sequence as it is. Without, it goes on changing, within the tolerance, until the batch
            stops.
        damping: first step size, in (0, 1]; 1 is none.
        damping_decay: factor of the step size after ``patience`` iterations without improvement; 1 is constant.
        patience: see ``damping_decay``.
        gradient: how the gradient is computed; None is :class:`OneStepGradient`.
        check_every: iterations between two readings of the device's flag on CUDA.
        on_divergence: as in :class:`~fprnn.solvers.FixedPointSolver`.
    """

    def __init__(
        self,
        tol: float = 0.1,
        max_iterations: int = 100,
        eval_max_iterations: int | None = 1000,
        quantile: float = 1.0,
        freeze: bool = True,
        damping: float = 1.0,
        damping_decay: float = 1.0,
        patience: int = 15,
        gradient: FixedPointGradient | None = None,
        check_every: int = 4,
        on_divergence: OnDivergence = "raise",
    ) -> None:
        super().__init__(on_divergence)
        check_positive(tol=tol, max_iterations=max_iterations, patience=patience, check_every=check_every)
        check_positive(eval_max_iterations=1 if eval_max_iterations is None else eval_max_iterations)
        check_share(quantile=quantile, damping=damping, damping_decay=damping_decay)
        self.tol, self.max_iterations, self.eval_max_iterations = tol, max_iterations, eval_max_iterations
        self.quantile, self.freeze, self.check_every = quantile, freeze, check_every
        self.damping, self.damping_decay, self.patience = damping, damping_decay, patience
        self.gradient = gradient or OneStepGradient()

    @property
    def cap(self) -> int:
        """Iterations allowed in the present mode."""
        if self.training or self.eval_max_iterations is None:
            return self.max_iterations
        return self.eval_max_iterations

    def extra_repr(self) -> str:
        """What a printed model shows of the options."""
        caps = f"max_iterations={self.max_iterations}, eval_max_iterations={self.eval_max_iterations}"
        return f"tol={self.tol:g}, {caps}, gradient={type(self.gradient).__name__}, {super().extra_repr()}"

    @abstractmethod
    def accelerator(self) -> Accelerator:
        """A fresh rule for the next iterate from (old state, its image, step sizes ``(B,)``)."""

    def forward(self, equation: FixedPointEquation) -> Solution:
        """Iterates without recording, then attaches the gradient."""
        with torch.no_grad():
            state, statistics = self.iterate(equation)
        return self.checked(Solution(self.gradient(equation.step, state), statistics))

    def iterate(self, equation: FixedPointEquation, cap: int | None = None) -> tuple[Tensor, SolveStatistics]:
        """The fixed point to the tolerance, without a gradient.

        Args:
            equation: what to solve.
            cap: iterations allowed; None is those of the present mode.

        Raises:
            ValueError: if the tolerance is below what the state's precision resolves.
        """
        state = equation.initial()
        check_tolerance(self.tol, state.dtype)
        progress = IterationProgress(state, self, self.quantile if self.training else 1.0)
        if not state.numel():
            progress.best, progress.residual, cap = torch.zeros_like(progress.best), torch.zeros_like(progress.best), 0
        accelerate, flag = self.accelerator(), LaggedFlag(state.device)
        check_every = self.check_every if flag.lagged else 1
        for iteration in range(1, (self.cap if cap is None else cap) + 1):
            image = equation.step(state)
            if iteration == 1:
                progress.start = torch.maximum(progress.start, largest_entry(image))
            step_size = progress.step_size
            taken = progress.record(relative_change(image, state))
            proposal = accelerate(state, image, step_size)
            state = torch.where(like_rows(taken, state), proposal, state)
            if iteration % check_every == 0 and not flag.read(progress.running):
                break
        grown = growth(state, progress.start)
        return state, SolveStatistics(progress.iterations, progress.residual, progress.best < self.tol, grown)


class PicardSolver(IterativeSolver):
    """The paper's iteration: ``h <- step f(h) + (1 - step) h``.

    The other options are those of :class:`IterativeSolver`.

    Args:
        tol: largest relative change of a converged sequence. At the paper's 0.1 the states of a fresh layer are a few
            per cent off; weights trained with the exact solver need 1e-2 or less, else an iteration may pause there
            before it has converged (measured in benchmarks/fprnn_layer.py).
    """

    def accelerator(self) -> Accelerator:
        """A damped step, or the image itself."""
        undamped = self.damping == 1 and self.damping_decay == 1

        def step(state: Tensor, image: Tensor, step_size: Tensor) -> Tensor:
            return image if undamped else torch.lerp(state, image, like_rows(step_size, state))

        return step


class FixedCountSolver(FixedPointSolver):
    """Exactly ``count`` iterations without any check: what ``torch.compile`` takes whole.

    What diverges is flagged in the statistics, never raised here; the training module looks at them in every batch, in
    training on an accelerator where it logs.

    Args:
        count: iterations before the gradient's.
        tol: relative change below which a sequence is reported as converged.
        gradient: how the gradient is computed; None is :class:`OneStepGradient`.
    """

    def __init__(self, count: int, tol: float = 0.1, gradient: FixedPointGradient | None = None) -> None:
        super().__init__("flag")
        if count < 0:
            raise ValueError(f"count={count}: must be at least 0; 0 leaves the gradient's iteration only")
        check_positive(tol=tol)
        self.count, self.tol, self.gradient = count, tol, gradient or OneStepGradient()

    def extra_repr(self) -> str:
        """What a printed model shows of the options."""
        return f"count={self.count}, tol={self.tol:g}, gradient={type(self.gradient).__name__}"

    def forward(self, equation: FixedPointEquation) -> Solution:
        """Iterates ``count`` times without recording, then attaches the gradient."""
        with torch.no_grad():
            state = equation.initial()
            start = largest_entry(state)
            for iteration in range(self.count):
                state = equation.step(state)
                if iteration == 0:
                    start = torch.maximum(start, largest_entry(state))
        solution = self.gradient(equation.step, state)
        residual = relative_change(solution.detach(), state)
        iterations = torch.full((len(state),), self.count, device=state.device)
        return Solution(solution, SolveStatistics(iterations, residual, residual < self.tol, growth(state, start)))


def like_rows(values: Tensor, state: Tensor) -> Tensor:
    """One value for each sequence ``(B,)``, shaped to broadcast over ``(B, T, ...)``."""
    return values.reshape(-1, *[1] * (state.ndim - 1))


def check_positive(**options: float) -> None:
    """Refuses options that are not positive, by name."""
    for name, value in options.items():
        if not value > 0:
            raise ValueError(f"{name}={value}: must be positive")


def check_share(**options: float) -> None:
    """Refuses options outside (0, 1], by name."""
    for name, value in options.items():
        if not 0 < value <= 1:
            raise ValueError(f"{name}={value}: must be above 0 and at most 1")


def check_tolerance(tol: float, dtype: torch.dtype) -> None:
    """Refuses a tolerance below what rounding leaves of a state in this precision.

    Raises:
        ValueError: naming it and the least that can be reached.
    """
    if tol < smallest_tolerance(dtype):
        raise ValueError(f"tol={tol}: too small for {dtype}; use {smallest_tolerance(dtype):.1e} or more")
