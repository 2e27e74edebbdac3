"""Monarch: block-diagonal matrices of scaled positive semi-definite blocks.

In the released code of "Fixed-Point RNNs" (Movahedi et al., NeurIPS 2025) only. Different there: the width must be a
power of two, and each block has a strength of its own (``strength_per_block``).
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from fprnn.mixers.base import Activation, Dependence, Gain, ProjectedMixer, solve_systems
from fprnn.mixers.scaling import FrobeniusScaling, MatrixScaling, positive_semidefinite, triangular_size


def monarch(blocks: Tensor, delta: Tensor) -> Tensor:
    """``Q delta`` where ``I - Q`` is block-diagonal.

    Args:
        blocks: of ``I - Q``, ``(..., n, k, k)``.
        delta: ``(..., n k)``.
    """
    parts = torch.unflatten(delta, -1, blocks.shape[-3:-1])
    return delta - (blocks @ parts.unsqueeze(-1)).flatten(-3)


class MonarchMixer(ProjectedMixer):
    """``Q = I - beta diag(alpha_1 S_1, ..., alpha_n S_n)`` with blocks of k channels; in the released code only.

    ``|I - Q|_2 <= beta max_j alpha_j |S_j|_2``: below beta with Frobenius scaling, proven; below ``beta sqrt(k)`` with
    the released code's column scaling.

    Args:
        d_inner: width that Q acts on, a multiple of ``block``.
        block: k, channels per block.
        scaling: of the blocks; None is Frobenius.
        strength_per_block: whether each block has its own alpha, as in the released code, or the token one for all.
    """

    def __init__(
        self,
        d_inner: int,
        block: int = 4,
        beta: float = 1.0,
        scaling: MatrixScaling | None = None,
        activation: Activation = F.silu,
        dependence: Dependence = "concatenate",
        projection_rank: int | None = None,
        full_strengths: bool = False,
        strength_per_block: bool = False,
    ) -> None:
        if block < 1 or d_inner % block:
            raise ValueError(f"block={block}: does not divide d_inner={d_inner}; choose a divisor")
        self.block, self.blocks = block, d_inner // block
        self.alphas = self.blocks if strength_per_block else 1
        outputs = self.blocks * triangular_size(block) + self.alphas
        super().__init__(d_inner, beta, outputs, self.alphas, dependence, projection_rank, full_strengths)
        self.scaling, self.activation = scaling or FrobeniusScaling(), activation

    def activate(self, raw: Tensor) -> Tensor:
        """The blocks of ``I - Q``, ``(..., n, k, k)``."""
        entries = torch.unflatten(self.activation(raw[..., : -self.alphas]), -1, (self.blocks, -1))
        strength = self.beta * raw[..., -self.alphas :].sigmoid()[..., None, None]
        return strength * self.scaling(positive_semidefinite(entries, self.block))

    def mix(self, parameters: Tensor, delta: Tensor) -> Tensor:
        """``Q delta``: see :func:`monarch`."""
        return monarch(parameters, delta)

    def transpose(self, parameters: Tensor) -> Tensor:
        """Each block transposed."""
        return parameters.mT

    @torch.no_grad()
    def resolve(self, parameters: Tensor, gain: Gain, excess: Tensor) -> Tensor:
        """Block by block where the gain is diagonal."""
        if gain.normalized is not None:
            return super().resolve(parameters, gain, excess)
        gate, right = (torch.unflatten(x, -1, (self.blocks, self.block)) for x in (gain.gate, excess))
        eye = torch.eye(self.block, dtype=excess.dtype, device=excess.device)
        return solve_systems(eye - gate.unsqueeze(-1) * parameters, right).flatten(-2)

    def dense(self, parameters: Tensor) -> Tensor:
        """``I`` minus the blocks on the diagonal."""
        eye = torch.eye(self.blocks, dtype=parameters.dtype, device=parameters.device)
        matrix = torch.einsum("...nij,nm->...nimj", parameters, eye).flatten(-4, -3).flatten(-2)
        return torch.eye(self.d_inner, dtype=matrix.dtype, device=matrix.device) - matrix
