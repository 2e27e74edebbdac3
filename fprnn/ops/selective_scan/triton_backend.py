"""The selective scan for a rate of each channel and state as Triton kernels. Imported only where Triton is to be used.

One program walks through a block of channels of one sequence, tile by tile along time. Of a tile it loads what its
channels and the sequence's tokens have, makes decays and states in registers, scans them in parallel, contracts, and
carries the last state on; the state at the start of each tile is kept for the backward pass, which makes the others
again from it. Gradients of b and c, to which all channels add, are summed over programs outside: no atomic operations,
hence the same bits every time.
"""

# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-decorators
# (kernels are compiled by Triton, which reads annotations its own way)

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

CHUNK = 16  # tokens of a tile, and between two states that are kept
TILE_ELEMENTS = 4096  # of a tile's states: at N = 16, kernels for sm_90 take 69 and 170 registers and spill none
MIN_CHANNELS, MAX_CHANNELS = 8, 64  # of a program; few would leave large sums over programs


def forward(
    inputs: Tensor, delta: Tensor, rates: Tensor, b: Tensor, c: Tensor, initial: Tensor, record: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Outputs, last state and kept states; arguments and results as of ``selective_channels.forward``."""
    outputs, final = torch.empty_like(inputs, memory_format=torch.contiguous_format), torch.empty_like(initial)
    tiles = triton.cdiv(inputs.shape[1], CHUNK)
    saved = initial.new_empty(initial.shape[0], tiles if record else 0, *initial.shape[1:])
    tensors = [rates.to(initial.dtype).contiguous(), initial.contiguous(), outputs, final, saved]
    if initial.numel():
        _launch(_forward_kernel, [inputs, delta, b, c], tensors, initial.shape[2], RECORD=record)
    return outputs, final, saved


def backward(
    grad: Tensor, grad_final: Tensor, inputs: Tensor, delta: Tensor, rates: Tensor, b: Tensor, c: Tensor, saved: Tensor
) -> tuple[Tensor, ...]:
    """Gradients; arguments and results as of ``selective_channels.backward``."""
    batch, length, channels = inputs.shape
    states, dtype = rates.shape[1], saved.dtype
    d_inputs, d_delta = (torch.empty_like(x, memory_format=torch.contiguous_format) for x in (inputs, delta))
    d_rates, d_initial = (torch.empty_like(grad_final, memory_format=torch.contiguous_format) for _ in range(2))
    blocks = triton.cdiv(channels, _block(states, channels))
    d_b, d_c = (saved.new_empty(blocks, batch, length, states) for _ in range(2))
    tensors = [
        rates.to(dtype).contiguous(),
        saved,
        grad_final.contiguous(),
        d_inputs,
        d_delta,
        d_rates,
        d_b,
        d_c,
        d_initial,
    ]
    if grad_final.numel():
        _launch(_backward_kernel, [grad, inputs, delta, b, c], tensors, states)
    summed = (partial.sum(0).unsqueeze(2).to(x.dtype) for partial, x in ((d_b, b), (d_c, c)))
    return d_inputs, d_delta, d_rates.sum(0).to(rates.dtype), *summed, d_initial


def _block(states: int, channels: int) -> int:
    """Channels of a program."""
    room = TILE_ELEMENTS // (CHUNK * triton.next_power_of_2(states))
    return min(max(room, MIN_CHANNELS), MAX_CHANNELS, triton.next_power_of_2(channels))


def _launch(kernel: Any, sequences: list[Tensor], tensors: list[Tensor], states: int, **options: bool) -> None:
    """One program for each block of channels of each sequence.

    Args:
        kernel: to launch.
        sequences: ``(B, T, ...)``, of any strides; the first has the channels.
        tensors: contiguous.
        states: N.
        options: of the kernel.
    """
    batch, length, channels = sequences[0].shape
    block = _block(states, channels)
    strides = [stride for tensor in sequences for stride in (*tensor.stride()[:2], tensor.stride(-1))]
    sizes = {"TILE_LENGTH": CHUNK, "TILE_CHANNELS": block, "TILE_STATES": triton.next_power_of_2(states)}
    grid = (triton.cdiv(channels, block), batch)
    with torch.cuda.device_of(sequences[0]):  # type: ignore[no-untyped-call]
        kernel[grid](*sequences, *tensors, length, channels, states, *strides, **sizes, **options, num_warps=8)


@triton.jit
def _combine(decay, state, next_decay, next_state):
    """Two neighbouring stretches of the recurrence as one."""
    return decay * next_decay, next_decay * state + next_state


@triton.jit
def _load(ptr, token, time, lane, width, mask, like):
    """A tile ``(tokens, lanes)`` in the dtype of ``like``."""
    place = token.to(tl.int64)[:, None] * time + lane.to(tl.int64)[None, :] * width
    return tl.load(ptr + place, mask=mask, other=0.0).to(like.dtype)


@triton.jit
def _row(tile, row, wanted):
    """One token of a tile ``(tokens, channels, states)``."""
    return tl.sum(tl.where(row[:, None, None] == wanted, tile, 0.0), 0)


@triton.jit
def _forward_kernel(
    v_ptr, delta_ptr, b_ptr, c_ptr, rates_ptr, start_ptr, out_ptr, final_ptr, saved_ptr, length, channels, states,
    v_batch, v_time, v_lane, delta_batch, delta_time, delta_lane, b_batch, b_time, b_lane, c_batch, c_time, c_lane,
    TILE_LENGTH: tl.constexpr, TILE_CHANNELS: tl.constexpr, TILE_STATES: tl.constexpr, RECORD: tl.constexpr,
):  # fmt: skip
    """``H_t = exp(delta_t rates) H_{t-1} + delta_t v_t b_t`` and ``out_t = H_t c_t``."""
    batch = tl.program_id(1).to(tl.int64)
    channel, n = tl.program_id(0) * TILE_CHANNELS + tl.arange(0, TILE_CHANNELS), tl.arange(0, TILE_STATES)
    pair = (channel < channels)[:, None] & (n < states)[None, :]
    place = channel.to(tl.int64)[:, None] * states + n[None, :]
    rates = tl.load(rates_ptr + place, mask=pair, other=0.0)
    state = tl.load(start_ptr + batch * channels * states + place, mask=pair, other=0.0)
    row = tl.arange(0, TILE_LENGTH)
    for begin in range(0, length, TILE_LENGTH):
        token = begin + row
        if RECORD:
            tile = batch * tl.cdiv(length, TILE_LENGTH) + begin // TILE_LENGTH
            tl.store(saved_ptr + tile * channels * states + place, state, pair)
        wide = (token < length)[:, None] & (channel < channels)[None, :]
        narrow = (token < length)[:, None] & (n < states)[None, :]
        v = _load(v_ptr + batch * v_batch, token, v_time, channel, v_lane, wide, state)
        delta = _load(delta_ptr + batch * delta_batch, token, delta_time, channel, delta_lane, wide, state)
        b = _load(b_ptr + batch * b_batch, token, b_time, n, b_lane, narrow, state)
        c = _load(c_ptr + batch * c_batch, token, c_time, n, c_lane, narrow, state)
        # Behind the last token delta is 0: nothing decays and nothing is written, so the last row is the last state.
        decay = tl.exp(delta[:, :, None] * rates[None, :, :])
        h = (delta * v)[:, :, None] * b[:, None, :]
        h = tl.where(row[:, None, None] == 0, decay * state[None, :, :] + h, h)
        _, h = tl.associative_scan((decay, h), 0, _combine)
        out = tl.sum(h * c[:, None, :], 2)
        out_place = (batch * length + token)[:, None] * channels + channel[None, :]
        tl.store(out_ptr + out_place, out.to(out_ptr.dtype.element_ty), wide)
        state = _row(h, row, TILE_LENGTH - 1)
    tl.store(final_ptr + batch * channels * states + place, state, pair)


@triton.jit
def _backward_kernel(
    g_ptr, v_ptr, delta_ptr, b_ptr, c_ptr, rates_ptr, saved_ptr, end_ptr, dv_ptr, ddelta_ptr, drates_ptr, db_ptr,
    dc_ptr, dstart_ptr, length, channels, states, g_batch, g_time, g_lane, v_batch, v_time, v_lane,
    delta_batch, delta_time, delta_lane, b_batch, b_time, b_lane, c_batch, c_time, c_lane,
    TILE_LENGTH: tl.constexpr, TILE_CHANNELS: tl.constexpr, TILE_STATES: tl.constexpr,
):  # fmt: skip
    """With G the states' gradients, ``G_t = g_t c_t + exp(delta_{t+1} rates) G_{t+1}``; others are products of it."""
    block, batch = tl.program_id(0).to(tl.int64), tl.program_id(1).to(tl.int64)
    channel, n = tl.program_id(0) * TILE_CHANNELS + tl.arange(0, TILE_CHANNELS), tl.arange(0, TILE_STATES)
    pair = (channel < channels)[:, None] & (n < states)[None, :]
    place = channel.to(tl.int64)[:, None] * states + n[None, :]
    rates = tl.load(rates_ptr + place, mask=pair, other=0.0)
    later = tl.load(end_ptr + batch * channels * states + place, mask=pair, other=0.0)
    drates = tl.zeros_like(rates)
    row = tl.arange(0, TILE_LENGTH)
    tiles = tl.cdiv(length, TILE_LENGTH)
    for back in range(tiles):
        tile = tiles - 1 - back
        token = tile * TILE_LENGTH + row
        wide = (token < length)[:, None] & (channel < channels)[None, :]
        narrow = (token < length)[:, None] & (n < states)[None, :]
        state = tl.load(saved_ptr + (batch * tiles + tile) * channels * states + place, mask=pair, other=0.0)
        g = _load(g_ptr + batch * g_batch, token, g_time, channel, g_lane, wide, state)
        v = _load(v_ptr + batch * v_batch, token, v_time, channel, v_lane, wide, state)
        delta = _load(delta_ptr + batch * delta_batch, token, delta_time, channel, delta_lane, wide, state)
        b = _load(b_ptr + batch * b_batch, token, b_time, n, b_lane, narrow, state)
        c = _load(c_ptr + batch * c_batch, token, c_time, n, c_lane, narrow, state)
        decay = tl.exp(delta[:, :, None] * rates[None, :, :])
        write = (delta * v)[:, :, None] * b[:, None, :]
        h = tl.where(row[:, None, None] == 0, decay * state[None, :, :] + write, write)
        _, h = tl.associative_scan((decay, h), 0, _combine)
        # The decay of the token that follows; within the tile's last row, what it takes is in `later` already.
        follows = (row < TILE_LENGTH - 1)[:, None] & (token + 1 < length)[:, None] & (channel < channels)[None, :]
        next_delta = _load(delta_ptr + batch * delta_batch, token + 1, delta_time, channel, delta_lane, follows, state)
        next_decay = tl.exp(next_delta[:, :, None] * rates[None, :, :])
        adjoint = g[:, :, None] * c[:, None, :]
        adjoint = tl.where(row[:, None, None] == TILE_LENGTH - 1, adjoint + later[None, :, :], adjoint)
        _, adjoint = tl.associative_scan((next_decay, adjoint), 0, _combine, reverse=True)
        later = _row(decay * adjoint, row, 0)
        dwritten = tl.sum(adjoint * b[:, None, :], 2)
        dlog = adjoint * (h - write)  # of the decay's logarithm, since h - write = decay * previous state
        ddelta = v * dwritten + tl.sum(dlog * rates[None, :, :], 2)
        drates += tl.sum(dlog * delta[:, :, None], 0)
        wide_place = (batch * length + token)[:, None] * channels + channel[None, :]
        tl.store(dv_ptr + wide_place, (delta * dwritten).to(dv_ptr.dtype.element_ty), wide)
        tl.store(ddelta_ptr + wide_place, ddelta.to(ddelta_ptr.dtype.element_ty), wide)
        sums = ((block * tl.num_programs(1) + batch) * length + token)[:, None] * states + n[None, :]
        tl.store(db_ptr + sums, tl.sum(adjoint * (delta * v)[:, :, None], 1), narrow)
        tl.store(dc_ptr + sums, tl.sum(h * g[:, :, None], 1), narrow)
    tl.store(drates_ptr + batch * channels * states + place, drates, pair)
    tl.store(dstart_ptr + batch * channels * states + place, later, pair)
