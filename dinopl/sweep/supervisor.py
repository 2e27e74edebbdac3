"""The supervisor: starts workers, replaces one that dies, passes signals on, shows how far the study is."""

import os
import shutil
import signal
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from datetime import datetime
from multiprocessing import Pipe, connection
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from types import FrameType
from typing import Any

from dinopl.core.errors import did_you_mean
from dinopl.sweep.processes import start
from dinopl.sweep.progress import Progress, best_of, described, line, measure
from dinopl.sweep.queue import State, state_of
from dinopl.sweep.signals import SIGNALS
from dinopl.sweep.study import Queues, Study
from dinopl.sweep.worker import work

CLEAR = "\r\x1b[K"  # the line that is drawn over
SECONDS = 0.5
QUIET_SECONDS = 30.0
DEATHS = 3


class Supervisor:
    """Looks after the workers of this machine.

    Args:
        study: what they work on.
        environments: of the workers: one for each.
    """

    def __init__(self, study: Study, environments: Sequence[Mapping[str, str]]) -> None:
        self.study = study
        self.queues: Queues = study.open()
        self.environments = environments
        self.workers: dict[int, BaseProcess] = {}
        self.lines: dict[int, Connection[Any, Any]] = {}
        self.signals: list[int] = []
        self._deaths = 0
        self._shown = ("", 0.0)

    def run(self) -> Progress:
        """Works the study off.

        Returns:
            How far it is: at the end, unless other machines still work on it.

        Raises:
            KeyboardInterrupt: after SIGINT, once the workers have stopped.
            SystemExit: with 143, after SIGTERM.
        """
        with self._listening(), self._stopping_workers():
            for index in range(len(self.environments)):
                self._start(index)
            while self.workers:
                connection.wait([worker.sentinel for worker in self.workers.values()], timeout=SECONDS)
                self._look_after_workers()
                self._show()
        self._show(last=True)
        if signal.SIGINT in self.signals:
            raise KeyboardInterrupt
        if self.signals:
            raise SystemExit(128 + self.signals[0])
        return self.progress()

    def _start(self, index: int) -> None:
        end, self.lines[index] = Pipe(duplex=False)
        worker = start(work, self.study, end, environment=self.environments[index])
        end.close()
        self.workers[index] = worker

    def _look_after_workers(self) -> None:
        for index, worker in list(self.workers.items()):
            if self.signals:
                self.lines[index].close()
            if worker.exitcode is None:
                continue
            self.lines[index].close()
            del self.workers[index]
            if worker.exitcode != 0 and not self.signals:
                self._replace(index, worker.exitcode)

    def _replace(self, index: int, code: int) -> None:
        """A worker that dies with a run in its hands costs that run an attempt; one that has none is broken itself."""
        with self.queues.locked() as now:
            lost = self.queues.tend(now)
        self._deaths = 0 if lost else self._deaths + 1
        how = f"signal {-code}" if code < 0 else f"exit code {code}"
        self._say(f"a worker ended with {how}; {lost or 'no'} run in its hands")
        if self._deaths < DEATHS:
            self._start(index)
        else:
            self._say("no new one is started in its place: see above what ended it")

    def progress(self) -> Progress:
        """How far the study is, on all machines."""
        mine, needed = (
            {f"{queue.kind}/{run}": each for run, each in queue.attempts().items() if self.is_mine(run)}
            for queue in (self.queues.trials, self.queues.shared)
        )
        trials = max(self.study.sweep.trials, len(mine)) if self.study.sweep.search else len(self.study.runs.trials)
        made = measure({**needed, **mine}, trials + len(needed), len(self.workers), datetime.now())
        return replace(made, best=best_of(mine, self.study.sweep))

    def is_mine(self, run: str) -> bool:
        """Whether a run is part of what the sweep file asks for now."""
        return bool(self.study.sweep.search) or run in self.study.runs.trials or run in self.study.runs.shared

    def failures(self) -> Iterator[str]:
        """A line for each run that failed for good."""
        for queue in (self.queues.shared, self.queues.trials):
            for run, attempts in queue.attempts().items():
                facts = attempts[-1].user_attrs
                if self.is_mine(run) and state_of(attempts) is State.FAILED:
                    yield f"{queue.kind}/{run} ({described(facts)}): {facts.get('error')}"

    def missing_metric(self) -> str | None:
        """What to tell if runs were finished and none has the study's metric."""
        metric, trials = self.study.sweep.metric, self.queues.trials.states()
        ended = [self.study.folder.ended("trials", run) for run in trials if self.is_mine(run)]
        told = [found[1].get("metrics") or {} for found in ended if found and found[1]["status"] == "finished"]
        if metric is None or not told or any(each.get(metric) is not None for each in told):
            return None
        return f"no finished run has a finite metric {metric!r}{did_you_mean(metric, told[0])}"

    def _show(self, last: bool = False) -> None:
        """One line that is drawn over on a terminal; elsewhere one now and then, when something has changed."""
        live, now = sys.stderr.isatty(), time.monotonic()
        if not last and now - self._shown[1] < (SECONDS if live else QUIET_SECONDS):
            return
        text = line(self.study.sweep.name, self.progress(), self.study.sweep.metric)
        if text != self._shown[0] or live:
            sys.stderr.write(f"{CLEAR}{text[: shutil.get_terminal_size().columns - 1]}" if live else f"{text}\n")
        if live and last:
            sys.stderr.write("\n")
        sys.stderr.flush()
        self._shown = (text, now)

    def _say(self, text: str) -> None:
        sys.stderr.write(f"{CLEAR if sys.stderr.isatty() else ''}{self.study.sweep.name}: {text}\n")

    @contextmanager
    def _stopping_workers(self) -> Iterator[None]:
        """Leaves no workers behind when something goes wrong here."""
        try:
            yield
        except BaseException:
            for worker in self.workers.values():
                worker.terminate()
            raise
        finally:
            for line in self.lines.values():
                line.close()

    @contextmanager
    def _listening(self) -> Iterator[None]:
        """Passes SIGINT and SIGTERM on to the workers; the second one kills them."""

        def handle(number: int, frame: FrameType | None) -> None:
            self.signals.append(number)
            for worker in self.workers.values():
                if worker.pid is not None and worker.exitcode is None:
                    with suppress(ProcessLookupError):
                        os.kill(worker.pid, number if len(self.signals) == 1 else signal.SIGKILL)

        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {each: signal.getsignal(each) for each in SIGNALS}
        for each in SIGNALS:
            if before[each] != signal.SIG_IGN:  # a job in the background leaves Ctrl-C to others
                signal.signal(each, handle)
        try:
            yield
        finally:
            for each in SIGNALS:
                signal.signal(each, before[each])
