"""Views that reduce a tensor of any shape to rows: ``(outer, length, lanes)``, time in the middle, contiguous lanes."""

import math

import torch
from torch import Tensor


def state_dtype(*tensors: Tensor) -> torch.dtype:
    """The precision of the recurrence's state: float64 if a tensor has it, else float32 (also under half inputs)."""
    return torch.float64 if any(tensor.dtype == torch.float64 for tensor in tensors) else torch.float32


def fold(tensor: Tensor, dim: int, short_row: int) -> Tensor:
    """Reshapes to three dimensions; a view where strides allow it.

    Args:
        tensor: ``(..., T, ...)``, time at ``dim``.
        dim: not negative.
        short_row: where fewer than this many elements stand after ``dim``, all other dimensions become lanes, since
            short rows are slow to walk through.

    Returns:
        ``(outer, T, inner)``, or ``(1, T, outer * inner)`` if ``inner < short_row``.
    """
    if tensor.ndim == 3 and dim == 1 and tensor.shape[2] >= short_row:
        return tensor
    outer, length, inner = math.prod(tensor.shape[:dim]), tensor.shape[dim], math.prod(tensor.shape[dim + 1 :])
    rows = tensor.reshape(outer, length, inner)
    return rows if inner >= short_row else rows.transpose(0, 1).reshape(1, length, outer * inner)


def unfold(rows: Tensor, shape: torch.Size, dim: int) -> Tensor:
    """The inverse of :func:`fold`.

    Args:
        rows: a folded tensor, ``(outer, T, lanes)``, contiguous.
        shape: of the tensor that was folded.
        dim: where its time stands.

    Returns:
        Contiguous, of the given shape.
    """
    if rows.shape == shape:
        return rows
    outer, length, inner = math.prod(shape[:dim]), shape[dim], math.prod(shape[dim + 1 :])
    if rows.shape[0] != outer:
        rows = rows.reshape(length, outer, inner).transpose(0, 1)
    return rows.reshape(shape).contiguous()
