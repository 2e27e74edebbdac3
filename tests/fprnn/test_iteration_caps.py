"""Random caps: their distribution, what they depend on, and where they act."""

import numpy as np
import pytest
import torch
from scipy import stats
from torch import nn

from fprnn.iteration_caps import (
    GammaIterations,
    LengthGammaIterations,
    RandomIterations,
    capped_solvers,
    training_cap,
)
from fprnn.layers import FPRNN
from fprnn.solvers import AutomaticSolver, PicardSolver, SequentialSolver


@pytest.mark.parametrize(
    ("caps", "length", "scale", "mean"),
    [(GammaIterations(seed=1), 16, 1.0, 4.5), (LengthGammaIterations(seed=1), 16, 2.0, 8.5)],
)
def test_draws_follow_the_distribution(caps: RandomIterations, length: int, scale: float, mean: float) -> None:
    draws = np.array([caps.cap(step, length) for step in range(10_000)])
    assert draws.mean() == pytest.approx(mean, abs=0.1)
    edges = np.arange(1, 31)
    probabilities = np.diff(stats.gamma.cdf(np.arange(31), 4, scale=scale))  # ceil(x) = n means n - 1 < x <= n
    observed = np.array([(draws == edge).mean() for edge in edges])
    assert np.abs(observed - probabilities).max() < 0.015
    assert draws.min() >= 1


def test_a_draw_depends_on_seed_and_step_alone() -> None:
    first, second, other = (GammaIterations(seed=seed) for seed in (7, 7, 8))
    forwards = [first.cap(step, 5) for step in range(50)]
    assert [second.cap(step, 9) for step in reversed(range(50))] == forwards[::-1]
    assert [other.cap(step, 5) for step in range(50)] != forwards
    torch.manual_seed(3)
    derived = GammaIterations()
    torch.manual_seed(4)
    assert derived.seed != GammaIterations().seed
    assert derived.derived
    assert not first.derived
    longer = LengthGammaIterations(seed=0)
    assert sum(longer.cap(step, 64) for step in range(99)) > 2 * sum(longer.cap(step, 8) for step in range(99))


def test_a_cap_reaches_every_solver_that_it_means_something_to_and_is_taken_back() -> None:
    automatic = AutomaticSolver(PicardSolver(max_iterations=8))
    layers = [
        FPRNN(4, solver=PicardSolver(max_iterations=9)),
        FPRNN(4, solver=automatic, in_loop_norm=True),
        FPRNN(4, solver=automatic),  # solves exactly where it does not converge, so that a cap means nothing
        FPRNN(4, solver=SequentialSolver()),
    ]
    found = capped_solvers(nn.ModuleList(layers))
    assert [solver.max_iterations for solver in found] == [9, 8]

    def interrupted() -> None:
        with training_cap(found, 3):
            assert [solver.max_iterations for solver in found] == [3, 3]
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert [solver.max_iterations for solver in found] == [9, 8]
    with training_cap(found, None):
        assert [solver.max_iterations for solver in found] == [9, 8]


def test_a_distribution_needs_positive_parameters() -> None:
    with pytest.raises(ValueError, match=r"shape=0: must be positive, and scale=1.0 too"):
        GammaIterations(shape=0)
