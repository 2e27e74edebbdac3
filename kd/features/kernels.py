"""Kernels of a batch: how alike two are, and how much their small directions count; both differentiable."""

from typing import Any

import torch
from torch import Tensor


def kernel_cka(first: Tensor, second: Tensor) -> Tensor:
    """Centred kernel alignment ``<HKH, HLH> / (||HKH|| ||HLH||)`` with ``H = I - 1/B``: a scalar up to 1.

    Both kernels are symmetric, ``(B, B)``; where one is constant the result is 0.
    """
    first, second = _centred(first), _centred(second)
    squares = first.square().sum() * second.square().sum()
    return (first * second).sum() / torch.where(squares > 0, squares, 1).sqrt()


def _centred(kernel: Tensor) -> Tensor:
    """``HKH``, scaled to a largest entry of 1 so that no square over- or underflows; alignment is blind to scale."""
    kernel = kernel - kernel.mean(dim=0, keepdim=True)
    kernel = kernel - kernel.mean(dim=1, keepdim=True)
    largest = kernel.detach().abs().amax()
    return kernel / torch.where(largest > 0, largest, 1)


def spectral_power(kernel: Tensor, power: float, floor: float = 1e-6) -> Tensor:
    """The kernel with its largest eigenvalue scaled to 1 and all raised to a power.

    The gradient is that of Daletskii and Krein, which divides differences of powers by differences of eigenvalues; so
    it stays finite where eigenvalues coincide, as they do where the kernel has not full rank.

    Args:
        kernel: symmetric and positive semi-definite, ``(B, B)``; its scale is a constant in the gradient.
        power: above 0.
        floor: eigenvalues below it count as it: powers below 1 have no slope at 0.
    """
    scale = torch.linalg.matrix_norm(kernel.detach(), ord=2).clamp_min(torch.finfo(kernel.dtype).tiny)
    result: Tensor = _SpectralPower.apply(kernel / scale, power, floor)
    return result


class _SpectralPower(torch.autograd.Function):
    """``U max(S, floor)^power U^T`` of ``U S U^T``."""

    @staticmethod
    def forward(ctx: Any, kernel: Tensor, power: float, floor: float) -> Tensor:
        values, vectors = torch.linalg.eigh(kernel)
        ctx.save_for_backward(values, vectors)
        ctx.power, ctx.floor = power, floor
        return (vectors * values.clamp_min(floor) ** power) @ vectors.T

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        values, vectors = ctx.saved_tensors
        clamped = values.clamp_min(ctx.floor)
        raised = clamped**ctx.power
        slope = torch.where(values > ctx.floor, ctx.power * clamped ** (ctx.power - 1), 0)
        gap = values[:, None] - values[None, :]
        apart = gap.abs() > 1e-6
        quotient = (raised[:, None] - raised[None, :]) / torch.where(apart, gap, 1)
        divided = torch.where(apart, quotient, (slope[:, None] + slope[None, :]) / 2)
        inner = vectors.T @ gradients[0] @ vectors
        return vectors @ (divided * inner) @ vectors.T, None, None
