"""mLSTM: a matrix memory with exponential gates, in parallel over a chunk of tokens.

"xLSTM: Extended Long Short-Term Memory" (Beck et al., NeurIPS 2024), section 2.3 and, for the stabilised parallel form,
appendix A.3. What differs from the paper's block: the cell stands alone, without up-projection and skip connection; a
head's output is normalised (RMS) before its gate, as in the later xLSTM 7B; forget gates are sigmoids.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dinopl.core.precision import at_least_float32
from fprnn.baselines.streamed import StreamedLayer, head_width
from fprnn.layers.convolution import ShortConvolution, convolved
from fprnn.solvers.newton import normalized


class MatrixMemory(NamedTuple):
    """What an mLSTM remembers, divided by ``exp(stabilizer)`` so that no gate overflows.

    Attributes:
        memory: ``(B, H, K, V)``.
        normalizer: ``(B, H, K)``.
        stabilizer: ``(B, H)``. Another one changes no output but for rounding.
    """

    memory: Tensor
    normalizer: Tensor
    stabilizer: Tensor


def mlstm_recurrent(
    queries: Tensor,
    keys: Tensor,
    values: Tensor,
    input_gates: Tensor,
    forget_gates: Tensor,
    initial: MatrixMemory | None = None,
) -> tuple[Tensor, MatrixMemory]:
    """The recurrence as it is written, one token after the other: the reference.

    .. code-block:: text

        C_t = f_t C_{t-1} + i_t k_t v_t^T ;  n_t = f_t n_{t-1} + i_t k_t
        h_t = C_t^T q_t / max(|n_t^T q_t|, 1)

    with ``C`` and ``n`` kept as multiples of ``exp(m_t)``, ``m_t = max(log f_t + m_{t-1}, log i_t)``.

    Args:
        queries: ``(B, T, H, K)``.
        keys: ``(B, T, H, K)``.
        values: ``(B, T, H, V)``.
        input_gates: ``log i``, any numbers, ``(B, T, H)``.
        forget_gates: ``log f``, ``(B, T, H)``.
        initial: what was remembered before the first token; by default nothing.

    Returns:
        Outputs ``(B, T, H, V)``, and what is remembered after the last token.
    """
    state = _start(keys, values, initial)
    outputs = [values[:, :0]]
    parts = (queries, keys, values, input_gates, forget_gates)
    for q, k, v, enter, forget in zip(*(x.unbind(1) for x in parts), strict=True):
        memory, normalizer, before = state
        stabilizer = torch.maximum(forget + before, enter)
        keep, write = (forget + before - stabilizer).exp()[..., None], (enter - stabilizer).exp()[..., None]
        normalizer = keep * normalizer + write * k
        memory = keep[..., None] * memory + (write * k)[..., None] * v[..., None, :]
        state = MatrixMemory(memory, normalizer, stabilizer)
        total = (q * normalizer).sum(-1)
        outputs.append((torch.einsum("bhk,bhkv->bhv", q, memory) / _size(total, stabilizer)[..., None])[:, None])
    return torch.cat(outputs, 1), state


def mlstm_chunked(
    queries: Tensor,
    keys: Tensor,
    values: Tensor,
    input_gates: Tensor,
    forget_gates: Tensor,
    initial: MatrixMemory | None = None,
    chunk_size: int = 64,
) -> tuple[Tensor, MatrixMemory]:
    """The same as ``mlstm_recurrent``, a chunk of tokens at a time; one chunk is the paper's parallel form.

    With ``b_t`` the sum of a chunk's ``log f`` up to token t, token t weighs token j of its chunk by
    ``exp(b_t - b_j + log i_j)`` and what came before the chunk by ``exp(b_t)``.

    ``chunk_size`` is in tokens; the result does not depend on it but for rounding.
    """
    state = _start(keys, values, initial)
    outputs = [values[:, :0].transpose(1, 2)]
    q, k, v, enter, forget = (x.transpose(1, 2) for x in (queries, keys, values, input_gates, forget_gates))
    for start in range(0, q.shape[2], chunk_size):
        now = slice(start, start + chunk_size)
        q_now, k_now, v_now = q[:, :, now], k[:, :, now], v[:, :, now]
        memory, normalizer, before = state
        logits = log_decays(forget[..., now]) + enter[..., None, now]
        carried = forget[..., now].cumsum(-1) + before[..., None]
        # What all weights of a token are divided by changes nothing, so it needs no gradient.
        stabilizer = torch.maximum(carried, logits.amax(-1)).detach()
        weights, carried = (logits - stabilizer[..., None]).exp(), (carried - stabilizer).exp()
        scores = (q_now @ k_now.mT) * weights
        read = scores @ v_now + carried[..., None] * (q_now @ memory)
        total = scores.sum(-1) + carried * (q_now @ normalizer[..., None]).squeeze(-1)
        outputs.append(read / _size(total, stabilizer)[..., None])
        # The chunk's last row of weights is what its tokens leave for the next.
        keep, written = carried[..., -1:], weights[..., -1, :, None] * k_now
        memory = keep[..., None] * memory + written.mT @ v_now
        state = MatrixMemory(memory, keep * normalizer + written.sum(-2), stabilizer[..., -1])
    return torch.cat(outputs, 2).transpose(1, 2), state


def log_decays(forget: Tensor) -> Tensor:
    """``log f`` summed from behind each token j up to token t, ``(..., T)`` to ``(..., t, j)``; ``-inf`` for j after t.

    Summed for each j by itself: the difference of two sums from the beginning would lose the digits that count.
    """
    length = forget.shape[-1]
    ones = torch.ones(length, length, dtype=torch.bool, device=forget.device)
    sums = forget[..., None].expand(*forget.shape, length).masked_fill(~ones.tril(-1), 0).cumsum(-2)
    return sums.masked_fill(ones.triu(1), -torch.inf)


def _size(total: Tensor, stabilizer: Tensor) -> Tensor:
    """What an output is divided by: ``max(|n^T q|, 1)``, in units of ``exp(stabilizer)``."""
    return torch.maximum(total.abs(), (-stabilizer).exp())


def _start(keys: Tensor, values: Tensor, initial: MatrixMemory | None) -> MatrixMemory:
    batch, _, heads, width = keys.shape
    return empty_memory(values, batch, heads, width, values.shape[-1]) if initial is None else initial


def empty_memory(like: Tensor, batch: int, heads: int, key_width: int, value_width: int) -> MatrixMemory:
    """Nothing remembered, in the dtype and on the device of ``like``."""
    sizes = ((key_width, value_width), (key_width,), ())
    return MatrixMemory(*(like.new_zeros(batch, heads, *size) for size in sizes))


MLSTMCache = tuple[MatrixMemory, Tensor | None]
"""What decoding keeps: the cell's memory, and the convolution's last inputs ``(B, W - 1, D)``, None without it."""


class MLSTMLayer(StreamedLayer[MLSTMCache]):
    """mLSTM from ``(B, T, D)`` to ``(B, T, D)``, in several heads.

    .. code-block:: text

        u = conv(x) ;  q, k = W_q u, W_k u / sqrt(K) ;  v = W_v x ;  log i, logit f = W_g u + b_g
        out = W_out (sigmoid(W_o x) * RMSNorm(h)),  h of the recurrence in mlstm_recurrent

    Gates and memory are float32 or better. At the start gates do not depend on the input: heads forget at
    ``sigmoid(3 .. 6)``.

    Args:
        d_model: number of channels D.
        num_heads: heads, each with a memory of its own.
        head_dim: width of a head's keys and values; None is D / num_heads.
        conv_width: tokens that the short convolution in front of queries, keys and gates sees, 4 in the paper; None is
            no convolution.
        chunk_size: tokens computed at a time; None runs the recurrence token by token.

    Raises:
        ValueError: if an option is below 1, or the heads do not divide D and ``head_dim`` is not given.
    """

    def __init__(
        self,
        d_model: int,
        num_heads: int = 4,
        head_dim: int | None = None,
        conv_width: int | None = None,
        chunk_size: int | None = 64,
    ) -> None:
        super().__init__()
        width = head_width(d_model, num_heads, head_dim, conv_width=conv_width, chunk_size=chunk_size)
        self.num_heads, self.head_dim, self.chunk_size = num_heads, width, chunk_size
        self.conv = None if conv_width is None else ShortConvolution(d_model, conv_width)
        self.query_key_proj = nn.Linear(d_model, 2 * num_heads * width, bias=False)
        self.value_proj = nn.Linear(d_model, num_heads * width, bias=False)
        self.output_gate = nn.Linear(d_model, num_heads * width, bias=False)
        self.gates = nn.Linear(d_model, 2 * num_heads)
        self.head_norm = nn.RMSNorm(width, eps=1e-5)
        self.out_proj = nn.Linear(num_heads * width, d_model, bias=False)
        nn.init.zeros_(self.gates.weight)
        with torch.no_grad():
            nn.init.normal_(self.gates.bias[:num_heads], std=0.1)
            self.gates.bias[num_heads:] = torch.linspace(3, 6, num_heads)

    def initial_state(self, batch: int) -> MLSTMCache:
        """Nothing remembered, for ``batch`` sequences."""
        memory = empty_memory(at_least_float32(self.gates.weight), batch, self.num_heads, self.head_dim, self.head_dim)
        return memory, None if self.conv is None else self.conv.no_tokens(batch)

    def advance(self, x: Tensor, state: MLSTMCache) -> tuple[Tensor, MLSTMCache]:
        """Runs over the next tokens ``(B, T, D)``: their outputs and the next state."""
        u, inputs = convolved(self.conv, x, state[1])
        query_key, values, out = self.query_key_proj(u), self.value_proj(x), self.output_gate(x)
        with torch.autocast(x.device.type, enabled=False):
            sizes = (*x.shape[:2], self.num_heads, self.head_dim)
            q, k, v = (at_least_float32(part).reshape(sizes) for part in (*query_key.chunk(2, -1), values))
            enter, forget = F.linear(
                at_least_float32(u), at_least_float32(self.gates.weight), at_least_float32(self.gates.bias)
            ).chunk(2, -1)
            parts = (q, k / math.sqrt(self.head_dim), v, enter, F.logsigmoid(forget), state[0])
            if self.chunk_size is None:
                h, memory = mlstm_recurrent(*parts)
            else:
                h, memory = mlstm_chunked(*parts, self.chunk_size)
            h = normalized(self.head_norm, h).flatten(-2)
        return self.out_proj(out.sigmoid() * h.to(out.dtype)), (memory, inputs)
