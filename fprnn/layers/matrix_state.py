"""The equation that an FP-Mamba solves, as the solvers see it: through the output y alone, never the matrix state.

"Fixed-Point RNNs" (Movahedi et al., NeurIPS 2025), sections 4.1 and 4.2. Not in the paper: the solve token by token.
Given the previous token, all but y itself is known, and what is left has the form of
:class:`~fprnn.solvers.newton.TokenEquation`.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from fprnn.layers.equation import shift
from fprnn.layers.selection import SelectionContext, Selector
from fprnn.mixers import Mixer, MixerContext
from fprnn.ops import selective_scan
from fprnn.ops.selective_scan.reference import per_channel
from fprnn.solvers.base import ProblemSize, Solution
from fprnn.solvers.newton import LoopNorm, TokenEquation, TokenSolution, join_tokens, normalized, solve_token


class MatrixState(NamedTuple):
    """What one token leaves for the next.

    Attributes:
        state: of the recurrence, ``(B, d, N)``.
        hidden: the output y, ``(B, d)``.
    """

    state: Tensor
    hidden: Tensor


class MambaEquation(NamedTuple):
    """``y = norm(gate (H c + skip v))`` with ``H_t = exp(delta rates) H_{t-1} + (delta v) b^T``, ``v = Q (x - y) + y``.

    Attributes:
        mixer: of Q.
        context: what ``mixer.prepare`` returned.
        selector: of delta, b and c.
        selected: what ``selector.prepare`` returned.
        x: what is mixed in, ``(B, T, d)``.
        rates: ``(d, N)`` or ``(heads,)``, negative.
        skip: ``(d,)``.
        norm: in the loop.
        before: what an earlier part of the sequence left, zeros at its start.
        gate: ``(B, T, d)``; None is outside the loop.
        parameters: of Q for all tokens, if they do not depend on the output and so are computed once.
    """

    mixer: Mixer
    context: MixerContext
    selector: Selector
    selected: SelectionContext
    x: Tensor
    rates: Tensor
    skip: Tensor
    norm: LoopNorm
    before: MatrixState
    gate: Tensor | None = None
    parameters: Any = None

    @property
    def size(self) -> ProblemSize:
        """What the cost of a solve depends on."""
        weights = [w for w in (self.context.state_weight, self.selected.state_weight) if w is not None]
        parameters = sum(len(weight) for weight in weights)
        batch, length, width = self.x.shape
        return ProblemSize(batch, length, width, parameters, closed_form=False, linear=False)

    def initial(self) -> Tensor:
        """Zeros."""
        return torch.zeros_like(self.x)

    def advance(self, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """What the norm is to see, ``(B, T, d)``, and the last matrix state ``(B, d, N)``."""
        previous = shift(hidden, self.before.hidden)
        delta, b, c = self.selector.condition(self.selected, previous)
        q = self.mixer.condition(self.context, previous) if self.parameters is None else self.parameters
        v = self.mixer.mix(q, self.x - hidden) + hidden
        read, final = selective_scan(v, delta, self.rates, b, c, self.before.state)
        out = read + self.skip * v
        return (out if self.gate is None else self.gate * out), final

    def step(self, state: Tensor) -> Tensor:
        """One iteration: channel mixing by Q, sequence mixing by the selective recurrence, and the norm."""
        return normalized(self.norm, self.advance(state)[0])

    def solve_by_token(self) -> Solution:
        """The fixed point, token by token, with its exact gradient."""
        return join_tokens(self.tokens(), self.x.clone())

    def tokens(self) -> list[TokenSolution]:
        """The solution of each token in turn, by :func:`~fprnn.solvers.newton.solve_token`."""
        (state, hidden), tokens = self.before, list[TokenSolution]()
        for t in range(self.x.shape[1]):
            x = self.x[:, t]
            selection = self.selector.condition(self.selected.token(t), hidden)
            delta, rates, b, c = per_channel(selection.delta, self.rates, selection.b, selection.c, x.shape[1])
            q = self.mixer.condition(self.context.token(t), hidden)
            decayed = (delta.unsqueeze(-1) * rates).exp() * state
            gain, carried = delta * torch.linalg.vecdot(b, c) + self.skip, torch.linalg.vecdot(decayed, c)
            if self.gate is not None:
                gain, carried = self.gate[:, t] * gain, self.gate[:, t] * carried
            tokens.append(solve_token(TokenEquation(self.mixer, q, carried + gain * x, gain, x, self.norm)))
            hidden = tokens[-1].hidden
            v = self.mixer.mix(q, x - hidden) + hidden
            state = decayed + (delta * v).unsqueeze(-1) * b
        return tokens

    def after(self, hidden: Tensor) -> MatrixState:
        """What the solution ``(B, T, d)`` leaves for the tokens that follow."""
        return MatrixState(self.advance(hidden)[1], hidden[:, -1]) if hidden.shape[1] else self.before


class StreamedEquation:
    """A :class:`MambaEquation` whose iterations go on where those of an earlier part of the sequence were.

    With the norm in the loop there may be several fixed points, and which one a token's iteration finds depends on the
    way of its predecessor, not only on where that ended. But each iteration is causal: its result at token t depends on
    what the same and the last iteration had at tokens up to t. So it is kept what every one of the first iterations
    left, and the result is that of iterating on the whole sequence at once.

    Args:
        equation: of the tokens at hand.
        trail: what the first iterations left before them, stacked, ``(L, B, ...)``; beyond, they left the solution.
    """

    def __init__(self, equation: MambaEquation, trail: MatrixState) -> None:
        self.equation, self.trail = equation, trail
        self.left: list[MatrixState] = []

    @property
    def size(self) -> ProblemSize:
        """What the cost of a solve depends on."""
        return self.equation.size

    def initial(self) -> Tensor:
        """Zeros."""
        return self.equation.initial()

    def step(self, state: Tensor) -> Tensor:
        """The next iteration."""
        index = len(self.left)
        if not state.shape[1] or index == len(self.trail.state):
            return self.equation.step(state)
        before = MatrixState(self.trail.state[index], self.trail.hidden[index])
        seen, last = self.equation._replace(before=before).advance(state)
        self.left.append(MatrixState(last.detach(), state[:, -1].detach()))
        return normalized(self.equation.norm, seen)

    def solve_by_token(self) -> Solution:
        """The fixed point, token by token, each from its predecessor's."""
        return self.equation.solve_by_token()

    def trail_after(self, solution: MatrixState) -> MatrixState:
        """What the first iterations left for the tokens that follow; those that were not needed, the solution."""
        if not self.equation.x.shape[1]:
            return self.trail
        rest = MatrixState(*(x.detach() for x in solution))
        left = self.left + [rest] * (len(self.trail.state) - len(self.left))
        return MatrixState(*(torch.stack(parts) for parts in zip(*left, strict=True))) if left else self.trail
