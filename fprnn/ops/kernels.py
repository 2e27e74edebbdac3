"""What the scans share: which kernels run, the state's precision, and views that put time in the middle."""

import math
import os
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor


def triton_kernels(module: str, backend: str, inputs: Tensor) -> Any:
    """The Triton kernels of a module, if they are to run.

    Args:
        module: with the kernels, such as ``linear_scan.triton_backend``.
        backend: ``auto`` runs them on CUDA tensors where triton is installed, ``triton`` always, ``torch`` never.
        inputs: of the operator.

    Returns:
        The module, or None where plain torch is to run.

    Raises:
        ValueError: if ``backend`` is ``triton``, and triton or CUDA tensors are missing.
    """
    if backend == "torch" or (backend == "auto" and not inputs.is_cuda):
        return None
    # Only triton may be missing: a wrong path of ours must not run plain torch on a GPU in silence.
    kernels = import_module(f"fprnn.ops.{module}") if find_spec("triton") is not None else None
    # Triton's interpreter runs kernels on the CPU, for tests.
    if kernels is not None and (inputs.is_cuda or os.environ.get("TRITON_INTERPRET") == "1"):
        return kernels
    if backend == "auto":
        return None
    raise ValueError(f"backend='triton' needs triton and CUDA tensors, inputs are on {inputs.device}: use 'auto'")


def refuse_second_derivative(name: str) -> None:
    """For the backward pass of a function whose own derivative is unknown: raises under ``create_graph=True``.

    PyTorch's ``once_differentiable`` is silent where the cotangent needs no gradient, and the result would be wrong.

    Raises:
        RuntimeError: if gradients are being recorded.
    """
    if torch.is_grad_enabled():
        raise RuntimeError(f"{name} has no second derivative: leave create_graph at False")


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
