"""A worker: one process that stays alive, takes one run after the other from the queue, and makes it.

A run is what ``dinopl fit`` is, called in this process: torch and Lightning are imported once, for all of them.
"""

import atexit
import gc
import os
import signal
import threading
import time
import traceback
from contextlib import suppress
from dataclasses import replace
from functools import cached_property
from multiprocessing.connection import Connection
from typing import Any

from dinopl.core.errors import UserMistake, did_you_mean
from dinopl.sweep.folder import LOG
from dinopl.sweep.locks import Hold
from dinopl.sweep.output import output_to
from dinopl.sweep.plan import Job, Planner, Runs
from dinopl.sweep.queue import Claim, Outcome, Queue, State, ended_as
from dinopl.sweep.signals import Stopping
from dinopl.sweep.study import Queues, Study

POLL_SECONDS = 0.5


def work(study: Study, line: "Connection[Any, Any]") -> None:
    """Works on a study until there is nothing left to take; the target of a process.

    Args:
        study: the study.
        line: from the supervisor, which closes it when the work is to stop, or when it is killed.
    """
    os.setsid()  # Ctrl-C on the terminal is the supervisor's to pass on
    stopping = Stopping()
    _stop_with(line, stopping)
    try:
        Worker(study, stopping).work()
    except KeyboardInterrupt:
        raise SystemExit(130) from None


def _stop_with(line: "Connection[Any, Any]", stopping: Stopping) -> None:
    """A supervisor that was killed sends no signal, and one that is sent while this process begins may be lost."""

    def watch() -> None:
        with suppress(EOFError, OSError):
            line.recv()
        if stopping.signal is None:
            os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, daemon=True).start()


class Worker:
    """Takes runs and makes them.

    Args:
        study: the study.
        stopping: what has come of signals.
    """

    def __init__(self, study: Study, stopping: Stopping) -> None:
        self.study = study
        self.stopping = stopping
        self.queues: Queues = study.open()

    @cached_property
    def planner(self) -> Planner:
        """Makes jobs of the points that a search draws."""
        from dinopl.sweep.resolve import resolve

        return Planner(self.study.sweep, self.study.arguments, resolve)

    def work(self) -> None:
        """Works until nothing waits that could be taken."""
        while self.step():
            pass

    def step(self) -> bool:
        """Takes one run and makes it, or pauses while runs wait for others; False if nothing waits."""
        with self.stopping.shielded(), self.queues.locked() as now:
            self.queues.tend(now)
            taken = self._take(now)
            left = taken is not None or self._is_something_waiting()
        if taken is not None:
            self._make(*taken)
        elif left:
            time.sleep(POLL_SECONDS)
        return left

    def _take(self, now: float) -> tuple[Queue, Claim, Job] | None:
        """A run that others wait for, or else one of the points."""
        ready, runs = self.queues.ready(), self.study.runs
        if claim := self.queues.shared.claim(runs.shared, ready, now):
            return self.queues.shared, claim, runs.shared[claim.run]
        if self.study.sweep.search:
            return self._draw(now)
        if claim := self.queues.trials.claim(runs.trials, ready, now):
            return self.queues.trials, claim, runs.trials[claim.run]
        return None

    def _is_something_waiting(self) -> bool:
        states = self.queues.states()
        return any(states.get(run) is State.WAITING for run in (*self.study.runs.shared, *self.study.runs.trials))

    def _draw(self, now: float) -> tuple[Queue, Claim, Job] | None:
        """The next point of a search, whose shared runs are enqueued with it."""
        from dinopl.sweep.search import draw, has_more

        queue = self.queues.trials
        if not has_more(self.study.sweep, queue.study):
            return None
        trial, point = draw(self.study.sweep, queue.study)
        job = self.planner.job(point)
        needed = {run: self.planner.shared[run] for run in self._all_needs(job)}
        attempt = trial.user_attrs.get("attempt", 0)
        facts = {"variant": job.variant, "options": job.options, "needs": list(job.needs), "attempt": attempt}
        for key, value in {"id": job.id, **facts}.items():
            trial.set_user_attr(key, value)
        self.queues.shared.enqueue(needed.values())
        self.study = replace(self.study, runs=Runs({}, {**self.study.runs.shared, **needed}))
        hold = Hold.take(self.study.folder.of("trials", job.id), now)
        if hold is None:
            queue.tell_number(trial.number, attempt, Outcome("failed", error="drawn twice at a time", retry=False))
            return self._draw(now)
        return queue, Claim(trial.number, job.id, attempt, job.needs, hold), job

    def _all_needs(self, job: Job) -> list[str]:
        """Ids of all shared runs that a job needs, each after those that it needs itself."""
        below = [run for need in job.needs for run in self._all_needs(self.planner.shared[need])]
        return list(dict.fromkeys([*below, *job.needs]))

    def _make(self, queue: Queue, claim: Claim, job: Job) -> None:
        """Makes a run and says what came of it, however that was."""
        outcome = Outcome("interrupted", error="interrupted")
        try:
            self._make_needed(job)
            outcome = self._outcome(job)
        finally:
            self.stopping.listen()
            with self.stopping.shielded(), self.queues.locked() as now:
                queue.tell(claim, outcome)
                queue.tend(now)
            tidy()

    def _make_needed(self, job: Job) -> None:
        """Makes the runs that the point of a search needs, or waits for those who do."""
        needed = self._all_needs(job) if self.study.sweep.search else []
        while not self.queues.ready()(job.needs):
            with self.stopping.shielded(), self.queues.locked() as now:
                self.queues.tend(now)
                claim = self.queues.shared.claim(needed, self.queues.ready(), now)
            if claim is not None:
                self._make(self.queues.shared, claim, self.study.runs.shared[claim.run])
            else:
                time.sleep(POLL_SECONDS)

    def _outcome(self, job: Job) -> Outcome:
        folder, metric = self.study.folder, self.study.sweep.metric if job.kind == "trials" else None
        if obstacle := self.queues.obstacle(job.needs):
            return Outcome("failed", error=obstacle, retry=False)
        folder.begin(job)
        failed = None if folder.ended(job.kind, job.id) else self._run(job)
        found = folder.ended(job.kind, job.id)
        if failed is not None or found is None:
            return failed or Outcome("failed", error="the run left no results")
        outcome = ended_as(found[1], metric)
        if self.study.sweep.search and job.kind == "trials" and outcome.status == "finished" and outcome.value is None:
            hint = did_you_mean(str(metric), found[1].get("metrics") or {})
            return Outcome("failed", error=f"the run has no finite metric {metric!r}{hint}", retry=False)
        return outcome

    def _run(self, job: Job) -> Outcome | None:
        """Calls ``dinopl fit``; None if it came to its end, or diverged."""
        from dinopl.cli.runs import run

        config = self.study.folder.config(job, self.study.threads)
        with output_to(config.with_name(LOG)):
            try:
                run("fit", ["--config", str(config)])
            except UserMistake as mistake:
                print(f"dinopl: error: {mistake}", flush=True)
                return Outcome("failed", error=str(mistake), retry=False)
            except FloatingPointError:  # the run diverged
                traceback.print_exc()
            except Exception as error:
                traceback.print_exc()
                told = " ".join(str(error).split("\n\n")[0].split())
                return Outcome("failed", error=f"{type(error).__name__}: {told}"[:500])
        return None


def tidy() -> None:
    """Lets go of what a run has left in memory."""
    import torch

    gc.collect()
    if gc.get_freeze_count() == 0:
        gc.freeze()  # what is left after the first run are modules, which need not be looked through again
        atexit.register(gc.unfreeze)
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
