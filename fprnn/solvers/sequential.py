"""The exact solver: because the mixer at t depends on t - 1 only, the fixed point is computed token by token.

Not in "Fixed-Point RNNs" (Movahedi et al., NeurIPS 2025), which iterates on whole sequences. The iteration's
information moves one token at a time where the mixer depends on the hidden state, so a state-tracking layer needs about
as many iterations as there are tokens; this needs one pass, at the same sequential depth, and its gradient is exact.
"""

import warnings

import torch

from fprnn.solvers.base import FixedPointEquation, FixedPointSolver, Solution, SolveStatistics, exact_solution
from fprnn.solvers.newton import solve_token, token_tolerance
from fprnn.solvers.reflections import solve_reflections


def solve_by_token(equation: FixedPointEquation) -> Solution:
    """The fixed point of each token in turn, by :func:`~fprnn.solvers.newton.solve_token`."""
    empty, before, tokens, residuals, slowest = equation.initial(), equation.start(), [], [], 0
    found = empty.new_ones(len(empty), dtype=torch.bool)
    for t in range(empty.shape[1]):
        token, carry = equation.token(t, before)
        state, hidden, residual, stable, iterations = solve_token(token)
        before, found = carry(state, hidden), found & stable
        tokens.append(hidden)
        residuals.append(residual)
        slowest = max(slowest, iterations)
    state = torch.stack(tokens, 1) if tokens else equation.step(empty)
    residual = torch.stack(residuals, 1).amax(1) if residuals else state.new_zeros(len(state))
    counts = torch.full_like(residual, slowest, dtype=torch.int64)
    found = found & (residual < 100 * token_tolerance(residual.dtype))
    return Solution(state, SolveStatistics(counts, residual, found))


class SequentialSolver(FixedPointSolver):
    """Solves each token in turn, in closed form where the mixer has one.

    It is the oracle of the iterating solvers, and decodes token by token. The gradient is exact. With a norm in the
    loop a token is iterated on. Where that reaches no fixed point, or none that the plain iteration goes to, which
    happens with ``beta=2`` and several reflections, a warning says so and ``converged`` is false.

    Args:
        on_divergence: as in :class:`~fprnn.solvers.FixedPointSolver`; with ``flag`` there is no warning either.
    """

    def forward(self, equation: FixedPointEquation) -> Solution:
        """Solves the equation."""
        recurrence = equation.closed_form()
        if recurrence is None:
            solution = solve_by_token(equation)
        else:
            solution = exact_solution(solve_reflections(*recurrence).transpose(0, 1))
        converged = self.checked(solution).statistics.converged
        if self.on_divergence == "raise" and not self.warned and not bool(converged.all()):
            self.warned = True
            warnings.warn(
                f"SequentialSolver found no fixed point of some token in {int((~converged).sum())} of {len(converged)} "
                "sequences, or none that the iteration goes to, so that the answers there are not the layer's: use "
                "beta=1, or PicardSolver with damping",
                stacklevel=2,
            )
        return solution


class ScanSolver(FixedPointSolver):
    """Applies the map once: all that a layer without channel mixing needs, whose map does not depend on the state."""

    def forward(self, equation: FixedPointEquation) -> Solution:
        """Solves the equation."""
        return self.checked(exact_solution(equation.step(equation.initial())))
