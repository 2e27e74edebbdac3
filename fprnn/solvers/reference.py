"""Picard's iteration as it is written in the paper: for reading, and to test :mod:`fprnn.solvers.picard` against.

"Fixed-Point RNNs" (Movahedi et al., NeurIPS 2025), equation 8 and section 3.4: apply the map to the whole sequence
again and again, until the hidden states stop changing.
"""

import torch
from torch import Tensor

from fprnn.solvers.base import FixedPointEquation, relative_change


@torch.no_grad()
def picard(equation: FixedPointEquation, tol: float, max_iterations: int) -> Tensor:
    """The fixed point of each sequence, to a tolerance.

    Args:
        equation: gives the first state, ``(B, T, d)``, and the map.
        tol: a sequence stops once ``max_t |new_t - old_t|_inf / |new_t|_inf`` is below this.
        max_iterations: applications of the map at most (l_max).

    Returns:
        ``(B, T, d)``. A sequence that has stopped stays as it is while others go on.
    """
    state = equation.initial()
    moving = torch.ones(len(state), dtype=torch.bool, device=state.device)
    for _ in range(max_iterations):
        image = equation.step(state)
        change = relative_change(image, state)
        state = torch.where(moving[:, None, None], image, state)
        moving = moving & (change >= tol)
        if not moving.any():
            break
    return state
