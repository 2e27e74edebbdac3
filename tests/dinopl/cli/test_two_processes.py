"""The main job under DDP on two CPU processes, through the real command."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import torch

OPTIONS = (
    "--trainer.max_steps=20",
    "--trainer.max_epochs=2",
    "--trainer.accelerator=cpu",
    "--trainer.enable_model_summary=false",
    '--model.probes=[{"class_path": "KNNProbe"}]',
    "--model.probe_epochs=[1]",
)


def fit(config: Path, root: Path, *options: str) -> Path:
    """Runs the command in a process of its own; returns the run folder."""
    words = ["-m", "dinopl", "fit", "--config", str(config), *OPTIONS, *options]
    done = subprocess.run(
        [sys.executable, *words, f"--trainer.default_root_dir={root}"],
        capture_output=True,
        text=True,
        timeout=250,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    (folder,) = root.glob("random_teacher/*")
    assert done.stdout.count("run folder: ") == 1  # one process speaks
    return folder


def test_two_processes_train_as_one_with_the_doubled_batch(
    root: Path, tmp_path: Path, run_main: Callable[..., int]
) -> None:
    """From a start off the teacher: at the teacher itself the first gradients are rounding noise."""
    config = root / "configs" / "random_teacher.yaml"
    start = ("--model.student=InterpolatedStart", "--model.student.alpha=0.5")
    alone = (*OPTIONS, *start, "--data.batch_size=64", f"--trainer.default_root_dir={tmp_path / 'one'}")
    assert run_main("fit", "--config", config, *alone) == 0
    (one,) = (tmp_path / "one").glob("random_teacher/*")
    two = fit(
        config, tmp_path / "two", "--config", str(root / "configs/overlays/ddp.yaml"), "--data.batch_size=32", *start
    )
    states = [torch.load(f / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"] for f in (one, two)]
    for name, value in states[0].items():
        # Gradients are sums in another order. AdamW magnifies that where a gradient is near zero: 1e-6 in 20 steps.
        torch.testing.assert_close(states[1][name], value, atol=1e-5, rtol=0)
    results = [json.loads((folder / "results.json").read_text())["metrics"] for folder in (one, two)]
    for name in ("probe/teacher/knn", "probe/input/knn", "test/teacher_entropy", "val/teacher_entropy"):
        assert abs(results[0][name] - results[1][name]) < 1e-5
    assert abs(results[0]["probe/student/knn"] - results[1]["probe/student/knn"]) < 0.01


def test_a_mistake_under_two_processes_is_still_told_and_leaves_nothing(root: Path, tmp_path: Path) -> None:
    words = ["-m", "dinopl", "fit", "--config", str(root / "configs" / "random_teacher.yaml"), *OPTIONS]
    words += ["--config", str(root / "configs/overlays/ddp.yaml"), "--data.batch_size=2000"]
    done = subprocess.run(
        [sys.executable, *words, f"--trainer.default_root_dir={tmp_path}"],
        capture_output=True,
        text=True,
        timeout=250,
        check=False,
    )
    assert done.returncode != 0
    assert "dinopl: error: --data.batch_size 2000: there are only 1167 training images for 2 processes" in done.stderr
    assert not list(tmp_path.iterdir())
