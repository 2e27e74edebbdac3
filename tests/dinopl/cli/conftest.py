"""A main job cut down to a fraction of a second."""

from collections.abc import Callable
from pathlib import Path

import pytest

CUT = (
    "--trainer.accelerator=cpu",
    "--trainer.max_epochs=1",
    "--trainer.limit_train_batches=2",
    "--trainer.enable_model_summary=false",
    "--trainer.num_sanity_val_steps=0",
    "--trainer.log_every_n_steps=1",
    "--model.encoder.widths=[4,4]",
    "--model.head.hidden=[8]",
    "--model.head.bottleneck_dim=4",
    "--model.head.out_dim=16",
    '--model.probes=[{"class_path": "KNNProbe"}]',
)


@pytest.fixture
def config(root: Path) -> str:
    """The main job's file."""
    return str(root / "configs" / "random_teacher.yaml")


@pytest.fixture
def short_run(run_main: Callable[..., int], config: str, tmp_path: Path) -> Callable[..., tuple[int, Path | None]]:
    """Runs a command of the cut main job; returns the exit code and the newest run folder."""

    def run(command: str, *options: object, cut: tuple[str, ...] = CUT) -> tuple[int, Path | None]:
        before = set(tmp_path.glob("runs/*/*"))
        code = run_main(command, "--config", config, *cut, *options)
        made = set(tmp_path.glob("runs/*/*")) - before
        assert len(made) <= 1
        return code, made.pop() if made else None

    return run
