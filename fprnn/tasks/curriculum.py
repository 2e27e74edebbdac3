"""Length curricula: how the length of training sequences grows."""

from abc import ABC, abstractmethod
from typing import Any


class LengthCurriculum(ABC):
    """Decides the longest length of the next training batch."""

    needs_accuracy: bool = False
    """Whether ``observe`` has to be called after each training batch."""

    @abstractmethod
    def longest(self, step: int, goal: int) -> int:
        """Longest length of the batch number ``step``, counted from 0; at most ``goal``, the length of the data."""

    def observe(self, accuracy: float, goal: int) -> None:  # noqa: B027 - most curricula do not need it
        """Takes in the share of the last batch's sequences that were answered right at every scored position."""

    def state_dict(self) -> dict[str, Any]:
        """What has to survive a restart: plain values."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:  # noqa: B027 - most curricula have no state
        """Restores what ``state_dict`` gave."""


class LinearLengths(LengthCurriculum):
    """Length that grows linearly with the number of batches.

    Args:
        start: length of the first batch.
        steps: number of batches after which the data's own length is reached.

    Raises:
        ValueError: if an argument is below 1.
    """

    def __init__(self, start: int, steps: int) -> None:
        _check_start(start)
        if steps < 1:
            raise ValueError(f"steps={steps}: too few batches to grow in; use 1 or more")
        self.start, self.steps = start, steps

    def longest(self, step: int, goal: int) -> int:
        """Between ``start`` and ``goal`` in proportion to the steps taken."""
        start = min(self.start, goal)
        return start + (goal - start) * min(step, self.steps) // self.steps


class AdaptiveLengths(LengthCurriculum):
    """Length that grows from T to ``T + 1 + T // 4`` whenever the model has mastered T.

    Mastered means that a running mean of the training batches' sequence accuracy has passed a threshold. The mean
    starts at 0 for each length, so that a length is kept for ``log(1 - threshold) / log(smoothing)`` batches or more.

    Args:
        start: length of the first batch.
        threshold: running sequence accuracy at which the length grows, in (0, 1).
        smoothing: weight of the past in the running mean, in [0, 1).

    Raises:
        ValueError: if an argument is out of range.
    """

    needs_accuracy = True

    def __init__(self, start: int = 2, threshold: float = 0.9, smoothing: float = 0.9) -> None:
        _check_start(start)
        if not 0 < threshold < 1:
            raise ValueError(f"threshold={threshold}: must be between 0 and 1; 0.9 is the default")
        if not 0 <= smoothing < 1:
            raise ValueError(f"smoothing={smoothing}: must be in [0, 1); 0.9 is the default")
        self.start, self.threshold, self.smoothing = start, threshold, smoothing
        self.length, self.running = start, 0.0

    def longest(self, step: int, goal: int) -> int:
        """The length reached so far."""
        return min(self.length, goal)

    def observe(self, accuracy: float, goal: int) -> None:
        """Updates the running accuracy, and moves on where it has passed the threshold."""
        self.running = self.smoothing * self.running + (1 - self.smoothing) * accuracy
        if self.running > self.threshold and self.length < goal:
            self.length = min(self.length + 1 + self.length // 4, goal)
            self.running = 0.0

    def state_dict(self) -> dict[str, Any]:
        """The length reached and the running accuracy at it."""
        return {"length": self.length, "running": self.running}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores the length reached and the running accuracy at it."""
        self.length, self.running = state["length"], state["running"]


def _check_start(start: int) -> None:
    if start < 1:
        raise ValueError(f"start={start}: too short; use 1 or more")
