"""The LSTM as a sequence layer: the baseline that tracks any state, one token after another.

Hochreiter & Schmidhuber, "Long Short-Term Memory" (Neural Computation, 1997), by way of ``torch.nn.LSTM``.
"""

from torch import Tensor, nn

from dinopl.core.errors import check_sizes
from fprnn.baselines.streamed import StreamedLayer

LSTMState = tuple[Tensor, Tensor]
"""Hidden and cell state, each ``(1, B, hidden_size)``."""


class LSTMLayer(StreamedLayer[LSTMState]):
    """One LSTM from ``(B, T, D)`` to ``(B, T, D)``.

    Args:
        d_model: number of channels D.
        hidden_size: size of the state; None is D. Another size is brought back to D by a linear layer.

    Raises:
        ValueError: if a size is below 1.
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
