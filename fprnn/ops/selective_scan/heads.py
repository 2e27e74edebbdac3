"""The selective scan for one rate for each head (Mamba-2), as matrix products.

"Transformers are SSMs" (Dao and Gu, ICML 2024), section 6: within a chunk of tokens the recurrence is a masked product
``(L * C B^T) U``, and only the state at the chunk's end goes on to the next; ``L_ts`` is the product of the decays
after token s, up to token t. Runs on any device.
"""

import math

import torch
from torch import Tensor

from fprnn.ops.selective_scan.channels import chunk_slices

CHUNK = 64  # tokens of a chunk, and between two states that are kept


def forward(
    inputs: Tensor, delta: Tensor, rates: Tensor, b: Tensor, c: Tensor, initial: Tensor, record: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Outputs, last state and what the backward pass needs.

    As :func:`fprnn.ops.selective_scan.channels.forward`, but with delta ``(B, T, heads)``, rates ``(heads,)``, and b
    and c ``(B, T, G, N)``.
    """
    outputs = torch.empty_like(inputs, memory_format=torch.contiguous_format)
    chunks = chunk_slices(inputs.shape[1], CHUNK)
    saved = initial.new_empty(initial.shape[0], len(chunks) if record else 0, *initial.shape[1:])
    shape = Heads(inputs, delta, b)
    state = shape.split_state(initial)
    for index, tokens in enumerate(chunks):
        if record:
            saved[:, index] = state.reshape(initial.shape)
        out, state = _Chunk(shape, (inputs, delta, b, c), rates, tokens, initial.dtype).advance(state)
        outputs[:, tokens] = shape.join(out)
    return outputs, state.reshape(initial.shape).clone(), saved


def backward(
    grad: Tensor, grad_final: Tensor, inputs: Tensor, delta: Tensor, rates: Tensor, b: Tensor, c: Tensor, saved: Tensor
) -> tuple[Tensor, ...]:
    """Gradients of :func:`forward`, chunk by chunk from the last to the first, each made again from its first state.

    Takes and returns what :func:`fprnn.ops.selective_scan.channels.backward` does.
    """
    shape, dtype = Heads(inputs, delta, b), saved.dtype
    d_rates, carried = torch.zeros_like(rates, dtype=dtype), shape.split_state(grad_final)
    d_inputs, d_delta, d_b, d_c = (
        torch.empty_like(x, memory_format=torch.contiguous_format) for x in (inputs, delta, b, c)
    )
    for index, tokens in reversed(list(enumerate(chunk_slices(inputs.shape[1], CHUNK)))):
        chunk = _Chunk(shape, (inputs, delta, b, c), rates, tokens, dtype)
        start = shape.split_state(saved[:, index])
        d_v, d_step, d_logs, d_write, d_read, carried = chunk.gradients(
            start, shape.split(grad[:, tokens].to(dtype)), carried
        )
        d_inputs[:, tokens] = shape.join(d_v)
        steps = d_step + shape.split_rates(rates).to(dtype) * d_logs  # a log decay is delta times the rate
        d_delta[:, tokens] = steps.flatten(1, 2).mT
        d_b[:, tokens], d_c[:, tokens] = (x.transpose(1, 2) for x in (d_write, d_read))
        d_rates += (chunk.delta * d_logs).sum((0, -1)).flatten()
    return d_inputs, d_delta, d_rates.to(rates.dtype), d_b, d_c, carried.reshape(grad_final.shape).clone()


class Heads:
    """How channels are split: into G groups that share b and c, of m heads that share a rate, of P channels.

    Args:
        inputs: ``(B, T, d)``.
        delta: ``(B, T, heads)``.
        b: ``(B, T, G, N)``.
    """

    def __init__(self, inputs: Tensor, delta: Tensor, b: Tensor) -> None:
        heads, groups = delta.shape[2], b.shape[2]
        self.sizes = (groups, heads // groups, inputs.shape[2] // heads)

    def split(self, sequence: Tensor) -> Tensor:
        """``(B, L, d)`` to ``(B, G, m, L, P)``."""
        return torch.unflatten(sequence, 2, self.sizes).permute(0, 2, 3, 1, 4)

    def join(self, sequence: Tensor) -> Tensor:
        """The inverse of :meth:`split`."""
        return sequence.permute(0, 3, 1, 2, 4).flatten(2)

    def split_state(self, state: Tensor) -> Tensor:
        """``(B, d, N)`` to ``(B, G, m, P, N)``."""
        return torch.unflatten(state, 1, self.sizes)

    def split_rates(self, rates: Tensor) -> Tensor:
        """``(heads,)`` to ``(G, m, 1)``."""
        return rates.reshape(*self.sizes[:2], 1)


class _Chunk:
    """Some tokens of all sequences, in the state's precision.

    v is ``(B, G, m, L, P)``; delta, and the sums of the log decays so far, ``(B, G, m, L)``; b and c
    ``(B, G, 1, L, N)``.
    """

    def __init__(
        self, shape: Heads, operands: tuple[Tensor, ...], rates: Tensor, tokens: slice, dtype: torch.dtype
    ) -> None:
        v, delta, b, c = (tensor[:, tokens].to(dtype) for tensor in operands)
        self.v, self.delta = shape.split(v), torch.unflatten(delta.mT, 1, shape.sizes[:2])
        self.b, self.c = (vectors.transpose(1, 2).unsqueeze(2) for vectors in (b, c))
        self.sums = (self.delta * shape.split_rates(rates).to(dtype)).cumsum(-1)
        self.written = self.delta.unsqueeze(-1) * self.v

    def decays(self) -> tuple[Tensor, Tensor, Tensor]:
        """From each token to each later one ``(..., L, L)``, from the start to each, from each to the end."""
        between = self.sums.unsqueeze(-1) - self.sums.unsqueeze(-2)
        past = torch.ones(between.shape[-2:], dtype=torch.bool, device=between.device).tril()
        to_end = self.sums[..., -1:] - self.sums
        weights = between.masked_fill(~past, -torch.inf)
        # Zero where products of a decay could be subnormal numbers, whose arithmetic is a hundred times slower.
        least = math.log(torch.finfo(between.dtype).tiny) / 2
        logs = (weights, self.sums.unsqueeze(-1), to_end.unsqueeze(-1))
        to_each, since_start, rest = (log.masked_fill(log < least, -torch.inf).exp() for log in logs)
        return to_each, since_start, rest

    def advance(self, start: Tensor) -> tuple[Tensor, Tensor]:
        """Outputs and last state from the state before the chunk, ``(B, G, m, P, N)``."""
        between, since_start, to_end = self.decays()
        out = (between * (self.c @ self.b.mT)) @ self.written + since_start * (self.c @ start.mT)
        return out, since_start[..., -1:, :] * start + (to_end * self.written).mT @ self.b

    def gradients(self, start: Tensor, grad: Tensor, carried: Tensor) -> tuple[Tensor, ...]:
        """From the gradients of the outputs and of the chunk's last state.

        Returns:
            Those of v; of delta, without what passes through the log decays; of each token's log decay; of b; of c; and
            of the state before the chunk.
        """
        between, since_start, to_end = self.decays()
        scores, written = self.c @ self.b.mT, self.written
        reads, writes = since_start * grad, to_end * written
        d_weights = between * (grad @ written.mT)
        d_scores = d_weights.sum(2)
        d_b = d_scores.mT @ self.c.squeeze(2) + (writes @ carried).sum(2)
        d_c = d_scores @ self.b.squeeze(2) + (reads @ start).sum(2)
        d_written = (between * scores).mT @ grad + to_end * (self.b @ carried.mT)
        d_start = since_start[..., -1:, :] * carried + reads.mT @ self.c
        from_start = torch.linalg.vecdot(reads, self.c @ start.mT)
        past_end = torch.linalg.vecdot(writes, self.b @ carried.mT)
        through = since_start[..., -1, :] * (carried * start).sum((-2, -1)).unsqueeze(-1)
        # Each token's log decay gets all that passes it from a token to a later one. Sums only: a difference of running
        # sums would need no matrix, but loses what is small beside them.
        later = torch.ones(between.shape[-2:], dtype=between.dtype, device=between.device).triu()
        crossing = (later @ (d_weights * scores)).tril(-1).sum(-1) + from_start.flip(-1).cumsum(-1).flip(-1)
        crossing[..., 1:] += past_end[..., :-1].cumsum(-1)
        d_logs = crossing + through
        d_delta = torch.linalg.vecdot(self.v, d_written)
        return self.delta.unsqueeze(-1) * d_written, d_delta, d_logs, d_b, d_c, d_start
