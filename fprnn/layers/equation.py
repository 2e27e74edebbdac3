"""The equation that an FP-RNN solves, as the solvers see it.

"Fixed-Point RNNs" (Movahedi et al., NeurIPS 2025), equations 6 to 8.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from fprnn.mixers import Mixer, MixerContext, ReflectionMixer
from fprnn.ops import linear_scan
from fprnn.solvers.base import ProblemSize, Solution, exact_solution
from fprnn.solvers.newton import TokenEquation, TokenSolution, join_tokens, normalized, solve_token
from fprnn.solvers.reflections import Recurrence, solve_reflections


def shift(sequence: Tensor, first: Tensor | None = None) -> Tensor:
    """The previous token: ``(B, T, d)`` one later, starting with ``first`` ``(B, d)`` or zeros."""
    if not sequence.shape[1]:
        return sequence
    start = torch.zeros_like(sequence[:, :1]) if first is None else first.unsqueeze(1).to(sequence.dtype)
    return torch.cat([start, sequence[:, :-1]], 1)


class RecurrentState(NamedTuple):
    """What one token leaves for the next.

    Attributes:
        state: of the recurrence, before the in-loop norm, ``(B, d)``.
        hidden: after it, ``(B, d)``; without a norm the same.
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
        before: what an earlier part of the sequence left; None is zeros.
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
    def size(self) -> ProblemSize:
        """What the cost of a solve depends on."""
        weight = self.context.state_weight
        parameters = 0 if weight is None else len(weight)
        return ProblemSize(*self.drive.shape, parameters, self.reflections is not None, self.norm is None)  # type: ignore[call-arg]

    @property
    def reflections(self) -> ReflectionMixer | None:
        """The mixer, if it has a closed form for a whole sequence."""
        return self.mixer if self.norm is None and isinstance(self.mixer, ReflectionMixer) else None

    def initial(self) -> Tensor:
        """Zeros."""
        return torch.zeros_like(self.drive)

    def state(self, hidden: Tensor) -> Tensor:
        """Channel mixing by Q, then sequence mixing by the diagonal recurrence: the state before the norm."""
        previous = shift(hidden, self.before and self.before.hidden)
        q = self.mixer.condition(self.context, previous) if self.parameters is None else self.parameters
        v = self.mixer.mix(q, self.drive - hidden) + hidden
        return linear_scan(self.gate * v, self.decay, self.before and self.before.state)

    def step(self, state: Tensor) -> Tensor:
        """One iteration."""
        return normalized(self.norm, self.state(state))

    def solve_by_token(self) -> Solution:
        """The fixed point, token by token: by the mixer's closed form where it has one."""
        if self.reflections is None:
            return join_tokens(self.tokens(), self.drive.clone())
        return self._solve_reflections(self.reflections)

    def start(self) -> RecurrentState:
        """What stands before the first token."""
        if self.before is not None:
            return self.before
        zeros = self.drive.new_zeros(self.drive.shape[0], self.drive.shape[2])
        return RecurrentState(zeros, zeros)

    def _solve_reflections(self, mixer: ReflectionMixer) -> Solution:
        projected, decay, gate, drive = (
            tensor.transpose(0, 1) for tensor in (self.context.projected, self.decay, self.gate, self.drive)
        )
        problem = Recurrence(projected, self.context.state_weight, decay, gate, drive, self.start().hidden)
        return exact_solution(solve_reflections(mixer, problem).transpose(0, 1))

    def tokens(self) -> list[TokenSolution]:
        """The solution of each token in turn, by :func:`~fprnn.solvers.newton.solve_token`."""
        state, hidden = self.start()
        tokens: list[TokenSolution] = []
        for t in range(self.drive.shape[1]):
            gate, drive = self.gate[:, t], self.drive[:, t]
            base = self.decay[:, t] * state + gate * drive
            q = self.mixer.condition(self.context.token(t), hidden)
            tokens.append(solve_token(TokenEquation(self.mixer, q, base, gate, drive, self.norm)))
            state, hidden = tokens[-1].state, tokens[-1].hidden
        return tokens

    def after(self, hidden: Tensor) -> RecurrentState:
        """What the solution ``(B, T, d)`` leaves for the tokens that follow."""
        if not hidden.shape[1]:
            return self.start()
        state = hidden if self.norm is None else self.state(hidden)
        return RecurrentState(state[:, -1], hidden[:, -1])
