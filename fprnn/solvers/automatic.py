"""The choice between iterating on whole sequences and solving token by token, by a measured rule.

Not in "Fixed-Point RNNs" (Movahedi et al., NeurIPS 2025). With T tokens, an exact solve costs about one application of
the map plus T times the overhead of launching a token's operations; an iteration costs as many applications as it
takes. So iterating pays while it takes fewer than ``T overhead / application`` iterations. How many it takes is a
property of the weights and the data: a few for a fresh layer, about T for one that tracks states. It is found by
trying: the iteration runs up to the break-even and, if it has not converged by then, the exact solve takes over, for
many calls to come.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from fprnn.solvers.base import FixedPointEquation, FixedPointSolver, OnDivergence, ProblemSize, Solution
from fprnn.solvers.iterative import IterativeSolver, PicardSolver, check_positive
from fprnn.solvers.sequential import SequentialSolver


class MachineCosts(NamedTuple):
    """What a kind of device takes, in microseconds.

    Attributes:
        token: overhead of one token of the closed form, forwards.
        token_with_gradient: the same with the backward pass.
        open_token: overhead of one token without a closed form.
        application: overhead of one application of the map to whole sequences.
        channel: work of an application for each token and channel.
        parameter: for each token and raw mixer parameter.
        product: for each token, parameter and channel.
    """

    token: float
    token_with_gradient: float
    open_token: float
    application: float
    channel: float
    parameter: float
    product: float


# Fitted to benchmarks/fprnn_layer.py on one x86 core.
CPU = MachineCosts(100.0, 280.0, 2000.0, 350.0, 3e-3, 1.25e-3, 4e-5)
# From the number of kernels per token and per application, and an accelerator's bandwidth.
ACCELERATOR = MachineCosts(150.0, 350.0, 3000.0, 150.0, 1e-5, 4e-6, 5e-8)


def break_even(size: ProblemSize, costs: MachineCosts, *, gradient: bool, threads: int = 1) -> float:
    """Iterations beyond which solving token by token is faster.

    Args:
        size: of the equation.
        costs: of the device.
        gradient: whether a backward pass follows.
        threads: that share the work of an application.
    """
    token = costs.token_with_gradient if gradient else costs.token
    if not size.closed_form:
        token = costs.open_token
    per_token = size.width * (costs.channel + size.parameters * costs.product) + size.parameters * costs.parameter
    application = costs.application + size.batch * size.length * per_token / threads
    return size.length * token / application


class AutomaticSolver(FixedPointSolver):
    """Iterates while that is faster than the exact solve, and solves exactly otherwise.

    Every result has converged to the tolerance: where the iteration does not get there by the break-even, the exact
    solution is returned, with its exact gradient, and the next ``retry_every`` calls do not try. Training and
    evaluation are judged apart; what training has found is part of the state dict, so that a resumed run chooses alike.
    With an in-loop norm the two may find different fixed points, so there it always iterates.

    Args:
        iterative: the iterating solver, with the tolerance and the gradient; null is :class:`PicardSolver`. Its caps
            count only where it always iterates.
        retry_every: calls between two attempts to iterate after one that failed.
        on_divergence: ``raise`` where values are not finite, or only ``flag`` it in the statistics.
    """

    def __init__(
        self,
        iterative: IterativeSolver | None = None,
        retry_every: int = 100,
        on_divergence: OnDivergence = "raise",
    ) -> None:
        super().__init__(on_divergence)
        check_positive(retry_every=retry_every)
        self.iterative = PicardSolver() if iterative is None else iterative
        self.sequential = SequentialSolver(on_divergence)
        self.retry_every = retry_every
        self.exact_calls = {True: 0, False: 0}  # left before the next attempt, by training

    def forward(self, equation: FixedPointEquation) -> Solution:
        """Solves the equation."""
        size = equation.size
        if not size.linear or not size.length:
            return self.iterative(equation)
        cap = int(self.break_even(equation))
        if cap >= 2 and self._may_iterate():
            with torch.no_grad():
                state, statistics = self.iterative.iterate(equation, cap)
            if bool(statistics.converged.all()):
                return Solution(self.iterative.gradient(equation.step, state), statistics)
            self.exact_calls[self.training] = self.retry_every
        return self.sequential(equation)

    def break_even(self, equation: FixedPointEquation) -> float:
        """Iterations beyond which this equation is solved token by token."""
        on_cpu = equation.initial().device.type == "cpu"
        return break_even(
            equation.size,
            CPU if on_cpu else ACCELERATOR,
            gradient=torch.is_grad_enabled(),
            threads=torch.get_num_threads() if on_cpu else 1,
        )

    def _may_iterate(self) -> bool:
        waiting = self.exact_calls[self.training]
        self.exact_calls[self.training] = max(waiting - 1, 0)
        return waiting == 0

    def get_extra_state(self) -> Tensor:
        """The calls left before training tries to iterate again."""
        return torch.tensor(self.exact_calls[True])

    def set_extra_state(self, state: Tensor) -> None:
        """Takes up :meth:`get_extra_state`."""
        self.exact_calls[True] = int(state)
