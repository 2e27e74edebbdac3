"""Runs as one pandas frame: which runs a study or any folder has, and which of several attempts at one run counts."""

import re
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dinopl.reports.metrics import names_of
from dinopl.reports.options import SEED, canonical, flatten_options, is_bookkeeping, option_name
from dinopl.reports.run import Run, read_object, reading

if TYPE_CHECKING:
    from pandas import DataFrame

ENDED = ("finished", "diverged")
WAITING = "waiting"
OTHERS = ("failed", "interrupted", "unfinished", WAITING)
FACTS = ("run", "status", "command", "family", "variant", "earlier_attempts", "started", "duration_s")

_FOLDER_TIME = re.compile(r"(\d{8}-\d{6})-[0-9a-f]+")


def runs(folder: str | Path | Iterable[str | Path], keep: Sequence[str] = ()) -> "DataFrame":
    """Every run below a folder, a row each: options and metrics by their names.

    In a study of ``dinopl sweep`` the attempts of a trial lie in one folder, and the runs that others depend on
    (``shared/``) have no rows. Elsewhere runs whose options and seed are equal are attempts of one run, whatever their
    names, folders and other bookkeeping. Of several attempts the latest finished or diverged one counts, or else the
    latest. Runs of ``validate``, ``test`` and ``predict`` are left out where there are trainings, which have been
    tested already.

    Example:
        >>> from dinopl.reports import runs
        >>> frame = runs("runs/locality").query("status == 'finished'")
        >>> frame.groupby("model.student.alpha")["probe/student/linear"].agg(["mean", "std"])

    Args:
        folder: one or several: studies, trees of run folders, run folders.
        keep: options of the bookkeeping that make a difference nonetheless, such as "name".

    Returns:
        A frame in the order of the folders. Its columns are:

        - ``run`` (the folder), ``status`` ("finished", "diverged", "failed", "interrupted", "unfinished", or "waiting"
          for a trial that has not started), ``command``, ``family``, ``variant`` of the study, ``earlier_attempts``,
          ``started`` (ISO 8601) and ``duration_s``;
        - options by their dotted names, ``seed_everything`` first: numbers where all runs have one, else objects, with
          None where a run lacks the option or has null;
        - metrics by their names, as floats, with NaN where a run lacks the metric or it was not finite. A metric with
          the name of another column is ``metrics/NAME``.

        ``frame.attrs`` has the names of both, under "options" and "metrics"; under "measured" the metrics of finished
        runs, under "swept" the options that studies set, where all runs are of studies; under "studies" what
        :func:`read_study` returns; under "evaluations" the number of runs that were left out beside trainings.

    Raises:
        FileNotFoundError: if there is no such folder, or it has no runs.
        ValueError: if a file is damaged.
    """
    roots = [Path(path) for path in ([folder] if isinstance(folder, str | Path) else folder)]
    found: dict[Path, dict[str, Any]] = {}
    studies: dict[Path, dict[str, Any]] = {}
    for root in roots:
        if not root.is_dir():
            raise FileNotFoundError(f"no folder {root}: give a study, a run folder, or a folder of those, such as runs")
        for trial in _trials(root, studies):
            found.setdefault(trial["path"].resolve(), trial)
    if not found:
        raise FileNotFoundError(f"no runs in {', '.join(map(str, roots))}: a run folder holds results.json")
    trained = [trial for trial in found.values() if trial["run"] is None or trial["run"].command in (None, "fit")]
    same: dict[str, list[dict[str, Any]]] = {}
    for trial in trained or found.values():
        same.setdefault(_identity(trial, keep), []).append(trial)
    # Of several attempts at one plain run, the last to end counts.
    counting = [
        each[0] if len(each) == 1 else max(each, key=lambda trial: _by_end(trial["run"])) | {"earlier": len(each) - 1}
        for each in same.values()
    ]
    frame = _framed(counting)
    frame.attrs["studies"] = list(studies.values())
    frame.attrs["evaluations"] = len(found) - len(trained) if trained else 0
    return frame


def read_study(path: Path) -> dict[str, Any]:
    """What a study says about itself, in ``study.json``.

    Returns:
        ``name``; ``axes``, the values of each swept option in the order to show them; ``variants``, names in the order
        to show them; ``metric`` and ``direction``, "minimize" or "maximize"; ``x``, the option for the horizontal axis;
        ``by``, the options that a figure has a line for each value of; ``log``, options whose values are spread over a
        logarithmic range; ``reference``, values from elsewhere, such as a paper, by metric. What the file does not say
        is None or empty.

    Raises:
        ValueError: if the file is damaged.
    """
    facts = read_object(path)
    axes = {}
    with reading(path):
        if not all(isinstance(facts.get(key), str | None) for key in ("metric", "direction")):
            raise TypeError("its metric is no text")
        for given, values in _object(facts, "axes").items():
            option = option_name(given)  # and an object by the name of its class, as in a frame
            listed = values if isinstance(values, list) else [values]
            axes[option] = [flatten_options({option: value}).get(option) for value in listed]
        return {
            "name": str(facts.get("name") or path.parent.name),
            "axes": axes,
            "variants": [str(name) for name in facts.get("variants") or []],
            "metric": facts.get("metric"),
            "direction": facts.get("direction"),
            "x": option_name(facts["x"]) if facts.get("x") else None,
            "by": [option_name(option) for option in facts.get("by") or []],
            "log": [option_name(option) for option in facts.get("log") or []],
            "reference": _object(facts, "reference"),
        }


def _trials(folder: Path, studies: dict[Path, dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Trials and plain runs below a folder, attempts of plain runs not yet put together."""
    if (folder / "study.json").is_file():
        studies[folder.resolve()] = read_study(folder / "study.json")
        folder = folder / "trials"
    if (folder / "trial.json").is_file():
        facts = read_object(folder / "trial.json")
        below = [Run.load(path, history=False) for path in sorted(folder.iterdir()) if _is_run(path)]
        attempts = [run for run in below if run.command in (None, "fit")] or below  # a later test is no attempt
        run = max(attempts, key=_by_end, default=None)
        with reading(folder / "trial.json"):
            options = flatten_options(_object(facts, "options"))
            every = flatten_options(run.config if run else _object(facts, "config")) | options
        yield {
            "path": run.path if run else folder,
            "run": run,
            "swept": options,
            "options": every,
            "variant": facts.get("variant"),
            "earlier": max(len(attempts) - 1, 0),
        }
    elif _is_run(folder):
        run = Run.load(folder, history=False)
        options = flatten_options(run.config)
        yield {"path": folder, "run": run, "swept": None, "options": options, "variant": None, "earlier": 0}
    elif folder.is_dir():
        for path in sorted(folder.iterdir()):
            if path.is_dir() and not path.is_symlink() and not path.name.startswith("."):
                yield from _trials(path, studies)


def _is_run(folder: Path) -> bool:
    """A folder of configurations is not one."""
    begun = (folder / "metrics.csv").is_file() or _FOLDER_TIME.fullmatch(folder.name)
    return (folder / "results.json").is_file() or bool(begun and (folder / "config.yaml").is_file())


def _by_end(run: Run) -> tuple[bool, float, str]:
    """A key for the attempt that counts: one that ended before others, then the latest start, by the folder's name."""
    match = _FOLDER_TIME.fullmatch(run.path.name)
    if run.started:
        start = datetime.fromisoformat(run.started).timestamp()
    else:
        start = datetime.strptime(match[1], "%Y%m%d-%H%M%S").timestamp() if match else 0.0
    return run.status in ENDED, start, run.path.name


def _seed(trial: dict[str, Any]) -> int | None:
    """The seed of the run, or the one that it is going to have."""
    known = trial["run"] and trial["run"].seed
    return trial["options"].get(SEED) if known is None else known


def _identity(trial: dict[str, Any], keep: Sequence[str]) -> str:
    """Equal for attempts at one run. A trial of a study, and a run without configuration, stands for itself."""
    run = trial["run"]
    if trial["swept"] is not None or run is None or not run.config:
        return str(trial["path"].resolve())
    compared = {name: value for name, value in trial["options"].items() if name in keep or not is_bookkeeping(name)}
    tested = None if run.command in (None, "fit") else run.resumed_from
    return canonical({**compared, SEED: _seed(trial), "command": run.command or "fit", "tested": tested})


def _framed(trials: Sequence[dict[str, Any]]) -> "DataFrame":
    import pandas as pd

    known = [trial["run"] for trial in trials]
    facts: dict[str, list[Any]] = {
        "run": [str(trial["path"]) for trial in trials],
        "status": [WAITING if run is None else run.status for run in known],
        "variant": [trial["variant"] for trial in trials],
        "earlier_attempts": [trial["earlier"] for trial in trials],
        **{name: [getattr(run, name, None) for run in known] for name in ("command", "family", "started")},
        "duration_s": [float("nan") if run is None or run.duration_s is None else run.duration_s for run in known],
    }
    numeric = ("earlier_attempts", "duration_s")
    columns = {name: pd.Series(facts[name], dtype=None if name in numeric else object) for name in FACTS}
    options = dict.fromkeys([SEED, *(name for trial in trials for name in trial["options"])])
    for name in options:
        values = [_seed(trial) if name == SEED else _hashable(trial["options"].get(name)) for trial in trials]
        numbers = all(type(value) in (int, float) for value in values)
        columns[name] = pd.Series(values, dtype=None if numbers else object)
    metrics = {
        name: f"metrics/{name}" if name in columns else name for name in names_of(run.metrics for run in known if run)
    }
    for name, column in metrics.items():
        values = [None if run is None else run.metrics.get(name) for run in known]
        columns[column] = pd.Series([float("nan") if value is None else value for value in values], dtype=float)
    frame = pd.DataFrame(columns)
    finished = names_of(run.metrics for run in known if run and run.status == "finished")
    swept = dict.fromkeys(name for trial in trials for name in trial["swept"] or ())
    frame.attrs["options"], frame.attrs["metrics"] = list(options), list(metrics.values())
    frame.attrs["measured"] = [metrics[name] for name in finished]
    frame.attrs["swept"] = list(swept) if all(trial["swept"] is not None for trial in trials) else None
    return frame


def _hashable(value: Any) -> Any:
    return tuple(map(_hashable, value)) if isinstance(value, list) else value


def _object(facts: dict[str, Any], key: str) -> dict[str, Any]:
    found = facts.get(key)
    return dict(found) if isinstance(found, dict) else {}
