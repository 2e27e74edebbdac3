"""A run folder as the command leaves it, finished or not."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dinopl.reports.history import History

FILES = ("results.json", "metrics.csv", "config.yaml")


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
        resumed_from: the checkpoint that the run took up, if it did.
        history: what was logged over time.
        command: "fit", "validate", "test" or "predict", whichever began the folder, if it is known.
        started: when, as ISO 8601 with the offset from UTC, if it is known.
        duration_s: seconds from the start to the end, if it has ended.
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
        results = _read_results(path / "results.json")
        config = results.get("config") or _read_config(path / "config.yaml")
        metrics_file = path / "metrics.csv"
        return cls(
            path=path,
            status=results.get("status", "unfinished") if is_whole(results) else "unfinished",
            metrics=results.get("metrics") or {},
            seed=results.get("seed", config.get("seed_everything")),
            versions=results.get("versions") or {},
            config=config,
            resumed_from=results.get("resumed_from"),
            history=History.read(metrics_file) if history and metrics_file.is_file() else History({}),
            command=results.get("command"),
            started=results.get("started"),
            duration_s=results.get("duration_s"),
        )


def is_whole(results: Mapping[str, Any]) -> bool:
    """Whether nothing is to come after what ``results.json`` tells of.

    Each stage that ends writes it. So a fit that is to end with a test calls itself finished before that test, for good
    if it is killed in between.

    Args:
        results: from ``results.json``.
    """
    config = results.get("config") or {}
    tests = config.get("test_after_fit") and not (config.get("trainer") or {}).get("fast_dev_run")
    if results.get("status") != "finished" or results.get("command") != "fit" or not tests:
        return True
    stages = results.get("stages")  # results of an earlier version have none, and tell by their metrics
    return "test" in stages if stages else any(name.startswith("test/") for name in results.get("metrics") or {})


def _read_results(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        results = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is damaged, delete it to read the rest of the run: {error}") from error
    if not isinstance(results, dict):
        raise ValueError(f"{path} must hold an object with metrics and status, got {type(results).__name__}")
    return results


def _read_config(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    import yaml

    try:
        config = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise ValueError(f"{path} is damaged: {' '.join(str(error).split())}") from error
    return config if isinstance(config, dict) else {}
