"""Run by a test as a script: trains each family on one process, and on two with half the batch, and compares.

Training and evaluation batches are such that the two processes' parts are unequal. Each case trains an epoch and is
tested; and it takes one step of SGD without momentum, with gradients accumulated over a whole and a ragged batch, in
float32 and in float64, of which the gradients are compared, and the weights. No network here has BatchNorm.
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
from lightning.pytorch import Callback, LightningDataModule, LightningModule, Trainer, seed_everything
from torch import Tensor

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


def distillation(
    loss: Any, world_size: int, optimizer: Any = SGD, images: int = 219
) -> tuple[BaseModule, LightningDataModule]:
    """219 images in batches of 32: the last one has 27."""
    sizes = {"batch_size": 32 // world_size, "train_size": images, "val_size": 21, "test_size": 51}
    data = ImageDataModule(views=[CropFlip(8), CropFlip(8)], eval_batch_size=20 // world_size, **sizes)
    options: dict[str, Any] = {"optimizer": optimizer, "encoder": partial(MiniMLP, hidden=(8,)), "teacher": Follower()}
    probes = [KNNProbe(k=5), LinearProbe(epochs=2)]
    head = partial(ProjectionHead, hidden=(8,), bottleneck_dim=4, out_dim=16)
    # At the teacher itself the first gradients are rounding noise.
    start = InterpolatedStart(alpha=0.5)
    return SelfDistillation(ImageShape(1, 8, 8), head=head, loss=loss, student=start, probes=probes, **options), data


def knowledge(
    objective: Any, world_size: int, optimizer: Any = SGD, images: int = 219
) -> tuple[BaseModule, LightningDataModule]:
    sizes = {"batch_size": 32 // world_size, "train_size": images, "val_size": 21, "test_size": 51}
    data = ImageDataModule(DigitsImages(), views=[CropFlip(8)], eval_batch_size=20 // world_size, **sizes)
    small = partial(EncoderClassifier, encoder=partial(MiniMLP, hidden=(4,)))
    given = {"teacher": NetworkTeacher(small) if objective.needs_teacher or objective.needs_subset else None}
    student = partial(EncoderClassifier, encoder=partial(MiniMLP, hidden=(8,)))
    options: dict[str, Any] = given | {"optimizer": optimizer, "objective": objective, "check_teacher": False}
    return KnowledgeDistillation((1, 8, 8), 10, student, **options), data


def sequences(
    task: Any, world_size: int, optimizer: Any = SGD, images: int = 0
) -> tuple[BaseModule, LightningDataModule]:
    """Sequences of unequal lengths, so that the processes score unequal numbers of positions."""
    sizes = {"batch_size": 8 // world_size, "steps_per_epoch": 7, "val_size": 5, "test_size": 7}
    curriculum = AdaptiveLengths(smoothing=0.5, threshold=0.1) if isinstance(task, WordProblem) else None
    lengths: dict[str, Any] = {"train_length": (3, 8), "eval_lengths": [4, 6], "eval_batch_size": 4 // world_size}
    data = SequenceDataModule(task, curriculum=curriculum, **lengths, **sizes)
    options: dict[str, Any] = {"layer": partial(FPRNN, solver=PicardSolver()), "d_model": 4, "optimizer": optimizer}
    return SequenceModeling(data.vocab_size, data.num_targets, **options), data


PRECISIONS = ("32-true", "64-true")
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


class Step(Callback):
    """Keeps the gradients that the optimiser gets, and the weights before and after it."""

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Any) -> None:
        of = [(name, weight) for name, weight in pl_module.named_parameters() if weight.grad is not None]
        self.gradients = {name: weight.grad.clone() for name, weight in of if weight.grad is not None}
        self.before = {name: weight.detach().clone() for name, weight in of}

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        of = dict(pl_module.named_parameters())
        self.after = {name: of[name].detach().clone() for name in self.before}


def one_step(name: str, root: Path, precision: Any, **options: Any) -> dict[str, dict[str, Tensor]]:
    """Gradients of a step on batches of 32 and 27 images, or of sequences of unequal lengths; weights around it."""
    seed_everything(3, verbose=False)
    model, data = CASES[name](options.get("devices", 1), optimizer=partial(torch.optim.SGD, lr=0.05), images=59)
    quiet = dict.fromkeys(("enable_progress_bar", "enable_model_summary", "enable_checkpointing", "logger"), False)
    limits = {"accelerator": "cpu", "max_steps": 1, "limit_val_batches": 0, "accumulate_grad_batches": 2}
    step = Step()
    Trainer(
        default_root_dir=root, callbacks=[step], precision=precision, **quiet | limits | {"devices": 1} | options
    ).fit(model, data)
    return {"gradients": step.gradients, "before": step.before, "after": step.after}


def apart(one: dict[str, Tensor], two: dict[str, Tensor]) -> float:
    """The largest difference of two sets of tensors, by the largest entry of the first."""
    assert one.keys() == two.keys()
    assert one
    scale = max(float(tensor.abs().max()) for tensor in one.values())
    return max(float((one[name] - two[name]).abs().max()) for name in one) / scale


def work(rank: int, root: Path, port: int) -> None:
    os.environ |= {"LOCAL_RANK": str(rank), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    os.environ |= {"NODE_RANK": "0", "WORLD_SIZE": "2"}
    options = {"devices": 2, "strategy": "ddp", "use_distributed_sampler": False}
    both = {name: measured(name, root, **options) for name in CASES}
    steps = {(name, bits): one_step(name, root, bits, **options) for name in CASES for bits in PRECISIONS}
    if rank == 0:
        torch.save((both, steps), root / "two.pt")


def main(root: Path) -> None:
    warnings.filterwarnings("ignore")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    # Forked after the imports, which take longer than everything else here.
    torch.multiprocessing.start_processes(work, (root, port), nprocs=2, start_method="fork")
    two, steps = torch.load(root / "two.pt", weights_only=False)
    report: dict[str, dict[str, Any]] = {}
    for name in CASES:
        (weights, metrics), (weights_, metrics_) = measured(name, root), two[name]
        farthest = max(float((weights[key].double() - weights_[key].double()).abs().max()) for key in weights)
        others = {
            key: abs(value - metrics_.get(key, float("nan"))) / max(1.0, abs(value)) for key, value in metrics.items()
        }
        report[name] = {"weights": farthest, "metrics": others, "missing": sorted(metrics.keys() ^ metrics_.keys())}
        for bits in PRECISIONS:
            one, both = one_step(name, root, bits), steps[name, bits]
            assert apart(one["before"], both["before"]) == 0
            assert apart(one["before"], one["after"]) > 0
            report[name][f"step in {bits}"] = [apart(one[key], both[key]) for key in ("gradients", "after")]
    (root / "report.json").write_text(json.dumps(report))


if __name__ == "__main__":
    CASES = {name: case for name, case in CASES.items() if name in sys.argv[2:] or not sys.argv[2:]}
    main(Path(sys.argv[1]))
