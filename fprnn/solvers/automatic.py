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
from fprnn.solvers.picard import IterativeSolver, PicardSolver, check_positive
from fprnn.solvers.sequential import SequentialSolver


class TokenCosts(NamedTuple):
    """Overhead of one token of the exact solve, in microseconds.

    Attributes:
        closed: where the mixer has a closed form.
        open: where it has none.
        weight: for each entry of the mixer's state weights, which every token reads again.
    """

    closed: float
    open: float
    weight: float


class ApplicationCosts(NamedTuple):
    """One application of the map to whole sequences, in microseconds.

    Attributes:
        launch: overhead.
        channel: for each token and channel.
        parameter: for each token and raw mixer parameter.
        product: for each token, parameter and channel.
    """

    launch: float
    channel: float
    parameter: float
    product: float


class MachineCosts(NamedTuple):
    """What a kind of device takes.

    Attributes:
        forward: the exact solve without a gradient.
        backward: the exact solve with its gradient.
        application: of the map.
    """

    forward: TokenCosts
    backward: TokenCosts
    application: ApplicationCosts


# Fitted to benchmarks/fprnn_layer.py on one x86 core.
CPU = MachineCosts(
    TokenCosts(60.0, 1000.0, 7e-4), TokenCosts(150.0, 2500.0, 2e-3), ApplicationCosts(350.0, 5e-3, 1.25e-3, 4e-5)
)
# Estimated from the number of kernels per token and per application, and an accelerator's bandwidth.
ACCELERATOR = MachineCosts(
    TokenCosts(150.0, 2000.0, 1e-5), TokenCosts(350.0, 5000.0, 2e-5), ApplicationCosts(150.0, 1e-5, 4e-6, 5e-8)
)


def break_even(size: ProblemSize, costs: MachineCosts, *, gradient: bool, threads: int = 1) -> float:
    """Iterations beyond which solving token by token is faster.

    Args:
        size: of the equation.
        costs: of the device.
        gradient: whether a backward pass follows.
        threads: that share the work of an application.
    """
    token, application = (costs.backward if gradient else costs.forward), costs.application
    weights = size.parameters * size.width
    work = size.width * application.channel + size.parameters * application.parameter
    once = application.launch + size.batch * size.length * (work + weights * application.product) / threads
    return size.length * ((token.closed if size.closed_form else token.open) + weights * token.weight) / once


class AutomaticSolver(FixedPointSolver):
    """Iterates while that is faster than the exact solve, and solves exactly otherwise.

    Every result has converged to the tolerance: where the iteration does not get there by the break-even, the exact
    solution is returned, with its exact gradient, and the next ``retry_every`` calls do not try. Training and
    evaluation are judged apart; what training has found is part of the state dict, so that a resumed run chooses alike.
    With an in-loop norm the two may find different fixed points, so there it always iterates.

    Args:
        iterative: the iterating solver, with the tolerance and the gradient; null is a :class:`PicardSolver` with a
            tolerance of 1e-3, at which the two give the same answers. Its caps count only where it always iterates.
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
        self.iterative = PicardSolver(tol=1e-3) if iterative is None else iterative
        self.sequential = SequentialSolver(on_divergence)
        self.retry_every = retry_every
        self.exact_calls = {True: 0, False: 0}  # left before the next attempt, by training

    def extra_repr(self) -> str:
        """What a printed model shows of the options, beside the two solvers."""
        return f"retry_every={self.retry_every}, {super().extra_repr()}"

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
