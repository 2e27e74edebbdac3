"""Finding the runs of a study, or of any folder: which belong to one trial, and which of those counts."""

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import Any

from dinopl.reports.options import SEED, canonical, flatten_options, is_bookkeeping, option_name
from dinopl.reports.run import Run

ENDED = ("finished", "diverged")
WAITING = "waiting"
OTHERS = ("failed", "interrupted", "unfinished", WAITING)

_FOLDER_TIME = re.compile(r"(\d{8}-\d{6})-[0-9a-f]+")


@dataclass(frozen=True)
class Trial:
    """One point of a study, or a run by itself, with the attempt that counts.

    Attributes:
        path: folder of that attempt; of the trial, if nothing was run yet.
        run: the attempt; None if nothing was run yet.
        options: dotted names and values: those that the study set, or else all.
        settings: all options of the run, as far as they are known, and those that the study set.
        planned: whether a study made it.
        variant: its name, if the study has named variants.
        earlier: attempts before this one, left out.
    """

    path: Path
    run: Run | None
    options: dict[str, Any]
    settings: dict[str, Any]
    planned: bool = False
    variant: str | None = None
    earlier: int = 0

    @property
    def status(self) -> str:
        """The run's status, or "waiting"."""
        return WAITING if self.run is None else self.run.status

    @property
    def seed(self) -> int | None:
        """The seed of the run, or the one that it is going to have."""
        planned = self.options.get(SEED)
        return planned if self.run is None or self.run.seed is None else self.run.seed

    def value(self, option: str) -> Any:
        """The value of a dotted option or of "variant"; None if it has none."""
        return self.variant if option == "variant" else self.settings.get(option)


@dataclass(frozen=True)
class Study:
    """What a study says about itself, in ``study.json``.

    Attributes:
        name: of the study.
        axes: values of each swept option, in the order to show them.
        variants: names, in the order to show them.
        metric: the metric that it is about, if it has one.
        x: the option for the horizontal axis, if it says so.
        by: the options that a figure has a line for each value of, if it says so.
        log: options whose values are spread over a logarithmic range.
        reference: values from elsewhere, such as a paper, by metric.
    """

    name: str
    axes: dict[str, list[Any]] = field(default_factory=dict)
    variants: list[str] = field(default_factory=list)
    metric: str | None = None
    x: str | None = None
    by: list[str] = field(default_factory=list)
    log: list[str] = field(default_factory=list)
    reference: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def read(cls, path: Path) -> "Study":
        """Reads ``study.json``.

        Raises:
            ValueError: if the file is damaged.
        """
        facts = _read_object(path)
        axes = {option_name(option): values for option, values in _items(facts, "axes")}
        return cls(
            name=str(facts.get("name") or path.parent.name),
            axes={option: _axis_values(option, values) for option, values in axes.items()},
            variants=[str(name) for name in facts.get("variants") or []],
            metric=facts.get("metric"),
            x=option_name(facts["x"]) if facts.get("x") else None,
            by=[option_name(option) for option in facts.get("by") or []],
            log=[option_name(option) for option in facts.get("log") or []],
            reference=dict(facts.get("reference") or {}),
        )


@dataclass(frozen=True)
class Collection:
    """Runs found below some folders.

    Attributes:
        trials: in the order of their folders.
        studies: found on the way.
        evaluations: runs of ``validate``, ``test`` and ``predict``, left out beside trainings.
    """

    trials: list[Trial]
    studies: list[Study]
    evaluations: int = 0

    def count(self, *statuses: str) -> int:
        """Number of trials that have one of the statuses."""
        return sum(trial.status in statuses for trial in self.trials)


def collect(paths: str | Path | Iterable[str | Path], keep: Sequence[str] = ()) -> Collection:
    """Finds the trials below folders: studies, trees of run folders, run folders.

    In a study the attempts of a trial lie in one folder, and the runs that others depend on (``shared/``) are no
    trials. Elsewhere runs whose options and seed are equal are attempts of one trial, whatever their names, folders and
    other bookkeeping. Of several attempts the latest finished or diverged one counts, or else the latest. Runs of
    ``validate``, ``test`` and ``predict`` are left out where there are trainings, which have been tested already.

    Args:
        paths: one or several.
        keep: options of the bookkeeping that make a difference nonetheless, such as "name".

    Raises:
        FileNotFoundError: if there is no such folder, or it has no runs.
        ValueError: if a file is damaged.
    """
    roots = [Path(path) for path in ([paths] if isinstance(paths, str | Path) else paths)]
    trials: dict[Path, Trial] = {}
    studies: dict[Path, Study] = {}
    for root in roots:
        if not root.is_dir():
            raise FileNotFoundError(f"no folder {root}: give a study, a run folder, or a folder of those, such as runs")
        for trial in _walk(root, studies):
            trials.setdefault(trial.path.resolve(), trial)
    if not trials:
        raise FileNotFoundError(f"no runs in {', '.join(map(str, roots))}: a run folder holds results.json")
    trained = [trial for trial in trials.values() if trial.run is None or trial.run.command in (None, "fit")]
    chosen = _latest(trained or list(trials.values()), keep)
    return Collection(chosen, list(studies.values()), len(trials) - len(trained) if trained else 0)


def _walk(folder: Path, studies: dict[Path, Study]) -> Iterator[Trial]:
    """Trials below a folder, attempts of plain runs not yet put together."""
    if (folder / "study.json").is_file():
        studies[folder.resolve()] = Study.read(folder / "study.json")
        folder = folder / "trials"
    if (folder / "trial.json").is_file():
        yield _read_trial(folder)
    elif _is_run(folder):
        run = Run.load(folder, history=False)
        options = flatten_options(run.config)
        yield Trial(folder, run, options, options)
    elif folder.is_dir():
        below = (path for path in sorted(folder.iterdir()) if not path.name.startswith("."))
        for path in below:
            if path.is_dir() and not path.is_symlink():
                yield from _walk(path, studies)


def _is_run(folder: Path) -> bool:
    """A folder of configurations is not one."""
    begun = (folder / "metrics.csv").is_file() or _FOLDER_TIME.fullmatch(folder.name)
    return (folder / "results.json").is_file() or bool(begun and (folder / "config.yaml").is_file())


def _read_trial(folder: Path) -> Trial:
    facts = _read_object(folder / "trial.json")
    runs = [Run.load(below, history=False) for below in sorted(folder.iterdir()) if _is_run(below)]
    attempts = [run for run in runs if run.command in (None, "fit")] or runs  # a later test is no attempt
    run = _counting(attempts) if attempts else None
    options = flatten_options(dict(_items(facts, "options")))
    return Trial(
        path=run.path if run else folder,
        run=run,
        options=options,
        settings=flatten_options(run.config if run else dict(_items(facts, "config"))) | options,
        planned=True,
        variant=facts.get("variant"),
        earlier=max(len(attempts) - 1, 0),
    )


def _counting(attempts: Sequence[Run]) -> Run:
    """The latest that ended, or else the latest."""
    return max(attempts, key=lambda run: (run.status in ENDED, _when(run), run.path.name))


def _when(run: Run) -> float:
    """Seconds since the epoch at which a run started; from the folder's name if it did not say."""
    if run.started:
        return datetime.fromisoformat(run.started).timestamp()
    match = _FOLDER_TIME.fullmatch(run.path.name)
    return datetime.strptime(match[1], "%Y%m%d-%H%M%S").timestamp() if match else 0.0


def _latest(trials: Sequence[Trial], keep: Sequence[str]) -> list[Trial]:
    """Puts together the plain runs that are attempts of one trial."""
    attempts: dict[str, list[Trial]] = {}
    for trial in trials:
        attempts.setdefault(_identity(trial, keep), []).append(trial)
    return [_latest_of(same) for same in attempts.values()]


def _latest_of(same: Sequence[Trial]) -> Trial:
    run = _counting([trial.run for trial in same if trial.run]) if len(same) > 1 else same[0].run
    counting = next(trial for trial in same if trial.run is run)
    earlier = sum(trial.earlier for trial in same) + len(same) - 1
    return replace(counting, earlier=earlier)


def _identity(trial: Trial, keep: Sequence[str]) -> str:
    """Equal for attempts of one trial. A trial of a study, and a run without configuration, stands for itself."""
    if trial.planned or trial.run is None or not trial.run.config:
        return str(trial.path.resolve())
    compared = {name: value for name, value in trial.options.items() if name in keep or not is_bookkeeping(name)}
    tested = None if trial.run.command in (None, "fit") else trial.run.resumed_from
    return canonical({**compared, SEED: trial.seed, "command": trial.run.command or "fit", "tested": tested})


def _items(facts: dict[str, Any], key: str) -> Iterable[tuple[str, Any]]:
    found = facts.get(key) or {}
    return found.items() if isinstance(found, dict) else ()


def _axis_values(option: str, values: Any) -> list[Any]:
    """Values as :func:`flatten_options` has them, an object by the name of its class."""
    return [
        flatten_options({option: value}).get(option) for value in (values if isinstance(values, list) else [values])
    ]


def _read_object(path: Path) -> dict[str, Any]:
    try:
        facts = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is damaged: {error}") from error
    if not isinstance(facts, dict):
        raise ValueError(f"{path} must hold an object, got {type(facts).__name__}")
    return facts
