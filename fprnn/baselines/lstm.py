"""The LSTM as a sequence layer: the baseline that tracks any state, one token after another.

Hochreiter & Schmidhuber, "Long Short-Term Memory" (Neural Computation, 1997), by way of ``torch.nn.LSTM``.
"""

from torch import Tensor, nn

LSTMState = tuple[Tensor, Tensor]
"""Hidden and cell state, each ``(1, B, hidden_size)``."""


class LSTMLayer(nn.Module):
    """One LSTM from ``(B, T, D)`` to ``(B, T, D)``.

    Args:
        d_model: number of channels D.
        hidden_size: size of the state; by default D. Another size is brought back to D by a linear layer.

    Raises:
        ValueError: if the state has no size.
    """

    def __init__(self, d_model: int, hidden_size: int | None = None) -> None:
        super().__init__()
        if hidden_size is not None and hidden_size < 1:
            raise ValueError(f"hidden_size: {hidden_size} is no size of a state; use 1 or more.")
        hidden = hidden_size or d_model
        self.d_model = d_model
        self.lstm = nn.LSTM(d_model, hidden, batch_first=True)
        self.out_proj = nn.Identity() if hidden == d_model else nn.Linear(hidden, d_model, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Runs over a sequence from the zero state, ``(B, T, D)`` to ``(B, T, D)``."""
        return self._run(x, self.initial_state(len(x)))[0]

    def advance(self, x: Tensor, state: LSTMState) -> tuple[Tensor, LSTMState]:
        """Runs over the next tokens ``(B, T, D)``: their outputs and the next state."""
        return self._run(x, state)

    def step(self, x_t: Tensor, state: LSTMState) -> tuple[Tensor, LSTMState]:
        """Runs over one token, ``(B, D)``: its output ``(B, D)`` and the next state."""
        y, state = self._run(x_t[:, None], state)
        return y[:, 0], state

    def initial_state(self, batch: int) -> LSTMState:
        """The zero state of ``batch`` sequences."""
        zeros = next(self.lstm.parameters()).new_zeros(1, batch, self.lstm.hidden_size)
        return zeros, zeros.clone()

    def _run(self, x: Tensor, state: LSTMState) -> tuple[Tensor, LSTMState]:
        if x.numel() == 0:  # torch's LSTM refuses sequences without tokens
            return x.clone(), state
        y, state = self.lstm(x, state)
        return self.out_proj(y), state
