"""Distillation between linear regressions: exact below and above as many samples as features.

"Towards Understanding Knowledge Distillation" (Phuong and Lampert, ICML 2019), in the setting of the early code of the
authors of "Revisiting Knowledge Distillation: The Hidden Role of Dataset Size": least squares with minimum norm, a
teacher on all N samples, students on M of them, on the labels y or on the teacher's outputs ``X w_teacher``.

With M < D the distilled student is the teacher projected on the span of its samples; what is left out costs both
students the same, so there is nothing to gain. From M = D on the distilled student *is* the teacher, while the labels'
noise still costs ``(N - D - 1) / (M - D - 1)`` times the teacher's excess risk, without bound near M = D. So the gain
is a step at M = D and falls with M thereafter.
"""

from collections.abc import Iterable
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
    """scikit-learn's ``make_regression``, the last samples for testing.

    Args:
        samples: N.
        test_samples: n.
        features: D.
        informative: features of non-zero weight.
        noise: standard deviation of the labels' noise.
        seed: of the data.
    """
    from sklearn.datasets import make_regression

    x, y, weight = make_regression(
        samples + test_samples, features, n_informative=informative, noise=noise, coef=True, random_state=seed
    )
    x, y = torch.from_numpy(x), torch.from_numpy(y)
    return Regression(x[:samples], y[:samples], x[samples:], torch.from_numpy(weight))


def least_squares(x: Tensor, y: Tensor) -> Tensor:
    """The weights of minimum norm among those of least squared error.

    Args:
        x: inputs, ``(M, D)``.
        y: outputs, ``(M, k)``.

    Returns:
        ``(D, k)``.
    """
    return torch.linalg.lstsq(x, y, driver="gelsd").solution


def project_on_rows(x: Tensor, weight: Tensor) -> Tensor:
    """The part of ``weight``, ``(D,)``, that lies in the span of the rows of ``x``, ``(M, D)``."""
    basis = torch.linalg.qr(x.T).Q
    return basis @ (basis.T @ weight)


def linear_outcomes(problem: Regression, sizes: Iterable[int], seeds: Iterable[int]) -> list[LinearOutcome]:
    """Students on labels and on the teacher's outputs, on nested random subsets.

    Args:
        problem: data and truth.
        sizes: numbers of samples.
        seeds: of the subsets.

    Returns:
        One outcome per size and seed, in this order.
    """
    teacher = least_squares(problem.x, problem.y[:, None]).squeeze(1)
    orders = {seed: torch.randperm(len(problem.x), generator=torch.Generator().manual_seed(seed)) for seed in seeds}
    return [_outcome(problem, teacher, order[:size], seed) for size in sizes for seed, order in orders.items()]


def _outcome(problem: Regression, teacher: Tensor, rows: Tensor, seed: int) -> LinearOutcome:
    x = problem.x[rows]
    label, distilled = least_squares(x, torch.stack([problem.y[rows], x @ teacher], dim=1)).T
    projected = project_on_rows(x, teacher) if len(x) < x.shape[1] else teacher
    return LinearOutcome(
        size=len(rows),
        seed=seed,
        label=problem.excess_risk(label),
        distilled=problem.excess_risk(distilled),
        teacher=problem.excess_risk(teacher),
        projection_error=float((distilled - projected).abs().max()),
    )


def expected_ratio(samples: int, size: int, features: int) -> float:
    """``(N - D - 1) / (M - D - 1)``: label over distilled excess risk for normal inputs, for M > D + 1."""
    return (samples - features - 1) / (size - features - 1)
