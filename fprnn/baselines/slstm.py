"""sLSTM: an LSTM with exponential gates and a normaliser, whose heads do not mix.

"xLSTM: Extended Long Short-Term Memory" (Beck et al., NeurIPS 2024), section 2.2 and appendix A.2. What differs from
the paper's block: no MLP behind the cell; a head's output is normalised by its root mean square; the recurrent weights
start like those of ``torch.nn.LSTM`` and not at zero; forget gates are sigmoids.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dinopl.core.precision import at_least_float32
from fprnn.baselines.streamed import StreamedLayer, head_width
from fprnn.layers.convolution import ShortConvolution, convolved
from fprnn.solvers.newton import normalized

ScalarMemory = tuple[Tensor, Tensor, Tensor, Tensor]
"""Hidden state, cell, normaliser and stabiliser, ``(B, H, K)`` each.

Cell and normaliser are divided by ``exp(stabiliser)``.
"""


def slstm_recurrent(
    gates: Tensor, recurrent: Tensor, initial: ScalarMemory | None = None
) -> tuple[Tensor, ScalarMemory]:
    """The recurrence, one token after the other: there is no other form, since gates read the previous output.

    .. code-block:: text

        z, i, f, o = gates_t + R h_{t-1}       by head
        c_t = sigmoid(f) c_{t-1} + exp(i) tanh(z) ;  n_t = sigmoid(f) n_{t-1} + exp(i) ;  h_t = sigmoid(o) c_t / n_t

    with c and n kept as multiples of ``exp(m_t)``, ``m_t = max(log sigmoid(f) + m_{t-1}, i)``.

    Args:
        gates: the input's part of z, i, f and o, ``(B, T, 4, H, K)``.
        recurrent: R, from a head's output to its own z, i, f and o, ``(H, K, 4, K)``.
        initial: what was remembered before the first token; by default nothing.

    Returns:
        Outputs ``(B, T, H, K)``, and what is remembered after the last token.
    """
    state = nothing_remembered(gates, gates.shape[0], *gates.shape[3:]) if initial is None else initial
    outputs = [state[0][:, None][:, :0]]
    for token in gates.unbind(1):
        state = slstm_step(token, recurrent, state)
        outputs.append(state[0][:, None])
    return torch.cat(outputs, 1), state


def slstm_step(gates: Tensor, recurrent: Tensor, state: ScalarMemory) -> ScalarMemory:
    """One token of ``slstm_recurrent``, gates ``(B, 4, H, K)``."""
    hidden, cell, normalizer, stabilizer = state
    z, enter, forget, out = (gates + torch.einsum("bhk,hkgl->bghl", hidden, recurrent)).unbind(1)
    forget = F.logsigmoid(forget) + stabilizer
    stabilizer = torch.maximum(forget, enter).detach()  # changes no output, so it needs no gradient
    keep, write = (forget - stabilizer).exp(), (enter - stabilizer).exp()
    cell, normalizer = keep * cell + write * z.tanh(), keep * normalizer + write
    return out.sigmoid() * cell / normalizer, cell, normalizer, stabilizer


def nothing_remembered(like: Tensor, batch: int, heads: int, width: int) -> ScalarMemory:
    """An empty memory, in the dtype and on the device of ``like``.

    The stabilizer is that of an input gate that was never open, so that the first token's is the largest.
    """
    zeros = like.new_zeros(batch, heads, width)
    return zeros, zeros, zeros, torch.full_like(zeros, -torch.inf)


SLSTMCache = tuple[ScalarMemory, Tensor | None]
"""What decoding keeps: the cell's memory, and the convolution's last inputs ``(B, W - 1, D)``, None without it."""


class SLSTMLayer(StreamedLayer[SLSTMCache]):
    """sLSTM from ``(B, T, D)`` to ``(B, T, D)``, in several heads.

    ``out = W_out RMSNorm(h)``, where input and forget gates read the convolution of x, and z and o read x. The
    recurrence is float32 or better.

    Args:
        d_model: number of channels D, those of all heads together.
        num_heads: heads; each sees its own previous output alone.
        conv_width: tokens that the short convolution in front of input and forget gate sees, 4 in the paper; None is
            no convolution.

    Raises:
        ValueError: if an option is below 1, or the heads do not divide D.
    """

    def __init__(self, d_model: int, num_heads: int = 4, conv_width: int | None = None) -> None:
        super().__init__()
        if num_heads > 0 and d_model % num_heads:
            raise ValueError(f"num_heads: {num_heads} does not divide d_model={d_model}; use a divisor.")
        width = head_width(d_model, num_heads, conv_width=conv_width)
        self.num_heads, self.head_dim = num_heads, width
        self.conv = None if conv_width is None else ShortConvolution(d_model, conv_width)
        self.cell_proj = nn.Linear(d_model, 2 * d_model)  # z and o
        self.gate_proj = nn.Linear(d_model, 2 * d_model)  # i and f
        self.recurrent = nn.Parameter(torch.empty(num_heads, width, 4, width))
        self.head_norm = nn.RMSNorm(width, eps=1e-5)
        self.out_proj = nn.Linear(d_model, d_model, bias=False)
        nn.init.uniform_(self.recurrent, -1 / math.sqrt(width), 1 / math.sqrt(width))

    def initial_state(self, batch: int) -> SLSTMCache:
        """Nothing remembered, for ``batch`` sequences."""
        memory = nothing_remembered(at_least_float32(self.recurrent), batch, self.num_heads, self.head_dim)
        return memory, None if self.conv is None else self.conv.no_tokens(batch)

    def advance(self, x: Tensor, state: SLSTMCache) -> tuple[Tensor, SLSTMCache]:
        """Runs over the next tokens ``(B, T, D)``: their outputs and the next state."""
        u, inputs = convolved(self.conv, x, state[1])
        with torch.autocast(x.device.type, enabled=False):
            sizes = (*x.shape[:2], 2, self.num_heads, self.head_dim)
            cell, gates = (
                F.linear(at_least_float32(part), at_least_float32(proj.weight), at_least_float32(proj.bias)).reshape(
                    sizes
                )
                for part, proj in ((x, self.cell_proj), (u, self.gate_proj))
            )
            ordered = torch.cat([cell[:, :, :1], gates, cell[:, :, 1:]], 2)
            h, memory = slstm_recurrent(ordered, at_least_float32(self.recurrent), state[0])
            h = normalized(self.head_norm, h).flatten(-2)
        return self.out_proj(h.to(x.dtype)), (memory, inputs)
