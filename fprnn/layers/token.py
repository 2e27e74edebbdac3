"""The exact fixed point of one token, for any mixer and with or without an in-loop norm.

Not in "Fixed-Point RNNs" (Movahedi et al., NeurIPS 2025). Given the previous token, everything but the hidden state
itself is known, and what is left is ``h = norm(base + gate (I - Q) (h - drive))``. Without a norm that is a linear system,
which the mixer solves (in closed form where it has one). With a norm it is solved by Newton's method, each step of which
is such a system. The gradient is that of the implicit function theorem: one transposed system.

This is the engine of streaming, and the reference of :mod:`fprnn.layers.recurrence`.
"""

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from fprnn.mixers import Gain, Mixer
from fprnn.mixers.base import wide

NEWTON_CAP = 30  # iterations with a norm; a handful is usual


class TokenSolution(NamedTuple):
    """One token of each sequence.

    Attributes:
        state: before the norm, what the next token's recurrence starts from, ``(B, d)``.
        hidden: after it, ``(B, d)``.
        residual: relative change under one more application, ``(B,)``.
        iterations: Newton steps of the slowest sequence.
    """

    state: Tensor
    hidden: Tensor
    residual: Tensor
    iterations: int


class TokenEquation(NamedTuple):
    """``h = norm(base + gate (I - Q) (h - drive))``, with ``base = decay state_prev + gate drive``.

    Attributes:
        mixer: of Q.
        parameters: of Q.
        base: ``(B, d)``.
        gate: ``(B, d)``.
        drive: ``(B, d)``.
        norm: in the loop; None is the identity.
    """

    mixer: Mixer
    parameters: Any
    base: Tensor
    gate: Tensor
    drive: Tensor
    norm: nn.LayerNorm | None

    def state(self, hidden: Tensor) -> Tensor:
        """The state before the norm."""
        delta = hidden - self.drive
        return torch.addcmul(self.base, self.gate, delta - self.mixer.mix(self.parameters, delta))

    def gain(self, state: Tensor) -> Gain:
        """How the image answers to the mixed input, at this state."""
        return Gain(self.gate) if self.norm is None else layer_norm_gain(self.norm, self.gate, state)


def solve_token(equation: TokenEquation) -> TokenSolution:
    """The token's fixed point, with its exact gradient in whatever the equation was computed from."""
    with torch.no_grad():
        hidden, iterations = _newton(equation)
    state = equation.state(hidden)
    image = normalized(equation.norm, state)
    with torch.no_grad():
        residual = (image - hidden).abs().amax(-1) / (image.abs().amax(-1) + 1e-8)
    if torch.is_grad_enabled() and image.requires_grad:
        image = _TokenAdjoint.apply(image, equation, state.detach())
        state = equation.state(image)  # through the hidden state too
    return TokenSolution(state if equation.norm is not None else image, image, residual, iterations)


def token_tolerance(dtype: torch.dtype) -> float:
    """The relative change at which Newton's method stops: 6e-6 in float32, 2e-12 in float64."""
    return torch.finfo(dtype).eps ** 0.75


def _newton(equation: TokenEquation) -> tuple[Tensor, int]:
    hidden = normalized(equation.norm, equation.base)
    tol = token_tolerance(hidden.dtype)
    for iteration in range(1, NEWTON_CAP + 1):
        state = equation.state(hidden)
        update = normalized(equation.norm, state) - hidden
        hidden = hidden + equation.mixer.resolve(equation.parameters, equation.gain(state), update)
        if equation.norm is None or bool((update.abs().amax(-1) <= tol * hidden.abs().amax(-1)).all()):
            break
    return hidden, iteration


class _TokenAdjoint(torch.autograd.Function):
    """The identity, whose backward pass solves the transposed system ``(I - G (I - Q))^T s = cotangent``.

    By ``s = g + (I - Q)^T r`` with ``(I - G^T (I - Q^T)) r = G^T g``, which is again a system of the mixer's kind.
    """

    @staticmethod
    def forward(ctx: Any, image: Tensor, equation: TokenEquation, state: Tensor) -> Tensor:
        ctx.equation, ctx.state = equation, state
        return image.view_as(image)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, cotangent: Tensor) -> tuple[Tensor, None, None]:
        mixer, gain = ctx.equation.mixer, ctx.equation.gain(ctx.state).transpose()
        transposed = mixer.transpose(ctx.equation.parameters)
        r = mixer.resolve(transposed, gain, gain(cotangent))
        return cotangent + r - mixer.mix(transposed, r), None, None


def normalized(norm: nn.LayerNorm | None, state: Tensor) -> Tensor:
    """The norm in at least float32 whatever its parameters' precision; None is the identity."""
    if norm is None:
        return state
    weight, bias = (None if p is None else wide(p) for p in (norm.weight, norm.bias))
    return F.layer_norm(state, state.shape[-1:], weight, bias, norm.eps)


def layer_norm_gain(norm: nn.LayerNorm, gate: Tensor, state: Tensor) -> Gain:
    """The derivative of the norm at a state ``(..., d)``, times the gate."""
    centered = state - state.mean(-1, keepdim=True)
    inverse = (centered.square().mean(-1, keepdim=True) + norm.eps).rsqrt()
    weight = torch.ones_like(state) if norm.weight is None else wide(norm.weight).expand_as(state)
    return Gain(gate, centered * inverse, weight * inverse)
