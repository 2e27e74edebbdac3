"""Random caps on the iterations of training, one a step: cheaper than a large cap, and as good in the paper.

"Fixed-Point RNNs" (Movahedi et al., NeurIPS 2025), section 4.5 and figure 6. A cap is a pure function of a seed and the
number of the optimiser step: all processes and all accumulated batches share it, and a resumed run draws what it would
have drawn.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import nn

from fprnn.solvers import AutomaticSolver, IterativeSolver


class RandomIterations(ABC):
    """Draws the cap of each training step.

    Args:
        seed: what it is drawn from; None is a stream of the run's seed, and then part of the checkpoint.
    """

    def __init__(self, seed: int | None = None) -> None:
        self.derived = seed is None
        self.seed = (torch.initial_seed() if seed is None else seed) % 2**64

    def cap(self, step: int, length: int) -> int:
        """Iterations allowed in one step, at least 1.

        Args:
            step: optimiser steps taken so far.
            length: tokens of the step's sequences.
        """
        # The third number separates this stream from others of the same seed.
        return max(1, self.draw(np.random.default_rng((self.seed, step, 0x6CAB5)), length))

    @abstractmethod
    def draw(self, generator: np.random.Generator, length: int) -> int:
        """One draw for sequences of ``length`` tokens."""


class GammaIterations(RandomIterations):
    """``ceil(Gamma(shape, scale))``, in the paper shape 4 and scale 1: 4.5 iterations on average.

    Args:
        shape: of the distribution.
        scale: of the distribution.

    Raises:
        ValueError: if shape or scale is not positive.
    """

    def __init__(self, shape: float = 4.0, scale: float = 1.0, seed: int | None = None) -> None:
        super().__init__(seed)
        if not (shape > 0 and scale > 0):
            raise ValueError(f"shape={shape}: must be positive, and scale={scale} too; 4 and 1 are the paper's")
        self.shape, self.scale = shape, scale

    def draw(self, generator: np.random.Generator, length: int) -> int:
        """The same for every length."""
        return math.ceil(generator.gamma(self.shape, self.scale))


class LengthGammaIterations(RandomIterations):
    """``ceil(Gamma(4, (k / 4) / 4 + 1))`` for sequences of k tokens: the released code's, 8.5 on average at k = 16."""

    def draw(self, generator: np.random.Generator, length: int) -> int:
        """Grows with the length."""
        return math.ceil(generator.gamma(4.0, length / 16 + 1))


def capped_solvers(model: nn.Module) -> list[IterativeSolver]:
    """The solvers that a cap acts on.

    They are the iterating ones, but for those within an automatic solver of an FP-RNN without an in-loop norm, which
    answers exactly where the iteration does not converge in time.
    """
    linear: list[Any] = [layer for layer in model.modules() if getattr(layer, "loop_norm", None) is None]
    owners = [layer.solver for layer in linear if isinstance(getattr(layer, "solver", None), AutomaticSolver)]
    exempt = [owner.iterative for owner in owners]
    solvers = [module for module in model.modules() if isinstance(module, IterativeSolver)]
    return [solver for solver in solvers if not any(solver is other for other in exempt)]


@contextmanager
def training_cap(solvers: Iterable[IterativeSolver], cap: int | None) -> Iterator[None]:
    """Sets ``max_iterations`` for the time of a block; None leaves it."""
    before = [(solver, solver.max_iterations) for solver in solvers]
    for solver, own in before:
        solver.max_iterations = own if cap is None else cap
    try:
        yield
    finally:
        for solver, own in before:
            solver.max_iterations = own
