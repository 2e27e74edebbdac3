"""The equation that an FP-Mamba solves, as the solvers see it: through the output y alone, never the matrix state.

"Fixed-Point RNNs" (Movahedi et al., NeurIPS 2025), sections 4.1 and 4.2. Not in the paper: the solve token by token.
Given the previous token, all but y itself is known, and what is left has the form of
:class:`~fprnn.solvers.newton.TokenEquation`.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fprnn.layers.equation import RecurrentState, shift
from fprnn.layers.selection import Selected, Selector
from fprnn.mixers.base import Mixer, MixerContext
from fprnn.ops import selective_scan
from fprnn.ops.selective_scan.reference import per_channel
from fprnn.solvers.newton import LoopNorm, TokenEquation, normalized


class MambaEquation(NamedTuple):
    """``y = norm(gate (H c + skip v))`` with ``H_t = exp(delta rates) H_{t-1} + (delta v) b^T``, ``v = Q (x - y) + y``.

    With the norm in the loop there may be several fixed points, and which one a token's iteration finds depends on the
    path of its predecessor, not only on where that ended. But each iteration is causal: its result at token t depends
    on what the same and the last iteration had at tokens up to t. So decoding keeps what each of the first iterations
    left before (``trail``), from which the same iteration continues here, and the result is that of iterating on the
    whole sequence at once.

    Attributes:
        mixer: of Q.
        context: what ``mixer.prepare`` returned.
        selector: of delta, b and c.
        selected: what ``selector.prepare`` returned: of the input,
        selecting: and the weight that the previous output meets.
        x: what is mixed in, ``(B, T, d)``.
        rates: ``(d, N)`` or ``(heads,)``, negative.
        skip: ``(d,)``.
        norm: in the loop.
        before: the solution that an earlier part of the sequence left, zeros at its start.
        gate: ``(B, T, d)``; None is outside the loop.
        parameters: of Q for all tokens, if they do not depend on the output and so are computed once.
        trail: what each of the first iterations on an earlier part left, stacked, ``(L, B, ...)``; None at its start.
        left: what the iterations here have left so far; grows with each call of :meth:`step` while there is a trail.
    """

    mixer: Mixer
    context: MixerContext
    selector: Selector
    selected: Selected
    selecting: Tensor | None
    x: Tensor
    rates: Tensor
    skip: Tensor
    norm: LoopNorm
    before: RecurrentState
    gate: Tensor | None = None
    parameters: Any = None
    trail: RecurrentState | None = None
    left: list[RecurrentState] | None = None

    @property
    def linear(self) -> bool:
        """Whether a token's equation is linear: no, it has a norm."""
        return False

    @property
    def state_parameters(self) -> int:
        """Raw parameters per token, of the mixer and of what is selected, that depend on the output."""
        return sum(len(weight) for weight in (self.context.state_weight, self.selecting) if weight is not None)

    def initial(self) -> Tensor:
        """Zeros."""
        return torch.zeros_like(self.x)

    def advance(self, hidden: Tensor, before: RecurrentState | None = None) -> tuple[Tensor, Tensor]:
        """One iteration before its norm.

        Args:
            hidden: the last iterate y, ``(B, T, d)``.
            before: what precedes it; None is the equation's own.

        Returns:
            What the norm is to see, ``(B, T, d)``, and the last matrix state ``(B, d, N)``.
        """
        before = self.before if before is None else before
        previous = shift(hidden, before.hidden)
        delta, b, c = self.selector.condition(self.selected, self.selecting, previous)
        q = self.mixer.condition(self.context, previous) if self.parameters is None else self.parameters
        v = self.mixer.mix(q, self.x - hidden) + hidden
        read, final = selective_scan(v, delta, self.rates, b, c, before.state)
        out = read + self.skip * v
        return (out if self.gate is None else self.gate * out), final

    def step(self, state: Tensor) -> Tensor:
        """One iteration: channel mixing by Q, sequence mixing by the selective recurrence, and the norm."""
        if self.trail is None or self.left is None or len(self.left) == len(self.trail.state) or not state.shape[1]:
            return normalized(self.norm, self.advance(state)[0])
        index = len(self.left)
        out, last = self.advance(state, RecurrentState(self.trail.state[index], self.trail.hidden[index]))
        self.left.append(RecurrentState(last.detach(), state[:, -1].detach()))
        return normalized(self.norm, out)

    def closed_form(self) -> None:
        """None, because of the norm."""

    def start(self) -> RecurrentState:
        """What precedes the first token."""
        return self.before

    def token(self, t: int, before: RecurrentState) -> tuple[TokenEquation, Callable[[Tensor, Tensor], RecurrentState]]:
        """The equation of the token at t, and what its solution leaves for the next."""
        x = self.x[:, t]
        parts = tuple(part[:, t] for part in self.selected)
        delta, b, c = self.selector.condition(parts, self.selecting, before.hidden)
        delta, rates, b, c = per_channel(delta, self.rates, b, c, x.shape[1])
        q = self.mixer.condition(self.context.token(t), before.hidden)
        # H c + skip v is linear in v, and v = x + (I - Q) (y - x): a gain on that, and what does not depend on it.
        decayed = (delta.unsqueeze(-1) * rates).exp() * before.state
        gain, carried = delta * torch.linalg.vecdot(b, c) + self.skip, torch.linalg.vecdot(decayed, c)
        if self.gate is not None:
            gain, carried = self.gate[:, t] * gain, self.gate[:, t] * carried

        def carry(_: Tensor, hidden: Tensor) -> RecurrentState:
            v = self.mixer.mix(q, x - hidden) + hidden
            return RecurrentState(decayed + (delta * v).unsqueeze(-1) * b, hidden)

        return TokenEquation(self.mixer, q, carried + gain * x, gain, x, self.norm), carry

    def after(self, hidden: Tensor) -> RecurrentState:
        """What the solution ``(B, T, d)`` leaves for the tokens that follow."""
        return RecurrentState(self.advance(hidden)[1], hidden[:, -1]) if hidden.shape[1] else self.before

    def trail_after(self, solution: RecurrentState) -> RecurrentState:
        """What the first iterations leave for the tokens that follow; those that were not needed, the solution."""
        assert self.trail is not None
        assert self.left is not None
        if not self.x.shape[1] or not len(self.trail.state):
            return self.trail
        rest = RecurrentState(*(x.detach() for x in solution))
        left = self.left + [rest] * (len(self.trail.state) - len(self.left))
        return RecurrentState(*(torch.stack(parts) for parts in zip(*left, strict=True)))
