"""The dense RNN that a fixed-point RNN stands for, with every matrix written out.

"Fixed-Point RNNs" (Movahedi et al., NeurIPS 2025), appendix B.2. For reading and for testing: O(d^3) work for each
token.
"""

import torch
from torch import Tensor

from fprnn.layers.equation import FPRNNEquation
from fprnn.solvers.base import FixedPointEquation, FixedPointSolver, Solution, exact_solution


def dense_transition(decay: Tensor, gate: Tensor, matrix: Tensor) -> tuple[Tensor, Tensor]:
    """The matrices of ``h_t = A_t h_{t-1} + B_t drive_t`` in the limit of the iteration.

    ``A = (I - G (I - Q))^-1 Lambda`` and ``B = (I - G (I - Q))^-1 G Q``, with ``Lambda = diag(decay)`` and
    ``G = diag(gate)``. For the paper's ``G = I - Lambda``, ``A = (I + (Lambda^-1 - I) Q)^-1``.

    Args:
        decay: ``(..., d)``.
        gate: ``(..., d)``.
        matrix: Q, ``(..., d, d)``.
    """
    eye = torch.eye(decay.shape[-1], dtype=decay.dtype, device=decay.device)
    system = eye - gate.unsqueeze(-1) * (eye - matrix)
    right = torch.cat([torch.diag_embed(decay), gate.unsqueeze(-1) * matrix], -1)
    transition, input_map = torch.linalg.solve(system, right).chunk(2, -1)
    return transition, input_map


def dense_recurrence(equation: FPRNNEquation) -> Tensor:
    """The equation's fixed point, by :func:`dense_transition` and a loop over tokens: ``(B, T, d)``.

    Raises:
        ValueError: if the equation has an in-loop norm, since its limit is not linear.
    """
    if equation.norm is not None:
        raise ValueError("in_loop_norm=True: has no dense limit; set it to False")
    hidden, states = equation.start().hidden, []
    for t in range(equation.drive.shape[1]):
        matrix = equation.mixer.dense(equation.mixer.condition(equation.context.token(t), hidden))
        transition, input_map = dense_transition(equation.decay[:, t], equation.gate[:, t], matrix)
        drive = equation.drive[:, t].unsqueeze(-1)
        hidden = (transition @ hidden.unsqueeze(-1) + input_map @ drive).squeeze(-1)
        states.append(hidden)
    return torch.stack(states, 1) if states else equation.drive.clone()


class DenseSolver(FixedPointSolver):
    """Solves an FP-RNN's equation by materialising the dense RNN: the oracle of the other solvers."""

    def forward(self, equation: FixedPointEquation) -> Solution:
        """Solves the equation.

        Raises:
            ValueError: if it is not an FP-RNN's.
        """
        if not isinstance(equation, FPRNNEquation):
            raise ValueError(
                f"equation={type(equation).__name__}: DenseSolver solves that of FPRNN only; use SequentialSolver"
            )
        return self.checked(exact_solution(dense_recurrence(equation)))
