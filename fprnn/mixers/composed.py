"""A constant rotation for all tokens, and products of other mixers.

Both are in the released code of "Fixed-Point RNNs" (Movahedi et al., NeurIPS 2025) only.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dinopl.core.errors import MOST_PARTS, check_rank
from dinopl.core.precision import at_least_float32
from fprnn.mixers.base import Dependence, Mixer, MixerContext, ProjectedMixer, nothing_projected
from fprnn.mixers.householder import HouseholderMixer
from fprnn.mixers.kronecker import KroneckerMixer
from fprnn.mixers.scaling import MatrixScaling

Parts = list[tuple[Mixer, object]]


def orthogonal(generator: Tensor) -> Tensor:
    """The rotation ``exp(W - W^T)`` for W ``(d, d)``."""
    return torch.linalg.matrix_exp(generator - generator.mT)


class ConstantMixer(Mixer):
    """``Q = I - beta (I - O)`` with one learnt rotation O for all tokens ("nonselective").

    With theta the largest angle of O, ``|I - Q|_2 = 2 beta sin(theta / 2)``: below beta while theta is below 60
    degrees, as at the start, and not bounded by it in training.

    Args:
        beta: 1 is the released code's ``Q = O``.
        init_scale: standard deviation of the rotation's generator, times sqrt(d_inner).
    """

    def __init__(self, d_inner: int, beta: float = 1.0, init_scale: float = 0.25) -> None:
        super().__init__(d_inner, beta)
        self.generator = nn.Parameter(init_scale * torch.randn(d_inner, d_inner) / d_inner**0.5)

    def prepare(self, x: Tensor) -> MixerContext:
        """The matrix Q, once per forward pass."""
        eye = torch.eye(self.d_inner, dtype=at_least_float32(x).dtype, device=x.device)
        shared = (1 - self.beta) * eye + self.beta * orthogonal(at_least_float32(self.generator))
        return nothing_projected(x, shared)

    def condition(self, context: MixerContext, state: Tensor) -> Tensor:
        """Q, whatever the state."""
        if context.shared is None:
            raise ValueError("context: was not made by ConstantMixer.prepare; pass what prepare returns")
        return context.shared

    def mix(self, parameters: Tensor, delta: Tensor) -> Tensor:
        """``Q delta``."""
        return F.linear(delta, parameters)

    def transpose(self, parameters: Tensor) -> Tensor:
        """The matrix transposed."""
        return parameters.mT

    def dense(self, parameters: Tensor) -> Tensor:
        """The parameters themselves."""
        return parameters


class AlternatingMixer(Mixer):
    """A product of ``rank`` mixers, in turn one reflection and one Kronecker ("mixture").

    Nothing is proven of ``|I - Q|_2`` beyond ``prod_i (1 + |I - Q_i|_2) - 1``.

    Args:
        d_inner: width that Q acts on; must factor for the Kronecker part.
        rank: number of factors.
        norm_eps: as in :class:`HouseholderMixer`.
        scaling: as in :class:`KroneckerMixer`.
        dependence: as in :class:`HouseholderMixer`.
    """

    selective = True

    def __init__(
        self,
        d_inner: int,
        rank: int = 2,
        beta: float = 1.0,
        norm_eps: float = 1e-6,
        scaling: MatrixScaling | None = None,
        dependence: Dependence = "concatenate",
    ) -> None:
        check_rank(rank, MOST_PARTS)
        super().__init__(d_inner, beta)
        self.factors, self.hidden_dependent = nn.ModuleList(), dependence != "input"
        for index in range(rank):
            if index % 2:
                self.factors.append(KroneckerMixer(d_inner, beta, scaling, dependence=dependence))
            else:
                self.factors.append(HouseholderMixer(d_inner, 1, beta, norm_eps, dependence=dependence))

    def _mixers(self) -> list[ProjectedMixer]:
        return [factor for factor in self.factors if isinstance(factor, ProjectedMixer)]

    def prepare(self, x: Tensor) -> MixerContext:
        """The factors' projections, side by side."""
        contexts = [factor.prepare(x) for factor in self._mixers()]
        weights = [context.state_weight for context in contexts if context.state_weight is not None]
        projected = torch.cat([context.projected for context in contexts], -1)
        return MixerContext(projected, torch.cat(weights) if weights else None)

    def condition(self, context: MixerContext, state: Tensor) -> Parts:
        """Each factor with its parameters, the one that acts first at the front."""
        sizes = [factor.projection.outputs for factor in self._mixers()]
        parts = torch.split(context.project(state), sizes, -1)
        return [(factor, factor.activate(part)) for factor, part in zip(self._mixers(), parts, strict=True)]

    def mix(self, parameters: Parts, delta: Tensor) -> Tensor:
        """``Q_n ... Q_1 delta``."""
        for factor, part in parameters:
            delta = factor.mix(part, delta)
        return delta

    def transpose(self, parameters: Parts) -> Parts:
        """The transposed factors in the opposite order."""
        return [(factor, factor.transpose(part)) for factor, part in reversed(parameters)]

    def dense(self, parameters: Parts) -> Tensor:
        """The product of the factors' matrices."""
        product = parameters[0][0].dense(parameters[0][1])
        for factor, part in parameters[1:]:
            product = factor.dense(part) @ product
        return product
