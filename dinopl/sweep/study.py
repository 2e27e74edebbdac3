"""A study as the processes that work on it share it: what is to be run, and the queues."""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal

from dinopl.cli.config import Arguments
from dinopl.sweep.file import Sweep
from dinopl.sweep.folder import StudyFolder
from dinopl.sweep.locks import exclusive
from dinopl.sweep.plan import Kind, Runs
from dinopl.sweep.queue import Queue, State, state_of
from dinopl.sweep.storage import open_storage


@dataclass(frozen=True)
class Study:
    """What there is to do; it can be sent to another process.

    Attributes:
        sweep: the sweep file.
        arguments: base configurations and the options given beside.
        folder: where everything goes.
        runs: that there are to be; of a search, which finds its points as it goes, none.
        storage: URL of Optuna's storage; None for the journal in the folder.
        retries: further attempts of a run that failed.
        threads: of a run that does not say how many.
    """

    sweep: Sweep
    arguments: Arguments
    folder: StudyFolder
    runs: Runs = field(default_factory=lambda: Runs({}, {}))
    storage: str | None = None
    retries: int = 2
    threads: int = 1

    def open(self) -> "Queues":
        """Opens both queues, and makes them if need be."""
        storage = open_storage(self.storage, self.folder.journal)
        direction: Literal["minimize", "maximize"] = "maximize" if self.sweep.direction == "maximize" else "minimize"

        def queue(kind: Kind, metric: str | None = None) -> Queue:
            return Queue.open(storage, self.folder, kind, self.sweep.name, metric, direction, self.retries)

        return Queues(self.folder, queue("trials", self.sweep.metric), queue("shared"))


@dataclass(frozen=True)
class Queues:
    """The queue of a study's trials, and of the runs that they depend on.

    Attributes:
        folder: of the study.
        trials: the runs of its points.
        shared: the runs that those depend on.
    """

    folder: StudyFolder
    trials: Queue
    shared: Queue

    @contextlib.contextmanager
    def locked(self) -> Iterator[float]:
        """Holds the study's lock; gives the file system's time."""
        with exclusive(self.folder.lock) as now:
            yield now

    def tend(self, now: float) -> int:
        """Takes up what was left behind; how many attempts were lost."""
        return self.shared.tend(now) + self.trials.tend(now)

    def states(self) -> dict[str, State]:
        """Where every run stands."""
        return self.trials.states() | self.shared.states()

    def ready(self) -> Callable[[Sequence[str]], bool]:
        """Tells, as things are now, whether what a run needs has ended, well or not."""
        states = self.states()
        over = (State.FINISHED, State.DIVERGED, State.FAILED)
        return lambda needs: all(states.get(run) in over for run in needs)

    def obstacle(self, needs: Sequence[str]) -> str | None:
        """Why a run that needs others cannot be made; None if it can."""
        attempts = (self.trials.attempts() | self.shared.attempts()) if needs else {}
        for run in needs:
            if state_of(attempts.get(run, [])) is not State.FINISHED:
                facts = attempts[run][-1].user_attrs if run in attempts else {}
                return (
                    f"the run {facts.get('variant') or ''} ({run}) that it needs did not finish: {facts.get('error')}"
                )
        return None
