"""Run folders as the command leaves them, written by hand."""

import itertools
import json
from pathlib import Path
from typing import Any

_NUMBERS = itertools.count()


def write_run(
    parent: Path,
    metrics: dict[str, float | None] | None = None,
    seed: int | None = 0,
    status: str = "finished",
    started: str | None = None,
    **facts: Any,
) -> Path:
    """A run folder below ``parent``; ``config=`` and other facts go into results.json. "unfinished" has none."""
    number = next(_NUMBERS)
    folder = parent / f"20260101-{number // 3600 % 24:02}{number // 60 % 60:02}{number % 60:02}-{number:08x}"
    folder.mkdir(parents=True)
    config = {"seed_everything": seed, **facts.pop("config", {})}
    (folder / "config.yaml").write_text(json.dumps(config))
    (folder / "metrics.csv").write_text("")
    results = {
        "status": status,
        "metrics": metrics or {},
        "seed": seed,
        "command": "fit",
        "started": started or f"2026-01-01T{number // 3600 % 24:02}:{number // 60 % 60:02}:{number % 60:02}+00:00",
        "versions": {"torch": "2.11"},
        "config": config,
        **facts,
    }
    if status != "unfinished":
        (folder / "results.json").write_text(json.dumps(results))
    return folder


def write_trial(study: Path, name: str, options: dict[str, Any], variant: str | None = None) -> Path:
    """A trial's folder without runs."""
    folder = study / "trials" / name
    folder.mkdir(parents=True)
    (folder / "trial.json").write_text(json.dumps({"id": name, "variant": variant, "options": options}))
    return folder


def write_study(folder: Path, **facts: Any) -> Path:
    """A study's folder without trials."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "study.json").write_text(json.dumps({"name": folder.name, **facts}))
    return folder


def alpha_config(alpha: float, lr: float = 0.1) -> dict[str, Any]:
    """A configuration as a run records it."""
    student = {"class_path": "dinopl.distillation.student_start.InterpolatedStart", "init_args": {"alpha": alpha}}
    optimizer = {"class_path": "torch.optim.AdamW", "init_args": {"lr": lr}}
    return {
        "model": {"class_path": "dinopl.SelfDistillation", "init_args": {"student": student, "optimizer": optimizer}}
    }
