"""The exact fixed point of one token, for any mixer and with or without an in-loop norm.

Not in "Fixed-Point RNNs" (Movahedi et al., NeurIPS 2025). Given the previous token, everything but the hidden state
itself is known, and what is left is ``h = norm(base + gate (I - Q) (h - drive))``. Without a norm that is a linear
system, which the mixer solves (in closed form where it has one). With a norm it is iterated, in the end by Newton's
method, each step of which is such a system; then there may be more than one fixed point. Some are unstable: the plain
iteration leaves them after the smallest push, and they count as none here. Of the others, the one found need not be the
one that the parallel iteration finds. The gradient is that of the implicit function theorem: one transposed system.

This is the engine of streaming, and the reference of :mod:`fprnn.solvers.reflections`.
"""

from math import inf
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dinopl.core.precision import at_least_float32
from fprnn.mixers import Gain, Mixer
from fprnn.mixers.base import probe
from fprnn.ops.kernels import refuse_second_derivative
from fprnn.solvers.base import relative_change

ITERATION_CAP = 800  # of a token with a norm
NEWTON_RANGE = 1e-2  # relative change below which Newton's steps are taken
PATIENCE = 150  # iterations with a norm after which plain steps are halved, and again after as many
RETREATS = 3  # from unstable fixed points; the next one is returned, and reported as none
LoopNorm = nn.LayerNorm | nn.RMSNorm


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
    norm: LoopNorm | None

    def state(self, hidden: Tensor) -> Tensor:
        """The state before the norm."""
        delta = hidden - self.drive
        return torch.addcmul(self.base, self.gate, delta - self.mixer.mix(self.parameters, delta))

    def gain(self, state: Tensor) -> Gain:
        """The derivative of the image in the mixed input ``(I - Q) h``, at this state."""
        return Gain(self.gate) if self.norm is None else norm_gain(self.norm, self.gate, state)


def solve_token(equation: TokenEquation) -> tuple[Tensor, Tensor, Tensor, Tensor, int]:
    """The token's fixed point, with its exact gradient in whatever the equation was computed from.

    Returns:
        The state before the norm and after it, ``(B, d)`` each; the relative change under one more application,
        ``(B,)``; whether the iteration goes to this point, ``(B,)`` bool, and always without a norm, where there is one
        solution; and the iterations of the slowest sequence, 1 without a norm.
    """
    with torch.no_grad():
        if equation.norm is None:  # linear: one step of Newton's from anywhere is exact
            hidden, iterations = equation.base, 1
            hidden = hidden + _newton_step(equation, hidden, equation.state(hidden))
            stable = torch.ones_like(hidden[:, 0], dtype=torch.bool)
        else:
            hidden, stable, iterations = iterate_under_norm(equation, equation.norm)
    state = equation.state(hidden)
    image = normalized(equation.norm, state)
    with torch.no_grad():
        residual = _change(image, hidden)
    if torch.is_grad_enabled() and image.requires_grad:
        image = _TokenAdjoint.apply(image, equation, state.detach())
        state = equation.state(image)  # once more, since the state depends on parameters through the hidden state too
    return state if equation.norm is not None else image, image, residual, stable, iterations


def token_tolerance(dtype: torch.dtype) -> float:
    """The relative change at which the iteration stops: 6e-6 in float32, 2e-12 in float64."""
    return torch.finfo(dtype).eps ** 0.75


def iterate_under_norm(equation: TokenEquation, norm: LoopNorm) -> tuple[Tensor, Tensor, int]:
    """A fixed point of a token's equation with a norm, and whether the plain iteration goes to it.

    Each sequence starts from zero, as the parallel iteration does, takes plain steps until it is near a fixed point,
    and Newton's steps from there. Where the derivative at the point that it found has a spectral radius of 1 or more,
    the plain iteration would leave: there the sequence is pushed off and goes on.

    Returns:
        The point ``(B, d)``; whether it is a fixed point with a spectral radius below 1, ``(B,)`` bool; and the
        iterations of the slowest sequence.
    """
    hidden, tol, iteration = torch.zeros_like(equation.base), token_tolerance(equation.base.dtype), 0
    # Of each sequence: the change below which it takes Newton's steps, the plain step it could have taken instead, the
    # last change, whether its last step was Newton's, whether it has found a stable fixed point, whether it is through,
    # how many unstable ones it may still leave, and how many steps it took far from any.
    bound, plain = hidden.new_full((len(hidden), 1), NEWTON_RANGE), hidden
    last, near, stable = torch.full_like(bound, inf), torch.zeros_like(bound, dtype=torch.bool), bound < 0
    through, retreats, far = stable, torch.full_like(bound, RETREATS), torch.zeros_like(bound)
    while iteration < ITERATION_CAP:
        state = equation.state(hidden)
        image = normalized(norm, state)
        change = _change(image, hidden).unsqueeze(-1)
        # A Newton step that led away (or to NaN, hence the negation) is taken back to the plain one, and the next
        # waits until the sequence is four times nearer: far from a fixed point Newton's method also finds unstable
        # ones, which the parallel iteration never does.
        led_away = near & ~(change < last)
        bound = torch.where(led_away, bound / 4, bound)
        # Many plain steps that come nowhere near a fixed point may cycle, so they are halved every PATIENCE iterations.
        # Images of the norm lie in a ball, which is convex: a shorter step stays in it.
        far = far + (change >= NEWTON_RANGE)
        following = torch.where(led_away, plain, torch.lerp(hidden, image, 0.5 ** torch.floor(far / PATIENCE)))
        arrived = (change <= tol) & ~through
        near = (change < bound) & (change > tol) & ~led_away
        found, some_near = torch.stack([arrived.any(), near.any()]).tolist()  # one reading of the device
        if some_near:
            plain, following = following, torch.where(near, hidden + _newton_step(equation, hidden, state), following)
        if found:
            contracts = equation.mixer.contraction(equation.parameters, equation.gain(state)).unsqueeze(-1) < 1
            stable = stable | (arrived & contracts)
            # Pushed far enough to change by more than Newton's steps begin at from now on, which lead straight back.
            leaving = arrived & ~contracts & (retreats > 0)
            pushed = hidden + NEWTON_RANGE * hidden.abs().amax(-1, keepdim=True) * probe(hidden)
            following, bound = torch.where(leaving, pushed, following), torch.where(leaving, bound / 100, bound)
            retreats = retreats - leaving.to(retreats)
            through = through | (arrived & ~leaving)
        # A sequence that is through stays as it is, so that its result does not depend on the batch.
        last, hidden, iteration = change, torch.where(through, hidden, following), iteration + 1
        if bool((through | change.isnan()).all()):
            break
    return hidden, stable.squeeze(-1), iteration


def _change(image: Tensor, hidden: Tensor) -> Tensor:
    """``|image - hidden|_inf / |image|_inf`` for each token ``(B, d)``, ``(B,)``."""
    return relative_change(image.unsqueeze(1), hidden.unsqueeze(1))


def _newton_step(equation: TokenEquation, hidden: Tensor, state: Tensor) -> Tensor:
    """``(I - J)^-1 (f(h) - h)`` for the token's map f and its derivative J, which is ``gain (I - Q)``."""
    update = normalized(equation.norm, state) - hidden
    return equation.mixer.resolve(equation.parameters, equation.gain(state), update)


class _TokenAdjoint(torch.autograd.Function):
    """The identity, whose backward pass solves the transposed system ``(I - G (I - Q))^T s = cotangent``.

    By ``s = g + (I - Q)^T r`` with ``(I - G^T (I - Q^T)) r = G^T g``, which is again a system of the mixer's kind.
    """

    @staticmethod
    def forward(ctx: Any, image: Tensor, equation: TokenEquation, state: Tensor) -> Tensor:
        ctx.equation, ctx.state = equation, state
        return image.view_as(image)

    @staticmethod
    def backward(ctx: Any, cotangent: Tensor) -> tuple[Tensor, None, None]:
        refuse_second_derivative("solve_token")
        mixer, gain = ctx.equation.mixer, ctx.equation.gain(ctx.state).transpose()
        transposed = mixer.transpose(ctx.equation.parameters)
        r = mixer.resolve(transposed, gain, gain(cotangent))
        return cotangent + r - mixer.mix(transposed, r), None, None


def normalized(norm: LoopNorm | None, state: Tensor) -> Tensor:
    """The norm in at least float32 whatever its parameters' precision; None is the identity."""
    if norm is None:
        return state
    weight = None if norm.weight is None else at_least_float32(norm.weight)
    if isinstance(norm, nn.RMSNorm):
        return F.rms_norm(state, state.shape[-1:], weight, norm.eps)
    bias = None if norm.bias is None else at_least_float32(norm.bias)
    return F.layer_norm(state, state.shape[-1:], weight, bias, norm.eps)


def norm_gain(norm: LoopNorm, gate: Tensor, state: Tensor) -> Gain:
    """The derivative of the norm at a state ``(..., d)``, times the gate."""
    centers = isinstance(norm, nn.LayerNorm)
    eps = torch.finfo(state.dtype).eps if norm.eps is None else norm.eps
    centered = state - state.mean(-1, keepdim=True) if centers else state
    inverse = (centered.square().mean(-1, keepdim=True) + eps).rsqrt()
    weight = torch.ones_like(state) if norm.weight is None else at_least_float32(norm.weight).expand_as(state)
    return Gain(gate, centered * inverse, weight * inverse, centers=centers)
