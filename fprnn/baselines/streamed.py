"""What the baselines share: one computation behind ``forward``, ``advance`` and ``step``; and layers of other packages.

Of torch the LSTM; of any other package, whatever :class:`ForeignLayer` wraps.
"""

from abc import ABC, abstractmethod
from typing import Generic, Protocol, TypeVar

from torch import Tensor, nn

from dinopl.core.errors import check_sizes

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


LSTMState = tuple[Tensor, Tensor]
"""Hidden and cell state, each ``(1, B, hidden_size)``."""


class LSTMLayer(StreamedLayer[LSTMState]):
    """PyTorch's LSTM from ``(B, T, D)`` to ``(B, T, D)``: it tracks any state, one token after another.

    Hochreiter & Schmidhuber, "Long Short-Term Memory" (Neural Computation, 1997).

    Args:
        d_model: number of channels D.
        hidden_size: size of the state; None is D. Another size is brought back to D by a linear layer.
    """

    def __init__(self, d_model: int, hidden_size: int | None = None) -> None:
        super().__init__()
        check_sizes(d_model=d_model, hidden_size=hidden_size)
        hidden = hidden_size or d_model
        self.d_model = d_model
        self.lstm = nn.LSTM(d_model, hidden, batch_first=True)
        self.out_proj = nn.Identity() if hidden == d_model else nn.Linear(hidden, d_model, bias=False)

    def initial_state(self, batch: int) -> LSTMState:
        """The zero state of ``batch`` sequences."""
        zeros = next(self.lstm.parameters()).new_zeros(1, batch, self.lstm.hidden_size)
        return zeros, zeros.clone()

    def advance(self, x: Tensor, state: LSTMState) -> tuple[Tensor, LSTMState]:
        """Runs over the next tokens ``(B, T, D)``: their outputs and the next state."""
        if x.numel() == 0:  # torch's LSTM refuses sequences without tokens
            return x.clone(), state
        y, state = self.lstm(x, state)
        return self.out_proj(y), state


class HiddenSizeFactory(Protocol):
    """Makes a module for a width, which it calls ``hidden_size``."""

    def __call__(self, *, hidden_size: int) -> nn.Module:
        """A module from ``(B, T, hidden_size)`` to the same."""


class ForeignLayer(nn.Module):
    """A layer of another package whose width is called ``hidden_size`` or that returns more than its output.

    A module from ``(B, T, D)`` to ``(B, T, D)`` whose first argument is the width, such as those of mamba-ssm, is a
    layer as it is, by its class path: ``layer: {class_path: mamba_ssm.Mamba, init_args: {d_state: 16}}``. The layers of
    flash-linear-attention take ``hidden_size``, not as their first argument, and return a tuple; they go through this
    one: ``layer: {class_path: ForeignLayer, init_args: {layer: {class_path: fla.layers.GatedDeltaNet, init_args:
    {num_heads: 4}}}}``. So do a user's own. The package must be installed, and on a GPU where its kernels need one.
    Such a layer trains and is evaluated; it does not decode token by token, since each package keeps its own cache.

    Args:
        d_model: number of channels D.
        layer: makes the module for a ``hidden_size``, such as ``fla.layers.GatedDeltaNet``.

    Raises:
        ValueError: if the module's output, at the first call, is not of the input's shape.
    """

    def __init__(self, d_model: int, layer: HiddenSizeFactory) -> None:
        super().__init__()
        self.layer = layer(hidden_size=d_model)

    def forward(self, x: Tensor) -> Tensor:
        """``(B, T, D)`` to the same: the module's output, or the first part of it."""
        output = self.layer(x)
        y = output[0] if isinstance(output, tuple | list) else output
        if not isinstance(y, Tensor) or y.shape != x.shape:
            given = tuple(y.shape) if isinstance(y, Tensor) else type(y).__name__
            name = type(self.layer).__name__
            raise ValueError(f"layer={name}: makes {given} of {tuple(x.shape)}; use one that keeps the shape")
        return y
