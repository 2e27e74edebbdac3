"""Distillation between regressions that are linear, in the inputs or in the features of a kernel: exact results.

"Towards Understanding Knowledge Distillation" (Phuong and Lampert, ICML 2019), in the setting of the early code of the
authors of "Revisiting Knowledge Distillation: The Hidden Role of Dataset Size": least squares with minimum norm, a
teacher on all N samples, students on M of them, on the labels y or on the teacher's outputs ``X w_teacher``.

With M < D the distilled student is the teacher projected on the span of its samples; what is left out costs both
students the same, so there is nothing to gain. From M = D on the distilled student *is* the teacher, while the labels'
noise still costs ``(N - D - 1) / (M - D - 1)`` times the teacher's excess risk, without bound near M = D. So the gain
is a step at M = D and falls with M thereafter.

In kernel ridge regression, with kernel K of M samples and ridge r, the student's output at x is ``a(x) . t`` with
``a(x) = (K + r I)^-1 k(x)`` and t its targets. A teacher that knows the truth f and labels ``f + noise`` give students
whose mean squared errors differ, in expectation over the noise, by ``sigma^2 E|a(x)|^2`` exactly: the gain of
distillation is this term.
"""

from collections.abc import Iterable
from itertools import product
from typing import NamedTuple

import torch
from torch import Tensor


class Regression:
    """A linear regression whose true weight is known; all in float64.

    Args:
        x: training inputs, ``(N, D)``.
        y: noisy training outputs, ``(N,)``.
        test_x: test inputs, ``(n, D)``.
        weight: the true weight, ``(D,)``.
    """

    def __init__(self, x: Tensor, y: Tensor, test_x: Tensor, weight: Tensor) -> None:
        self.x, self.y, self.test_x, self.weight = x, y, test_x, weight

    def excess_risk(self, weight: Tensor) -> float:
        """Mean squared difference to the true outputs on the test inputs, for a weight ``(D,)``."""
        return float((self.test_x @ (weight - self.weight)).square().mean())


class LinearOutcome(NamedTuple):
    """What students on one subset reach."""

    size: int
    """Number of samples, M."""
    seed: int
    """Of the subset."""
    label: float
    """Excess risk of the student on labels."""
    distilled: float
    """Excess risk of the student on the teacher's outputs."""
    teacher: float
    """The teacher's excess risk."""
    projection_error: float
    """Largest difference between the distilled weight and the teacher's, projected on the span of the samples."""

    @property
    def ratio(self) -> float:
        """How many times the label student's excess risk is the distilled one's."""
        return self.label / self.distilled


def draw_regression(
    samples: int = 10_000,
    test_samples: int = 1_000,
    features: int = 500,
    informative: int = 300,
    noise: float = 5.0,
    seed: int = 13,
) -> Regression:
    """scikit-learn's ``make_regression`` of N samples with D features, the last n samples for testing."""
    from sklearn.datasets import make_regression

    x, y, weight = make_regression(
        samples + test_samples, features, n_informative=informative, noise=noise, coef=True, random_state=seed
    )
    x, y = torch.from_numpy(x), torch.from_numpy(y)
    return Regression(x[:samples], y[:samples], x[samples:], torch.from_numpy(weight))


def least_squares(x: Tensor, y: Tensor) -> Tensor:
    """The weights ``(D, k)`` of least squared error and minimum norm, for inputs ``(M, D)`` and outputs ``(M, k)``."""
    return torch.linalg.lstsq(x, y, driver="gelsd").solution


def project_on_rows(x: Tensor, weight: Tensor) -> Tensor:
    """The part of ``weight``, ``(D,)``, that lies in the span of the rows of ``x``, ``(M, D)``."""
    basis = torch.linalg.qr(x.T).Q
    return basis @ (basis.T @ weight)


def linear_outcomes(problem: Regression, sizes: Iterable[int], seeds: Iterable[int]) -> list[LinearOutcome]:
    """Students on labels and on the teacher's outputs, on nested random subsets: an outcome per size and seed."""
    teacher = least_squares(problem.x, problem.y[:, None]).squeeze(1)
    orders = {seed: torch.randperm(len(problem.x), generator=torch.Generator().manual_seed(seed)) for seed in seeds}
    found = []
    for size, (seed, order) in product(sizes, orders.items()):
        x, y = problem.x[order[:size]], problem.y[order[:size]]
        label, distilled = least_squares(x, torch.stack([y, x @ teacher], dim=1)).T
        projected = project_on_rows(x, teacher) if len(x) < x.shape[1] else teacher
        weights = {"label": label, "distilled": distilled, "teacher": teacher}
        risks = {name: problem.excess_risk(weight) for name, weight in weights.items()}
        difference = float((distilled - projected).abs().max())
        found.append(LinearOutcome(size=len(x), seed=seed, projection_error=difference, **risks))
    return found


def expected_ratio(samples: int, size: int, features: int) -> float:
    """``(N - D - 1) / (M - D - 1)``: label over distilled excess risk for normal inputs, for M > D + 1."""
    return (samples - features - 1) / (size - features - 1)


def rbf_kernel(first: Tensor, second: Tensor, width: float) -> Tensor:
    """``exp(-|x - y|^2 / (2 width^2))``: ``(n, d)`` and ``(m, d)`` to ``(n, m)``."""
    return torch.exp(-torch.cdist(first, second).square() / (2 * width**2))


def smoother(x: Tensor, test_x: Tensor, width: float, ridge: float) -> Tensor:
    """The linear map ``(n, M)`` from the targets of a kernel ridge regression to its outputs.

    Inputs are ``x`` ``(M, d)`` and ``test_x`` ``(n, d)``; the ridge is above 0.
    """
    kernel = rbf_kernel(x, x, width) + ridge * torch.eye(len(x), dtype=x.dtype, device=x.device)
    return torch.cholesky_solve(rbf_kernel(x, test_x, width), torch.linalg.cholesky(kernel)).T


def kernel_outcome(
    x: Tensor, truth: Tensor, test_x: Tensor, test_truth: Tensor, *, sigma: float, width: float, ridge: float
) -> tuple[float, float]:
    """Expected errors of students on the truth, and on labels with independent noise of deviation ``sigma``.

    Training and test inputs are ``(M, d)`` and ``(n, d)``, their true outputs ``(M,)`` and ``(n,)``, or with k columns.

    Returns:
        Mean squared error of the student of the truth, and what noise in the labels adds to it, in expectation.
    """
    outputs = smoother(x, test_x, width, ridge)
    noise = sigma**2 * outputs.square().sum(dim=1).mean()
    return float((outputs @ truth - test_truth).square().mean()), float(noise)
