"""Classes whose posterior is known: normal clouds of one covariance, for which softmax regression is exact.

With equal priors and unit covariance, ``log p(y | x) = x mu_y - |mu_y|^2 / 2`` up to a constant: the Bayes teacher is
a linear layer. So a linear student can equal it, and every statement about teachers, temperatures and targets can be
checked without an optimiser's or an architecture's influence.
"""

from collections.abc import Iterable, Mapping
from itertools import product

import torch
from torch import Generator, Tensor

from dinopl.core.divergences import kl_divergence
from kd.losses.base import Objective, TeacherOutputs
from kd.targets.base import TargetTransform, WholeTeacher


class GaussianClasses:
    """Normal clouds of unit covariance and equal weight, in float64.

    Args:
        means: ``(C, d)``.
    """

    def __init__(self, means: Tensor) -> None:
        self.means = means

    @classmethod
    def drawn(cls, num_classes: int = 10, dim: int = 20, spread: float = 0.6, seed: int = 0) -> "GaussianClasses":
        """Clouds whose means are drawn from a normal distribution of standard deviation ``spread``."""
        generator = Generator().manual_seed(seed)
        return cls(spread * torch.randn(num_classes, dim, generator=generator, dtype=torch.float64))

    def draw(self, count: int, generator: Generator) -> tuple[Tensor, Tensor]:
        """Samples ``(count, d)`` and their classes ``(count,)``."""
        label = torch.randint(len(self.means), (count,), generator=generator)
        noise = torch.randn(count, self.means.shape[1], generator=generator, dtype=torch.float64)
        return self.means[label] + noise, label

    def logits(self, x: Tensor) -> Tensor:
        """Logits of the posterior: ``(n, d)`` to ``(n, C)``."""
        return x @ self.means.T - self.means.square().sum(dim=1) / 2


class LinearStudent:
    """A linear layer, in float64.

    Args:
        weight: ``(d + 1, C)``; the last row is the bias.
    """

    def __init__(self, weight: Tensor) -> None:
        self.weight = weight

    def __call__(self, x: Tensor) -> Tensor:
        """Logits ``(n, C)`` of inputs ``(n, d)``."""
        return with_ones(x) @ self.weight


def with_ones(x: Tensor) -> Tensor:
    """Inputs ``(n, d)`` with a column of ones behind: ``(n, d + 1)``."""
    return torch.cat([x, x.new_ones(len(x), 1)], dim=1)


def fit_linear(
    problem: GaussianClasses,
    x: Tensor,
    label: Tensor,
    objective: Objective,
    target: TargetTransform | None = None,
    *,
    decay: float = 0.0,
    iterations: int = 2000,
) -> LinearStudent:
    """The linear student that minimises an objective on all samples together, from zero weights, by L-BFGS.

    Args:
        problem: its posterior is the teacher.
        x: ``(M, d)`` float64.
        label: ``(M,)`` int64.
        objective: any objective.
        target: what of the teacher is seen; by default all of it.
        decay: times half the squared weights is added. Labels that can be separated have no optimum without.
        iterations: at most; it ends earlier where the gradient is 0 in double precision.
    """
    target = target or WholeTeacher()
    index = torch.arange(len(x))
    outputs = TeacherOutputs(problem.logits(x), label, index)
    objective.prepare(outputs)
    target.prepare(outputs, objective.temperature)
    logits = target(outputs.logits, label, index, 0, objective.temperature)
    inputs = with_ones(x)
    weight = torch.zeros(inputs.shape[1], logits.shape[1], dtype=x.dtype, requires_grad=True)
    optimizer = torch.optim.LBFGS(
        [weight],
        max_iter=iterations,
        tolerance_grad=1e-12,
        tolerance_change=0,
        history_size=50,
        line_search_fn="strong_wolfe",
    )

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = objective(inputs @ weight, logits, label).mean() + decay / 2 * weight.square().sum()
        loss.backward()
        return loss

    optimizer.step(closure)  # type: ignore[no-untyped-call]
    return LinearStudent(weight.detach())


Target = tuple[Objective, TargetTransform | None]


def compare_targets(
    problem: GaussianClasses,
    targets: Mapping[str, Target],
    sizes: Iterable[int],
    seeds: Iterable[int],
    *,
    decay: float = 0.0,
    test_samples: int = 20_000,
) -> dict[tuple[str, int, int], tuple[float, float, float]]:
    """Linear students on the same samples with different targets; the teacher is the posterior itself.

    The samples of one seed and one call are nested. Targets are, by name, an objective and what of the teacher it sees;
    students are judged on ``test_samples`` fresh samples.

    Returns:
        For each name, number of samples and seed: the mean KL divergence of the student from the posterior in nats,
        which is the excess risk; the accuracy; and the share of samples on which both have the same largest logit.
    """
    test_x, test_y = problem.draw(test_samples, Generator().manual_seed(2**62))
    truth, sizes = problem.logits(test_x), list(sizes)
    found = {}
    for seed in seeds:
        x, y = problem.draw(max(sizes), Generator().manual_seed(seed))
        for size, (name, (objective, target)) in product(sizes, targets.items()):
            logits = fit_linear(problem, x[:size], y[:size], objective, target, decay=decay)(test_x)
            same = [logits.argmax(dim=1) == classes for classes in (test_y, truth.argmax(dim=1))]
            values = (kl_divergence(logits, truth), *(hits.double() for hits in same))
            divergence, accuracy, agreement = (float(value.mean()) for value in values)
            found[name, size, seed] = divergence, accuracy, agreement
    return found


def expected_label_divergence(problem: GaussianClasses, size: int) -> float:
    """``(C - 1)(d + 1) / (2 M)``: what noise in M labels costs a maximum-likelihood student, for large M.

    The classical expansion of the likelihood: half a nat per free parameter, over M.
    """
    classes, dim = problem.means.shape
    return (classes - 1) * (dim + 1) / (2 * size)
