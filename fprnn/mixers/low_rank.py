"""The identity minus a low-rank matrix ("DPLR").

"Fixed-Point RNNs" (Movahedi et al., NeurIPS 2025), section 3.3 and appendix C.3. With unit directions ``u_i`` and
``alpha_i`` in (0, 1), ``Q = I - beta sum_i alpha_i u_i u_i^T``. Directions, strengths and the closed form of a token
are those of :class:`~fprnn.mixers.householder.ReflectionMixer`.
"""

import torch
from torch import Tensor

from fprnn.mixers.householder import ReflectionMixer, Reflections, combine_rows, dot_rows


def diagonal_low_rank(directions: Tensor, strengths: Tensor, delta: Tensor) -> Tensor:
    """``Q delta`` for ``Q = I - sum_i s_i a_i a_i^T``.

    Args:
        directions: a, ``(..., r, d)``, of any length.
        strengths: ``s = beta alpha / |a|^2``, ``(..., r)``.
        delta: ``(..., d)``.
    """
    along = strengths * dot_rows(directions, delta.unsqueeze(-2)).squeeze(-1)
    return delta - combine_rows(along, directions)


class LowRankMixer(ReflectionMixer):
    """The identity minus r rank-one terms, all acting on the original vector ("DPLR").

    ``I - Q`` is symmetric positive semi-definite, with ``|I - Q|_2 <= beta sum_i alpha_i``: below beta for r = 1, not
    for r >= 2, where equal directions add up. The paper found it the weakest mixer.
    """

    ordered = False

    def mix(self, parameters: Reflections, delta: Tensor) -> Tensor:
        """``Q delta``: see :func:`diagonal_low_rank`."""
        return diagonal_low_rank(*parameters, delta)

    def dense(self, parameters: Reflections) -> Tensor:
        """``I - A^T diag(s) A``."""
        directions, strengths = parameters
        eye = torch.eye(self.d_inner, dtype=directions.dtype, device=directions.device)
        return eye - directions.mT @ (strengths.unsqueeze(-1) * directions)
