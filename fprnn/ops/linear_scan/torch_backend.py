"""The scan in plain PyTorch operations, shaped for the CPU.

Wide problems (many lanes) run as a loop over time, written in place: it moves each element once and memory bounds it.
For narrow ones the cost of launching an operation would, so the sequence is cut into blocks that run side by side:

1. for all blocks at once, the state at the end of each block from a zero start, and the product of its coefficients;
2. a short loop over the blocks carries the state from one to the next;
3. for all blocks at once, every state, from the right start.

This computes the recurrence twice, which costs less than storing the running products, and never divides by a product.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from fprnn.ops.kernels import fold, state_dtype, unfold

SHORT_ROW = 32  # elements; below, a transposing copy is cheaper than walking through short rows
BLOCKED_LENGTH = 64  # tokens; below, the loop is as fast
BLOCKED_LANES = 4096  # beyond, the loop's operations are wide enough by themselves
BLOCKED_ELEMENTS = 32768  # of one operation; beyond, more blocks side by side save nothing
FLUSH_EVERY = 4  # steps, between two checks for products that will soon be subnormal


def forward(inputs: Tensor, coeffs: Tensor, initial: Tensor | None, dim: int, reverse: bool) -> Tensor:
    """Every state, contiguous; arguments and result as of :func:`fprnn.ops.linear_scan.reference.linear_scan`."""
    dtype = state_dtype(inputs, coeffs)
    x, c = _rows(inputs, dim, dtype), _rows(coeffs, dim, dtype)
    states = torch.empty(x.shape, dtype=dtype, device=x.device)
    _scan_into(states, x, c, _start(initial, x), reverse)
    return unfold(states, inputs.shape, dim).to(inputs.dtype)


def backward(
    grad: Tensor, coeffs: Tensor, outputs: Tensor, initial: Tensor | None, dim: int, reverse: bool
) -> tuple[Tensor, Tensor]:
    """Gradients of :func:`forward`: a scan the other way, with the coefficients of the next token in scan order.

    ``d_inputs_t = grad_t + coeffs_{t+1} * d_inputs_{t+1}`` and ``d_coeffs_t = outputs_{t-1} * d_inputs_t``.

    From ``grad`` with respect to the outputs, in their shape, of at least one token; the rest is as :func:`forward` had
    it. Returns the gradients with respect to inputs and coefficients, each contiguous and in its own dtype.
    """
    dtype = state_dtype(grad, coeffs)
    g, c, y = (_rows(tensor, dim, dtype) for tensor in (grad, coeffs, outputs))
    d_inputs, d_coeffs = (torch.empty(g.shape, dtype=dtype, device=g.device) for _ in range(2))
    rest = g.shape[1] - 1
    first, last = (rest, 0) if reverse else (0, rest)
    # Pairs of neighbours: of each, the token that comes sooner in the forward scan, and the one that comes later.
    sooner, later = int(reverse), int(not reverse)
    state = d_inputs.select(1, last).copy_(g.select(1, last))
    steps = d_inputs.narrow(1, sooner, rest), g.narrow(1, sooner, rest), c.narrow(1, later, rest)
    _scan_into(*steps, state, not reverse)
    torch.mul(d_inputs.narrow(1, later, rest), y.narrow(1, sooner, rest), out=d_coeffs.narrow(1, later, rest))
    torch.mul(d_inputs.select(1, first), _start(initial, g), out=d_coeffs.select(1, first))
    return unfold(d_inputs, grad.shape, dim).to(grad.dtype), unfold(d_coeffs, grad.shape, dim).to(coeffs.dtype)


def _rows(tensor: Tensor, dim: int, dtype: torch.dtype) -> Tensor:
    rows = fold(tensor.to(dtype), dim, SHORT_ROW)
    return rows if rows.stride(-1) <= 1 else rows.contiguous()


def _start(initial: Tensor | None, rows: Tensor) -> Tensor:
    outer, _, lanes = rows.shape
    return rows.new_zeros(outer, lanes) if initial is None else initial.to(rows.dtype).reshape(outer, lanes)


def _scan_into(out: Tensor, inputs: Tensor, coeffs: Tensor, start: Tensor, reverse: bool) -> None:
    """Writes the states to ``out``, all ``(outer, T, lanes)`` but the start, ``(outer, lanes)``."""
    length, lanes, blocks = inputs.shape[1], inputs.shape[0] * inputs.shape[2], 1
    if length >= BLOCKED_LENGTH and lanes <= min(BLOCKED_LANES, 16 * length):
        # Blocks enough for wide operations, few enough for a short loop over them, with a small remainder. Their length
        # is odd: a stride of a power of two maps the tokens of one step to a few sets of the cache.
        target = min(math.isqrt(2 * length), BLOCKED_ELEMENTS // max(lanes, 1))
        near = [count for count in range(target - target // 4, target + target // 4 + 1) if length // count % 2]
        blocks = min(near, key=lambda count: length % count, default=1)
    if blocks < 2 or not _blocks_into(out, inputs, coeffs, start, reverse, blocks):
        _loop_into(out, inputs, coeffs, start, reverse)


def _steps(rows: Tensor, reverse: bool, dim: int = 1) -> tuple[Tensor, ...]:
    steps = rows.unbind(dim)
    return steps[::-1] if reverse else steps


def _loop_into(out: Tensor, inputs: Tensor, coeffs: Tensor, state: Tensor, reverse: bool, dim: int = 1) -> None:
    for y, x, c in zip(*(_steps(rows, reverse, dim) for rows in (out, inputs, coeffs)), strict=True):
        state = torch.addcmul(x, c, state, out=y)


def _blocks_into(out: Tensor, inputs: Tensor, coeffs: Tensor, start: Tensor, reverse: bool, blocks: int) -> bool:
    """The three passes of the module's docstring; False, with ``out`` untouched, if a product is not finite."""
    outer, length, lanes = inputs.shape
    body = length - length % blocks
    cut, rest = (slice(length - body, None), slice(length - body)) if reverse else (slice(body), slice(body, None))
    y, x, c = (rows[:, cut].view(outer, blocks, body // blocks, lanes) for rows in (out, inputs, coeffs))
    # State at the end of each block, from a zero start, and the product of its coefficients.
    (first_x, *xs), (first_c, *cs) = (_steps(rows, reverse, dim=2) for rows in (x, c))
    ends, products = (step.clone(memory_format=torch.contiguous_format) for step in (first_x, first_c))
    # Arithmetic on subnormal numbers is a hundred times slower. So a product that falls below the square root of the
    # smallest normal number is made zero, before a few more coefficients can make it subnormal.
    negligible = math.sqrt(torch.finfo(ends.dtype).tiny)
    for step, (token, decay) in enumerate(zip(xs, cs, strict=True), start=1):
        torch.addcmul(token, decay, ends, out=ends)
        products.mul_(decay)
        if step % FLUSH_EVERY == 0:
            products = F.hardshrink(products, negligible)
    # An infinite product times a zero state is not a number, though the recurrence has one: then the loop decides.
    # Only the CPU can look at no cost.
    if inputs.device.type == "cpu" and not math.isfinite(products.sum().item()):
        return False
    _loop_into(ends, ends, products, start, reverse)
    starts = [ends[:, 1:], start[:, None]] if reverse else [start[:, None], ends[:, :-1]]
    _loop_into(y, x, c, torch.cat(starts, 1), reverse, dim=2)
    _loop_into(out[:, rest], inputs[:, rest], coeffs[:, rest], ends[:, 0 if reverse else -1], reverse)
    return True
