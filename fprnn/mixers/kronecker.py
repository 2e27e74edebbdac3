"""Kronecker products ("FP-RNN-K").

"Fixed-Point RNNs" (Movahedi et al., NeurIPS 2025), section 3.3 and appendix C.3: ``Q = I - beta K_1 (x) K_2``, each
factor gated and made from a scaled positive semi-definite matrix (:mod:`fprnn.mixers.scaling`). Different from the
released code: the scaling is an option (its row scaling makes S non-symmetric, so that no norm is bounded).
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from fprnn.mixers.base import Activation, Dependence, ProjectedMixer
from fprnn.mixers.scaling import MatrixScaling, SpectralScaling, positive_semidefinite, triangular_size

Factors = tuple[Tensor, Tensor]
"""The two factors of ``I - Q``: ``beta K_1`` ``(..., m1, m1)`` and ``K_2`` ``(..., m2, m2)``."""


def kronecker(left: Tensor, right: Tensor, delta: Tensor) -> Tensor:
    """``Q delta = delta - vec(K_1^T X K_2^T)`` with ``X = reshape(delta, m1, m2)`` row by row.

    Args:
        left: K_1, ``(..., m1, m1)``.
        right: K_2, ``(..., m2, m2)``.
        delta: ``(..., m1 m2)``.
    """
    square = torch.unflatten(delta, -1, (left.shape[-1], right.shape[-1]))
    return delta - (left.mT @ square @ right.mT).flatten(-2)


def near_square_factors(d: int) -> tuple[int, int]:
    """``m1 m2 = d`` with m1 the largest divisor up to sqrt(d).

    Raises:
        ValueError: if d is a prime number, or below 1.
    """
    if d < 1:
        raise ValueError(f"d_inner={d}: must be at least 1; it is the width that the mixer acts on")
    m1 = next(m for m in range(math.isqrt(d), 0, -1) if d % m == 0)
    if m1 == 1 and d > 1:
        raise ValueError(
            f"d_inner={d}: is prime, so no Kronecker product has this width; choose a product such as {d + 1}"
        )
    return m1, d // m1


class KroneckerMixer(ProjectedMixer):
    """``Q = I - beta K_1 (x) K_2`` with ``K_n = diag(g_n) S_n`` and gates ``g_n`` in (0, 1) ("FP-RNN-K").

    ``|I - Q|_2 <= beta |S_1|_2 |S_2|_2``: below beta with Frobenius scaling, proven; with spectral scaling below
    ``beta d^(1/16)``, and mostly beta; with the released code's row scaling only below ``beta sqrt(d)``.

    Args:
        d_inner: width that Q acts on, m1 m2 with m1 the largest divisor up to its square root.
        scaling: of the two positive semi-definite factors; None is the spectral one.
    """

    def __init__(
        self,
        d_inner: int,
        beta: float = 1.0,
        scaling: MatrixScaling | None = None,
        activation: Activation = F.silu,
        dependence: Dependence = "concatenate",
        projection_rank: int | None = None,
        full_strengths: bool = False,
    ) -> None:
        self.factors = near_square_factors(d_inner)
        self.sizes = [triangular_size(m) for m in self.factors] + list(self.factors)
        super().__init__(d_inner, beta, sum(self.sizes), sum(self.factors), dependence, projection_rank, full_strengths)
        self.scaling, self.activation = scaling or SpectralScaling(), activation

    def activate(self, raw: Tensor) -> Factors:
        """The factors from ``(..., m1 (m1 + 1) / 2 + m2 (m2 + 1) / 2 + m1 + m2)``."""
        left, right, left_gate, right_gate = torch.split(raw, self.sizes, -1)
        return self.beta * self._factor(left, left_gate), self._factor(right, right_gate)

    def _factor(self, entries: Tensor, gate: Tensor) -> Tensor:
        matrix = self.scaling(positive_semidefinite(self.activation(entries), gate.shape[-1]))
        return gate.sigmoid().unsqueeze(-1) * matrix

    def mix(self, parameters: Factors, delta: Tensor) -> Tensor:
        """``Q delta``: see :func:`kronecker`."""
        return kronecker(*parameters, delta)

    def transpose(self, parameters: Factors) -> Factors:
        """Both factors transposed."""
        return parameters[0].mT, parameters[1].mT

    def dense(self, parameters: Factors) -> Tensor:
        """``I - K_1^T (x) K_2``."""
        left, right = parameters
        product = torch.einsum("...ij,...kl->...ikjl", left.mT, right).flatten(-4, -3).flatten(-2)
        return torch.eye(self.d_inner, dtype=product.dtype, device=product.device) - product
