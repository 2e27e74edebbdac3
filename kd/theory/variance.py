"""The variance of the objective: why a teacher's probabilities estimate a risk better than labels do.

"A Statistical Perspective on Distillation" (Menon et al., ICML 2021). For a fixed predictor with loss ``l(x)_c`` if the
class is c, the risk is ``E[p*(x) . l(x)]`` with the posterior p*. On M samples, labels estimate it by the mean of
``l(x)_y``, a teacher p by the mean of ``p(x) . l(x)``. The posterior itself as a teacher has the same mean and a
variance that is smaller by ``E[Var(l_y | x)] / M``; any other teacher adds a bias that no number of samples removes.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from kd.theory.gaussians import GaussianClasses, LinearStudent


@dataclass(frozen=True)
class RiskMoments:
    """Moments of the two estimates of a predictor's risk, for one sample; divide the variances by M for M samples."""

    risk: float
    """The true risk, which labels estimate without bias."""
    bias: float
    """Mean of the teacher's estimate less the risk."""
    teacher_variance: float
    """Of ``p(x) . l(x)``."""
    label_variance: float
    """Of ``l(x)_y``."""
    within_variance: float
    """``E[Var(l_y | x)]``: the labels' own share of their variance."""

    def teacher_error(self, size: int) -> float:
        """Mean squared error of the teacher's estimate from ``size`` samples: bias squared plus variance."""
        return self.bias**2 + self.teacher_variance / size

    def label_error(self, size: int) -> float:
        """Mean squared error of the labels' estimate from ``size`` samples."""
        return self.label_variance / size


def risk_moments(losses: Tensor, posterior: Tensor, teacher: Tensor) -> RiskMoments:
    """Exact moments over a population, each of whose inputs is equally likely.

    Args:
        losses: ``l(x)_c``, ``(n, C)``.
        posterior: ``p*(x)``, ``(n, C)``. Where only labels are known, their one-hot vectors: then ``within_variance``
            is 0, and the bias is that against the labels' risk.
        teacher: ``p(x)``, ``(n, C)``.
    """
    losses, posterior, teacher = losses.double(), posterior.double(), teacher.double()
    by_teacher, expected = (teacher * losses).sum(dim=1), (posterior * losses).sum(dim=1)
    within = (posterior * (losses - expected[:, None]).square()).sum(dim=1).mean()
    return RiskMoments(
        risk=float(expected.mean()),
        bias=float((by_teacher - expected).mean()),
        teacher_variance=float(by_teacher.var(correction=0)),
        label_variance=float(expected.var(correction=0) + within),
        within_variance=float(within),
    )


def draw_risks(
    problem: GaussianClasses, student: LinearStudent, sizes: Iterable[int], draws: int, seed: int
) -> dict[int, tuple[Tensor, Tensor]]:
    """Estimates of the cross-entropy of a fixed student from ``draws`` times M fresh samples, for each M of ``sizes``.

    Returns:
        For each M the estimates by labels and by the posterior on the same inputs, ``(draws,)`` each.
    """
    generator = Generator().manual_seed(seed)
    risks = {}
    for size in sizes:
        label, bayes = [], []
        at_once = max(100_000 // size, 1)
        for start in range(0, draws, at_once):
            x, y = problem.draw(size * min(at_once, draws - start), generator)
            losses = -F.log_softmax(student(x), dim=1)
            expected = (torch.softmax(problem.logits(x), dim=1) * losses).sum(dim=1)
            label.append(losses.gather(1, y[:, None]).view(-1, size).mean(dim=1))
            bayes.append(expected.view(-1, size).mean(dim=1))
        risks[size] = torch.cat(label), torch.cat(bayes)
    return risks
