"""The equation that an FP-RNN solves, as the solvers see it.

"Fixed-Point RNNs" (Movahedi et al., NeurIPS 2025), equations 6 to 8.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from fprnn.mixers.base import Mixer, MixerContext
from fprnn.mixers.householder import ReflectionMixer
from fprnn.ops import linear_scan
from fprnn.solvers.base import FixedPointSolver
from fprnn.solvers.newton import TokenEquation, normalized


def shift(sequence: Tensor, first: Tensor | None = None) -> Tensor:
    """The previous token: ``(B, T, d)`` one later, starting with ``first`` ``(B, d)`` or zeros."""
    if not sequence.shape[1]:
        return sequence
    start = torch.zeros_like(sequence[:, :1]) if first is None else first.unsqueeze(1).to(sequence.dtype)
    return torch.cat([start, sequence[:, :-1]], 1)


class RecurrentState(NamedTuple):
    """What one token leaves for the next.

    Attributes:
        state: of the recurrence: ``(B, d)`` before the in-loop norm, or of FP-Mamba ``(B, d, N)``.
        hidden: the layer's state h or y after the norm, ``(B, d)``; of FP-RNN without a norm the same.
    """

    state: Tensor
    hidden: Tensor


class FPRNNEquation(NamedTuple):
    """``h = norm(scan(decay, gate (Q (drive - h) + h)))`` with ``Q_t`` a function of ``x_t`` and ``h_{t-1}``.

    The paper's equation 8 has ``decay = lambda``, ``gate = 1 - lambda``, ``drive = b x`` and no norm; its equation 5,
    without the input's normalisation, has ``gate = 1``.

    Attributes:
        mixer: of Q.
        context: what ``mixer.prepare`` returned.
        decay: ``(B, T, d)``.
        gate: ``(B, T, d)``.
        drive: ``(B, T, d)``.
        norm: in the loop; None is the identity.
        before: what an earlier part of the sequence left; None stands for zeros.
        parameters: of Q for all tokens, if they do not depend on the hidden state and so are computed once.
    """

    mixer: Mixer
    context: MixerContext
    decay: Tensor
    gate: Tensor
    drive: Tensor
    norm: nn.LayerNorm | None = None
    before: RecurrentState | None = None
    parameters: Any = None

    @property
    def linear(self) -> bool:
        """Whether a token's equation is linear: without a norm."""
        return self.norm is None

    @property
    def state_parameters(self) -> int:
        """Raw mixer parameters per token that depend on the state."""
        return 0 if self.context.state_weight is None else len(self.context.state_weight)

    def initial(self) -> Tensor:
        """Zeros."""
        return torch.zeros_like(self.drive)

    def state(self, hidden: Tensor) -> Tensor:
        """Channel mixing by Q, then sequence mixing by the diagonal recurrence (eq. 8): the state before the norm."""
        previous = shift(hidden, self.before and self.before.hidden)
        q = self.mixer.condition(self.context, previous) if self.parameters is None else self.parameters
        v = self.mixer.mix(q, self.drive - hidden) + hidden
        return linear_scan(self.gate * v, self.decay, self.before and self.before.state)

    def step(self, state: Tensor) -> Tensor:
        """One iteration: eq. 8, then the norm in the loop, if there is one."""
        return normalized(self.norm, self.state(state))

    def closed_form(self) -> tuple[Any, ...] | None:
        """The arguments of :func:`~fprnn.solvers.reflections.solve_reflections`, for its mixers and without a norm."""
        if self.norm is not None or not isinstance(self.mixer, ReflectionMixer):
            return None
        sequences = (self.context.projected, self.decay, self.gate, self.drive)
        projected, decay, gate, drive = (sequence.transpose(0, 1) for sequence in sequences)
        return self.mixer, projected, self.context.state_weight, decay, gate, drive, self.start().hidden

    def start(self) -> RecurrentState:
        """What precedes the first token."""
        if self.before is not None:
            return self.before
        zeros = self.drive.new_zeros(self.drive.shape[0], self.drive.shape[2])
        return RecurrentState(zeros, zeros)

    def token(self, t: int, before: RecurrentState) -> tuple[TokenEquation, Callable[[Tensor, Tensor], RecurrentState]]:
        """The equation of the token at t, and what its solution leaves for the next."""
        gate, drive = self.gate[:, t], self.drive[:, t]
        base = self.decay[:, t] * before.state + gate * drive
        q = self.mixer.condition(self.context.token(t), before.hidden)
        return TokenEquation(self.mixer, q, base, gate, drive, self.norm), RecurrentState

    def after(self, hidden: Tensor) -> RecurrentState:
        """What the solution ``(B, T, d)`` leaves for the tokens that follow."""
        if not hidden.shape[1]:
            return self.start()
        state = hidden if self.norm is None else self.state(hidden)
        return RecurrentState(state[:, -1], hidden[:, -1])


def check_parts(mixer: object, solver: object) -> None:
    """Refuses a mixer that is not a factory, and a solver that is not an instance.

    Args:
        mixer: should make a mixer for a width.
        solver: should be a solver; None stands for the default.

    Raises:
        ValueError: if one is not; the message names it.
    """
    if isinstance(mixer, Mixer) or not callable(mixer):
        raise ValueError(
            f"mixer: got an instance of {type(mixer).__name__}; give a class, or a partial of one, that makes a mixer "
            "for a width, such as HouseholderMixer"
        )
    if solver is not None and not isinstance(solver, FixedPointSolver):
        given = (
            f"the class {solver.__name__}" if isinstance(solver, type) else f"an instance of {type(solver).__name__}"
        )
        raise ValueError(f"solver: got {given}; give an instance of a solver, such as PicardSolver()")
