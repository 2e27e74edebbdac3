"""A study on the disk, which is all that is known of its runs: what each is, and what came of it.

``STUDY/study.json``; ``STUDY/trials/ID/trial.json``; ``STUDY/shared/ID/trial.json`` for runs that others depend on. The
run folders of its attempts lie below its ID, and beside them ``attempts.jsonl``: a line for each attempt that
began, and one for each that failed. A run is finished when the ``results.json`` of one of its run folders says so.
"""

import contextlib
import json
import os
import socket
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

import yaml

from dinopl.core.errors import did_you_mean
from dinopl.core.files import replacing
from dinopl.core.moved import current_paths
from dinopl.reports.run import is_whole
from dinopl.sweep.file import Range, Sweep
from dinopl.sweep.grid import substitute
from dinopl.sweep.plan import START, Config, Job, Kind, changed, content_id

LOG = "output.log"
ATTEMPTS = "attempts.jsonl"
ENDED = ("finished", "diverged")
KILLED = "its process was killed"


@dataclass(frozen=True)
class Outcome:
    """What came of a run.

    Attributes:
        run: its id.
        name: of its variant, or of the shared run that it is; may be empty.
        status: "finished", "diverged" or "failed"; "stopped" where its folder could not be written to.
        value: of the study's metric; None for a shared run, and where it is not finite.
        seconds: that the run took.
        error: why it did not finish.
    """

    run: str
    name: str
    status: Literal["finished", "diverged", "failed", "stopped"]
    value: float | None = None
    seconds: float | None = None
    error: str | None = None


@dataclass(frozen=True)
class Study:
    """A study's folder, and what is the same for all its runs; it can be sent to another process.

    Attributes:
        sweep: the sweep file.
        path: the folder, absolute.
        directory: where the sweep was started; relative paths in options begin there.
        session: of the driver that makes the runs now.
        retries: further attempts of a run that failed.
        threads: of a run that does not say how many; 0 for as many as its worker may use.
    """

    sweep: Sweep
    path: Path
    directory: Path = Path()
    session: str = ""
    retries: int = 2
    threads: int = 1

    def of(self, job: Job) -> Path:
        """The folder of a run and all its attempts."""
        return self.path / job.kind / job.id

    def facts(self) -> dict[str, Any]:
        """What ``study.json`` says; empty if there is none yet."""
        return read_json(self.path / "study.json")

    def known(self) -> tuple[dict[str, Config], dict[str, str]]:
        """Of the runs that were begun: complete configurations by ``Job.key``, and folders' names by content.

        Both have classes by the names of today: a run that an earlier version made is found under its old hash.
        """
        configs: dict[str, Config] = {}
        names: dict[str, str] = {}
        for kind in ("trials", "shared"):
            for path in sorted(self.path.glob(f"{kind}/*/trial.json")):
                facts = current_paths(read_json(path))
                if facts.get("config"):
                    run = content_id(facts["config"])
                    names[run] = run if run == path.parent.name else names.get(run, path.parent.name)
                    configs |= {facts["key"]: facts["config"]} if facts.get("key") else {}
        return configs, names

    def begin(self, jobs: Mapping[str, Job]) -> tuple[dict[str, Job], str | None]:
        """Writes what the study and its runs are, before anything is known of them.

        Args:
            jobs: its runs; of a search, one that it might draw.

        Returns:
            The runs, and a note if the study began with other base options: new runs then say theirs, so that a table
            shows how they differ.
        """
        before, different = self.facts(), dict[str, tuple[Any, Any]]()
        then, found = current_paths(before.get("first")), dict(jobs)
        for run, job in jobs.items():
            if job.kind == "trials" and not self.sweep.search:
                known = self._trial(job).get("apart")
                own = changed(then, job.config, self.sweep.swept()) if then and known is None else {}
                different |= own
                known = {option: now for option, (_, now) in own.items()} if known is None else known
                found[run] = replace(job, options=job.options | known, differences=known)
        first = next(job for job in jobs.values() if job.kind == "trials")
        write(self.path / "study.json", json.dumps(describe(self.sweep, first.config, before), indent=2) + "\n")
        for job in found.values() if not self.sweep.search else ():
            self.begin_run(job)
        asked = {self.of(job) for job in found.values()}
        for path in self.path.glob("trials/*/trial.json") if not self.sweep.search else ():
            if path.parent not in asked and not any(path.parent.glob("*/")):  # never begun, and not asked for any more
                with contextlib.suppress(OSError):
                    for file in path.parent.iterdir():
                        file.unlink()
                    path.parent.rmdir()
        if not different:
            return found, None
        shown = [f"{option} was {then} and is {now}" for option, (then, now) in list(different.items())[:3]]
        more = f", and {len(different) - 3} more" if len(different) > 3 else ""
        return found, f"since the study began {', '.join(shown)}{more}: these are new runs, the earlier ones stay"

    def begin_run(self, job: Job) -> None:
        """Writes what a run is; one that an earlier version wrote stays as it is."""
        named = {"id": job.id, "variant": job.variant, "options": job.options, "needs": list(job.needs)}
        facts = named | {"config": job.config, "key": job.key, "apart": job.differences}
        if current_paths(self._trial(job)) != facts:
            write(self.of(job) / "trial.json", json.dumps(facts, indent=2) + "\n")

    def _trial(self, job: Job) -> dict[str, Any]:
        return read_json(self.of(job) / "trial.json")

    def runs(self, kind: Kind, run: str) -> dict[Path, dict[str, Any]]:
        """The run folders of a run's attempts, the latest last, with their results; empty ones of those without."""
        paths = sorted(path.parent for path in self.path.glob(f"{kind}/{run}/*/config.yaml"))
        return {path: read_json(path / "results.json") for path in paths}

    def ended(self, kind: Kind, run: str) -> tuple[Path, dict[str, Any]] | None:
        """The run folder in which a run was finished, its test included, or else diverged, with its results."""
        found = self.runs(kind, run)
        for status in ENDED:
            for path, results in reversed(found.items()):
                if results.get("status") == status and results.get("command") == "fit" and is_whole(results):
                    return path, results
        return None

    def outcome(self, job: Job) -> Outcome | None:
        """What came of a run; None if it is still to be made.

        A search has no use for a run without its metric, which has failed.
        """
        run, name, metric = job.id, job.variant or "", self.sweep.metric
        if found := self.ended(job.kind, run):
            results = found[1]
            metrics, seconds = results.get("metrics") or {}, results.get("duration_s")
            value = metrics.get(metric) if metric is not None and job.kind == "trials" else None
            if results["status"] == "diverged":
                return Outcome(run, name, "diverged", value, seconds, "its loss was not finite any more")
            if self.sweep.search and job.kind == "trials" and value is None:
                error = f"the run has no finite metric {metric!r}{did_you_mean(str(metric), metrics)}"
                return Outcome(run, name, "failed", None, seconds, error)
            return Outcome(run, name, "finished", value, seconds)
        errors = self.errors(job)
        if errors and (not errors[-1]["again"] or len(errors) > self.retries):
            return Outcome(run, name, "failed", error=errors[-1]["error"])
        return None

    def note(self, job: Job, **facts: Any) -> None:
        """Adds a line to the run's ``attempts.jsonl``."""
        path = self.of(job) / ATTEMPTS
        with path.open("a", encoding="utf-8") as file:  # a line of its own even after half of one
            file.write(f"\n{json.dumps({'time': f'{datetime.now().astimezone():%FT%T%z}', **facts})}")

    def begin_attempt(self, job: Job) -> None:
        """Notes that this process makes the run now. An attempt that the same driver saw begin and not end was lost."""
        self.begin_run(job)
        lines = self.attempts(job)
        if lines and "pid" in lines[-1] and lines[-1]["session"] == self.session:
            self.note(job, error=KILLED, again=True)
        if self.outcome(job) is None:
            self.note(job, session=self.session, host=socket.gethostname(), pid=os.getpid())

    def attempts(self, job: Job) -> list[dict[str, Any]]:
        """What ``attempts.jsonl`` says, line by line."""
        lines: list[dict[str, Any]] = []
        with contextlib.suppress(FileNotFoundError):
            for line in (self.of(job) / ATTEMPTS).read_text(encoding="utf-8").splitlines():
                with contextlib.suppress(ValueError, TypeError):  # blank, half of one, or no mapping
                    lines.append(dict(json.loads(line)))
        return lines

    def errors(self, job: Job) -> list[dict[str, Any]]:
        """The attempts that failed, since the run was last given another round."""
        lines = self.attempts(job)
        start = max((place for place, line in enumerate(lines) if line.get("retry_failed")), default=-1)
        return [line for line in lines[start + 1 :] if "error" in line]

    def retry_failed(self) -> None:
        """Gives every run whose last attempt failed another round."""
        for path in self.path.glob(f"*/*/{ATTEMPTS}"):
            with path.open("a", encoding="utf-8") as file:
                file.write('\n{"retry_failed": true}')

    def checkpoint(self, job: Job) -> Path | None:
        """The checkpoint from which an attempt that was interrupted can go on.

        One of the end of training is none: only the test would be made, in a run folder without the training's metrics.
        """
        from dinopl.core.checkpoints import load_checkpoint

        epochs, steps = (job.config["trainer"].get(name) for name in ("max_epochs", "max_steps"))
        for folder, results in reversed(self.runs(job.kind, job.id).items()):
            if results.get("status", "interrupted") != "interrupted":
                return None
            path = folder / "checkpoints" / "last.ckpt"
            try:
                made = load_checkpoint(str(path))
            except (ValueError, OSError):  # the attempt had not come to one, or was cut off while it wrote it
                continue
            over = epochs is not None and 0 <= epochs <= made["epoch"] + 1
            return None if over or 0 < (steps or -1) <= made["global_step"] else path
        return None

    def config(self, job: Job, checkpoint: Path | None = None) -> Path:
        """Writes the configuration of a run for the machine that makes it, and gives its path.

        Args:
            job: the run.
            checkpoint: from which to go on; None to start from the beginning.
        """

        def lookup(name: str) -> str:
            _, run, what = name.split(".")
            found = self.ended("shared", run) or self.ended("trials", run)  # a point may serve others too
            path = found[0] if found else self.path / "shared" / run
            return str(path / "checkpoints" / "last.ckpt" if what == "checkpoint" else path)

        config: Config = substitute(job.config, lookup)
        config["trainer"] = config["trainer"] | {"default_root_dir": str(self.path / job.kind)}
        config |= {"name": job.id, "threads": config.get("threads") or self.threads or cores()}
        config |= {START: str(checkpoint)} if checkpoint else {}
        path = self.of(job) / "fit.yaml"
        write(path, yaml.safe_dump(config, sort_keys=False, allow_unicode=True))
        return path


def describe(sweep: Sweep, first: Config, before: Mapping[str, Any]) -> dict[str, Any]:
    """What ``study.json`` says of a study.

    Args:
        sweep: the sweep file.
        first: configuration of its first run.
        before: what the file said so far.
    """
    axes: dict[str, list[Any]] = {}
    for axis in sweep.axes():
        known = axes.setdefault(axis.option, [])
        known += [value for value in axis.choices() if value not in known]
    return {
        "name": sweep.name,
        "axes": axes,
        "variants": list(sweep.variants),
        "seeds": list(sweep.seeds),
        "metric": sweep.metric,
        "direction": sweep.direction,
        "x": sweep.x,
        "by": list(sweep.by),
        "log": [axis.option for axis in sweep.axes() if isinstance(axis.values, Range) and axis.values.log],
        "reference": sweep.reference,
        "search": bool(sweep.search),
        "first": before.get("first") or first,
    }


def cores() -> int:
    """CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def read_json(path: Path) -> dict[str, Any]:
    """What a file holds; empty if there is none, or half of one."""
    with contextlib.suppress(OSError, ValueError, TypeError):
        return dict(json.loads(path.read_text(encoding="utf-8")))
    return {}


def write(path: Path, text: str) -> None:
    """Writes a file so that a reader never meets half of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
