"""Anderson acceleration of Picard's iteration.

Not in "Fixed-Point RNNs" (Movahedi et al., NeurIPS 2025): "Anderson Acceleration for Fixed-Point Iterations" (Walker
and Ni, 2011), type II, for each sequence by itself.
"""

from collections import deque
from typing import Any

import torch
from torch import Tensor

from fprnn.solvers.base import FixedPointEquation, SolveStatistics
from fprnn.solvers.picard import Accelerator, IterativeSolver, check_positive, like_rows


class AndersonSolver(IterativeSolver):
    """Picard's iteration with Anderson acceleration: the last few iterates are combined to shrink the residual.

    Each sequence is extrapolated by itself. Where the combination is not finite, the plain step is taken. Not with a
    norm in the loop: there are several fixed points then, and extrapolation goes to unstable ones as well, which the
    plain iteration leaves after the smallest push.

    Args:
        memory: how many earlier iterates are combined.
        regularization: ridge of the least-squares problem, relative to its size.
        kwargs: as in :class:`PicardSolver`.
    """

    def __init__(self, memory: int = 4, regularization: float = 1e-6, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        check_positive(memory=memory, regularization=regularization)
        self.memory, self.regularization = memory, regularization

    def check(self, linear: bool) -> None:
        """Refuses a norm in the loop; see :meth:`~fprnn.solvers.FixedPointSolver.check`."""
        if not linear:
            raise ValueError(
                "solver=AndersonSolver: with a norm in the loop it finds fixed points that the iteration leaves; use "
                "PicardSolver"
            )

    def iterate(self, equation: FixedPointEquation, cap: int | None = None) -> tuple[Tensor, SolveStatistics]:
        """See :meth:`~fprnn.solvers.IterativeSolver.iterate`; ValueError also if there is a norm in the loop."""
        self.check(equation.linear)
        return super().iterate(equation, cap)

    def accelerator(self) -> Accelerator:
        """Keeps ``memory`` differences of residuals and images."""
        images: deque[Tensor] = deque(maxlen=self.memory + 1)
        residuals: deque[Tensor] = deque(maxlen=self.memory + 1)

        def step(state: Tensor, image: Tensor, step_size: Tensor) -> Tensor:
            images.append(image.flatten(1))
            residuals.append((image - state).flatten(1))
            plain = torch.lerp(state, image, like_rows(step_size, state))
            if len(images) < 2:
                return plain
            correction = anderson_correction(
                torch.stack(list(images), 1), torch.stack(list(residuals), 1), self.regularization
            )
            accelerated = plain - correction.reshape(plain.shape)
            usable = accelerated.flatten(1).isfinite().all(1)
            return torch.where(like_rows(usable, state), accelerated, plain)

        return step


def anderson_correction(images: Tensor, residuals: Tensor, regularization: float) -> Tensor:
    """What Anderson acceleration subtracts from the newest image (Walker and Ni, 2011, type II).

    Args:
        images: ``f(x_i)``, ``(B, m + 1, n)``, the newest last.
        residuals: ``f(x_i) - x_i``, the same shape.
        regularization: ridge relative to the mean of the normal equations' diagonal.

    Returns:
        ``dF gamma`` with gamma minimising ``|r - dR gamma|``, ``(B, n)``.
    """
    image_steps, residual_steps = images.diff(dim=1), residuals.diff(dim=1)
    normal = residual_steps @ residual_steps.mT
    ridge = regularization * normal.diagonal(dim1=1, dim2=2).mean(-1)[:, None, None]
    eye = torch.eye(normal.shape[-1], dtype=normal.dtype, device=normal.device)
    right = residual_steps @ residuals[:, -1:].mT
    gamma, _ = torch.linalg.solve_ex(normal + ridge * eye, right)
    return (gamma.mT @ image_steps).squeeze(1)
