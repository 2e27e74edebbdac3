"""Learning-rate schedules: pure functions of the number of steps, and PyTorch schedulers over them.

Warm-up, cosine and, for copying, the straight line are those of "Fixed-Point RNNs" (Movahedi et al., NeurIPS 2025),
appendices D and E.
"""

import math
from typing import Any

from torch.optim.lr_scheduler import LRScheduler
from torch.optim.optimizer import Optimizer


def warmup_constant(step: int, warmup_steps: int) -> float:
    """Factor of the learning rate after ``step`` steps: ``(step + 1) / warmup_steps`` up to 1; 0 is no warm-up."""
    return min(1.0, (step + 1) / max(warmup_steps, 1))


def warmup_cosine(step: int, warmup_steps: int, total_steps: int, floor: float = 0.0) -> float:
    """Factor of the learning rate: linear up to 1, then half a cosine down to the floor.

    Args:
        step: steps taken so far.
        warmup_steps: length of the ascent; 0 starts at 1.
        total_steps: where the floor is reached; it is kept from there on.
        floor: last factor.
    """
    if step < warmup_steps:
        return warmup_constant(step, warmup_steps)
    return floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * _descent(step, warmup_steps, total_steps)))


def warmup_linear(step: int, warmup_steps: int, total_steps: int, floor: float = 0.0) -> float:
    """Factor of the learning rate: linear up to 1, then linear down to the floor. Arguments: ``warmup_cosine``."""
    if step < warmup_steps:
        return warmup_constant(step, warmup_steps)
    return 1 - (1 - floor) * _descent(step, warmup_steps, total_steps)


def _descent(step: int, warmup_steps: int, total_steps: int) -> float:
    """The share of the descent that is done, 0 to 1."""
    return min((step - warmup_steps) / max(total_steps - warmup_steps, 1), 1.0)


class WarmupConstant(LRScheduler):
    """Linear warm-up, then constant.

    Options are not part of the state: a resumed run follows its own.

    Args:
        optimizer: whose learning rates are set.
        warmup_steps: steps until the full learning rate.

    Raises:
        ValueError: if the number is negative.
    """

    def __init__(self, optimizer: Optimizer, warmup_steps: int = 0) -> None:
        if warmup_steps < 0:
            raise ValueError(f"warmup_steps: {warmup_steps} is negative; 0 is no warm-up")
        self.warmup_steps = warmup_steps
        super().__init__(optimizer)

    def factor(self, step: int) -> float:
        """The factor of the learning rate after ``step`` steps: see :func:`warmup_constant`."""
        return warmup_constant(step, self.warmup_steps)

    def get_lr(self) -> list[Any]:
        """Each group's learning rate at the present step."""
        factor = self.factor(self.last_epoch)
        return [rate * factor for rate in self.base_lrs]

    def state_dict(self) -> dict[str, Any]:
        """Where the schedule stands."""
        options = ("warmup_steps", "total_steps", "floor")
        return {name: value for name, value in super().state_dict().items() if name not in options}


class WarmupCosine(WarmupConstant):
    """Linear warm-up, then half a cosine.

    Args:
        optimizer: whose learning rates are set.
        warmup_steps: steps until the full learning rate.
        total_steps: steps until the floor; null is the whole training, which the module asks its trainer for.
        floor: last learning rate in units of the full one.

    Raises:
        ValueError: if an option is out of range.
    """

    descending = staticmethod(warmup_cosine)

    def __init__(
        self, optimizer: Optimizer, warmup_steps: int = 0, total_steps: int | None = None, floor: float = 0.0
    ) -> None:
        if total_steps is not None and total_steps <= warmup_steps:
            raise ValueError(
                f"total_steps: {total_steps} leaves nothing after warmup_steps={warmup_steps}; use more, or null"
            )
        if not 0 <= floor <= 1:
            raise ValueError(f"floor: {floor} is not in [0, 1]; it is a share of the learning rate")
        self.total_steps, self.floor = total_steps, floor
        super().__init__(optimizer, warmup_steps)

    def factor(self, step: int) -> float:
        """The factor of the learning rate after ``step`` steps.

        Raises:
            ValueError: if ``total_steps`` is needed and nothing has set it.
        """
        if self.total_steps is not None:
            return self.descending(step, self.warmup_steps, self.total_steps, self.floor)
        if step > self.warmup_steps:
            raise ValueError("total_steps: null needs a module that asks its trainer; give a number")
        return warmup_constant(step, self.warmup_steps)


class WarmupLinear(WarmupCosine):
    """Linear warm-up, then linear decay.

    Args:
        optimizer: whose learning rates are set.
        warmup_steps: steps until the full learning rate.
        total_steps: steps until the floor; null is the whole training, which the module asks its trainer for.
        floor: last learning rate in units of the full one.

    Raises:
        ValueError: if an option is out of range.
    """

    descending = staticmethod(warmup_linear)
