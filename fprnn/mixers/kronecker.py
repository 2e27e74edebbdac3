"""Mixers made of small matrices: Kronecker, Monarch, and the one dense matrix that they approximate.

"Fixed-Point RNNs" (Movahedi et al., NeurIPS 2025), section 3.3 and appendix C.3. All are built from positive
semi-definite matrices ``S = L L^T`` with L upper-triangular, filled row by row with ``activation(W p)`` and scaled by a
:class:`~fprnn.mixers.scaling.MatrixScaling`.

Different from the released code: the scaling is an option (its row scaling makes S non-symmetric, so that no norm is
bounded), L is gathered from a padded vector instead of written into zeros, and Monarch needs no powers of two.
"""

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from fprnn.mixers.base import Activation, Dependence, Gain, ProjectedMixer, solve_systems
from fprnn.mixers.scaling import FrobeniusScaling, MatrixScaling, SpectralScaling


class KroneckerFactors(NamedTuple):
    """The two factors of ``I - Q``.

    Attributes:
        left: ``beta K_1``, ``(..., m1, m1)``.
        right: ``K_2``, ``(..., m2, m2)``.
    """

    left: Tensor
    right: Tensor


def kronecker(parameters: KroneckerFactors, delta: Tensor) -> Tensor:
    """``Q delta = delta - vec(K_1^T X K_2^T)`` with ``X = reshape(delta, m1, m2)`` row by row.

    Args:
        parameters: of m1 and m2 channels.
        delta: ``(..., m1 m2)``.
    """
    left, right = parameters
    square = torch.unflatten(delta, -1, (left.shape[-1], right.shape[-1]))
    return delta - (left.mT @ square @ right.mT).flatten(-2)


def monarch(blocks: Tensor, delta: Tensor) -> Tensor:
    """``Q delta`` where ``I - Q`` is block-diagonal.

    Args:
        blocks: of ``I - Q``, ``(..., n, k, k)``.
        delta: ``(..., n k)``.
    """
    parts = torch.unflatten(delta, -1, blocks.shape[-3:-1])
    return delta - (blocks @ parts.unsqueeze(-1)).flatten(-3)


def dense(matrix: Tensor, delta: Tensor) -> Tensor:
    """``Q delta`` for Q ``(..., d, d)`` and delta ``(..., d)``."""
    return (matrix @ delta.unsqueeze(-1)).squeeze(-1)


def triangular_size(m: int) -> int:
    """Entries of a triangular m x m matrix."""
    return m * (m + 1) // 2


def positive_semidefinite(entries: Tensor, m: int) -> Tensor:
    """``L L^T`` with L upper-triangular, filled row by row from ``(..., m (m + 1) / 2)``: ``(..., m, m)``."""
    rows, columns = torch.triu_indices(m, m, device=entries.device)
    index = torch.full((m, m), entries.shape[-1], device=entries.device)
    index[rows, columns] = torch.arange(entries.shape[-1], device=entries.device)
    triangle = F.pad(entries, (0, 1))[..., index]
    return triangle @ triangle.mT


def near_square_factors(d: int) -> tuple[int, int]:
    """``m1 m2 = d`` with m1 the largest divisor up to sqrt(d).

    Raises:
        ValueError: if d is a prime number, or no number of channels.
    """
    if d < 1:
        raise ValueError(f"d_inner={d} must be at least 1: it is the width that the mixer acts on")
    m1 = next(m for m in range(math.isqrt(d), 0, -1) if d % m == 0)
    if m1 == 1 and d > 1:
        raise ValueError(f"d_inner={d} is prime, so no Kronecker mixer factors it: choose a product such as {d + 1}")
    return m1, d // m1


class KroneckerMixer(ProjectedMixer):
    """``Q = I - beta K_1 (x) K_2`` with ``K_n = diag(g_n) S_n`` and gates ``g_n`` in (0, 1) ("FP-RNN-K").

    ``|I - Q|_2 <= beta |S_1|_2 |S_2|_2``: below beta with Frobenius scaling, proven; with spectral scaling below
    ``beta d^(1/16)``, and mostly beta; with the released code's row scaling only below ``beta sqrt(d)``.

    Args:
        d_inner: width that Q acts on, m1 m2 with m1 the largest divisor up to its square root.
        beta: 1 is the paper's mixer, 2 the released code's.
        scaling: of the two positive semi-definite factors; null is the spectral one.
        activation: elementwise, on the entries of L; the paper uses silu.
        dependence: ``concatenate`` reads ``[x; s]`` with s the previous token's state, ``symmetric`` reads ``x + s``,
            ``input`` reads x alone.
        projection_rank: rank of the projection; null is full.
    """

    def __init__(
        self,
        d_inner: int,
        beta: float = 1.0,
        scaling: MatrixScaling | None = None,
        activation: Activation = F.silu,
        dependence: Dependence = "concatenate",
        projection_rank: int | None = None,
    ) -> None:
        self.factors = near_square_factors(d_inner)
        self.sizes = [triangular_size(m) for m in self.factors] + list(self.factors)
        super().__init__(d_inner, beta, sum(self.sizes), sum(self.factors), dependence, projection_rank)
        self.scaling, self.activation = scaling or SpectralScaling(), activation

    def activate(self, raw: Tensor) -> KroneckerFactors:
        """The factors from ``(..., m1 (m1 + 1) / 2 + m2 (m2 + 1) / 2 + m1 + m2)``."""
        left, right, left_gate, right_gate = torch.split(raw, self.sizes, -1)
        return KroneckerFactors(self.beta * self._factor(left, left_gate), self._factor(right, right_gate))

    def _factor(self, entries: Tensor, gate: Tensor) -> Tensor:
        matrix = self.scaling(positive_semidefinite(self.activation(entries), gate.shape[-1]))
        return gate.sigmoid().unsqueeze(-1) * matrix

    def mix(self, parameters: KroneckerFactors, delta: Tensor) -> Tensor:
        """``Q delta``: see :func:`kronecker`."""
        return kronecker(parameters, delta)

    def transpose(self, parameters: KroneckerFactors) -> KroneckerFactors:
        """Both factors transposed."""
        return KroneckerFactors(parameters.left.mT, parameters.right.mT)

    def dense(self, parameters: KroneckerFactors) -> Tensor:
        """``I - K_1^T (x) K_2``."""
        left, right = parameters
        product = torch.einsum("...ij,...kl->...ikjl", left.mT, right).flatten(-4, -3).flatten(-2)
        return torch.eye(self.d_inner, dtype=product.dtype, device=product.device) - product


class MonarchMixer(ProjectedMixer):
    """``Q = I - beta alpha diag(S_1, ..., S_n)`` with blocks of k channels; in the released code only.

    ``|I - Q|_2 <= beta alpha max_j |S_j|_2``: below beta with Frobenius scaling, proven; below ``beta sqrt(k)`` with
    the released code's column scaling.

    Args:
        d_inner: width that Q acts on, a multiple of ``block``.
        block: k, channels per block.
        beta: 1 is the released code's too.
        scaling: of the blocks; null is Frobenius.
        activation: elementwise, on the entries of L.
        dependence: ``concatenate`` reads ``[x; s]`` with s the previous token's state, ``symmetric`` reads ``x + s``,
            ``input`` reads x alone.
        projection_rank: rank of the projection; null is full.
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
    ) -> None:
        if block < 1 or d_inner % block:
            raise ValueError(f"block={block} does not divide d_inner={d_inner}: choose a divisor")
        self.block, self.blocks = block, d_inner // block
        super().__init__(d_inner, beta, self.blocks * triangular_size(block) + 1, 1, dependence, projection_rank)
        self.scaling, self.activation = scaling or FrobeniusScaling(), activation

    def activate(self, raw: Tensor) -> Tensor:
        """The blocks of ``I - Q``, ``(..., n, k, k)``."""
        entries = torch.unflatten(self.activation(raw[..., :-1]), -1, (self.blocks, -1))
        strength = self.beta * raw[..., -1].sigmoid()[..., None, None, None]
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


class DenseMixer(ProjectedMixer):
    """``Q = I - beta (I - S)`` with one positive semi-definite S for each token; in the released code only.

    The upper bound of what a structured mixer can do: O(d^3) parameters, O(d^2) memory per token. With
    ``|S|_2 <= 1`` (Frobenius scaling: proven; spectral: nearly) ``|I - Q|_2 <= beta``.

    Args:
        d_inner: width that Q acts on; the released code forces 256.
        beta: 1 is the released code's ``Q = S``.
        scaling: of S; null is the spectral one with five squarings.
        activation: elementwise, on the entries of L.
        dependence: ``concatenate`` reads ``[x; s]`` with s the previous token's state, ``symmetric`` reads ``x + s``,
            ``input`` reads x alone.
        projection_rank: rank of the projection; null is full.
    """

    def __init__(
        self,
        d_inner: int,
        beta: float = 1.0,
        scaling: MatrixScaling | None = None,
        activation: Activation = F.silu,
        dependence: Dependence = "concatenate",
        projection_rank: int | None = None,
    ) -> None:
        super().__init__(d_inner, beta, triangular_size(d_inner), 0, dependence, projection_rank)
        self.scaling, self.activation = scaling or SpectralScaling(5), activation

    def activate(self, raw: Tensor) -> Tensor:
        """Q, ``(..., d, d)``."""
        matrix = self.scaling(positive_semidefinite(self.activation(raw), self.d_inner))
        return (1 - self.beta) * torch.eye(self.d_inner, dtype=raw.dtype, device=raw.device) + self.beta * matrix

    def mix(self, parameters: Tensor, delta: Tensor) -> Tensor:
        """``Q delta``: see :func:`dense`."""
        return dense(parameters, delta)

    def transpose(self, parameters: Tensor) -> Tensor:
        """The matrix transposed."""
        return parameters.mT

    def dense(self, parameters: Tensor) -> Tensor:
        """The parameters themselves."""
        return parameters

    def resolve(self, parameters: Tensor, gain: Gain, excess: Tensor) -> Tensor:
        """With a factorised matrix."""
        return self.resolve_densely(parameters, gain, excess)
