"""A study on the disk: what it is, what each of its runs is, and what came of them.

``STUDY/study.json``; ``STUDY/trials/ID/trial.json``; ``STUDY/shared/ID/trial.json`` for runs that others depend on. The
run folders of a run's attempts lie below its ID.
"""

import contextlib
import json
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from dinopl.cli.config import Config
from dinopl.core.files import replacing
from dinopl.reports.run import is_whole
from dinopl.sweep.file import Sweep
from dinopl.sweep.identity import changed
from dinopl.sweep.plan import Job, Kind
from dinopl.sweep.references import substitute
from dinopl.sweep.values import Range

LOG = "output.log"
FIT = "fit.yaml"
ENDED = ("finished", "diverged")


@dataclass(frozen=True)
class StudyFolder:
    """Where a study lies.

    Attributes:
        path: the folder, absolute.
    """

    path: Path

    @property
    def lock(self) -> Path:
        """The file that is locked while runs are taken and told."""
        return self.path / ".lock"

    @property
    def journal(self) -> Path:
        """Optuna's journal, where no other storage is named."""
        return self.path / "journal.log"

    def of(self, kind: Kind, run: str) -> Path:
        """The folder of a run and all its attempts."""
        return self.path / kind / run

    def read(self) -> dict[str, Any]:
        """What ``study.json`` says; empty if there is none yet."""
        return _read(self.path / "study.json")

    def write(self, facts: dict[str, Any]) -> None:
        """Writes ``study.json``."""
        _write(self.path / "study.json", facts)

    def begin(self, job: Job) -> None:
        """Writes what a run is, before anything is known of it."""
        named = {"id": job.id, "variant": job.variant, "options": job.options, "needs": list(job.needs)}
        facts = named | {"config": job.config, "key": job.key, "apart": job.apart}
        if self.facts(job.kind, job.id) != facts:
            _write(self.of(job.kind, job.id) / "trial.json", facts)

    def facts(self, kind: Kind, run: str) -> dict[str, Any]:
        """What ``trial.json`` says of a run; empty if there is none."""
        return _read(self.of(kind, run) / "trial.json")

    def known(self) -> dict[str, Config]:
        """Complete configurations of the runs that were begun, by the key of their words and files."""
        found = [_read(path) for kind in ("trials", "shared") for path in self.path.glob(f"{kind}/*/trial.json")]
        return {facts["key"]: facts["config"] for facts in found if facts.get("key")}

    def attempts(self, kind: Kind, run: str) -> list[Path]:
        """Run folders of a run, the latest last."""
        return sorted(path.parent for path in self.of(kind, run).glob("*/config.yaml"))

    def ended(self, kind: Kind, run: str) -> tuple[Path, dict[str, Any]] | None:
        """The run folder in which a run was finished, its test included, or else diverged, with its results."""
        found = {path: _read(path / "results.json") for path in self.attempts(kind, run)}
        for status in ENDED:
            for path in reversed(found):
                results = found[path]
                if results.get("status") == status and results.get("command") == "fit" and is_whole(results):
                    return path, results
        return None

    def config(self, job: Job, threads: int) -> Path:
        """Writes the configuration of a run for this machine, and gives its path."""

        def lookup(name: str) -> str:
            _, run, what = name.split(".")
            found = self.ended("shared", run) or self.ended("trials", run)  # a point may serve others too
            path = found[0] if found else self.of("shared", run)
            return str(path / "checkpoints" / "last.ckpt" if what == "checkpoint" else path)

        config: Config = substitute(job.config, lookup)
        config["trainer"] = config["trainer"] | {"default_root_dir": str(self.path / job.kind)}
        config |= {"name": job.id, "threads": config.get("threads") or threads}
        path = self.of(job.kind, job.id) / FIT
        _replace(path, yaml.safe_dump(config, sort_keys=False, allow_unicode=True))
        return path

    def forget(self, keep: Collection[str]) -> None:
        """Removes what was written of points that were never begun and are not asked for any more."""
        for path in self.path.glob("trials/*/trial.json"):
            if path.parent.name not in keep and not any(path.parent.glob("*/")):
                with contextlib.suppress(OSError):
                    for file in path.parent.iterdir():
                        file.unlink()
                    path.parent.rmdir()


def describe(sweep: Sweep, example: Job, before: dict[str, Any]) -> dict[str, Any]:
    """What ``study.json`` says of a study.

    Args:
        sweep: the sweep file.
        example: its first run.
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
        "first": before.get("first") or example.config,
    }


def moved(sweep: Sweep, job: Job, before: dict[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Options of a run that are not swept and have another value than when the study began, as (then, now)."""
    return changed(before["first"], job.config, sweep.swept()) if before.get("first") else {}


def _read(path: Path) -> dict[str, Any]:
    with contextlib.suppress(OSError, ValueError):
        return dict(json.loads(path.read_text(encoding="utf-8")))
    return {}


def _write(path: Path, facts: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    _replace(path, json.dumps(facts, indent=2) + "\n")


def _replace(path: Path, text: str) -> None:

    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
