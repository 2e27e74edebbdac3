"""Products of Householder factors, the paper's main mixer; and what they share with the low-rank mixer.

"Fixed-Point RNNs" (Movahedi et al., NeurIPS 2025), section 3.3 and appendix C.3. With unit directions ``u_i`` and
``alpha_i`` in (0, 1)::

    Q = F_r ... F_1,  F_i = I - beta alpha_i u_i u_i^T      (the first factor acts first)

This and :mod:`fprnn.mixers.low_rank` are ``I - A^T K^-1 A`` with the directions as rows of A and a small triangular K,
so that the fixed point of one token has a closed form (Sherman-Morrison for one reflection, Woodbury for r). Different
from the paper: ``beta`` (1 there, 2 in its released code), and directions are not normalised but their strength is
divided by their squared length plus ``eps**2``, which is the same matrix for less work.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from dinopl.core.errors import check_norm_eps, check_rank
from fprnn.mixers.base import Activation, Dependence, Gain, ProjectedMixer, solve_systems, spectral_radius

Reflections = tuple[Tensor, Tensor]
"""Directions a ``(..., r, d)`` and strengths s ``(..., r)`` of rank-one terms ``s_i a_i a_i^T``."""


def householder_product(directions: Tensor, strengths: Tensor, delta: Tensor) -> Tensor:
    """``Q delta`` for ``Q = (I - s_r a_r a_r^T) ... (I - s_1 a_1 a_1^T)``.

    Args:
        directions: a, ``(..., r, d)``, of any length.
        strengths: ``s = beta alpha / |a|^2``, ``(..., r)``.
        delta: ``(..., d)``.
    """
    for direction, strength in zip(directions.unbind(-2), strengths.unbind(-1), strict=True):
        along = strength * torch.linalg.vecdot(direction, delta)
        delta = torch.addcmul(delta, direction, along.unsqueeze(-1), value=-1)
    return delta


def dot_rows(left: Tensor, right: Tensor) -> Tensor:
    """All inner products of rows ``(..., r, d)`` and rows ``(..., k, d)``: ``(..., r, k)``.

    One row on a side takes a path that is several times faster on the CPU than a batched matrix product.
    """
    if left.shape[-2] == 1 or right.shape[-2] == 1:
        products = torch.linalg.vecdot(left, right)
        return products.unsqueeze(-2 if left.shape[-2] == 1 else -1)
    return left @ right.mT


def combine_rows(weights: Tensor, rows: Tensor, out: Tensor | None = None) -> Tensor:
    """``sum_i weights_i rows_i`` for weights ``(..., r)`` and rows ``(..., r, d)``: ``(..., d)``, into ``out``.

    ``out`` should be contiguous: into strided rows, PyTorch's CPU product goes one matrix at a time.
    """
    if rows.shape[-2] == 1:
        return torch.mul(weights, rows.squeeze(-2), out=out)
    return torch.matmul(weights.unsqueeze(-2), rows, out=None if out is None else out.unsqueeze(-2)).squeeze(-2)


class ReflectionMixer(ProjectedMixer):
    """What the two low-rank mixers share: directions ``activation(W p)`` without bias, strengths ``sigmoid(W p + b)``.

    Args:
        rank: number r of rank-one terms.
        norm_eps: added in quadrature to the length of a direction before dividing by it.
    """

    ordered: bool

    def __init__(
        self,
        d_inner: int,
        rank: int = 1,
        beta: float = 1.0,
        norm_eps: float = 1e-6,
        activation: Activation = F.silu,
        dependence: Dependence = "concatenate",
        projection_rank: int | None = None,
        full_strengths: bool = False,
    ) -> None:
        check_rank(rank)
        check_norm_eps(norm_eps)
        super().__init__(d_inner, beta, rank * d_inner + rank, rank, dependence, projection_rank, full_strengths)
        self.rank, self.norm_eps, self.activation = rank, norm_eps, activation

    def split(self, raw: Tensor) -> tuple[Tensor, Tensor]:
        """Directions ``(..., r, d)`` and the strengths' logits ``(..., r)`` from ``(..., r d + r)``."""
        rows, logits = torch.split(raw, [self.rank * self.d_inner, self.rank], -1)
        return torch.unflatten(self.activation(rows), -1, (self.rank, self.d_inner)), logits

    def strengths(self, logits: Tensor, squares: Tensor) -> Tensor:
        """Strengths from their logits and the directions' squared lengths, all ``(..., r)``."""
        return self.beta * logits.sigmoid() / (squares + self.norm_eps**2)

    def activate(self, raw: Tensor) -> Reflections:
        """Directions and strengths from ``(..., r d + r)``."""
        directions, logits = self.split(raw)
        return directions, self.strengths(logits, torch.linalg.vecdot(directions, directions))

    def transpose(self, parameters: Reflections) -> Reflections:
        """The factors in the opposite order."""
        directions, strengths = parameters
        return directions.flip(-2), strengths.flip(-1)

    def kernel(self, strengths: Tensor, products: Tensor, inner: Tensor) -> Tensor:
        """``diag(s) (K - A G A^T)``, the small matrix of Woodbury's identity; scaled, so that nothing is divided by s.

        ``diag(s) K`` is the identity, and for an ordered product also ``s_i (a_i . a_j)`` below the diagonal.

        Args:
            strengths: s, ``(..., r)``.
            products: ``A A^T`` for the directions A, ``(..., r, r)``.
            inner: ``A G A^T`` for the gain G, ``(..., r, r)``.
        """
        if self.ordered and self.rank > 1:
            inner = inner - products.tril(-1)
        kernel = -strengths.unsqueeze(-1) * inner
        kernel.diagonal(dim1=-2, dim2=-1).add_(1)
        return kernel

    @torch.no_grad()
    def resolve(self, parameters: Reflections, gain: Gain, excess: Tensor) -> Tensor:
        """Woodbury: ``delta = excess + G A^T c`` with ``(K - A G A^T) c = A excess``; O(d r^2) per token."""
        directions, strengths = parameters
        gained = gain.rows(directions)
        along = strengths * dot_rows(directions, excess.unsqueeze(-2)).squeeze(-1)
        kernel = self.kernel(strengths, dot_rows(directions, directions), dot_rows(directions, gained))
        coefficients = solve_systems(kernel, along)
        return excess + combine_rows(coefficients, gained)

    @torch.no_grad()
    def contraction(self, parameters: Reflections, gain: Gain) -> Tensor:
        """Of an r x r matrix: ``G A^T K^-1 A`` has the eigenvalues of ``K^-1 A G A^T``, and else zeros; O(d r^2)."""
        directions, strengths = parameters
        inner = strengths.unsqueeze(-1) * dot_rows(directions, gain.rows(directions))
        if self.ordered and self.rank > 1:  # diag(s) K is triangular, with ones on the diagonal
            below = strengths.unsqueeze(-1) * dot_rows(directions, directions)
            inner = torch.linalg.solve_triangular(below, inner, upper=False, unitriangular=True)
        return spectral_radius(inner)


class HouseholderMixer(ReflectionMixer):
    """A product of r Householder factors ("FP-RNN-H"), the paper's main mixer.

    For r = 1, ``|I - Q|_2 = beta alpha < beta``. For r >= 2 a factor's norm is bounded but not the product's distance
    from the identity: ``|I - Q|_2 <= prod_i (1 + beta alpha_i) - 1``, which exceeds 1 even at ``beta = 1``. At
    ``beta <= 2`` no factor lengthens a vector, so ``|Q|_2 <= 1``.
    """

    ordered = True

    def mix(self, parameters: Reflections, delta: Tensor) -> Tensor:
        """``Q delta``: see :func:`householder_product`."""
        return householder_product(*parameters, delta)

    def dense(self, parameters: Reflections) -> Tensor:
        """The product of the factors, each as a matrix."""
        directions, strengths = parameters
        eye = torch.eye(self.d_inner, dtype=directions.dtype, device=directions.device)
        product = eye.expand(*directions.shape[:-2], *eye.shape)
        for a, s in zip(directions.unbind(-2), strengths.unbind(-1), strict=True):
            product = (eye - s[..., None, None] * a.unsqueeze(-1) * a.unsqueeze(-2)) @ product
        return product
