"""A study's runs as Dask tasks: one task per run, keyed by the run's id, depending on the runs that it needs.

Dask orders the tasks, keeps the workers' processes warm, and reschedules the run of a worker that was lost. A task may
run any number of times: it reads the run's folder first, returns the outcome recorded there for a run that ended, and
otherwise makes the run and records the attempt.
"""

import contextlib
import errno
import gc
import importlib.util
import logging
import math
import multiprocessing
import multiprocessing.forkserver
import os
import shutil
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dinopl.core.errors import UserMistake, did_you_mean
from dinopl.sweep.file import TEST_METRICS, Sweep
from dinopl.sweep.grid import Point
from dinopl.sweep.plan import Job, Planner, digest
from dinopl.sweep.search import add, draw, open_search, result
from dinopl.sweep.study import LOG, Outcome, Study, read_json

if TYPE_CHECKING:
    from distributed import Client

Fit = Callable[[list[str]], object]

CLEAR = "\r\x1b[K"  # of a terminal: back to the line's start, and erases it
REFRESH_SECONDS = 0.5  # between looks at the cluster and the study's folder, and between lines of progress
QUIET_SECONDS = 30.0  # the latter if the output is not a terminal
NO_WORKER_SECONDS = 120.0
FULL = (errno.ENOSPC, errno.EDQUOT)
SETTINGS: dict[str, Any] = {
    "distributed.nanny.pre-spawn-environ": {},  # Dask's own choice of threads and of when memory is handed back
    "distributed.scheduler.worker-ttl": None,  # a step may hold the interpreter's lock for minutes: no sign of a loss
    "distributed.scheduler.allowed-failures": 2**31,  # Dask would also count runs that only waited for a lost worker
    # What Dask watches of itself, many times a second in each process; a worker's threads share one interpreter lock.
    "distributed.worker.profile.enabled": False,
    "distributed.diagnostics.nvml": False,
    "distributed.admin.tick.interval": "1s",
    "distributed.admin.system-monitor.interval": "5s",
    "distributed.admin.system-monitor.gil.enabled": False,
}
_ONE_AT_A_TIME = threading.Lock()


def dask_setup(worker: Any) -> None:
    """Makes a new worker a session of its own; Dask calls this in the worker's main thread.

    So Ctrl-C on the terminal reaches the driver alone. On a busy machine Linux divides the processors among sessions,
    so each worker gets the share of a whole command and not a part of the driver's.
    """
    os.setsid()


def prepare_workers(modules: Sequence[str]) -> None:
    """Starts importing what workers need, once for all: each worker is forked from a process that has done so.

    Args:
        modules: names of modules to import there.
    """
    if sys.platform != "linux":
        return  # forking is not safe: each worker imports by itself
    first_run = ["dinopl.reports", "sklearn.datasets", "sklearn.model_selection", "torch.utils.tensorboard"]
    multiprocessing.set_forkserver_preload([*modules, "distributed", *first_run])
    multiprocessing.forkserver.ensure_running()
    import dask  # while that one imports

    dask.config.set({"distributed.worker.multiprocessing-method": "forkserver"})


@contextlib.contextmanager
def cluster(address: str | None, environments: Sequence[Mapping[str, str]]) -> Iterator["Client"]:
    """A client of the scheduler at an address; without an address, of a cluster on this machine, closed at the end.

    Args:
        address: such as ``tcp://HOST:PORT``, or the scheduler's file; None for a cluster on this machine.
        environments: one for each worker on this machine.

    Raises:
        UserMistake: if no scheduler answers, or a worker there makes several runs at a time.
    """
    import dask
    from distributed import Client, Nanny, Scheduler, SpecCluster

    logging.getLogger("distributed").setLevel(logging.CRITICAL)  # the driver reports what a user needs to know
    if address is not None:
        try:
            file = address if Path(address).is_file() else None  # `dask scheduler --scheduler-file FILE` writes one
            client = Client(None if file else address, scheduler_file=file, timeout=5)
        except (OSError, ValueError) as error:
            reason = str(error).splitlines()[0]
            raise UserMistake(
                f"--scheduler {address}: no scheduler answers ({reason}); start `dask scheduler`."
            ) from None
        with client:
            if any(threads > 1 for threads in client.nthreads().values()):
                raise UserMistake(f"--scheduler {address}: a worker has several threads; start it with --nthreads 1.")
            yield client
        return
    dashboard = importlib.util.find_spec("bokeh") is not None
    common = {"nthreads": 1, "memory_limit": 0, "host": "127.0.0.1", "preload": [__name__], "dashboard": False}
    workers = {
        number: {"cls": Nanny, "options": common | {"env": dict(environment), "silence_logs": 40}}
        for number, environment in enumerate(environments)
    }
    listening = {"host": "127.0.0.1", "dashboard": dashboard, "dashboard_address": "127.0.0.1:0"}
    with dask.config.set(SETTINGS):
        made, closed = (
            SpecCluster(workers, {"cls": Scheduler, "options": listening}, silence_logs=40),
            threading.Event(),
        )

        def kill() -> None:  # again and again: one that is just being started has no process yet
            for nanny in made.workers.values():
                nanny.auto_restart = False
            while not closed.is_set():
                for pid in filter(None, [nanny.pid for nanny in made.workers.values()]):
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)
                closed.wait(0.05)

        try:
            with made, Client(made) as client:
                try:
                    yield client
                finally:  # no run is in hand, or nobody waits for it any more; Dask itself takes seconds to end workers
                    threading.Thread(target=kill, daemon=True).start()
        finally:
            closed.set()


def make(study: Study, job: Job, fit: Fit, *needed: Outcome) -> Outcome:
    """Makes a run, unless its folder already has an outcome; the function of a Dask task.

    Args:
        study: the study.
        job: the run.
        fit: makes the run of a configuration's file: called with ``["--config", FILE]``.
        needed: outcomes of the runs that it needs.

    Returns:
        Its outcome; of status "stopped" if the study's folder cannot be written to from here.
    """
    with _ONE_AT_A_TIME:  # a run prints to the file descriptors of the whole process
        if "SLURM_JOB_ID" in os.environ:  # else Lightning takes the job's tasks for the processes of this one run
            os.environ["SLURM_JOB_NAME"] = "bash"
        # A run starts processes that load data as `dinopl fit` does. Dask's workers are daemons, which may have no
        # children, and it has set another way of starting them.
        multiprocessing.current_process()._config.pop("daemon", None)  # type: ignore[attr-defined]
        multiprocessing.set_start_method(None, force=True)
        import torch

        try:
            os.chdir(study.directory)
            while (outcome := study.outcome(job)) is None:
                (study.path / "study.json").stat()  # a study that was removed is not written again
                study.begin_attempt(job)
                if study.outcome(job) is not None:  # the attempt that was lost was the last one
                    continue
                failed = next((each for each in needed if each.status != "finished"), None)
                if failed is not None:
                    text = f"the run {failed.name} ({failed.run}) that it needs did not finish: {failed.error}"
                    study.note(job, error=text, again=False)
                elif error := _attempt(study, job, fit):
                    study.note(job, error=error[0], again=error[1])
                elif study.outcome(job) is None:
                    study.note(job, error="the run left no results", again=True)
                gc.collect()
                if gc.get_freeze_count() == 0:
                    gc.freeze()  # what is left after the first run are modules, which need not be looked through again
                if torch.cuda.is_available():
                    torch.cuda.empty_cache()
        except OSError as error:
            return Outcome(job.id, job.variant or "", "stopped", error=str(error))
        return outcome


def _attempt(study: Study, job: Job, fit: Fit) -> tuple[str, bool] | None:
    """Makes a run; returns its error and whether a retry could succeed, or None if it finished or diverged."""
    checkpoint = study.checkpoint(job)
    with output_to(study.of(job) / LOG):
        try:
            try:
                fit(["--config", str(study.config(job, checkpoint))])
            except UserMistake as mistake:
                if checkpoint is None:
                    raise
                print(f"{mistake}\nstarts from the beginning", flush=True)
                fit(["--config", str(study.config(job))])
        except UserMistake as mistake:
            print(f"dinopl: error: {mistake}", flush=True)
            return str(mistake), False
        except FloatingPointError:  # the run diverged
            traceback.print_exc()
        except (Exception, SystemExit) as error:
            if isinstance(error, OSError) and error.errno in FULL:
                raise
            traceback.print_exc()
            return f"{type(error).__name__}: {' '.join(str(error).split(chr(10) * 2)[0].split())}"[:500], True
    return None


@contextlib.contextmanager
def output_to(path: Path) -> Iterator[None]:
    """Appends everything that this process prints within the block to a file."""
    sys.stdout.flush()
    sys.stderr.flush()
    kept = [os.dup(descriptor) for descriptor in (1, 2)]
    with path.open("a", encoding="utf-8") as file:
        for descriptor in (1, 2):
            os.dup2(file.fileno(), descriptor)
    try:
        yield
    finally:
        try:
            sys.stdout.flush()
            sys.stderr.flush()
        finally:
            for descriptor, before in zip((1, 2), kept, strict=True):
                os.dup2(before, descriptor)
                os.close(before)


class Driver:
    """Submits the runs of a study to Dask and shows their progress.

    Args:
        study: the study.
        fit: makes a run; see :func:`make`.
        total: number of runs in the whole study.

    Attributes:
        outcomes: outcomes of the runs that ended, by id.
        jobs: all runs so far, by id.
    """

    def __init__(self, study: Study, fit: Fit, total: int) -> None:
        self.study = study
        self.client: Any = None
        self.fit = fit
        self.total = total
        self.outcomes: dict[str, Outcome] = {}
        self.jobs: dict[str, Job] = {}
        self._futures: dict[str, Any] = {}
        self._shown = ("", 0.0)
        self._seen_worker = time.monotonic()

    @contextlib.contextmanager
    def using(self, client: "Client") -> Iterator[None]:
        """Makes runs on a cluster within the block."""
        self.client = client
        if importlib.util.find_spec("bokeh"):
            sys.stderr.write(f"dashboard: {client.dashboard_link}\n")
        if not client.nthreads():
            sys.stderr.write(
                f"{self.study.sweep.name}: no worker has come to the scheduler yet; the runs wait for one\n"
            )
        client.subscribe_topic("all", self._on_event)
        try:
            yield
        finally:
            self._futures.clear()
            client.unsubscribe_topic("all")

    def _on_event(self, event: tuple[float, Any]) -> None:
        lost = isinstance(event[1], dict) and event[1].get("action") == "remove-worker" and not event[1]["expected"]
        if lost and self._futures:
            clear = CLEAR if sys.stderr.isatty() else ""
            sys.stderr.write(f"{clear}{self.study.sweep.name}: a worker was lost; another makes the run that it had\n")

    def submit(self, job: Job) -> None:
        """Submits a run to Dask, unless its folder already has an outcome."""
        self.jobs[job.id] = job
        if (outcome := self.study.outcome(job)) is not None:
            self.outcomes[job.id] = outcome
        elif job.id not in self._futures:
            needed = [self.outcomes.get(need) or self._futures[need] for need in job.needs]
            key = f"{job.kind}-{job.id}-{digest(str(self.study.path))[:8]}"  # the cluster may serve other studies too
            self._futures[job.id] = self.client.submit(
                make, self.study, job, self.fit, *needed, key=key, pure=False, priority=-len(self.jobs)
            )

    def wait(self) -> list[str]:
        """Waits up to ``REFRESH_SECONDS`` for runs to end; returns the ids of those that did.

        Raises:
            UserMistake: if the study's folder or the cluster is gone, or the disk is full.
        """
        from distributed import wait
        from distributed.client import FuturesCancelledError
        from distributed.scheduler import KilledWorker

        try:
            with contextlib.suppress(TimeoutError):
                wait(list(self._futures.values()), timeout=REFRESH_SECONDS, return_when="FIRST_COMPLETED")
            workers = self.client.nthreads()
        except (OSError, ValueError, FuturesCancelledError) as error:
            raise UserMistake("the scheduler is gone; start the sweep again: what is finished stays.") from error
        path, ended = self.study.path, [run_id for run_id, future in self._futures.items() if future.done()]
        if not (path / "study.json").exists():
            raise UserMistake(
                f"{path}: the study's folder was removed while its runs were made; start the sweep again."
            )
        for run_id in ended:
            future = self._futures.pop(run_id)
            try:
                outcome = self.outcomes[run_id] = future.result()
            except KilledWorker:  # a scheduler of other settings gives up early; the run's folder counts its attempts
                future.retry()
                self._futures[run_id] = future
                continue
            except Exception as error:
                raise UserMistake(
                    f"a worker could not begin a run ({type(error).__name__}: {error}); it needs the same packages as "
                    "the driver, and its connection to the scheduler."
                ) from error
            if outcome.status == "stopped":
                raise UserMistake(
                    f"cannot write to {path}: {outcome.error}; make room, or give the worker the same folders, and "
                    "start the sweep again: what is finished stays."
                )
        if workers:
            self._seen_worker = time.monotonic()
        elif self.client.cluster is not None and time.monotonic() - self._seen_worker > NO_WORKER_SECONDS:
            raise UserMistake(f"no worker could be started again for {NO_WORKER_SECONDS:.0f} seconds; see above why.")
        self.show()
        return [run_id for run_id in ended if run_id in self.outcomes]

    def grid(self, jobs: Mapping[str, Job]) -> None:
        """Makes all of a grid's runs."""
        for job in jobs.values():
            self.submit(job)
        while self._futures:
            self.wait()

    def search(self, planner: Planner) -> None:
        """Draws points and makes their runs, as many at a time as there are workers.

        Points drawn before are read from the run folders; those whose runs have not ended come first.
        """
        sweep, points = self.study.sweep, dict[str, Point]()
        for path in sorted(self.study.path.glob("trials/*/trial.json"), key=lambda path: path.stat().st_mtime):
            facts = read_json(path)
            point = Point(facts.get("variant"), facts.get("options") or {})
            job = planner.job(point)
            if job.id == path.parent.name:  # else the base configuration has changed, and this point is of before
                points[job.id] = point
                self._with_needs(job, planner)
        drawn, asked = len(points), dict[str, Any]()
        known = ((point, self.outcomes[run_id]) for run_id, point in points.items() if run_id in self.outcomes)
        optuna = open_search(sweep, known)
        self.total += max(0, drawn - sweep.trials)
        while drawn < sweep.trials or self._futures:
            workers = max(1, len(self.client.nthreads()))
            while (
                drawn < sweep.trials and sum(self.jobs[run_id].kind == "trials" for run_id in self._futures) < workers
            ):
                trial, point = draw(sweep, optuna)
                job = planner.job(point)
                drawn += 1
                self._with_needs(job, planner)
                if job.id in self.outcomes:  # it was drawn before
                    optuna.tell(trial, *result(sweep, self.outcomes[job.id]))
                else:
                    asked[job.id] = trial
            for run_id in self.wait() if self._futures else ():
                if run_id in asked:
                    optuna.tell(asked.pop(run_id), *result(sweep, self.outcomes[run_id]))
                elif run_id in points:
                    add(sweep, optuna, points[run_id], self.outcomes[run_id])

    def _with_needs(self, job: Job, planner: Planner) -> None:
        for need in job.needs:
            self._with_needs(planner.shared[need], planner)
        if job.id not in self.jobs:
            self.total += job.kind == "shared"
            self.study.begin_run(job)
            self.submit(job)

    def failures(self) -> list[str]:
        """One line per run that failed and is not retried."""
        failed = [outcome for outcome in self.outcomes.values() if outcome.status == "failed"]
        return [f"{self.jobs[outcome.run]}: {outcome.error}" for outcome in failed]

    def missing_metric(self) -> str | None:
        """The message for a study of which no finished run has the metric; None if one has, or none is finished."""
        metric = self.study.sweep.metric
        mine = [job for job in self.jobs.values() if job.kind == "trials"]
        finished = [job for job in mine if job.id in self.outcomes and self.outcomes[job.id].status == "finished"]
        if metric is None or not finished or any(self.outcomes[job.id].value is not None for job in finished):
            return None
        ended = self.study.ended("trials", finished[0].id)
        known = ended[1].get("metrics") or {} if ended else {}
        return f"no finished run has a finite metric {metric!r}{did_you_mean(metric, known)}"

    def show(self, last: bool = False) -> None:
        """Shows one line of progress, redrawn in place on a terminal; elsewhere a new line at times if it changed."""
        live, now = sys.stderr.isatty(), time.monotonic()
        if not last and now - self._shown[1] < (REFRESH_SECONDS if live else QUIET_SECONDS):
            return
        running = workers = 0
        if self._futures:
            known = self.client.scheduler_info(n_workers=-1)["workers"].values()
            running = sum(each.get("metrics", {}).get("task_counts", {}).get("executing", 0) for each in known)
            workers = len(known)
        ended = list(self.outcomes.values())
        best = best_of(self.study.sweep, [(self.jobs[outcome.run], outcome) for outcome in ended])
        text = progress(self.study.sweep, self.total, ended, running, workers, best)
        if text != self._shown[0] or live:
            sys.stderr.write(f"{CLEAR}{text[: shutil.get_terminal_size().columns - 1]}" if live else f"{text}\n")
        if live and last:
            sys.stderr.write("\n")
        sys.stderr.flush()
        self._shown = (text, now)


def best_of(sweep: Sweep, ended: Sequence[tuple[Job, Outcome]]) -> tuple[float, Job] | None:
    """The best value of the study's metric, and its run; nothing is called best on the test split."""
    if sweep.metric is None or sweep.metric.startswith(TEST_METRICS):
        return None
    values = [(outcome.value, job) for job, outcome in ended if job.kind == "trials"]
    finite = [(value, job) for value, job in values if value is not None and math.isfinite(value)]
    if not finite:
        return None
    return (min if sweep.direction == "minimize" else max)(finite, key=lambda pair: pair[0])


def progress(
    sweep: Sweep, total: int, outcomes: Sequence[Outcome], running: int, workers: int, best: tuple[float, Job] | None
) -> str:
    """The progress of a study in one line.

    Args:
        sweep: the sweep file.
        total: number of runs in the whole study.
        outcomes: of the runs that ended.
        running: number of runs in progress.
        workers: number of runs that can be in progress at a time.
        best: the best value so far and its run.
    """
    states = [outcome.status for outcome in outcomes]
    finished, diverged, failed = (states.count(state) for state in ("finished", "diverged", "failed"))
    left = total - len(states)
    running = min(running, left)
    parts = [f"{finished}/{total} done", f"{running} running"]
    parts += [f"{diverged} diverged"] if diverged else []
    parts += [f"{failed} failed", f"{left - running} left"]
    taken = [outcome.seconds for outcome in outcomes if outcome.seconds]
    if taken and left:
        seconds = sum(taken) / len(taken) * (left - running / 2) / max(workers, 1)  # runs in hand are half done
        parts.append(f"{timedelta(seconds=round(seconds))} to go")
    text = f"{sweep.name}: {', '.join(parts)}"
    return text if best is None else f"{text}; best {sweep.metric} {best[0]:.4g} ({str(best[1]).partition(' (')[2]}"
