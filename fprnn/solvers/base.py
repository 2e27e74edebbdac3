"""What a fixed-point solver is given, what it returns, and when it refuses to go on.

"Fixed-Point RNNs" (Movahedi et al., NeurIPS 2025), section 3.4 and appendix D.3. Different from the released code: a
solve reports on every sequence, and values that are not finite never pass silently.
"""

from abc import ABC, abstractmethod
from typing import Literal, NamedTuple, Protocol

import torch
from torch import Tensor, nn

OnDivergence = Literal["raise", "flag"]


class SolveStatistics(NamedTuple):
    """How each sequence of the batch was solved; on the batch's device, read without synchronising.

    Attributes:
        iterations: applications of the map until the sequence stopped, ``(B,)`` int64; 1 for a closed form.
        residual: the last relative change, ``(B,)``; not finite if the sequence diverged.
        converged: whether the residual reached the tolerance, ``(B,)`` bool.
    """

    iterations: Tensor
    residual: Tensor
    converged: Tensor

    @property
    def capped(self) -> Tensor:
        """The share of sequences that did not converge, a scalar."""
        return 1 - self.converged.float().mean()

    @property
    def finite(self) -> Tensor:
        """Which sequences stayed finite, ``(B,)`` bool."""
        return self.residual.isfinite()


class Solution(NamedTuple):
    """A fixed point, with its gradient attached, and how it was found.

    Attributes:
        state: ``(B, T, d)``.
        statistics: per sequence.
    """

    state: Tensor
    statistics: SolveStatistics


class ProblemSize(NamedTuple):
    """What the cost of a solve depends on.

    Attributes:
        batch: sequences B.
        length: tokens T.
        width: channels d.
        parameters: raw mixer parameters per token that depend on the state.
        closed_form: whether a token is solved without iterating.
        linear: whether a token's equation is linear, so that its solution is unique.
    """

    batch: int
    length: int
    width: int
    parameters: int
    closed_form: bool
    linear: bool


class FixedPointEquation(Protocol):
    """``state = step(state)`` over whole sequences ``(B, T, d)``, causal: token t depends on tokens up to t."""

    @property
    def size(self) -> ProblemSize:
        """What the cost of a solve depends on."""

    def initial(self) -> Tensor:
        """Where an iteration starts, ``(B, T, d)``, in at least float32."""

    def step(self, state: Tensor) -> Tensor:
        """One application of the map, parallel over tokens."""

    def solve_by_token(self) -> Solution:
        """The fixed point, token by token, with its exact gradient."""


class DivergenceError(FloatingPointError, RuntimeError):
    """A solve produced values that are not finite."""


class FixedPointSolver(nn.Module, ABC):
    """Finds the state that an equation maps to itself.

    It is a module without parameters, so that a model's ``train()`` and ``eval()`` reach it.

    Args:
        on_divergence: ``raise`` a :class:`DivergenceError` where values are not finite, which reads one number from the
            device, or only ``flag`` it in the statistics.
    """

    def __init__(self, on_divergence: OnDivergence = "raise") -> None:
        super().__init__()
        if on_divergence not in ("raise", "flag"):
            raise ValueError(f"on_divergence={on_divergence!r} is unknown: choose raise or flag")
        self.on_divergence = on_divergence

    @abstractmethod
    def forward(self, equation: FixedPointEquation) -> Solution:
        """Solves the equation."""

    def checked(self, solution: Solution) -> Solution:
        """The solution, unless it is to be refused.

        Raises:
            DivergenceError: if a sequence is not finite and ``on_divergence`` is ``raise``.
        """
        if self.on_divergence == "raise":
            finite = solution.statistics.finite
            if not bool(finite.all()):
                diverged, last = int((~finite).sum()), int(solution.statistics.iterations.max())
                raise DivergenceError(
                    f"{type(self).__name__} diverged in {diverged} of {len(finite)} sequences within {last} iterations:"
                    " use beta=1, an in-loop norm or a lower learning rate"
                )
        return solution


def exact_solution(state: Tensor) -> Solution:
    """The solution ``(B, T, ...)`` of a closed form, which leaves nothing but rounding, or failed."""
    finite = state.detach().flatten(1).sum(1).isfinite()  # one pass: nothing that is not finite can hide in a sum
    residual = torch.where(finite, 0.0, torch.nan).to(state.dtype)
    return Solution(state, SolveStatistics(torch.ones_like(finite, dtype=torch.int64), residual, finite))


def relative_change(new: Tensor, old: Tensor) -> Tensor:
    """``max_t |new_t - old_t|_inf / |new_t|_inf`` for each sequence: ``(B, T, ...)`` to ``(B,)``."""
    change, size = (new - old).abs().flatten(2).amax(-1), new.abs().flatten(2).amax(-1)
    return (change / (size + 1e-8)).amax(1)


def smallest_tolerance(dtype: torch.dtype) -> float:
    """The relative change that rounding alone can cause."""
    return 2 * torch.finfo(dtype).eps
