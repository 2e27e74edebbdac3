"""Distillation in a fixed feature space: kernel ridge regression, where the cost of noisy labels is a closed form.

With kernel K of M samples and ridge r, the student's output at x is ``a(x) . t`` with ``a(x) = (K + r I)^-1 k(x)`` and
t its targets. A teacher that knows the truth f and labels ``f + noise`` give students whose mean squared errors differ,
in expectation over the noise, by ``sigma^2 E|a(x)|^2`` exactly: the gain of distillation is this term.
"""

import torch
from torch import Tensor


def rbf_kernel(first: Tensor, second: Tensor, width: float) -> Tensor:
    """``exp(-|x - y|^2 / (2 width^2))``: ``(n, d)`` and ``(m, d)`` to ``(n, m)``."""
    return torch.exp(-torch.cdist(first, second).square() / (2 * width**2))


def smoother(x: Tensor, test_x: Tensor, width: float, ridge: float) -> Tensor:
    """The linear map from the targets of a kernel ridge regression to its outputs.

    Args:
        x: training inputs, ``(M, d)``.
        test_x: ``(n, d)``.
        width: of the kernel.
        ridge: above 0.

    Returns:
        ``(n, M)``.
    """
    kernel = rbf_kernel(x, x, width) + ridge * torch.eye(len(x), dtype=x.dtype, device=x.device)
    return torch.cholesky_solve(rbf_kernel(x, test_x, width), torch.linalg.cholesky(kernel)).T


def kernel_outcome(
    x: Tensor, truth: Tensor, test_x: Tensor, test_truth: Tensor, *, sigma: float, width: float, ridge: float
) -> tuple[float, float]:
    """Expected errors of students on the truth, and on labels with independent noise.

    Args:
        x: training inputs, ``(M, d)``.
        truth: their true outputs, ``(M,)`` or ``(M, k)``.
        test_x: ``(n, d)``.
        test_truth: ``(n,)`` or ``(n, k)``.
        sigma: standard deviation of the noise, of each output.
        width: of the kernel.
        ridge: above 0.

    Returns:
        Mean squared error of the student of the truth, and what noise in the labels adds to it, in expectation.
    """
    outputs = smoother(x, test_x, width, ridge)
    noise = sigma**2 * outputs.square().sum(dim=1).mean()
    return float((outputs @ truth - test_truth).square().mean()), float(noise)
