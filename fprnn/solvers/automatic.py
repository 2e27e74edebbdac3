"""The choice between iterating on whole sequences and solving token by token, by a measured rule.

Not in "Fixed-Point RNNs" (Movahedi et al., NeurIPS 2025). With T tokens, an exact solve costs about one application of
the map plus T times the overhead of launching a token's operations; an iteration costs as many applications as it
takes. So iterating pays while it takes fewer than ``T overhead / application`` iterations. How many it takes is a
property of the weights and the data: a few for a fresh layer, about T for one that tracks states. It is found by
trying: the iteration runs up to the break-even and, if it has not converged by then, the exact solve takes over, for
many calls to come.
"""

import torch
from torch import Tensor

from fprnn.solvers.base import FixedPointEquation, FixedPointSolver, OnDivergence, Solution
from fprnn.solvers.picard import IterativeSolver, PicardSolver, check_positive
from fprnn.solvers.sequential import SequentialSolver

Costs = dict[str, tuple[float, ...]]
"""Microseconds of a kind of device.

``forward`` and ``backward`` are the overhead of one token of the exact solve, without and with its gradient: where the
mixer has a closed form, where it has none, and for each entry of the mixer's state weights, which every token reads
again. ``application`` is one application of the map: overhead, and for each token a channel, a raw mixer parameter,
and a product of the two.
"""
# Fitted to benchmarks/fprnn_layer.py on one x86 core.
CPU: Costs = {
    "forward": (60.0, 1000.0, 7e-4),
    "backward": (150.0, 2500.0, 2e-3),
    "application": (350.0, 5e-3, 1.25e-3, 4e-5),
}
# Estimated from the number of kernels per token and per application, and an accelerator's bandwidth; not measured.
ACCELERATOR: Costs = {
    "forward": (150.0, 2000.0, 1e-5),
    "backward": (350.0, 5000.0, 2e-5),
    "application": (150.0, 1e-5, 4e-6, 5e-8),
}


def break_even(
    shape: tuple[int, int, int], parameters: int, closed: bool, costs: Costs, *, gradient: bool, threads: int = 1
) -> float:
    """Iterations beyond which solving token by token is faster.

    Args:
        shape: of the states, B, T and d.
        parameters: raw mixer parameters per token that depend on the state.
        closed: whether a token is solved in closed form.
        costs: of the device.
        gradient: whether a backward pass follows.
        threads: that share the work of an application.
    """
    batch, length, width = shape
    closed_form, iterated, weight = costs["backward" if gradient else "forward"]
    launch, channel, parameter, product = costs["application"]
    work = width * channel + parameters * parameter + parameters * width * product
    application = launch + batch * length * work / threads
    return length * ((closed_form if closed else iterated) + parameters * width * weight) / application


class AutomaticSolver(FixedPointSolver):
    """Iterates while that is faster than the exact solve, and solves exactly otherwise.

    Every result has converged to the tolerance: where the iteration does not get there by the break-even, the exact
    solution is returned, with its exact gradient, and the next ``retry_every`` calls do not try. Training and
    evaluation are judged separately; what training has found is part of the state dict, so that a resumed run chooses
    alike. With an in-loop norm the two may find different fixed points, so there it always iterates.

    Args:
        iterative: the iterating solver, with the tolerance and the gradient; None is a :class:`PicardSolver` with a
            tolerance of 1e-3, at which the two give the same answers. Its caps count only where it always iterates.
        retry_every: calls between two attempts to iterate after one that failed.
        on_divergence: as in :class:`~fprnn.solvers.FixedPointSolver`, for the exact solve.
    """

    def __init__(
        self, iterative: IterativeSolver | None = None, retry_every: int = 100, on_divergence: OnDivergence = "raise"
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

    def check(self, linear: bool) -> None:
        """See :meth:`~fprnn.solvers.FixedPointSolver.check`."""
        self.iterative.check(linear)

    def forward(self, equation: FixedPointEquation) -> Solution:
        """Solves the equation."""
        if not equation.linear or not equation.initial().shape[1]:
            return self.iterative(equation)
        cap, waiting = int(self.break_even(equation)), self.exact_calls[self.training]
        if cap >= 2 and waiting:
            self.exact_calls[self.training] = waiting - 1
        elif cap >= 2:
            with torch.no_grad():
                state, statistics = self.iterative.iterate(equation, cap)
            if bool(statistics.converged.all()):
                return Solution(self.iterative.gradient(equation.step, state), statistics)
            self.exact_calls[self.training] = self.retry_every
        return self.sequential(equation)

    def break_even(self, equation: FixedPointEquation) -> float:
        """Iterations beyond which this equation is solved token by token."""
        state = equation.initial()
        on_cpu = state.device.type == "cpu"
        return break_even(
            (state.shape[0], state.shape[1], state.shape[2]),
            equation.state_parameters,
            equation.closed_form() is not None,
            CPU if on_cpu else ACCELERATOR,
            gradient=torch.is_grad_enabled(),
            threads=torch.get_num_threads() if on_cpu else 1,
        )

    def get_extra_state(self) -> Tensor:
        """The calls left before training tries to iterate again."""
        return torch.tensor(self.exact_calls[True])

    def set_extra_state(self, state: Tensor) -> None:
        """Continues from :meth:`get_extra_state`."""
        self.exact_calls[True] = int(state)
