"""One dense matrix per token: what the structured mixers approximate.

In the released code of "Fixed-Point RNNs" (Movahedi et al., NeurIPS 2025) only.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from fprnn.mixers.base import Activation, Dependence, Gain, ProjectedMixer
from fprnn.mixers.scaling import MatrixScaling, SpectralScaling, positive_semidefinite, triangular_size


def dense(matrix: Tensor, delta: Tensor) -> Tensor:
    """``Q delta`` for Q ``(..., d, d)`` and delta ``(..., d)``."""
    return (matrix @ delta.unsqueeze(-1)).squeeze(-1)


class DenseMixer(ProjectedMixer):
    """``Q = I - beta (I - S)`` with one positive semi-definite S for each token; in the released code only.

    The upper bound of what a structured mixer can do: O(d^3) parameters, O(d^2) memory per token. With
    ``|S|_2 <= 1`` (Frobenius scaling: proven; spectral: nearly) ``|I - Q|_2 <= beta``.

    Args:
        d_inner: width that Q acts on; the released code forces 256.
        beta: 1 is the released code's ``Q = S``.
        scaling: of S; None is the spectral one with five squarings.
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
