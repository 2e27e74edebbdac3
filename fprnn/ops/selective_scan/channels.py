"""The selective scan for a rate of each channel and state (Mamba), in plain PyTorch operations, shaped for the CPU.

Decays and states are made for a few sequences and tokens at a time, as many as a processor's cache holds, scanned in
place, contracted and forgotten. What stays for the gradient is the state at every ``CHUNK``-th token, from which the
backward pass makes the others again. Within a tile the states stand before the channels, so that the innermost loops
are long.
"""

from itertools import pairwise

import torch
from torch import Tensor

CHUNK = 16  # tokens of a tile, and between two states that are kept
TILE_ELEMENTS = 2**18  # one megabyte in float32


def forward(
    inputs: Tensor, delta: Tensor, rates: Tensor, b: Tensor, c: Tensor, initial: Tensor, record: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Outputs, last state and what the backward pass needs.

    Args:
        inputs: ``(B, T, d)``.
        delta: ``(B, T, d)``.
        rates: ``(d, N)``.
        b: ``(B, T, 1, N)``.
        c: ``(B, T, 1, N)``.
        initial: ``(B, d, N)``, in the state's precision.
        record: whether a backward pass will follow.

    Returns:
        Outputs ``(B, T, d)`` in the inputs' dtype, the last state ``(B, d, N)``, and the states before every
        ``CHUNK``-th token, ``(B, ceil(T / CHUNK), d, N)``, none of them without ``record``.
    """
    outputs, final = torch.empty_like(inputs, memory_format=torch.contiguous_format), torch.empty_like(initial)
    chunks = len(chunk_slices(inputs.shape[1], CHUNK)) if record else 0
    saved = initial.new_empty(initial.shape[0], chunks, *initial.shape[1:])
    operands, slope = (inputs, delta, b, c), _slope(rates, initial)
    for rows in _row_slices(initial):
        state = initial[rows].mT
        for index, tokens in enumerate(chunk_slices(inputs.shape[1], CHUNK)):
            if record:
                saved[rows, index] = state.mT
            tile = _Tile(operands, slope, rows, tokens)
            states = tile.states(state)
            outputs[rows, tokens] = (tile.c.unsqueeze(2) @ states).squeeze(2)
            state = states[:, -1]
        final[rows] = state.mT
    return outputs, final, saved


def backward(
    grad: Tensor, grad_final: Tensor, inputs: Tensor, delta: Tensor, rates: Tensor, b: Tensor, c: Tensor, saved: Tensor
) -> tuple[Tensor, ...]:
    """Gradients of :func:`forward`: a scan from the last token to the first, over states made again tile by tile.

    From ``grad`` with respect to the outputs, in their shape, ``grad_final`` with respect to the last state, and what
    :func:`forward` took and kept. Returns the gradients of inputs, delta, rates, b, c and the initial state, each in
    its own shape and dtype.
    """
    slope, d_initial = _slope(rates, saved), torch.empty_like(grad_final)
    d_slope = torch.zeros_like(slope)
    d_inputs, d_delta, d_b, d_c = (
        torch.empty_like(x, memory_format=torch.contiguous_format) for x in (inputs, delta, b, c)
    )
    for rows in _row_slices(grad_final):
        carried = grad_final[rows].mT
        for index, tokens in reversed(list(enumerate(chunk_slices(inputs.shape[1], CHUNK)))):
            tile = _Tile((inputs, delta, b, c), slope, rows, tokens)
            d_v, d_step, d_rate, d_write, d_read, carried = tile.gradients(
                saved[rows, index].mT, grad[rows, tokens].to(slope.dtype), carried, slope
            )
            d_inputs[rows, tokens], d_delta[rows, tokens] = d_v, d_step
            d_b[rows, tokens, 0], d_c[rows, tokens, 0] = d_write, d_read
            d_slope += d_rate
        d_initial[rows] = carried.mT
    return d_inputs, d_delta, d_slope.mT.to(rates.dtype).contiguous(), d_b, d_c, d_initial


def chunk_slices(length: int, size: int) -> list[slice]:
    """Slices that cut ``length`` tokens into chunks of ``size``; the last may be shorter."""
    return [slice(begin, min(begin + size, length)) for begin in range(0, length, size)]


def _row_slices(state: Tensor) -> list[slice]:
    """So many sequences at a time that a tile fits the cache; at least one."""
    elements = max(CHUNK * state.shape[1] * state.shape[2], 1)
    return chunk_slices(state.shape[0], max(TILE_ELEMENTS // elements, 1))


def _slope(rates: Tensor, like: Tensor) -> Tensor:
    return rates.to(like.dtype).mT.contiguous()


class _Tile:
    """Some tokens of some sequences, in the state's precision: v, delta ``(B, L, d)``, b, c ``(B, L, N)``, decays."""

    def __init__(self, operands: tuple[Tensor, ...], slope: Tensor, rows: slice, tokens: slice) -> None:
        self.v, self.delta, b, c = (tensor[rows, tokens].to(slope.dtype) for tensor in operands)
        self.b, self.c = b.squeeze(2), c.squeeze(2)
        self.decay = (self.delta.unsqueeze(2) * slope).exp_()  # (B, L, N, d)

    def states(self, start: Tensor) -> Tensor:
        """All of them, ``(B, L, N, d)``, from the one before the tile, ``(B, N, d)``."""
        states = (self.delta * self.v).unsqueeze(2) * self.b.unsqueeze(3)
        state = start
        for x, decay in zip(states.unbind(1), self.decay.unbind(1), strict=True):
            state = torch.addcmul(x, decay, state, out=x)
        return states

    def adjoints(self, grad: Tensor, carried: Tensor) -> Tensor:
        """The gradients of all states, ``(B, L, N, d)``, where ``carried`` is the last one's by the next tile."""
        adjoints = grad.unsqueeze(2) * self.c.unsqueeze(3)
        adjoints[:, -1] += carried
        pairs = pairwise(adjoints.unbind(1)[::-1])  # a token and the one before it, from the last to the first
        for (later, sooner), decay in zip(pairs, reversed(self.decay.unbind(1)), strict=False):
            torch.addcmul(sooner, decay, later, out=sooner)
        return adjoints

    def gradients(self, start: Tensor, grad: Tensor, carried: Tensor, slope: Tensor) -> tuple[Tensor, ...]:
        """Those of v, delta, the slope, b, c and the state before, from the outputs' ``(B, L, d)``."""
        states, adjoints = self.states(start), self.adjoints(grad, carried)
        written = self.delta * self.v
        d_c = torch.linalg.vecdot(states, grad.unsqueeze(2))
        d_b = torch.linalg.vecdot(adjoints, written.unsqueeze(2))
        d_written = (self.b.unsqueeze(2) @ adjoints).squeeze(2)
        adjoints *= self.decay
        d_start = adjoints[:, 0].clone()
        adjoints[:, 0] *= start  # from here on, the gradients of the decays' logarithms
        adjoints[:, 1:] *= states[:, :-1]
        d_delta = self.v * d_written + (adjoints * slope).sum(2)
        d_slope = (adjoints * self.delta.unsqueeze(2)).sum((0, 1))
        return self.delta * d_written, d_delta, d_slope, d_b, d_c, d_start
