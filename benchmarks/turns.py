"""Timing steps that take turns, so that a busy machine slows all of them alike."""

import statistics
import time
from collections.abc import Callable, Mapping

import torch


def synchronize() -> None:
    """Waits for the device, where there is one."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def time_turns(calls: Mapping[str, Callable[[], None]], turns: int, steps: int, skipped: int = 1) -> dict[str, float]:
    """Median seconds per step of each kind.

    Args:
        calls: make one step of a kind.
        turns: of each kind.
        steps: of a turn.
        skipped: first steps of a kind, which are not timed.
    """
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for one in calls.values():
        for _ in range(skipped):
            one()
    for _ in range(turns):
        for name, one in calls.items():
            synchronize()
            start = time.perf_counter()
            for _ in range(steps):
                one()
            synchronize()
            seconds[name].append((time.perf_counter() - start) / steps)
    return {name: statistics.median(values) for name, values in seconds.items()}
