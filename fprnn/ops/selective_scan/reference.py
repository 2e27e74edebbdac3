"""The selective recurrence as it is written, one token at a time: for reading, and to test fast backends against."""

import torch
from torch import Tensor


def per_channel(delta: Tensor, rates: Tensor, b: Tensor, c: Tensor, channels: int) -> tuple[Tensor, ...]:
    """Repeats what a head or a group of channels shares.

    Args:
        delta: ``(..., d)`` or ``(..., heads)``.
        rates: ``(d, N)`` or ``(heads,)``.
        b: ``(..., G, N)``.
        c: ``(..., G, N)``.
        channels: d.

    Returns:
        delta ``(..., d)``; rates ``(d, N)``, or ``(d, 1)`` if one rate holds for all of a channel's states; b and c,
        ``(..., d, N)`` each.
    """
    rates = rates.unsqueeze(-1) if rates.ndim == 1 else rates
    delta = delta.repeat_interleave(channels // delta.shape[-1], -1)
    rates = rates.repeat_interleave(channels // rates.shape[0], 0)
    b, c = (vectors.repeat_interleave(channels // vectors.shape[-2], -2) for vectors in (b, c))
    return delta, rates, b, c


def selective_scan(
    inputs: Tensor, delta: Tensor, rates: Tensor, b: Tensor, c: Tensor, initial: Tensor
) -> tuple[Tensor, Tensor]:
    """A Python loop over tokens; plain autograd differentiates it, to any order.

    Args:
        inputs: ``(B, T, d)``.
        delta: ``(B, T, d)`` or ``(B, T, heads)``.
        rates: ``(d, N)`` or ``(heads,)``.
        b: ``(B, T, G, N)``.
        c: ``(B, T, G, N)``.
        initial: ``(B, d, N)``, in the state's precision.

    Returns:
        The outputs in the inputs' dtype, and the last state.
    """
    state, outputs = initial.clone(), []
    tokens = (tensor.to(initial.dtype).unbind(1) for tensor in (inputs, delta, b, c))
    for v, step, write, read in zip(*tokens, strict=True):
        step, rate, write, read = per_channel(step, rates.to(initial.dtype), write, read, v.shape[-1])
        decay = (step.unsqueeze(-1) * rate).exp()
        state = decay * state + (step * v).unsqueeze(-1) * write
        outputs.append((state * read).sum(-1))
    return torch.stack(outputs, 1).to(inputs.dtype) if outputs else inputs.clone(), state
