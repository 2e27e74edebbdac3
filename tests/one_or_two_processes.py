"""Run by a test as a script: trains each family on one process, and on two with half the batch, and compares.

Training and evaluation batches are such that the two processes' parts are unequal.
"""

import json
import os
import socket
import sys
import warnings
from functools import partial
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningDataModule, Trainer, seed_everything

from dinopl import ImageDataModule, SelfDistillation
from dinopl.core.module import BaseModule
from dinopl.core.types import ImageShape
from dinopl.data import CropFlip, DigitsImages
from dinopl.distillation import losses
from dinopl.distillation.heads import ProjectionHead
from dinopl.distillation.student_start import InterpolatedStart
from dinopl.encoders import MiniMLP
from dinopl.probes.knn import KNNProbe
from dinopl.probes.linear import LinearProbe
from fprnn.layers import FPRNN
from fprnn.module import SequenceModeling
from fprnn.solvers import PicardSolver
from fprnn.tasks import AdaptiveLengths, Copying, SequenceDataModule, WordProblem
from kd import NetworkTeacher
from kd import losses as objectives
from kd.losses.mixtures import ConfidenceWeighted, Mixture, WhereTeacherKnows
from kd.module import KnowledgeDistillation
from kd.networks import EncoderClassifier
from tests.test_resumption import Follower

SGD = partial(torch.optim.SGD, lr=0.05, momentum=0.9)
DISTILLATIONS: list[Any] = [
    *(objectives.KLDistillation(4.0), objectives.SoftCrossEntropy(4.0), objectives.ReverseKL(4.0)),
    *(objectives.JensenShannon(4.0), objectives.DecoupledKL(temperature=4.0), objectives.LogitMSE(centred=True)),
    *(objectives.PartialLogitMSE(3), objectives.HardTeacher(), objectives.LabelCrossEntropy()),
    *(objectives.LabelSmoothing(), objectives.VirtualTeacher(), objectives.OneHotMSE()),
    *(WhereTeacherKnows(), ConfidenceWeighted(), ConfidenceWeighted(over_batch=True)),
    Mixture(0.3),
]


def distillation(loss: Any, world_size: int) -> tuple[BaseModule, LightningDataModule]:
    """219 images in batches of 32: the last one has 27."""
    sizes = {"batch_size": 32 // world_size, "train_size": 219, "val_size": 21, "test_size": 51}
    data = ImageDataModule(views=[CropFlip(8), CropFlip(8)], eval_batch_size=20 // world_size, **sizes)
    options: dict[str, Any] = {"optimizer": SGD, "encoder": partial(MiniMLP, hidden=(8,)), "teacher": Follower()}
    probes = [KNNProbe(k=5), LinearProbe(epochs=2)]
    head = partial(ProjectionHead, hidden=(8,), bottleneck_dim=4, out_dim=16)
    # At the teacher itself the first gradients are rounding noise.
    start = InterpolatedStart(alpha=0.5)
    return SelfDistillation(ImageShape(1, 8, 8), head=head, loss=loss, student=start, probes=probes, **options), data


def knowledge(objective: Any, world_size: int) -> tuple[BaseModule, LightningDataModule]:
    sizes = {"batch_size": 32 // world_size, "train_size": 219, "val_size": 21, "test_size": 51}
    data = ImageDataModule(DigitsImages(), views=[CropFlip(8)], eval_batch_size=20 // world_size, **sizes)
    small = partial(EncoderClassifier, encoder=partial(MiniMLP, hidden=(4,)))
    given = {"teacher": NetworkTeacher(small) if objective.needs_teacher or objective.needs_subset else None}
    student = partial(EncoderClassifier, encoder=partial(MiniMLP, hidden=(8,)))
    options: dict[str, Any] = given | {"optimizer": SGD, "objective": objective, "check_teacher": False}
    return KnowledgeDistillation((1, 8, 8), 10, student, **options), data


def sequences(task: Any, world_size: int) -> tuple[BaseModule, LightningDataModule]:
    """Sequences of unequal lengths, so that the processes score unequal numbers of positions."""
    sizes = {"batch_size": 8 // world_size, "steps_per_epoch": 7, "val_size": 5, "test_size": 7}
    curriculum = AdaptiveLengths(smoothing=0.5, threshold=0.1) if isinstance(task, WordProblem) else None
    lengths: dict[str, Any] = {"train_length": (3, 8), "eval_lengths": [4, 6], "eval_batch_size": 4 // world_size}
    data = SequenceDataModule(task, curriculum=curriculum, **lengths, **sizes)
    options: dict[str, Any] = {"layer": partial(FPRNN, solver=PicardSolver()), "d_model": 4, "optimizer": SGD}
    return SequenceModeling(data.vocab_size, data.num_targets, **options), data


CASES: dict[str, Any] = {
    **{
        type(loss).__name__: partial(distillation, loss)
        for loss in (
            losses.CrossEntropyViews(teacher_temperature=0.5),
            losses.KLViews(pairing="all"),
            losses.MSEViews(),
        )
    },
    **{f"{number} {type(each).__name__}": partial(knowledge, each) for number, each in enumerate(DISTILLATIONS)},
    **{type(task).__name__: partial(sequences, task) for task in (WordProblem("S3"), Copying())},
}


def measured(name: str, root: Path, **options: Any) -> tuple[dict[str, Any], dict[str, float]]:
    """Weights and metrics after an epoch and a test."""
    seed_everything(3, verbose=False)
    model, data = CASES[name](options.get("devices", 1))
    quiet = dict.fromkeys(("enable_progress_bar", "enable_model_summary", "enable_checkpointing", "logger"), False)
    limits = {"accelerator": "cpu", "max_epochs": 1, "num_sanity_val_steps": 0, "log_every_n_steps": 1}
    trainer = Trainer(default_root_dir=root, **quiet | limits | {"devices": 1} | options)
    trainer.fit(model, data)
    metrics = dict(trainer.callback_metrics)
    weights = {key: value.clone() for key, value in model.state_dict().items() if isinstance(value, torch.Tensor)}
    trainer.test(model, data, verbose=False)
    metrics |= trainer.callback_metrics
    return weights, {key: float(value) for key, value in metrics.items() if not key.startswith("train/")}


def work(rank: int, root: Path, port: int) -> None:
    os.environ |= {"LOCAL_RANK": str(rank), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    os.environ |= {"NODE_RANK": "0", "WORLD_SIZE": "2"}
    options = {"devices": 2, "strategy": "ddp", "use_distributed_sampler": False}
    both = {name: measured(name, root, **options) for name in CASES}
    if rank == 0:
        torch.save(both, root / "two.pt")


def main(root: Path) -> None:
    warnings.filterwarnings("ignore")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    # Forked after the imports, which take longer than everything else here.
    torch.multiprocessing.start_processes(work, (root, port), nprocs=2, start_method="fork")
    two = torch.load(root / "two.pt", weights_only=False)
    report = {}
    for name in CASES:
        (weights, metrics), (weights_, metrics_) = measured(name, root), two[name]
        apart = max(float((weights[key].double() - weights_[key].double()).abs().max()) for key in weights)
        others = {
            key: abs(value - metrics_.get(key, float("nan"))) / max(1.0, abs(value)) for key, value in metrics.items()
        }
        report[name] = {"weights": apart, "metrics": others, "missing": sorted(metrics.keys() ^ metrics_.keys())}
    (root / "report.json").write_text(json.dumps(report))


if __name__ == "__main__":
    CASES = {name: case for name, case in CASES.items() if name in sys.argv[2:] or not sys.argv[2:]}
    main(Path(sys.argv[1]))
