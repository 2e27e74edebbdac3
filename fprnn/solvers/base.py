"""What a fixed-point solver takes, what it returns, and when it raises an error.

"Fixed-Point RNNs" (Movahedi et al., NeurIPS 2025), section 3.4 and appendix D.3. Different from the released code: a
solve reports on every sequence, and neither values that are not finite nor states that grow without end go unnoticed.
"""

import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, Literal, NamedTuple, Protocol

import torch
from torch import Tensor, nn

from dinopl.core.errors import DivergenceError

OnDivergence = Literal["raise", "flag"]

# A sequence that has not converged and has grown by this factor is diverging. With beta = 1 states stayed within 3
# times what the first application gives, fresh and trained (parity, S3, A5) and wherever the iteration was cut off. The
# residual does not show it: in a layer that tracks states it may exceed 1 while there are fewer iterations than
# tokens, and for states that double each time it is 1/2.
LARGEST_GROWTH = 100.0
# Training with more of them is refused. The paper's stopping rule leaves as many behind as outliers.
TOLERATED_SHARE = 0.25
REMEDY = (
    "use beta=1 or an in-loop norm, a lower learning rate, a precision of 32-true or bf16-mixed instead of 16-true; or "
    "the layer's input is not finite already"
)


class SolveStatistics(NamedTuple):
    """How each sequence of the batch was solved; on the batch's device, read without synchronising.

    Attributes:
        iterations: applications of the map until the sequence stopped, ``(B,)`` int64; 1 for a closed form.
        residual: the last relative change, ``(B,)``; not finite if the sequence diverged.
        converged: whether the residual reached the tolerance, ``(B,)`` bool.
        growth: the largest entry of the state in units of the first iterate's, ``(B,)``; None if whole sequences were
            not iterated on.
    """

    iterations: Tensor
    residual: Tensor
    converged: Tensor
    growth: Tensor | None = None

    @property
    def capped(self) -> Tensor:
        """The share of sequences that did not converge, a scalar."""
        return 1 - self.converged.float().mean()

    @property
    def finite(self) -> Tensor:
        """Which sequences stayed finite, ``(B,)`` bool."""
        return self.residual.isfinite()

    @property
    def diverged(self) -> Tensor:
        """Which sequences are not finite, or have grown far beyond their start without converging, ``(B,)`` bool."""
        lost = ~self.finite
        return lost if self.growth is None else lost | (~self.converged & (self.growth >= LARGEST_GROWTH))


class Solution(NamedTuple):
    """A fixed point, with its gradient attached, and how it was found.

    Attributes:
        state: ``(B, T, d)``.
        statistics: per sequence.
    """

    state: Tensor
    statistics: SolveStatistics


class FixedPointEquation(Protocol):
    """``state = step(state)`` over whole sequences ``(B, T, d)``, causal: token t depends on tokens up to t.

    Iterating solvers use :meth:`initial` and :meth:`step`, the exact one :meth:`closed_form`, or :meth:`start` and
    :meth:`token`.
    """

    @property
    def linear(self) -> bool:
        """Whether a token's equation is linear, so that its solution is unique."""

    @property
    def state_parameters(self) -> int:
        """Raw mixer parameters per token that depend on the state."""

    def initial(self) -> Tensor:
        """Where an iteration starts, ``(B, T, d)``, in at least float32."""

    def step(self, state: Tensor) -> Tensor:
        """One application of the map, parallel over tokens."""

    def closed_form(self) -> tuple[Any, ...] | None:
        """The arguments of :func:`~fprnn.solvers.reflections.solve_reflections`; None where that does not apply."""

    def start(self) -> Any:
        """What precedes the first token."""

    def token(self, t: int, before: Any) -> tuple[Any, Callable[[Tensor, Tensor], Any]]:
        """The equation of one token.

        Args:
            t: place of the token.
            before: what precedes it.

        Returns:
            A :class:`~fprnn.solvers.newton.TokenEquation`, and a function from its solution, the state before and after
            the norm, to what precedes the next token.
        """


class FixedPointSolver(nn.Module, ABC):
    """Finds the state that an equation maps to itself.

    It is a module without parameters, so that a model's ``train()`` and ``eval()`` reach it.

    Args:
        on_divergence: ``raise`` a :class:`DivergenceError` where values are not finite, or in training grow without end
            in over a quarter of the sequences (fewer give a warning, once), which reads one number from the
            device; or only ``flag`` it in the statistics.
    """

    def __init__(self, on_divergence: OnDivergence = "raise") -> None:
        super().__init__()
        if on_divergence not in ("raise", "flag"):
            raise ValueError(f"on_divergence={on_divergence}: unknown; choose raise or flag")
        self.on_divergence = on_divergence
        self.warned = False

    def extra_repr(self) -> str:
        """What a printed model shows of the options."""
        return f"on_divergence={self.on_divergence!r}"

    @abstractmethod
    def forward(self, equation: FixedPointEquation) -> Solution:
        """Solves the equation."""

    def check(self, linear: bool) -> None:
        """Refuses a layer whose equation this cannot solve, when the layer is built.

        Args:
            linear: whether a token's equation is linear: not with a norm in the loop.

        Raises:
            ValueError: if it cannot.
        """

    def checked(self, solution: Solution) -> Solution:
        """The solution, unless too much of it diverged.

        Raises:
            DivergenceError: if ``on_divergence`` is ``raise`` and :meth:`refuse` raises it.
        """
        if self.on_divergence == "raise":
            self.refuse(solution.statistics)
        return solution

    def refuse(self, statistics: SolveStatistics) -> None:
        """Raises an error for a batch that diverged.

        In evaluation, and in training up to :data:`TOLERATED_SHARE` of the batch, sequences that grow without end only
        give a warning: their answers are wrong, but harm nothing else.

        Raises:
            DivergenceError: if a sequence is not finite, or training has too many that grow without end.
        """
        diverged = statistics.diverged
        if not bool(diverged.any()):
            return
        count, last = int(diverged.sum()), int(statistics.iterations.max())
        message = f"{type(self).__name__} diverged in {count} of {len(diverged)} sequences within {last} iterations"
        if not bool(statistics.finite.all()) or (self.training and count > TOLERATED_SHARE * len(diverged)):
            raise DivergenceError(f"{message}: {REMEDY}")
        if not self.warned:
            self.warned = True
            warnings.warn(f"{message}, and the answers there are wrong: {REMEDY}", stacklevel=2)


def exact_solution(state: Tensor) -> Solution:
    """The solution ``(B, T, ...)`` of a closed form, which is exact up to rounding, or not finite."""
    finite = state.detach().flatten(1).sum(1).isfinite()  # one pass: nothing that is not finite can hide in a sum
    residual = torch.where(finite, 0.0, torch.nan).to(state.dtype)
    return Solution(state, SolveStatistics(torch.ones_like(finite, dtype=torch.int64), residual, finite))


def relative_change(new: Tensor, old: Tensor) -> Tensor:
    """``max_t |new_t - old_t|_inf / |new_t|_inf`` for each sequence: ``(B, T, ...)`` to ``(B,)``."""
    if not new.numel():
        return new.new_zeros(len(new))
    change, size = (new - old).abs().flatten(2).amax(-1), new.abs().flatten(2).amax(-1)
    return (change / (size + 1e-8)).amax(1)


def largest_entry(state: Tensor) -> Tensor:
    """``|state|_inf`` of each sequence: ``(B, T, ...)`` to ``(B,)``."""
    return state.abs().flatten(1).amax(1) if state.numel() else state.new_zeros(len(state))


def growth(state: Tensor, start: Tensor) -> Tensor:
    """The largest entry of each state ``(B, T, ...)`` in units of ``start``, ``(B,)``."""
    return largest_entry(state) / (start + 1e-8)


def smallest_tolerance(dtype: torch.dtype) -> float:
    """The relative change that rounding alone can cause."""
    return 2 * torch.finfo(dtype).eps
