"""Sweeps of a run that takes a second or less."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dinopl.reports.run import is_whole

BASE = """
threads: 1
model:
  class_path: SelfDistillation
  init_args:
    encoder: {class_path: MiniVGG, init_args: {widths: [4, 4]}}
    head: {class_path: ProjectionHead, init_args: {hidden: [8], bottleneck_dim: 4, out_dim: 16}}
    teacher: {class_path: FrozenTeacher}
    student: {class_path: InterpolatedStart, init_args: {alpha: 0.5}}
    probes: [{class_path: KNNProbe}]
    probe_epochs: [1]
data:
  class_path: ImageDataModule
  init_args: {train_size: 200, probe_train_size: 100, test_size: 50}
trainer:
  accelerator: cpu
  max_epochs: 1
  enable_model_summary: false
  num_sanity_val_steps: 0
"""


class Study:
    """What a sweep left on the disk."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def trials(self, kind: str = "trials") -> dict[str, dict[str, Any]]:
        """``trial.json`` of every run, by id."""
        return {path.parent.name: json.loads(path.read_text()) for path in self.path.glob(f"{kind}/*/trial.json")}

    def results(self, run: str, kind: str = "trials") -> list[dict[str, Any]]:
        """``results.json`` of every attempt of a run, in their order."""
        return [json.loads(path.read_text()) for path in sorted((self.path / kind / run).glob("*/results.json"))]

    def finished(self, kind: str = "trials") -> dict[str, int]:
        """How many attempts of each run were finished, their test included."""
        runs = {run: self.results(run, kind) for run in self.trials(kind)}
        return {run: sum(each["status"] == "finished" and is_whole(each) for each in runs[run]) for run in runs}

    def attempts(self, run: str) -> list[str]:
        """What became of each attempt at a run, in their order: the errors, then how it ended."""
        errors = [line["error"] for line in self.lines(run) if "error" in line]
        ended = (each for each in self.results(run) if each["status"] in ("finished", "diverged") and is_whole(each))
        return errors + [each["status"] for each in ended]

    def lines(self, run: str, kind: str = "trials") -> list[dict[str, Any]]:
        """``attempts.jsonl`` of a run."""
        path = self.path / kind / run / "attempts.jsonl"
        return [json.loads(line) for line in path.read_text().splitlines() if line] if path.is_file() else []


@pytest.fixture
def base(tmp_path: Path) -> Path:
    """The base configuration's file."""
    path = tmp_path / "base.yaml"
    path.write_text(BASE)
    return path


@pytest.fixture
def sweep(tmp_path: Path, base: Path, run_main: Callable[..., int]) -> Callable[..., tuple[int, Study]]:
    """Runs ``dinopl sweep`` with the text of a sweep file; returns the exit code and the study."""

    def run(text: str, *options: object) -> tuple[int, Study]:
        (tmp_path / "study.sweep.yaml").write_text(text)
        code = run_main("sweep", "--config", base, "--sweep", tmp_path / "study.sweep.yaml", *options)
        return code, Study(tmp_path / "runs" / "study")

    return run
