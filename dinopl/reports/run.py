"""A run folder as the command leaves it, finished or not, and what its run logged over time."""

import csv
import io
import json
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import yaml

from dinopl.core.files import read_yaml
from dinopl.reports.options import flatten_options

FILES = ("results.json", "metrics.csv", "config.yaml")
# What results.json holds, as far as it is there.
KINDS: dict[str, Any] = {
    **dict.fromkeys(("config", "metrics", "versions"), dict | None),
    **dict.fromkeys(("status", "command", "family", "started", "resumed_from"), str | None),
    "seed": int | None,
    "duration_s": int | float | None,
    "stages": list | None,
}


@dataclass(frozen=True)
class History:
    """Rows of ``metrics.csv`` by column. Rows differ in what they hold: an absent value is None.

    Attributes:
        columns: values by column name, all of the same length.
    """

    columns: dict[str, list[float | None]]

    @classmethod
    def read(cls, path: str | Path) -> "History":
        """Reads a CSV file of numbers; a last line without its line end was cut short and is left out.

        Raises:
            FileNotFoundError: if there is no such file.
            ValueError: if it is no such file.
        """
        with reading(Path(path)):
            text = Path(path).read_text(encoding="utf-8")
            rows = list(csv.DictReader(io.StringIO(text[: text.rfind("\n") + 1], newline="")))
        columns: dict[str, list[float | None]] = {}
        for name in rows[0] if rows else ():
            for row in rows if name is not None else ():
                try:
                    value = float(row.get(name) or "nan")
                except ValueError:
                    value = math.nan
                columns.setdefault(name, []).append(value if math.isfinite(value) else None)
        return cls(columns)

    def __contains__(self, name: str) -> bool:
        return name in self.columns

    def __len__(self) -> int:
        return max((len(column) for column in self.columns.values()), default=0)

    def rows(self, *names: str) -> list[tuple[float, ...]]:
        """Values of several columns, from the rows that have them all; empty if a column is missing."""
        if any(name not in self.columns for name in names):
            return []
        rows = zip(*(self.columns[name] for name in names), strict=True)
        return [row for row in rows if None not in row]

    def steps_per_epoch(self) -> float:
        """Optimiser steps per epoch, as far as the rows show it.

        A row with ``probe/epoch`` gives it directly: it has both the steps taken and the epochs completed. Else a row
        logged at step ``s`` (from 0) of epoch ``e`` (from 0) shows that an epoch has at least ``(s + 1) / (e + 1)``
        steps; it has exactly as many where the row ends an epoch.
        """
        if points := [(step, epochs) for step, epochs in self.rows("step", "probe/epoch") if step and epochs]:
            step, epochs = points[-1]
            return step / epochs
        return max(((step + 1) / (epoch + 1) for step, epoch in self.rows("step", "epoch")), default=1.0)


@dataclass(frozen=True)
class Run:
    """What a run folder holds.

    Attributes:
        path: the folder.
        status: "finished", "interrupted", "diverged" or "failed"; "unfinished" without ``results.json``, or with a test
            to come (:func:`is_whole`): the run goes on, or was killed.
        metrics: the last figures of the run, each a finite number or None; empty without ``results.json``.
        seed: the run's seed, if it is known.
        versions: of the packages that made the run.
        config: the run's complete configuration.
        resumed_from: the checkpoint that the run resumed from, if it did.
        history: what was logged over time.
        command: "fit", "validate", "test" or "predict", whichever began the folder, if it is known.
        started: when, as ISO 8601 with the offset from UTC, if it is known.
        duration_s: seconds from the start to the end, if it has ended.
        family: the mark of the module's family; of runs without one, the name of their model's class.
    """

    path: Path
    status: str
    metrics: dict[str, float | None]
    seed: int | None
    versions: dict[str, str]
    config: dict[str, Any]
    resumed_from: str | None
    history: History
    command: str | None = None
    started: str | None = None
    duration_s: float | None = None
    family: str | None = None

    @classmethod
    def load(cls, path: str | Path, history: bool = True) -> "Run":
        """Reads a run folder; files that a running or killed run has not written yet are taken as empty.

        Args:
            path: the folder.
            history: whether to read ``metrics.csv`` too; otherwise ``history`` is empty.

        Raises:
            FileNotFoundError: if the folder is not there, or is no run folder.
            ValueError: if ``results.json`` or ``config.yaml`` is damaged.
        """
        path = Path(path)
        if not path.is_dir():
            raise FileNotFoundError(f"no run folder {path}: give a folder that a run made, such as runs/NAME")
        if not any((path / name).is_file() for name in FILES):
            raise FileNotFoundError(f"{path} is no run folder: it holds none of {', '.join(FILES)}")
        results_file, metrics_file = path / "results.json", path / "metrics.csv"
        remedy = ", delete it to read the rest of the run"
        results = read_object(results_file, remedy) if results_file.is_file() else {}
        config, source = results.get("config"), results_file
        if not config and (path / "config.yaml").is_file():
            source = path / "config.yaml"
            with reading(source):
                read = read_yaml(source.read_text(encoding="utf-8"))
            config = read if isinstance(read, dict) else {}
        with reading(source, remedy):
            for key, kind in KINDS.items():
                if not isinstance(results.get(key), kind):
                    raise TypeError(f"{key} is a {type(results[key]).__name__}")
            if any(isinstance(value, str | bool | list | dict) for value in (results.get("metrics") or {}).values()):
                raise TypeError("a metric is no number")
            if results.get("started"):
                datetime.fromisoformat(results["started"])
            config = config or {}
            flatten_options(config)
            model = config.get("model")
            path_of_model = model.get("class_path") if isinstance(model, Mapping) else None
            family = results.get("family") or (path_of_model or "").rpartition(".")[2] or None
            status = results.get("status", "unfinished") if is_whole(results) else "unfinished"
        return cls(
            path=path,
            status=status,
            metrics=results.get("metrics") or {},
            seed=results.get("seed", config.get("seed_everything")),
            versions=results.get("versions") or {},
            config=config,
            resumed_from=results.get("resumed_from"),
            history=History.read(metrics_file) if history and metrics_file.is_file() else History({}),
            command=results.get("command"),
            started=results.get("started"),
            duration_s=results.get("duration_s"),
            family=family,
        )


@contextmanager
def reading(path: Path, remedy: str = "") -> Iterator[None]:
    """Names the file whose content is not what it should be, in one line.

    Raises:
        ValueError: for every error within the block that a file's content may cause.
    """
    try:
        yield
    except (ValueError, TypeError, AttributeError, LookupError, RecursionError, csv.Error, yaml.YAMLError) as error:
        reason = "nests too deeply" if isinstance(error, RecursionError) else " ".join(str(error).split())
        raise ValueError(f"{path} is damaged{remedy}: {reason}") from error


def is_whole(results: Mapping[str, Any]) -> bool:
    """Whether nothing is to come after what ``results.json`` holds.

    Each stage that ends writes it. So a fit that is to end with a test calls itself finished before that test, for good
    if it is killed in between.

    Args:
        results: from ``results.json``.
    """
    config = results.get("config") or {}
    tests = config.get("test_after_fit") and not (config.get("trainer") or {}).get("fast_dev_run")
    if results.get("status") != "finished" or results.get("command") != "fit" or not tests:
        return True
    stages = results.get("stages")  # results of an earlier version have none: their metrics show it
    return "test" in stages if stages else any(name.startswith("test/") for name in results.get("metrics") or {})


def read_object(path: Path, remedy: str = "") -> dict[str, Any]:
    """The object that a JSON file holds.

    Raises:
        ValueError: if the file is damaged, in one line.
    """
    with reading(path, remedy):
        facts = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(facts, dict):
        raise ValueError(f"{path} must hold an object, got {type(facts).__name__}")
    return facts
