"""How far a study is, in one line."""

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from dinopl.sweep.file import TEST_METRICS, Sweep
from dinopl.sweep.queue import State, state_of

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial

Attempts = Mapping[str, list["FrozenTrial"]]


@dataclass(frozen=True)
class Progress:
    """Numbers of runs, the runs that others depend on included.

    Attributes:
        total: all there are to be.
        finished: and recorded as such.
        diverged: whose loss was not finite.
        running: at this moment, anywhere.
        failed: without an attempt left.
        seconds_left: until the end at the pace so far; None before anything is finished.
        best: the best value so far with what its run set; None without a metric or a value.
    """

    total: int
    finished: int = 0
    diverged: int = 0
    running: int = 0
    failed: int = 0
    seconds_left: float | None = None
    best: tuple[float, str] | None = None

    @property
    def left(self) -> int:
        """Runs that are neither over nor running."""
        return self.total - self.finished - self.diverged - self.running - self.failed


def measure(attempts: Attempts, total: int, workers: int, now: datetime) -> Progress:
    """How far runs are.

    Args:
        attempts: by run, of the runs that count.
        total: how many runs there are to be.
        workers: how many of them are made at a time, at least.
        now: local time.
    """
    states = [state_of(each) for each in attempts.values()]
    counts = {state: states.count(state) for state in State}
    taken = [_seconds(each) for each in attempts.values() if state_of(each) is State.FINISHED]
    begun = [trial.datetime_start for each in attempts.values() for trial in each if trial.state.name == "RUNNING"]
    over = counts[State.FINISHED] + counts[State.DIVERGED] + counts[State.FAILED]
    seconds = None
    if taken:
        pace = sum(taken) / len(taken)
        started = sum(max(pace - (now - start).total_seconds(), 0.0) for start in begun if start is not None)
        seconds = (started + pace * (total - over - counts[State.RUNNING])) / max(workers, len(begun), 1)
    return Progress(
        total,
        counts[State.FINISHED],
        counts[State.DIVERGED],
        counts[State.RUNNING],
        counts[State.FAILED],
        seconds,
    )


def _seconds(attempts: Collection["FrozenTrial"]) -> float:
    """How long the attempt took that came to an end."""
    lasted = [
        (trial.datetime_complete - trial.datetime_start).total_seconds()
        for trial in attempts
        if trial.state.name == "COMPLETE" and trial.datetime_complete and trial.datetime_start
    ]
    return max(lasted, default=0.0)


def best_of(attempts: Attempts, sweep: Sweep) -> tuple[float, str] | None:
    """The best value of the study's metric, and what its run set; nothing is called best on the test split."""
    if sweep.metric is None or sweep.metric.startswith(TEST_METRICS):
        return None
    told = [trial for each in attempts.values() for trial in each if trial.state.name == "COMPLETE"]
    values = [(trial.value, trial) for trial in told if trial.value is not None and math.isfinite(trial.value)]
    if not values:
        return None
    value, trial = (min if sweep.direction == "minimize" else max)(values, key=lambda pair: pair[0])
    return value, described(trial.user_attrs)


def described(facts: Mapping[str, Any]) -> str:
    """A run by its variant and by what it sets."""
    options = [f"{option}={value}" for option, value in facts.get("options", {}).items()]
    return ", ".join([facts["variant"], *options] if facts.get("variant") else options)


def line(name: str, progress: Progress, metric: str | None) -> str:
    """The progress of a study for people."""
    parts = [f"{progress.finished}/{progress.total} done", f"{progress.running} running"]
    parts += [f"{progress.diverged} diverged"] if progress.diverged else []
    parts += [f"{progress.failed} failed", f"{progress.left} left"]
    if progress.seconds_left is not None and progress.left + progress.running:
        parts.append(f"{timedelta(seconds=round(progress.seconds_left))} to go")
    text = f"{name}: {', '.join(parts)}"
    if progress.best is None:
        return text
    value, run = progress.best
    return f"{text}; best {metric} {value:.4g} ({run})"
