"""Schedules: pure functions of the number of steps, for the learning rate and for any other number of training.

Warm-up, cosine and, for copying, the straight line of the learning rate are those of "Fixed-Point RNNs" (Movahedi et
al., NeurIPS 2025), appendices D and E; PyTorch schedulers stand over them.

A ``Schedule`` is a number that changes during training, as in "Random Teachers are Good Teachers" (Sarnthein et al.,
ICML 2023), appendices E.3 and E.5: learning rate, weight decay, the momentum of teacher and centre, temperatures. What
differs from the published code: schedules are objects instead of parsed strings, and last as long as the training does,
where the code may stretch them beyond its end.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType
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
            raise ValueError(f"warmup_steps={warmup_steps}: must be at least 0; 0 is no warm-up")
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
        total_steps: steps until the floor; None is the whole training, which the module asks its trainer for.
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
                f"total_steps={total_steps}: leaves nothing after warmup_steps={warmup_steps}; use more, or None"
            )
        if not 0 <= floor <= 1:
            raise ValueError(f"floor={floor}: must be in [0, 1]; it is a share of the learning rate")
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
            raise ValueError("total_steps=None: needs a module that asks its trainer; give a number")
        return warmup_constant(step, self.warmup_steps)


class WarmupLinear(WarmupCosine):
    """Linear warm-up, then linear decay.

    Args:
        optimizer: whose learning rates are set.
        warmup_steps: steps until the full learning rate.
        total_steps: steps until the floor; None is the whole training, which the module asks its trainer for.
        floor: last learning rate in units of the full one.

    Raises:
        ValueError: if an option is out of range.
    """

    descending = staticmethod(warmup_linear)


def linear(progress: float, start: float, end: float) -> float:
    """The straight line from ``start`` at progress 0 to ``end`` at 1.

    Example:
        >>> [linear(step / 4, 0.0, 1.0) for step in range(5)]
        [0.0, 0.25, 0.5, 0.75, 1.0]
    """
    return start + (end - start) * progress


def cosine(progress: float, start: float, end: float) -> float:
    """Half a cosine from ``start`` at progress 0 to ``end`` at 1, flat at both ends.

    Example:
        >>> [round(cosine(step / 2, 0.996, 1.0), 3) for step in range(3)]
        [0.996, 0.998, 1.0]
    """
    return start + (end - start) * (0.5 - 0.5 * math.cos(math.pi * progress))


def exponential(progress: float, start: float, end: float) -> float:
    """The geometric sequence from ``start`` at progress 0 to ``end`` at 1, both positive.

    Example:
        >>> [round(exponential(step / 2, 1.0, 1e-4), 6) for step in range(3)]
        [1.0, 0.01, 0.0001]
    """
    return start * (end / start) ** progress


class Schedule(ABC):
    """A number that follows training: a function of the step and of the length of training, and of nothing else."""

    @abstractmethod
    def __call__(self, step: int, steps: int, steps_per_epoch: int) -> float:
        """The number that an optimiser step is taken with.

        Args:
            step: steps taken before it; the last one is ``steps - 1``, and its number stays from there on.
            steps: of the whole training.
            steps_per_epoch: which a place given in epochs is multiplied by.
        """

    @abstractmethod
    def numbers(self) -> Iterator[float]:
        """The numbers between which the schedule moves, to be checked for their range."""

    def cut_off(self, steps: int, steps_per_epoch: int) -> Iterator[str]:
        """What of the schedule lies beyond a training of ``steps``, in words; arguments as of a call."""
        yield from ()

    def __repr__(self) -> str:
        """The call that makes an equal schedule."""
        return f"{type(self).__name__}({', '.join(f'{name}={value!r}' for name, value in vars(self).items())})"

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other) and vars(self) == vars(other)


class ConstantSchedule(Schedule):
    """One number throughout.

    Args:
        value: the number.
    """

    def __init__(self, value: float) -> None:
        self.value = value

    def __call__(self, step: int, steps: int, steps_per_epoch: int) -> float:
        """The number."""
        return self.value

    def numbers(self) -> Iterator[float]:
        """The number."""
        yield self.value


class LinearSchedule(Schedule):
    """A straight line; both ends are reached.

    Args:
        start: number of the first step.
        end: number of the last step.
    """

    curve = staticmethod(linear)

    def __init__(self, start: float, end: float) -> None:
        self.start, self.end = start, end

    def __call__(self, step: int, steps: int, steps_per_epoch: int) -> float:
        """The point of the curve at ``step / (steps - 1)``."""
        return self.curve(min(step / max(steps - 1, 1), 1.0), self.start, self.end)

    def numbers(self) -> Iterator[float]:
        """Both ends."""
        yield from (self.start, self.end)


class CosineSchedule(LinearSchedule):
    """Half a cosine, flat at both ends; both are reached.

    Args:
        start: number of the first step.
        end: number of the last step.
    """

    curve = staticmethod(cosine)


class ExponentialSchedule(LinearSchedule):
    """A geometric sequence; both ends are reached.

    Args:
        start: number of the first step.
        end: number of the last step.

    Raises:
        ValueError: if an end is not positive.
    """

    curve = staticmethod(exponential)

    def __init__(self, start: float, end: float) -> None:
        super().__init__(start, end)
        for name, value in (("start", start), ("end", end)):
            if not value > 0:
                raise ValueError(f"{name}={value}: must be positive; a LinearSchedule reaches 0")


class ConcatenatedSchedule(Schedule):
    """One schedule, then another: a ``LinearSchedule(0, peak)`` for 10 epochs, say, then a ``CosineSchedule(peak, 0)``.

    Args:
        first: a schedule or a number.
        second: likewise; it starts where the first one ends, and ends with training.
        where: how long the first one lasts: a whole number is epochs, a fraction such as 0.1 a share of all steps.

    Raises:
        ValueError: if ``where`` is negative, or a fraction above 1.
    """

    def __init__(self, first: Schedule | float, second: Schedule | float, where: int | float) -> None:
        check_place("where", where)
        self.first, self.second, self.where = first, second, where

    def __call__(self, step: int, steps: int, steps_per_epoch: int) -> float:
        """The number of whichever schedule the step belongs to, each over its own steps."""
        split = place(self.where, steps, steps_per_epoch)
        if step < split:
            return value_at(self.first, step, split, steps_per_epoch)
        return value_at(self.second, step - split, steps - split, steps_per_epoch)

    def numbers(self) -> Iterator[float]:
        """Those of both."""
        for part in (self.first, self.second):
            yield from numbers_of(part)

    def cut_off(self, steps: int, steps_per_epoch: int) -> Iterator[str]:
        """The place of the second schedule, and those within both, if they are beyond the training."""
        split = place(self.where, steps, steps_per_epoch)
        if split > steps:
            yield f"where={self.where} is step {split}"
        for part, length in ((self.first, min(split, steps)), (self.second, steps - split)):
            if isinstance(part, Schedule) and length > 0:
                yield from part.cut_off(length, steps_per_epoch)


class MultiStepSchedule(Schedule):
    """A number that is multiplied by ``gamma`` at each of some places.

    Args:
        value: the first number.
        gamma: the factor.
        milestones: the places: whole numbers are epochs, fractions shares of all steps.

    Raises:
        ValueError: if a place is negative, or a fraction above 1.
    """

    def __init__(self, value: float, gamma: float, milestones: Sequence[int | float]) -> None:
        for milestone in milestones:
            check_place("milestones", milestone)
        self.value, self.gamma, self.milestones = value, gamma, list(milestones)

    def __call__(self, step: int, steps: int, steps_per_epoch: int) -> float:
        """The number after the places that the step has reached."""
        passed = sum(step >= place(milestone, steps, steps_per_epoch) for milestone in self.milestones)
        return self.value * self.gamma**passed

    def numbers(self) -> Iterator[float]:
        """Each number that it takes."""
        yield from (self.value * self.gamma**passed for passed in range(len(self.milestones) + 1))


def check_place(name: str, where: int | float) -> None:
    """Raises a ValueError for a place that is negative or a fraction above 1, which would be beyond training."""
    if where < 0 or (isinstance(where, float) and not where <= 1):
        raise ValueError(f"{name}={where}: must be a whole number of epochs, or a fraction of training in [0, 1]")


def place(where: int | float, steps: int, steps_per_epoch: int) -> int:
    """The first step after a whole number of epochs, or after a fraction of all steps, rounded."""
    return where * steps_per_epoch if isinstance(where, int) else round(where * steps)


def value_at(number: Schedule | float, step: int, steps: int, steps_per_epoch: int) -> float:
    """A schedule's number at a step; a number is itself."""
    return number(step, steps, steps_per_epoch) if isinstance(number, Schedule) else number


def numbers_of(number: Schedule | float | None) -> list[float]:
    """The numbers that a schedule moves between; a number is itself, and None has none."""
    if isinstance(number, Schedule):
        return list(number.numbers())
    return [] if number is None else [number]


class Scheduled:
    """An object some of whose numbers follow schedules.

    Attributes:
        schedules: those of its attributes that move, by name.
    """

    schedules: Mapping[str, Schedule] = MappingProxyType({})

    def follow(self, **numbers: Schedule | float | None) -> None:
        """Makes each number an attribute; that of a schedule is its first until ``advance`` moves it."""
        self.schedules = {name: number for name, number in numbers.items() if isinstance(number, Schedule)}
        for name, number in numbers.items():
            setattr(self, name, next(number.numbers()) if isinstance(number, Schedule) else number)

    def advance(self, step: int, steps: int, steps_per_epoch: int) -> None:
        """Sets the numbers that an optimiser step is taken with; arguments as of ``Schedule``."""
        for name, schedule in self.schedules.items():
            setattr(self, name, schedule(step, steps, steps_per_epoch))
