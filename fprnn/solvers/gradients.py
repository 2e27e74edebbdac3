"""Gradients of a fixed point that was found without recording the iterations.

"Fixed-Point RNNs" (Movahedi et al., NeurIPS 2025), section 3.5 and appendices B.3 and B.4. With ``f`` the map and
``h*`` its fixed point, ``dh* = (I - J_h)^-1 J_theta``. The paper differentiates one application of ``f``, which drops
the inverse; :class:`TruncatedGradient` keeps k more terms of its series, :class:`ImplicitGradient` (not in the paper)
all of them. In each case the output is ``f(h*)``, one application beyond what the solver found.
"""

import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from dinopl.core.errors import DivergenceError
from fprnn.ops.kernels import refuse_second_derivative
from fprnn.solvers.base import SolveStatistics, largest_entry

Step = Callable[[Tensor], Tensor]


class FixedPointGradient(ABC):
    """How the gradient of ``h* = f(h*)`` is computed."""

    @abstractmethod
    def __call__(self, step: Step, fixed_point: Tensor) -> Tensor:
        """``f(h*)`` with the gradient attached.

        Args:
            step: f, differentiable in whatever it closes over.
            fixed_point: ``h*``, ``(B, T, ...)``.
        """


class TruncatedGradient(FixedPointGradient):
    """Differentiates the last ``k + 1`` applications of the map: ``sum_{i <= k} J_h^i J_theta``.

    Args:
        k: terms beyond the first; each costs the memory of one application.
    """

    def __init__(self, k: int) -> None:
        if k < 0:
            raise ValueError(f"k={k}: must be at least 0; 0 is the one-step gradient")
        self.k = k

    def __call__(self, step: Step, fixed_point: Tensor) -> Tensor:
        """``f^(k+1)(h*)``, with ``h*`` detached."""
        state = fixed_point.detach()
        for _ in range(self.k + 1):
            state = step(state)
        return state


class OneStepGradient(TruncatedGradient):
    """Differentiates the last application only, ``J_theta``: the paper's choice."""

    def __init__(self) -> None:
        super().__init__(0)


class ImplicitGradient(FixedPointGradient):
    """The exact gradient: solves ``v = g + J_h^T v`` for the cotangent, then differentiates the last application.

    With hidden-state dependence the cotangent travels one token per iteration, as the state does, so the cap must be
    about the length of the sequence. Where the cap is reached first, the gradient is not the exact one: a warning says
    so, once. After a backward pass, ``statistics`` says how the cotangent was solved for. There is no
    double backward.

    Args:
        tol: on the relative change of the cotangent.
        max_iterations: cap; a few times the number of tokens where the layer tracks states.
    """

    def __init__(self, tol: float = 1e-6, max_iterations: int = 50) -> None:
        if tol <= 0:
            raise ValueError(f"tol={tol}: must be positive; 1e-6 is the default")
        if max_iterations < 1:
            raise ValueError(f"max_iterations={max_iterations}: must be at least 1; a few times the tokens is enough")
        self.tol, self.max_iterations = tol, max_iterations
        self.statistics: SolveStatistics | None = None
        self.warned = False

    def __call__(self, step: Step, fixed_point: Tensor) -> Tensor:
        """``f(h*)`` with the implicit function theorem's gradient."""
        if not torch.is_grad_enabled():
            return step(fixed_point)
        leaf = fixed_point.detach().requires_grad_()
        output = step(leaf)
        return _Adjoint.apply(output, leaf, self)

    def solve_adjoint(self, cotangent: Tensor, output: Tensor, leaf: Tensor) -> Tensor:
        """``v = g + J^T v`` for g ``(B, T, ...)``, by iteration.

        Raises:
            DivergenceError: if v is not finite.
        """
        v, iterations, converged = cotangent, 0, False
        while not converged and iterations < self.max_iterations:
            (pulled,) = torch.autograd.grad(output, leaf, v, retain_graph=True)
            before, v = v, cotangent + pulled
            change, size = largest_entry(v - before), largest_entry(v)
            iterations, converged = iterations + 1, bool((change <= self.tol * size).all())
        if not bool(v.isfinite().all()):
            raise DivergenceError("ImplicitGradient diverged: use OneStepGradient, or the SequentialSolver's exact one")
        counts = torch.full_like(size, iterations, dtype=torch.int64)
        self.statistics = SolveStatistics(counts, change / size.clamp_min(1e-30), change <= self.tol * size)
        if not converged and not self.warned:
            self.warned = True
            missed = ~self.statistics.converged
            warnings.warn(
                f"ImplicitGradient stopped at max_iterations={self.max_iterations} with a relative change of up to "
                f"{float(self.statistics.residual.max()):.1g}, above tol={self.tol}, in {int(missed.sum())} of "
                f"{len(missed)} sequences of {v.shape[1]} tokens, so that their gradient is not exact: raise "
                "max_iterations to a few times the tokens, or use the SequentialSolver's",
                stacklevel=2,
            )
        return v


class _Adjoint(torch.autograd.Function):
    """The identity, whose backward pass replaces the cotangent by the adjoint's fixed point."""

    @staticmethod
    def forward(ctx: Any, output: Tensor, leaf: Tensor, gradient: ImplicitGradient) -> Tensor:
        ctx.save_for_backward(output, leaf)
        ctx.gradient = gradient
        return output.view_as(output)

    @staticmethod
    def backward(ctx: Any, cotangent: Tensor) -> tuple[Tensor, None, None]:
        refuse_second_derivative("ImplicitGradient")
        output, leaf = ctx.saved_tensors
        return ctx.gradient.solve_adjoint(cotangent, output, leaf), None, None
