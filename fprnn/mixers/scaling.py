"""How a positive semi-definite matrix is scaled to bound its norm.

"Fixed-Point RNNs" (Movahedi et al., NeurIPS 2025), appendix C.3: the paper divides by the largest eigenvalue, estimated
by power iteration. Its released code divides each row by the row's norm instead, which is not symmetric and bounds
nothing; that and the free Frobenius bound are offered beside it. All take and return ``(..., m, m)``.
"""

from abc import ABC, abstractmethod

import torch
from torch import Tensor

TINY = 1e-8  # the least number that a matrix is divided by


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

    The estimate approaches from below, so the result's norm is 1 up to the error of the iteration, not proven below it.
    The vector is detached: the gradient passes through the eigenvalue only.

    Args:
        steps: of the power iteration.
    """

    def __init__(self, steps: int = 8) -> None:
        if steps < 1:
            raise ValueError(f"steps={steps} must be at least 1: power iteration needs a step")
        self.steps = steps

    def __call__(self, matrix: Tensor) -> Tensor:
        """The scaled matrices."""
        vector = self._leading_vector(matrix.detach())
        eigenvalue = torch.linalg.vector_norm(matrix @ vector, dim=(-2, -1), keepdim=True)
        return matrix / eigenvalue.clamp_min(TINY)

    def _leading_vector(self, matrix: Tensor) -> Tensor:
        # The column with the largest diagonal entry is never orthogonal to all leading eigenvectors of a PSD matrix.
        largest = matrix.diagonal(dim1=-2, dim2=-1).argmax(-1)[..., None, None]
        vector = matrix.take_along_dim(largest, -1)
        for _ in range(self.steps - 1):
            vector = matrix @ (vector / torch.linalg.vector_norm(vector, dim=-2, keepdim=True).clamp_min(TINY))
        return vector / torch.linalg.vector_norm(vector, dim=-2, keepdim=True).clamp_min(TINY)


class RowScaling(MatrixScaling):
    """Divides each row by its 2-norm: the released code's choice. Bounds the spectral norm by sqrt(m) only."""

    def __call__(self, matrix: Tensor) -> Tensor:
        """The scaled matrices."""
        return matrix / torch.linalg.vector_norm(matrix, dim=-1, keepdim=True).clamp_min(TINY)


class ColumnScaling(MatrixScaling):
    """Divides by the largest norm of a column: the released Monarch mixer's. Bounds the norm by sqrt(m) only."""

    def __call__(self, matrix: Tensor) -> Tensor:
        """The scaled matrices."""
        largest = torch.linalg.vector_norm(matrix, dim=-2, keepdim=True).amax(-1, keepdim=True)
        return matrix / largest.clamp_min(TINY)
