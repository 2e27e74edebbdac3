"""The scan as Triton kernels. Imported only where Triton is to be used, since ``import triton`` is slow or fails.

One program walks through a block of lanes of one row, tile by tile along time. It loads a whole tile, scans it in
parallel, and carries the last state to the next: three tensors' worth of traffic forward, five backward.
Kernels see tokens in scan order only: a reverse scan is a base pointer at the last token and a negative stride.
"""

# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-decorators
# (kernels are compiled by Triton, which reads annotations its own way)

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from fprnn.ops.kernels import fold, state_dtype, unfold

SHORT_ROW = 16  # elements; shorter rows would leave most of a memory transaction unused
MAX_TILE_LENGTH = 64
MAX_TILE_LANES = 32  # 128 bytes of float32: one memory transaction


def forward(inputs: Tensor, coeffs: Tensor, initial: Tensor | None, dim: int, reverse: bool) -> Tensor:
    """Every state; arguments and result as of ``torch_backend.forward``."""
    if not inputs.numel():
        return inputs.new_empty(inputs.shape)
    x, c = (fold(tensor, dim, SHORT_ROW) for tensor in (inputs, coeffs))
    states = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    start = _start(initial, x, state_dtype(inputs, coeffs))
    _launch(_forward_kernel, [x, c, states], start, reverse)
    return unfold(states, inputs.shape, dim)


def backward(
    grad: Tensor, coeffs: Tensor, outputs: Tensor, initial: Tensor | None, dim: int, reverse: bool
) -> tuple[Tensor, Tensor]:
    """Gradients for inputs and coefficients; arguments and results as of ``torch_backend.backward``."""
    if not grad.numel():
        return grad.new_empty(grad.shape), coeffs.new_empty(coeffs.shape)
    g, c, y = (fold(tensor, dim, SHORT_ROW) for tensor in (grad, coeffs, outputs))
    d_inputs, d_coeffs = (torch.empty(g.shape, dtype=rows.dtype, device=g.device) for rows in (g, c))
    start = _start(initial, g, state_dtype(grad, coeffs))
    _launch(_backward_kernel, [g, c, y, d_inputs, d_coeffs], start, reverse)
    return unfold(d_inputs, grad.shape, dim), unfold(d_coeffs, grad.shape, dim)


def _start(initial: Tensor | None, rows: Tensor, dtype: torch.dtype) -> Tensor:
    outer, _, lanes = rows.shape
    start = torch.zeros(outer, lanes, dtype=dtype, device=rows.device)
    return start if initial is None else start.copy_(initial.reshape(outer, lanes))


def _launch(kernel: Any, rows: list[Tensor], start: Tensor, reverse: bool) -> None:
    """One program for each block of lanes of each row; ``start`` carries the state's dtype."""
    outer, length, lanes = rows[0].shape
    tile_lanes = min(MAX_TILE_LANES, triton.next_power_of_2(lanes))
    tile_length = min(MAX_TILE_LENGTH, triton.next_power_of_2(length))
    grid = (outer * triton.cdiv(lanes, tile_lanes),)
    strides = []
    for tensor in rows:
        outer_stride, time, lane = tensor.stride()
        strides += [outer_stride, -time if reverse else time, lane]
    firsts = [tensor[:, -1:] if reverse else tensor for tensor in rows]
    with torch.cuda.device_of(start):  # type: ignore[no-untyped-call]
        kernel[grid](*firsts, start, length, lanes, *strides, TILE_LENGTH=tile_length, TILE_LANES=tile_lanes)


@triton.jit
def _combine(decay, state, next_decay, next_state):
    """Two neighbouring stretches of the recurrence as one."""
    return decay * next_decay, next_decay * state + next_state


@triton.jit
def _program(lanes, TILE_LANES: tl.constexpr):
    """This program's row, its lanes, and which of these exist."""
    blocks = tl.cdiv(lanes, TILE_LANES)
    program = tl.program_id(0)
    lane = (program % blocks) * TILE_LANES + tl.arange(0, TILE_LANES)
    return (program // blocks).to(tl.int64), lane.to(tl.int64), lane < lanes


@triton.jit
def _forward_kernel(
    x_ptr, c_ptr, y_ptr, start_ptr, length, lanes,
    x_outer, x_time, x_lane, c_outer, c_time, c_lane, y_outer, y_time, y_lane,
    TILE_LENGTH: tl.constexpr, TILE_LANES: tl.constexpr,
):  # fmt: skip
    """``y_t = c_t y_{t-1} + x_t``."""
    outer, lane, real = _program(lanes, TILE_LANES)
    row = tl.arange(0, TILE_LENGTH)
    state = tl.load(start_ptr + outer * lanes + lane, mask=real, other=0.0)
    for begin in range(0, length, TILE_LENGTH):
        token = (begin + row).to(tl.int64)[:, None]
        mask = (token < length) & real[None, :]
        x = tl.load(x_ptr + outer * x_outer + token * x_time + lane[None, :] * x_lane, mask=mask, other=0.0)
        c = tl.load(c_ptr + outer * c_outer + token * c_time + lane[None, :] * c_lane, mask=mask, other=0.0)
        x, c = x.to(state.dtype), c.to(state.dtype)
        x = tl.where(row[:, None] == 0, c * state[None, :] + x, x)
        _, y = tl.associative_scan((c, x), 0, _combine)
        tl.store(y_ptr + outer * y_outer + token * y_time + lane[None, :] * y_lane, y.to(y_ptr.dtype.element_ty), mask)
        state = tl.sum(tl.where(row[:, None] == TILE_LENGTH - 1, y, 0.0), 0)


@triton.jit
def _backward_kernel(
    g_ptr, c_ptr, y_ptr, dx_ptr, dc_ptr, start_ptr, length, lanes,
    g_outer, g_time, g_lane, c_outer, c_time, c_lane, y_outer, y_time, y_lane,
    dx_outer, dx_time, dx_lane, dc_outer, dc_time, dc_lane,
    TILE_LENGTH: tl.constexpr, TILE_LANES: tl.constexpr,
):  # fmt: skip
    """``dx_t = g_t + c_{t+1} dx_{t+1}`` and ``dc_t = y_{t-1} dx_t``, from the last token to the first."""
    outer, lane, real = _program(lanes, TILE_LANES)
    row = tl.arange(0, TILE_LENGTH)
    start = tl.load(start_ptr + outer * lanes + lane, mask=real, other=0.0)
    state = tl.zeros_like(start)
    for begin in range(0, length, TILE_LENGTH):
        token = (length - 1 - begin - row).to(tl.int64)[:, None]
        mask = (token >= 0) & real[None, :]
        later, earlier = mask & (token + 1 < length), mask & (token > 0)
        g = tl.load(g_ptr + outer * g_outer + token * g_time + lane[None, :] * g_lane, mask=mask, other=0.0)
        c = tl.load(c_ptr + outer * c_outer + (token + 1) * c_time + lane[None, :] * c_lane, mask=later, other=0.0)
        y = tl.load(y_ptr + outer * y_outer + (token - 1) * y_time + lane[None, :] * y_lane, mask=earlier, other=0.0)
        g, c = g.to(state.dtype), c.to(state.dtype)
        g = tl.where(row[:, None] == 0, c * state[None, :] + g, g)
        _, dx = tl.associative_scan((c, g), 0, _combine)
        dc = dx * tl.where(token == 0, start[None, :], y.to(state.dtype))
        tl.store(
            dx_ptr + outer * dx_outer + token * dx_time + lane[None, :] * dx_lane, dx.to(dx_ptr.dtype.element_ty), mask
        )
        tl.store(
            dc_ptr + outer * dc_outer + token * dc_time + lane[None, :] * dc_lane, dc.to(dc_ptr.dtype.element_ty), mask
        )
        state = tl.sum(tl.where(row[:, None] == TILE_LENGTH - 1, dx, 0.0), 0)
