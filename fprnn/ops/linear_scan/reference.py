"""The recurrence as it is written, one token at a time: for reading, and to test the fast backends against."""

import torch
from torch import Tensor

from fprnn.ops.kernels import state_dtype


def linear_scan(inputs: Tensor, coeffs: Tensor, initial: Tensor | None, dim: int, reverse: bool) -> Tensor:
    """``h_t = coeffs_t * h_{t-1} + inputs_t`` by a Python loop; plain autograd differentiates it, to any order.

    Args:
        inputs: ``(..., T, ...)``, time at ``dim``.
        coeffs: the inputs' shape.
        initial: the inputs' shape without ``dim``; None is zero.
        dim: not negative.
        reverse: run from the last token to the first.

    Returns:
        Every state, in the inputs' shape and dtype; the state itself is float32 or better.
    """
    dtype = state_dtype(inputs, coeffs)
    steps = list(zip(inputs.to(dtype).unbind(dim), coeffs.to(dtype).unbind(dim), strict=True))
    if not steps:
        return inputs.clone()
    state = torch.zeros_like(steps[0][0]) if initial is None else initial.to(dtype)
    states = []
    for token, decay in reversed(steps) if reverse else steps:
        state = decay * state + token
        states.append(state)
    return torch.stack(states[::-1] if reverse else states, dim).to(inputs.dtype)
