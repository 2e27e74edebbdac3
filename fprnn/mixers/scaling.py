"""Positive semi-definite matrices from raw parameters, and how they are scaled to bound their norm.

"Fixed-Point RNNs" (Movahedi et al., NeurIPS 2025), appendix C.3: the paper divides by the largest eigenvalue, estimated
by power iteration. Its released code divides each row by the row's norm instead, which is not symmetric and bounds
nothing, and in FP-RNN the result once more by a power iteration; these and the free Frobenius bound are offered beside
it. All take and return ``(..., m, m)``. Also different: the triangular factor is gathered from a padded vector instead
of written into zeros.
"""

import math
from abc import ABC, abstractmethod

import torch
import torch.nn.functional as F
from torch import Tensor

TINY = 1e-8  # the least number that a matrix is divided by


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


class MatrixScaling(ABC):
    """A map from positive semi-definite matrices ``(..., m, m)`` to scaled ones."""

    @abstractmethod
    def __call__(self, matrix: Tensor) -> Tensor:
        """The scaled matrices."""


class FrobeniusScaling(MatrixScaling):
    """Divides by the Frobenius norm, which is never below the spectral norm: the result's is at most 1, proven."""

    def __call__(self, matrix: Tensor) -> Tensor:
        """The scaled matrices."""
        return matrix / torch.linalg.matrix_norm(matrix, keepdim=True).clamp_min(TINY)


class SpectralScaling(MatrixScaling):
    """Divides by the largest eigenvalue, estimated by power iteration on the symmetric matrix: the paper's choice.

    All columns are iterated at once, by squaring the matrix S: one vector alone may be all but orthogonal to the
    leading eigenvector, and its estimate far too low. The largest column of S^p, p = 2^squarings, never is: it gives at
    most the eigenvalue and at least m^(-1/2p) times it, so that the result's norm is at most m^(1/2p), 1.09 for m = 4
    and three squarings. The vector is detached: the gradient passes through the eigenvalue only.

    Args:
        squarings: of the matrix; each doubles the steps of the power iteration.
    """

    def __init__(self, squarings: int = 3) -> None:
        if not 1 <= squarings <= 10:
            raise ValueError(f"squarings={squarings}: must be from 1 to 10; 3 are 8 steps of power iteration")
        self.squarings = squarings

    def __call__(self, matrix: Tensor) -> Tensor:
        """The scaled matrices."""
        # Among the columns S^p e_j the largest has norm lambda^p / sqrt(m) at least, and |S^(k+1) e| / |S^k e| grows
        # with k; so the last of these ratios, the estimate, is lambda m^(-1/2p) at least.
        power = _bounded(matrix.detach())
        for _ in range(self.squarings):
            power = _bounded(power @ power)
        largest = torch.linalg.vector_norm(power, dim=-2, keepdim=True).argmax(-1, keepdim=True)
        column = power.take_along_dim(largest, -1)
        vector = column / torch.linalg.vector_norm(column, dim=-2, keepdim=True).clamp_min(TINY)
        eigenvalue = torch.linalg.vector_norm(matrix @ vector, dim=(-2, -1), keepdim=True)
        return matrix / eigenvalue.clamp_min(TINY)


def _bounded(matrix: Tensor) -> Tensor:
    """The matrices with a largest entry of 1, which is on the diagonal, so that no power of them overflows."""
    return matrix / matrix.diagonal(dim1=-2, dim2=-1).amax(-1)[..., None, None].clamp_min(TINY)


class RowScaling(MatrixScaling):
    """Divides each row by its 2-norm: the released FP-Mamba's choice. Bounds the spectral norm by sqrt(m) only.

    Args:
        eps: the least norm that a row is divided by; the released code has its ``norm_eps`` here, 1e-5 or 1e-6.
    """

    def __init__(self, eps: float = TINY) -> None:
        if not 0 < eps < math.inf:
            raise ValueError(f"eps={eps}: must be positive and finite; 1e-5 is the released code's")
        self.eps = eps

    def __call__(self, matrix: Tensor) -> Tensor:
        """The scaled matrices."""
        return matrix / torch.linalg.vector_norm(matrix, dim=-1, keepdim=True).clamp_min(self.eps)


class RowPowerScaling(RowScaling):
    """Divides each row by its 2-norm, and the result M by a power iteration's estimate: the released FP-RNN's choice.

    M is not symmetric, so that the estimate bounds nothing. With ``w_0 = 1`` and unit vectors ``w_k`` along
    ``M w_(k-1)``, it is ``w_(n-1)^T M w_n + eps`` after n steps, and the gradient passes through all of them.

    Args:
        steps: n; 16 in the released code.
        eps: added to the estimate, and the least norm that a row is divided by.
    """

    def __init__(self, steps: int = 16, eps: float = 1e-5) -> None:
        super().__init__(eps)
        if not 1 <= steps <= 1000:
            raise ValueError(f"steps={steps}: must be from 1 to 1000; 16 is the released code's")
        self.steps = steps

    def __call__(self, matrix: Tensor) -> Tensor:
        """The scaled matrices."""
        rows = super().__call__(matrix)
        before = after = torch.ones_like(rows[..., :1])
        for _ in range(self.steps):
            before, after = after, F.normalize(rows @ after, dim=-2)
        return rows / (before.mT @ rows @ after + self.eps)


class ColumnScaling(MatrixScaling):
    """Divides by the largest norm of a column: the released Monarch mixer's. Bounds the norm by sqrt(m) only.

    Args:
        eps: added to that norm; the released code has its ``norm_eps`` here, 1e-5 or 1e-6.
    """

    def __init__(self, eps: float = 0.0) -> None:
        if not 0 <= eps < math.inf:
            raise ValueError(f"eps={eps}: must be at least 0 and finite; 1e-5 is the released code's")
        self.eps = eps

    def __call__(self, matrix: Tensor) -> Tensor:
        """The scaled matrices."""
        largest = torch.linalg.vector_norm(matrix, dim=-2, keepdim=True).amax(-1, keepdim=True)
        return matrix / (largest + self.eps).clamp_min(TINY)
