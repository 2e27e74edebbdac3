"""The exact solve of an FP-RNN with a low-rank mixer, token by token, with a hand-written gradient.

Not in "Fixed-Point RNNs" (Movahedi et al., NeurIPS 2025). With ``I - Q = A^T K^-1 A`` the fixed point of one token,
``h = decay h_prev + gate (Q (drive - h) + h)``, is a linear system of the rank's size (Sherman-Morrison and Woodbury)::

    e = decay h_prev + (gate - 1) drive                  what h - drive would be without mixing
    (K - A diag(gate) A^T) c = A e
    h = drive + e + diag(gate) A^T c

The cost is that of an LSTM step: one product of ``h_prev`` with the mixer's weights, and O(d r^2) more. The gradient is
the same recurrence run the other way. It costs a fraction of differentiating the loop: what need not wait for the next
token is done for many at once, and the weights' gradient is one matrix product. :mod:`fprnn.solvers.newton` is the
reference.
"""

from typing import Any

import torch
from torch import Tensor

from fprnn.mixers.base import solve_systems
from fprnn.mixers.householder import ReflectionMixer, combine_rows, dot_rows
from fprnn.ops.kernels import refuse_second_derivative

CACHED_ELEMENTS = 1 << 17  # activations differentiated at once: enough to amortise the call, few enough for the cache


def solve_reflections(
    mixer: ReflectionMixer,
    projected: Tensor,
    weight: Tensor | None,
    decay: Tensor,
    gate: Tensor,
    drive: Tensor,
    initial: Tensor,
) -> Tensor:
    """Every state of ``h_t = decay_t h_{t-1} + gate_t (Q_t (drive_t - h_t) + h_t)``, ``Q_t`` a function of ``h_{t-1}``.

    Args:
        mixer: decides how raw parameters become reflections.
        projected: the input's part of the raw mixer parameters, time first, ``(T, B, P)``.
        weight: the state's part, ``(P, d)``; None without hidden-state dependence.
        decay: ``(T, B, d)``.
        gate: ``(T, B, d)``.
        drive: ``(T, B, d)``.
        initial: the state before the first token, ``(B, d)``.

    Returns:
        ``(T, B, d)``, differentiable once in all of these tensors.
    """
    if not drive.numel():
        return drive.clone()
    return _ReflectionRecurrence.apply(mixer, projected, weight, decay, gate, drive, initial)


class _ReflectionRecurrence(torch.autograd.Function):
    """:func:`solve_reflections`."""

    @staticmethod
    def forward(ctx: Any, mixer: ReflectionMixer, projected: Tensor, *operands: Any) -> Tensor:
        tape = run_forwards(mixer, projected, *operands)
        ctx.save_for_backward(*operands, *tape)
        ctx.mixer = mixer
        return tape[1][1:]

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        refuse_second_derivative("solve_reflections")
        with torch.autocast(grad.device.type, enabled=False):
            return None, *run_backwards(ctx.mixer, grad, *ctx.saved_tensors)


def run_forwards(
    mixer: ReflectionMixer,
    projected: Tensor,
    weight: Tensor | None,
    decay: Tensor,
    gate: Tensor,
    drive: Tensor,
    initial: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """The recurrence of the module's docstring; arguments as of :func:`solve_reflections`.

    Returns:
        What the backward pass needs, time first: all of the raw mixer parameters ``(T, B, P)``; the states
        ``(T + 1, B, d)``, the initial one first; the coefficients c ``(T, B, r)``; the kernels
        ``diag(s) (K - A diag(gate) A^T)``, ``(T, B, r, r)``; and the strengths s, ``(T, B, r)``.
    """
    batch, rank, d = drive.shape[1], mixer.rank, mixer.d_inner
    hidden = drive.new_empty(batch, len(drive) + 1, d).transpose(0, 1)  # in memory batch first, as is what reads it
    raw = projected if weight is None else torch.empty_like(projected)
    gated_and_e = drive.new_empty(batch, rank + 1, d)
    gated, e = torch.split(gated_and_e, [rank, 1], 1)  # one product takes the inner products of both
    h, e, mixed, solved = hidden[0].copy_(initial), e.squeeze(1), torch.empty_like(initial), []
    tokens = zip(projected, raw, hidden[1:], decay, gate, drive, strict=True)
    for projected_t, raw_t, hidden_t, decay_t, gate_t, drive_t in tokens:
        if weight is not None:
            torch.addmm(projected_t, h, weight.T, out=raw_t)
        directions, logits = mixer.split(raw_t)
        products = dot_rows(directions, directions)
        strengths = mixer.strengths(logits, products.diagonal(dim1=1, dim2=2))
        torch.mul(directions, gate_t.unsqueeze(1), out=gated)
        # e = decay h_prev + (gate - 1) drive, as (decay h_prev - drive) + gate drive in one pass less
        torch.addcmul(torch.mul(decay_t, h).sub_(drive_t), gate_t, drive_t, out=e)
        inner = dot_rows(directions, gated_and_e)
        kernel = mixer.kernel(strengths, products, inner[..., :-1])
        c = solve_systems(kernel, strengths * inner[..., -1])
        combine_rows(c, directions, out=mixed)
        h = torch.addcmul(e, gate_t, mixed, out=hidden_t).add_(drive_t)
        solved.append((c, kernel, strengths))
    coefficients, kernels, strengths = (torch.stack(tensors) for tensors in zip(*solved, strict=True))
    return raw, hidden, coefficients, kernels, strengths


def run_backwards(
    mixer: ReflectionMixer,
    grad: Tensor,
    weight: Tensor | None,
    decay: Tensor,
    gate: Tensor,
    drive: Tensor,
    initial: Tensor,
    raw: Tensor,
    hidden: Tensor,
    coefficients: Tensor,
    kernels: Tensor,
    strengths: Tensor,
) -> tuple[Tensor, Tensor | None, Tensor, Tensor, Tensor, Tensor]:
    """The cotangents of the recurrence's tensors in turn, from that of the states ``(T, B, d)``.

    With w the cotangent of ``h_t`` and s that of e, the transposed system gives ``s = w + A^T p`` from
    ``(K - A diag(gate) A^T)^T p = A (gate w)``. Decay, gate and drive follow from s and w; the raw parameters from p,
    by :func:`directions_cotangent`; and the previous state receives ``decay s`` and what the raw parameters received.
    Arguments as of :func:`run_forwards`, and what that returned.
    """
    rank = mixer.rank
    # What does not wait for the next token, for all tokens at once. `kernels` have diag(s) in front, so the system's
    # transposed inverse, transposed once more to act on rows, is kernels^-1 diag(s).
    inverse = 1 / kernels if rank == 1 else torch.linalg.inv_ex(kernels)[0]
    adjoints = inverse * strengths.unsqueeze(-2)
    # A strength is s = beta alpha / (|a|^2 + eps^2) with alpha the sigmoid of its logit, and K holds 1 / s. Hence
    # d(1/s) = 2 a . da / (beta alpha) along the direction, and -(1 - alpha) / s in the logit. Both meet p c, which is
    # zero with s, so a strength of zero needs a divisor that is not.
    alphas = raw[..., -rank:].sigmoid()
    tiny = torch.finfo(alphas.dtype).tiny
    to_length, to_logit = 2 / (mixer.beta * alphas).clamp_min(tiny), (1 - alphas) / strengths.clamp_min(tiny)
    d_raw = torch.empty_like(raw)
    d_decay, d_gate, d_drive = (torch.empty_like(drive) for _ in range(3))
    # Two rows for each sequence: gate times a cotangent, and h - drive, so that products see both at once.
    rows = drive.new_empty(drive.shape[1], 2, mixer.d_inner)
    (gated, excess), carried, s = rows.unbind(1), torch.zeros_like(initial), torch.empty_like(initial)
    entries = raw[..., :-rank]
    block = max(1, CACHED_ELEMENTS // entries[0].numel())
    for start in reversed(range(0, len(raw), block)):
        # Directions of a block of tokens again, with the activation's derivatives: cheaper than keeping both.
        with torch.enable_grad():
            leaf = entries[start : start + block].detach().requires_grad_()
            values = mixer.activation(leaf)
            (slopes,) = torch.autograd.grad(values, leaf, values.new_ones(()).expand_as(values))
        all_directions = torch.unflatten(values.detach(), -1, (rank, mixer.d_inner))
        for place in reversed(range(len(values))):
            t, directions = start + place, all_directions[place]
            w, c, before = carried.add_(grad[t]), coefficients[t], hidden[t]
            torch.mul(gate[t], w, out=gated)
            torch.sub(hidden[t + 1], drive[t], out=excess)
            p = combine_rows(dot_rows(directions, rows)[..., 0], adjoints[t])
            combine_rows(p, directions, out=s).add_(w)
            torch.mul(gate[t], s, out=gated)
            torch.mul(before, s, out=d_decay[t])
            # gate enters e with drive, and h with A^T c; drive enters e with gate - 1, and h by itself
            torch.mul(combine_rows(c, directions).add_(drive[t]), s, out=d_gate[t])
            torch.sub(gated, s, out=d_drive[t]).add_(w)
            pc = p * c
            d_directions = directions_cotangent(mixer.ordered, directions, p, c, pc * to_length[t], rows)
            torch.mul(d_directions.flatten(1), slopes[place], out=d_raw[t, :, :-rank])
            torch.mul(pc, to_logit[t], out=d_raw[t, :, -rank:])
            torch.mul(decay[t], s, out=carried)
            if weight is not None:
                carried.addmm_(d_raw[t], weight)
    d_weight = None
    if weight is not None:  # one product over all tokens; both are batch first in memory, so flattened without a copy
        d_rows, h_rows = (x.transpose(0, 1).flatten(0, 1) for x in (d_raw, hidden[:-1]))
        d_weight = d_rows.T @ h_rows
    return d_raw, d_weight, d_decay, d_gate, d_drive, carried


def directions_cotangent(
    ordered: bool, directions: Tensor, p: Tensor, c: Tensor, along: Tensor, rows: Tensor
) -> Tensor:
    """The cotangent of the directions A, which enter through K, through ``A e`` and through ``A^T c``.

    ``c (gate s)^T + p (h - drive)^T - N A`` with ``N = L + L^T + diag(along)``, L the part of ``p c^T`` below the
    diagonal (from ``A A^T`` in K, so for ordered products only).

    Args:
        ordered: whether the reflections act in turn.
        directions: A, ``(B, r, d)``.
        p: ``(B, r)``.
        c: ``(B, r)``.
        along: the part along each direction, from its length in the strength, ``(B, r)``.
        rows: ``gate s`` and ``h - drive``, ``(B, 2, d)``.
    """
    if directions.shape[1] == 1:
        outer = (c * rows[:, 0]).addcmul_(p, rows[:, 1])
        return outer.addcmul_(along, directions.squeeze(1), value=-1).unsqueeze(1)
    inner = torch.diag_embed(along)
    if ordered:
        below = (p.unsqueeze(2) * c.unsqueeze(1)).tril(-1)
        inner = inner + below + below.mT
    return (torch.stack([c, p], 2) @ rows).baddbmm_(inner, directions, alpha=-1)
