"""What every channel mixer has in common: its projection, and the linear system that one token's fixed point poses.

"Fixed-Point RNNs" (Movahedi et al., NeurIPS 2025), section 3.3 and appendix C.3. A mixer is a structured matrix ``Q_t``
whose entries are a function of the input ``x_t`` and, with hidden-state dependence, of the previous token's state. It
is never materialised. Different from the released code: the input's part of every projection is computed once per
forward pass and not once per iteration, and each mixer can solve for one token's fixed point (:meth:`Mixer.resolve`).
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, Literal, NamedTuple, Self, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dinopl.core.precision import at_least_float32

Dependence = Literal["concatenate", "symmetric", "input"]
Activation = Callable[[Tensor], Tensor]

RICHARDSON_CAP = 32  # iterations of a linear solve before the matrix is factorised instead
RICHARDSON_BLOCK = 8  # iterations between two checks of its residual
POWER_STEPS = 32  # of the power iteration, before growth is measured and while it is


class MixerContext(NamedTuple):
    """What a mixer needs from the input, computed once per forward pass.

    Attributes:
        projected: ``W_x x + bias``, ``(..., P)``.
        state_weight: ``W_s``, ``(P, d)``; None if the mixer does not depend on the hidden state.
        shared: a matrix ``(d, d)`` that holds for all tokens; only for mixers without a projection.
    """

    projected: Tensor
    state_weight: Tensor | None
    shared: Tensor | None = None

    def token(self, t: int) -> Self:
        """The context of the token at ``t``: ``projected`` is ``(B, P)``."""
        return self._replace(projected=self.projected[:, t])

    def project(self, state: Tensor) -> Tensor:
        """``W p + bias`` for the parameter input p made of x and the shifted state ``(..., d)``."""
        if self.state_weight is None:
            return self.projected
        flat = torch.addmm(self.projected.flatten(0, -2), state.flatten(0, -2), self.state_weight.T)
        return flat.reshape(self.projected.shape)


class Gain(NamedTuple):
    """The derivative of a token's hidden state in its mixed input ``v``: the diagonal gate, then a norm's derivative.

    With ``n`` the normalised vector and ``scale`` the norm's weight over the standard deviation, the derivative of the
    layer norm is ``diag(scale) (I - 1 1^T / d - n n^T / d)``. That of the RMS norm, which does not center, lacks the
    second term. Without a norm the gain is ``diag(gate)``.

    Attributes:
        gate: ``(..., d)``.
        normalized: ``n``, ``(..., d)``; None without a norm.
        scale: ``(..., d)``; None without a norm.
        transposed: whether this stands for the transposed matrix.
        centers: whether the norm is a layer norm, and not an RMS norm.
    """

    gate: Tensor
    normalized: Tensor | None = None
    scale: Tensor | None = None
    transposed: bool = False
    centers: bool = True

    def transpose(self) -> Self:
        """The gain of the transposed matrix."""
        return self._replace(transposed=not self.transposed)

    def rows(self, rows: Tensor) -> Tensor:
        """The gain times each of k vectors: ``(..., k, d)`` to ``(..., k, d)``."""
        gate = self.gate.unsqueeze(-2)
        if self.normalized is None or self.scale is None:
            return gate * rows
        scale = self.scale.unsqueeze(-2)
        return gate * self._project(scale * rows) if self.transposed else scale * self._project(gate * rows)

    def __call__(self, vector: Tensor) -> Tensor:
        """The gain times one vector ``(..., d)``."""
        return self.rows(vector.unsqueeze(-2)).squeeze(-2)

    def _project(self, rows: Tensor) -> Tensor:
        assert self.normalized is not None
        normalized = self.normalized.unsqueeze(-2)
        along = (rows * normalized).mean(-1, keepdim=True)
        return (rows - rows.mean(-1, keepdim=True) if self.centers else rows) - normalized * along


class MixerProjection(nn.Module):
    """The weight-normalised linear map from a mixer's parameter input p to its raw parameters.

    Each row is ``magnitude * direction / |direction|``, and the magnitude starts at the row's norm under PyTorch's
    default initialisation. Only the last ``biased`` outputs have a bias, which starts at 0.

    Args:
        d_inner: width d of input and state.
        outputs: number P of raw parameters per token.
        biased: how many of them, at the end, have a bias.
        dependence: ``concatenate`` is ``p = [x; s]``, ``symmetric`` is ``p = x + s``, ``input`` is ``p = x``.
        rank: factor the map through this many channels, both factors weight-normalised; None is one full matrix.
        full_biased: leave the map to the outputs with a bias as one full matrix nevertheless.
    """

    def __init__(
        self,
        d_inner: int,
        outputs: int,
        biased: int,
        dependence: Dependence,
        rank: int | None,
        full_biased: bool = False,
    ) -> None:
        super().__init__()
        self.d_inner, self.dependence = d_inner, dependence
        width = 2 * d_inner if dependence == "concatenate" else d_inner
        factored = outputs - biased if full_biased else outputs
        sizes = [(width, outputs)] if rank is None else [(width, rank), (rank, factored)]
        if full_biased:
            sizes.append((width, biased))
        factors = [nn.Linear(i, o, bias=False).weight.detach() for i, o in sizes]
        self.direction = nn.ParameterList(nn.Parameter(factor) for factor in factors)
        self.magnitude = nn.ParameterList(nn.Parameter(factor.norm(dim=1)) for factor in factors)
        self.bias = nn.Parameter(torch.zeros(biased)) if biased else None
        self.outputs, self.unbiased = outputs, outputs - biased

    def weight(self) -> Tensor:
        """The matrix ``(P, width of p)`` in at least float32."""
        rows = [
            F.normalize(at_least_float32(direction), dim=1) * at_least_float32(magnitude).unsqueeze(1)
            for direction, magnitude in zip(self.direction, self.magnitude, strict=True)
        ]
        return rows[0] if len(rows) == 1 else torch.cat([rows[1] @ rows[0], *rows[2:]])

    def forward(self, x: Tensor) -> MixerContext:
        """The input's part for x ``(..., d)`` in at least float32, and the weight of the state's part."""
        weight = self.weight()
        bias = None if self.bias is None else F.pad(at_least_float32(self.bias), (self.unbiased, 0))
        projected = F.linear(at_least_float32(x), weight[:, : self.d_inner], bias)
        state_weight = {"concatenate": weight[:, self.d_inner :], "symmetric": weight, "input": None}[self.dependence]
        return MixerContext(projected, state_weight)


class Mixer(nn.Module, ABC):
    """A structured matrix ``Q_t`` over channels, one for each token.

    ``forward(x, state, delta)`` returns ``Q delta``. A fixed-point layer calls the parts: :meth:`prepare` once,
    :meth:`condition` and :meth:`mix` in each iteration, :meth:`resolve` when it solves token by token.

    Args:
        d_inner: width d that Q acts on.
        beta: the scale in front of ``I - Q``: 1 in the paper, 2 in the released code.
    """

    selective: bool = False
    """Whether Q depends on the token."""
    hidden_dependent: bool = False
    """Whether Q depends on the previous token's state."""

    def __init__(self, d_inner: int, beta: float) -> None:
        super().__init__()
        if d_inner < 1:
            raise ValueError(f"d_inner={d_inner}: must be at least 1; it is the width that the mixer acts on")
        if not 0 < beta < math.inf:
            raise ValueError(f"beta={beta}: must be positive and finite; 1 is the paper's mixer, 2 the released code's")
        self.d_inner, self.beta = d_inner, beta

    @abstractmethod
    def prepare(self, x: Tensor) -> MixerContext:
        """What does not change from one iteration to the next, for x ``(..., d)``: once per forward pass."""

    @abstractmethod
    def condition(self, context: MixerContext, state: Tensor) -> Any:
        """The parameters of Q for the shifted state ``(..., d)``, whose leading dimensions are the context's."""

    @abstractmethod
    def mix(self, parameters: Any, delta: Tensor) -> Tensor:
        """``Q delta`` for delta ``(..., d)``."""

    @abstractmethod
    def transpose(self, parameters: Any) -> Any:
        """The parameters of ``Q^T``."""

    @abstractmethod
    def dense(self, parameters: Any) -> Tensor:
        """Q as a matrix ``(..., d, d)``; for tests and for small problems."""

    @torch.no_grad()
    def resolve(self, parameters: Any, gain: Gain, excess: Tensor) -> Tensor:
        """Solves ``delta = excess + gain (I - Q) delta``, the equation of one token's fixed point.

        By Richardson's iteration while that converges, else with a factorised matrix; subclasses with a closed form
        override it. Gradients do not pass: see :func:`fprnn.solvers.newton.solve_token`.

        Args:
            parameters: of Q, with leading dimensions ``(...)``.
            gain: ``(..., d)``.
            excess: ``(..., d)``.
        """
        delta, tol = excess, 4 * torch.finfo(excess.dtype).eps
        for _ in range(RICHARDSON_CAP // RICHARDSON_BLOCK):
            for _ in range(RICHARDSON_BLOCK):
                before, delta = delta, excess + gain(delta - self.mix(parameters, delta))
            if bool(((delta - before).abs().amax(-1) <= tol * delta.abs().amax(-1)).all()):
                return delta
        return self.resolve_densely(parameters, gain, excess)

    @torch.no_grad()
    def contraction(self, parameters: Any, gain: Gain) -> Tensor:
        """The spectral radius of ``gain (I - Q)``: one token's iteration goes to its fixed point where this is below 1.

        Estimated by power iteration from :func:`probe`; subclasses with a closed form override it.

        Args:
            parameters: of Q, with leading dimensions ``(...)``.
            gain: ``(..., d)``, at the fixed point.

        Returns:
            ``(...)``.
        """
        vector = probe(gain.gate)
        for growing in (False, True):
            for _ in range(POWER_STEPS):
                vector = gain(vector - self.mix(parameters, vector))
            growth = torch.linalg.vector_norm(vector, dim=-1, keepdim=True)
            if not growing:  # what decays fast is gone by now; the growth from here on is the largest eigenvalue's
                vector = vector / growth.clamp_min(torch.finfo(growth.dtype).tiny)
        return growth.squeeze(-1) ** (1 / POWER_STEPS)

    def resolve_densely(self, parameters: Any, gain: Gain, excess: Tensor) -> Tensor:
        """:meth:`resolve` with a materialised matrix: correct wherever the system is regular."""
        eye = torch.eye(self.d_inner, dtype=excess.dtype, device=excess.device)
        system = eye - gain.rows((eye - self.dense(parameters)).mT).mT
        return solve_systems(system.expand(*excess.shape, -1), excess)

    def forward(self, x: Tensor, state: Tensor, delta: Tensor) -> Tensor:
        """``Q delta``, with Q from the input and the shifted state, all ``(..., d)``."""
        return self.mix(self.condition(self.prepare(x), state), delta)


def nothing_projected(x: Tensor, shared: Tensor | None = None) -> MixerContext:
    """The context of a mixer without a projection, for x ``(..., d)``."""
    return MixerContext(at_least_float32(x).new_empty(*x.shape[:-1], 0), None, shared)


class IdentityMixer(Mixer):
    """``Q = I``: no mixing, hence a diagonal RNN, whose fixed point is reached in one iteration."""

    def __init__(self, d_inner: int) -> None:
        super().__init__(d_inner, beta=1.0)

    def prepare(self, x: Tensor) -> MixerContext:
        """Nothing: no parameter per token."""
        return nothing_projected(x)

    def condition(self, context: MixerContext, state: Tensor) -> Tensor:
        """Nothing to choose: the empty projection."""
        return context.projected

    def mix(self, parameters: Tensor, delta: Tensor) -> Tensor:
        """``delta`` itself."""
        return delta

    def transpose(self, parameters: Tensor) -> Tensor:
        """The same."""
        return parameters

    def dense(self, parameters: Tensor) -> Tensor:
        """The identity."""
        eye = torch.eye(self.d_inner, dtype=parameters.dtype, device=parameters.device)
        return eye.expand(*parameters.shape[:-1], *eye.shape)

    def resolve(self, parameters: Tensor, gain: Gain, excess: Tensor) -> Tensor:
        """``excess`` itself, since ``I - Q`` is zero."""
        return excess

    def contraction(self, parameters: Tensor, gain: Gain) -> Tensor:
        """Zero, since ``I - Q`` is."""
        return torch.zeros_like(gain.gate[..., 0])


class ProjectedMixer(Mixer):
    """A mixer whose parameters are a function of one weight-normalised projection.

    Args:
        outputs: raw parameters P per token.
        biased: how many of them, at the end, have a bias.
        dependence: ``concatenate`` reads ``[x; s]`` with s the previous token's state, ``symmetric`` reads ``x + s``,
            ``input`` reads x alone.
        projection_rank: rank of the projection; None is full.
        full_strengths: whether the map to what has a bias, strengths or gates, stays full beside a ``projection_rank``,
            as in the released code, instead of sharing its factors.
        activation: elementwise, on the directions or matrices that a subclass makes; the paper uses silu.
    """

    selective = True

    def __init__(
        self,
        d_inner: int,
        beta: float,
        outputs: int,
        biased: int,
        dependence: Dependence,
        projection_rank: int | None,
        full_strengths: bool = False,
    ) -> None:
        super().__init__(d_inner, beta)
        if projection_rank is not None and projection_rank < 1:
            raise ValueError(f"projection_rank={projection_rank}: must be at least 1; None is a full matrix")
        if full_strengths and projection_rank is None:
            raise ValueError("full_strengths=True: everything is full without a projection_rank; give one")
        if dependence not in get_args(Dependence):
            raise ValueError(f"dependence={dependence}: unknown; choose one of {', '.join(get_args(Dependence))}")
        self.projection = MixerProjection(d_inner, outputs, biased, dependence, projection_rank, full_strengths)
        self.hidden_dependent = dependence != "input"

    def prepare(self, x: Tensor) -> MixerContext:
        """The input's part of the projection."""
        return self.projection(x)

    def condition(self, context: MixerContext, state: Tensor) -> Any:
        """The parameters of Q for the shifted state ``(..., d)``."""
        return self.activate(context.project(state))

    @abstractmethod
    def activate(self, raw: Tensor) -> Any:
        """The parameters of Q from what the projection returns, ``(..., P)``."""


def probe(like: Tensor) -> Tensor:
    """Vectors ``(..., d)`` of largest entry 1, the same for all, in no special direction: ``sin(k^2)``.

    They are the same on every device and draw nothing.
    """
    places = torch.arange(1, like.shape[-1] + 1, dtype=like.dtype, device=like.device)
    vector = places.square().sin()
    return (vector / vector.abs().amax()).expand_as(like)


def spectral_radius(matrix: Tensor) -> Tensor:
    """The spectral radius of matrices ``(..., n, n)``, ``(...)``; never too low but for rounding.

    By Gelfand's formula, ``|M^p|^(1/p)`` in the Frobenius norm, which is at least the radius for every p and goes to
    it. With p = 1024, by squaring, it is 0.7 % too high where eigenvectors are so close that the norm is 1,000 times
    the radius at first. Nothing is drawn, and the host does not wait for the device.
    """
    if matrix.shape[-1] == 1:
        return matrix.abs()[..., 0, 0]
    power, logarithm, tiny = matrix, torch.zeros_like(matrix[..., 0, 0]), torch.finfo(matrix.dtype).tiny
    for squaring in range(11):
        size = torch.linalg.matrix_norm(power).clamp_min(tiny)
        logarithm = logarithm + size.log() / 2**squaring
        power = power / size[..., None, None]
        power = power @ power
    return logarithm.exp()


def solve_systems(matrix: Tensor, right: Tensor) -> Tensor:
    """``matrix^-1 right`` for ``(..., n, n)`` and ``(..., n)``; not a number where a matrix is singular."""
    if matrix.shape[-1] == 1:
        return right / matrix.squeeze(-1)
    solution, info = torch.linalg.solve_ex(matrix, right.unsqueeze(-1))
    return solution.squeeze(-1).masked_fill(info.unsqueeze(-1) != 0, float("nan"))
