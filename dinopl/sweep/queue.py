"""The queue of a study's runs: an Optuna study, each of whose trials is one attempt at one run.

Optuna's grid sampler repeats points under parallel workers, and its journal has no heartbeat. So every run is enqueued
once, under its content id; what is enqueued is taken by comparing and setting its state; who takes it holds its folder;
and an attempt whose holder is gone is told to have failed and enqueued again. Everything but taking happens under the
study's lock, and nothing depends on it alone: what is enqueued or told twice still counts once.
"""

import contextlib
import enum
import math
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from dinopl.sweep.folder import StudyFolder
from dinopl.sweep.locks import STALE_SECONDS, Hold, is_held
from dinopl.sweep.plan import Job, Kind

if TYPE_CHECKING:
    from optuna import Study
    from optuna.storages import BaseStorage
    from optuna.trial import FrozenTrial

NEXT = "next"  # of a failed attempt: the number of the one to follow, or None
AGAIN = "again"  # of an attempt at a run whose folder was removed: what was told before does not count


class State(enum.Enum):
    """Where a run stands, all its attempts taken together."""

    WAITING = "waiting"
    RUNNING = "running"
    FINISHED = "finished"
    DIVERGED = "diverged"
    FAILED = "failed"


# What Optuna's states say of a run: the first of these that any of its attempts has.
TOLD = {
    "COMPLETE": State.FINISHED,
    "PRUNED": State.DIVERGED,
    "RUNNING": State.RUNNING,
    "WAITING": State.WAITING,
}


@dataclass(frozen=True)
class Claim:
    """An attempt that this process has taken.

    Attributes:
        number: of the attempt in Optuna's study.
        run: the run's id.
        attempt: how many before it failed, as far as they count.
        needs: shared runs that it depends on.
        hold: of the run's folder.
    """

    number: int
    run: str
    attempt: int
    needs: tuple[str, ...]
    hold: Hold


@dataclass(frozen=True)
class Outcome:
    """What came of an attempt.

    Attributes:
        status: an interrupted one does not count; "lost" is one whose process was killed.
        value: of the study's metric.
        error: one line.
        retry: whether another attempt could end otherwise.
    """

    status: Literal["finished", "diverged", "failed", "interrupted", "lost"]
    value: float | None = None
    error: str | None = None
    retry: bool = True


def state_of(attempts: Sequence["FrozenTrial"]) -> State:
    """Where a run stands whose attempts these are, the latest last."""
    afresh = max((place for place, attempt in enumerate(attempts) if attempt.user_attrs.get(AGAIN)), default=0)
    names = {attempt.state.name for attempt in attempts[afresh:]}
    for name, state in TOLD.items():
        if name in names:
            return state
    return State.FAILED if not attempts or attempts[-1].user_attrs.get(NEXT) is None else State.WAITING


def value_of(metrics: Mapping[str, float | None], metric: str | None) -> float | None:
    """A run's value for the study; None without a metric, or if it is not among the run's or not finite."""
    return metrics.get(metric) if metric is not None else None


class Queue:
    """Runs of one kind.

    Args:
        study: Optuna's.
        storage: that the study is in.
        folder: of the study on the disk.
        kind: of the runs.
        metric: the study's, if it has one.
        retries: how many further attempts a run has that failed.
    """

    def __init__(
        self, study: "Study", storage: "BaseStorage", folder: StudyFolder, kind: Kind, metric: str | None, retries: int
    ) -> None:
        self.study = study
        self.storage = storage
        self.folder = folder
        self.kind = kind
        self.metric = metric
        self.retries = retries

    @classmethod
    def open(
        cls,
        storage: "BaseStorage",
        folder: StudyFolder,
        kind: Kind,
        name: str,
        metric: str | None,
        direction: Literal["minimize", "maximize"],
        retries: int,
    ) -> "Queue":
        """Opens the queue of a study, or makes it."""
        import optuna

        full = name if kind == "trials" else f"{name}/{kind}"
        study = optuna.create_study(storage=storage, study_name=full, direction=direction, load_if_exists=True)
        return cls(study, storage, folder, kind, metric, retries)

    def attempts(self) -> dict[str, list["FrozenTrial"]]:
        """Attempts by run."""
        found: dict[str, list[FrozenTrial]] = {}
        for trial in self.study.get_trials(deepcopy=False):
            if "id" in trial.user_attrs:
                found.setdefault(trial.user_attrs["id"], []).append(trial)
        return found

    def states(self) -> dict[str, State]:
        """Where each run stands."""
        return {run: state_of(attempts) for run, attempts in self.attempts().items()}

    def enqueue(self, jobs: Iterable[Job], failed_too: bool = False) -> None:
        """Puts runs into the queue that are not in it; the disk says which are finished, also against the queue.

        Args:
            jobs: the runs.
            failed_too: also those that failed and have no attempt left.
        """
        states = self.states()
        for job in jobs:
            state = states.get(job.id)
            found = self.folder.ended(job.kind, job.id) if state in (None, State.FINISHED, State.DIVERGED) else None
            facts = {"variant": job.variant, "options": job.options, "needs": list(job.needs)}
            if state is None and found:
                self._note(job, found[1])
            elif state is None or (failed_too and state is State.FAILED):
                self._add(job.id, facts, 0)
            elif state in (State.FINISHED, State.DIVERGED) and not found:
                self._add(job.id, facts | {AGAIN: True}, 0)

    def _add(self, run: str, facts: Mapping[str, Any], attempt: int, params: Mapping[str, Any] | None = None) -> None:
        self.study.enqueue_trial(dict(params or {}), user_attrs={"id": run, **facts, "attempt": attempt})

    def _note(self, job: Job, results: Mapping[str, Any]) -> None:
        """A run that was made already, by a printed command or before the storage was lost."""
        from optuna.trial import TrialState, create_trial

        facts = {"id": job.id, "variant": job.variant, "options": job.options, "needs": list(job.needs), "attempt": 0}
        if results["status"] == "finished":
            value = self._told(value_of(results.get("metrics") or {}, self.metric))
            self.study.add_trial(create_trial(state=TrialState.COMPLETE, value=value, user_attrs=facts))
        else:
            self.study.add_trial(create_trial(state=TrialState.PRUNED, user_attrs=facts | {"status": "diverged"}))

    def claim(self, runs: Collection[str], ready: Callable[[Sequence[str]], bool], now: float) -> Claim | None:
        """Takes the first run that waits, among some, and whose needs are met; None if there is none.

        Args:
            runs: ids to choose from.
            ready: whether runs that another depends on let it go on.
            now: the file system's time.
        """
        for run, attempts in self.attempts().items():
            if run not in runs or state_of(attempts) is not State.WAITING:
                continue
            waiting = next((attempt for attempt in attempts if attempt.state.name == "WAITING"), None)
            if waiting is None or not ready(waiting.user_attrs.get("needs", ())):
                continue
            hold = Hold.take(self.folder.of(self.kind, run), now)
            if hold is not None and self._set_running(waiting.number):
                facts = waiting.user_attrs
                return Claim(waiting.number, run, facts.get("attempt", 0), tuple(facts.get("needs", ())), hold)
            if hold is not None:
                hold.release()
        return None

    def _set_running(self, number: int) -> bool:
        """Compares and sets: False if another process was faster."""
        from optuna.exceptions import UpdateFinishedTrialError
        from optuna.trial import TrialState

        try:
            return self.storage.set_trial_state_values(self._trial_id(number), TrialState.RUNNING)
        except UpdateFinishedTrialError:
            return False

    def _trial_id(self, number: int) -> int:
        study_id = self.storage.get_study_id_from_name(self.study.study_name)
        return self.storage.get_trial_id_from_study_id_trial_number(study_id, number)

    def tell(self, claim: Claim, outcome: Outcome) -> None:
        """Says what came of an attempt, and gives its folder up."""
        self.tell_number(claim.number, claim.attempt, outcome)
        claim.hold.release()

    def tell_number(self, number: int, attempt: int, outcome: Outcome) -> None:
        """Says what came of the attempt with a number; if somebody else has said so already, that stands."""
        from optuna.exceptions import UpdateFinishedTrialError
        from optuna.trial import TrialState

        facts: dict[str, Any] = {"status": outcome.status, "error": outcome.error}
        if outcome.status not in ("finished", "diverged"):
            facts[NEXT] = self._next(attempt, outcome)
        with contextlib.suppress(UpdateFinishedTrialError, ValueError):  # somebody else has told
            for key, value in facts.items():
                if value is not None or key == NEXT:
                    self.storage.set_trial_user_attr(self._trial_id(number), key, value)
            if outcome.status == "finished":
                self.study.tell(number, self._told(outcome.value))
            else:
                self.study.tell(number, state=TrialState.PRUNED if outcome.status == "diverged" else TrialState.FAIL)

    def _next(self, attempt: int, outcome: Outcome) -> int | None:
        if outcome.status == "interrupted":
            return attempt
        return attempt + 1 if outcome.retry and attempt < self.retries else None

    def _told(self, value: float | None) -> float:
        """Optuna wants a number of every finished run: one without is worse than all others."""
        worst = math.inf if self.study.direction.name == "MINIMIZE" else -math.inf
        return value if value is not None and math.isfinite(value) else worst

    def tend(self, now: float) -> int:
        """Takes up what was left behind: tells attempts whose holder is gone, enqueues what is to be tried again.

        Returns:
            How many attempts were lost.
        """
        lost = 0
        for trial in self.study.get_trials(deepcopy=False):
            if trial.state.name == "RUNNING" and self._is_lost(trial, now):
                lost += 1
                self.tell_number(trial.number, trial.user_attrs.get("attempt", 0), self._left_behind(trial))
        for run, attempts in self.attempts().items():
            last = attempts[-1]
            waiting = any(attempt.state.name == "WAITING" for attempt in attempts)
            if state_of(attempts) is State.WAITING and not waiting:
                kept = {key: value for key, value in last.user_attrs.items() if key in ("variant", "options", "needs")}
                self._add(run, kept, last.user_attrs[NEXT], last.params)
        return lost

    def _is_lost(self, trial: "FrozenTrial", now: float) -> bool:
        run = trial.user_attrs.get("id")
        held = None if run is None else is_held(self.folder.of(self.kind, run), now)
        if held is None:  # taken a moment ago, or on a machine whose disk this is not
            began = trial.datetime_start
            return began is None or time.time() - began.timestamp() > STALE_SECONDS
        return not held

    def _left_behind(self, trial: "FrozenTrial") -> Outcome:
        """What came of an attempt whose process is gone: perhaps it was done and only had not said so."""
        run = trial.user_attrs.get("id")
        found = self.folder.ended(self.kind, run) if run is not None else None
        if found is None:
            return Outcome("lost", error="its process was killed", retry=run is not None)
        return ended_as(found[1], self.metric)


def ended_as(results: Mapping[str, Any], metric: str | None) -> Outcome:
    """The outcome of a run folder that is finished or diverged."""
    if results.get("status") == "diverged":
        return Outcome("diverged", error="its loss was not finite any more")
    return Outcome("finished", value_of(results.get("metrics") or {}, metric))
