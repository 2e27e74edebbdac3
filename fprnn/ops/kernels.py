"""Which kernels run an operator, plain torch or Triton, and the refusal that hand-written gradients share."""

import os
from functools import cache
from importlib import import_module
from typing import Any

import torch
from torch import Tensor


def triton_kernels(module: str, backend: str, inputs: Tensor) -> Any:
    """The Triton kernels of a module, if they are to run.

    Args:
        module: of :mod:`fprnn.ops`, with the kernels.
        backend: ``auto`` runs them on CUDA tensors where triton is installed, ``triton`` always, ``torch`` never.
        inputs: of the operator.

    Returns:
        The module, or None where plain torch is to run.

    Raises:
        ValueError: if ``backend`` is ``triton``, and triton or CUDA tensors are missing.
    """
    if backend == "torch" or (backend == "auto" and not inputs.is_cuda):
        return None
    kernels = _imported(module)
    # Triton's interpreter runs kernels on the CPU, for tests.
    if kernels is not None and (inputs.is_cuda or os.environ.get("TRITON_INTERPRET") == "1"):
        return kernels
    if backend == "auto":
        return None
    raise ValueError(f"backend='triton' needs triton and CUDA tensors, inputs are on {inputs.device}: use 'auto'")


@cache
def _imported(module: str) -> Any:
    try:
        return import_module(f"fprnn.ops.{module}")
    except ImportError:
        return None


def refuse_second_derivative(name: str) -> None:
    """For the backward pass of a function whose own derivative is unknown: raises under ``create_graph=True``.

    PyTorch's ``once_differentiable`` is silent where the cotangent needs no gradient, and the result would be wrong.

    Raises:
        RuntimeError: if gradients are being recorded.
    """
    if torch.is_grad_enabled():
        raise RuntimeError(f"{name} has no second derivative: leave create_graph at False")
