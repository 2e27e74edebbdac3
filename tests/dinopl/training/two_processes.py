"""Run by a test as a script: fit, predict, resume and diverge on two processes; prints what each of them saw."""

import json
import os
import signal
import socket
import sys
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Trainer, seed_everything
from lightning.pytorch.callbacks import ModelCheckpoint
from tiny import Tiny, loader, make_trainer
from torch import Tensor

from dinopl.training import DivergenceError, ExactResume, FiniteGuard, PredictionWriter, RunFolder
from dinopl.training.stopping import GracefulStop, Stopped

warnings.filterwarnings("ignore")


class OnRankOne(Tiny):
    """Its loss becomes NaN on the second process only, in the batch given."""

    def __init__(self, batch: int) -> None:
        super().__init__(self._poison)
        self.bad = batch

    def _poison(self, module: Tiny, loss: Tensor) -> Tensor:
        return loss * (float("nan") if self.batches == self.bad and self.trainer.global_rank == 1 else 1.0)


class PerProcess(Tiny):
    """Each process drops its own units: their generators differ."""

    def on_train_start(self) -> None:
        if self.trainer.current_epoch == 0:
            torch.manual_seed(self.trainer.global_rank)


class StopsOnRankOne(PerProcess):
    """Asks the second process to stop, in the last batch of its second epoch."""

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        if self.batches == 3 and self.trainer.global_rank == 1:
            os.kill(os.getpid(), signal.SIGTERM)
        return super().training_step(batch, batch_idx)


def weights(trainer: Trainer) -> list[float]:
    return [float(p.detach().double().sum()) for p in trainer.lightning_module.parameters()]


def work(rank: int, root: Path, port: int) -> None:
    os.environ.update(
        LOCAL_RANK=str(rank), MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), NODE_RANK="0", WORLD_SIZE="2"
    )
    main(root)


def main(root: Path) -> None:
    options: dict[str, Any] = {"strategy": "ddp", "devices": 2, "enable_checkpointing": True}
    report: dict[str, Any] = {}

    folders: list[RunFolder] = []

    def fit(
        make: Callable[[], Tiny], epochs: int, source: str | None = None
    ) -> tuple[Trainer, RunFolder, PredictionWriter]:
        seed_everything(1, verbose=False)
        run, writer = RunFolder(), PredictionWriter()
        saver = ModelCheckpoint(filename="last", enable_version_counter=False)
        callbacks = [run, FiniteGuard(), ExactResume(), writer, saver, GracefulStop()]
        trainer = make_trainer(root, *callbacks, max_epochs=epochs, **options)
        folders.append(run)
        trainer.fit(make(), loader(16), loader(16), ckpt_path=source)
        return trainer, run, writer

    trainer, _, _ = fit(PerProcess, 2)
    report["whole"] = weights(trainer)
    trainer, run, _ = fit(PerProcess, 1)
    trainer, run, writer = fit(PerProcess, 2, f"{run.path}/checkpoints/last.ckpt")
    report["resumed"] = weights(trainer)
    trainer.predict(trainer.lightning_module, loader(13), return_predictions=False)
    report["path"], report["predictions"] = str(run.path), [str(path) for path in writer.paths]
    try:
        fit(StopsOnRankOne, 3)
    except Stopped as stop:
        report["stopped"] = [stop.code, folders[-1].status]
    trainer, _, _ = fit(PerProcess, 3)
    report["longer"] = weights(trainer)
    trainer, _, _ = fit(PerProcess, 3, f"{folders[-2].path}/checkpoints/last.ckpt")
    report["after the stop"] = weights(trainer)
    try:
        fit(partial(OnRankOne, 3), 2)
    except DivergenceError as error:
        report["divergence"] = str(error)
    (root / f"rank-{trainer.global_rank}.json").write_text(json.dumps(report))


if __name__ == "__main__":
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    # Forked after the imports, which take longer than everything else here.
    torch.multiprocessing.start_processes(work, (Path(sys.argv[1]), port), nprocs=2, start_method="fork")
