"""What the baselines share: one computation behind ``forward``, ``advance`` and ``step``, and heads that fit the width.

Nothing here is of any paper.
"""

from abc import ABC, abstractmethod
from typing import Generic, TypeVar

from torch import Tensor, nn

from dinopl.core.checks import check_sizes

State = TypeVar("State")


class StreamedLayer(nn.Module, ABC, Generic[State]):
    """A layer from ``(B, T, D)`` to ``(B, T, D)`` that continues from a state."""

    @abstractmethod
    def initial_state(self, batch: int) -> State:
        """The state before the first token of ``batch`` sequences."""

    @abstractmethod
    def advance(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        """Runs over the next tokens ``(B, T, D)``: their outputs and the next state."""

    def forward(self, x: Tensor) -> Tensor:
        """Runs over a sequence from its start, ``(B, T, D)`` to ``(B, T, D)``."""
        return self.advance(x, self.initial_state(len(x)))[0]

    def step(self, x_t: Tensor, state: State) -> tuple[Tensor, State]:
        """Runs over one token, ``(B, D)``: its output ``(B, D)`` and the next state."""
        y, state = self.advance(x_t[:, None], state)
        return y[:, 0], state


def head_width(d_model: int, num_heads: int, head_dim: int | None = None, **sizes: int | None) -> int:
    """The width of each head: ``head_dim``, or an equal share of the model's width.

    Args:
        d_model: number of channels D.
        num_heads: number of heads.
        head_dim: width of a head; None is ``d_model / num_heads``.
        sizes: further options that must be 1 or more, or None.

    Raises:
        ValueError: if an option is below 1, or the heads do not divide D and ``head_dim`` is not given.
    """
    check_sizes(d_model=d_model, num_heads=num_heads, **sizes, head_dim=head_dim)
    if head_dim is None and d_model % num_heads:
        raise ValueError(f"num_heads: {num_heads} does not divide d_model={d_model}; use a divisor, or set head_dim.")
    return head_dim or d_model // num_heads
