"""Time of a student's step: on labels, with the teacher run in each step, and with its outputs cached by index.

With one architecture for both, a label step costs one forward and one backward pass, three passes in all; a teacher
adds a fourth. So caching its outputs can make a step at most 4/3 times as fast. Our aims: 1.25 times the step with the
teacher in it, 90 % of a label step whatever the teacher, and at least as fast as torchdistill's plain distillation
where that is installed. The same steps are then timed inside a Lightning trainer with the command's callbacks, against
the bare loop.

    python benchmarks/kd_step.py [--setting digits cifar] [--precision 32-true bf16-mixed] [--threads 2]

The variants take turns, so that a busy machine slows all of them alike; the median over the turns is reported.
"""

import argparse
import importlib.util
import logging
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from hardware import hardware, results_file, write_csv
from lightning.pytorch import Callback, Trainer
from torch import Tensor, nn
from turns import synchronize, time_turns

from dinopl.core.optimizer import parameter_groups
from dinopl.data import CIFAR10Images, DigitsImages, ImageDataModule, NoiseImages
from dinopl.data.sources import ImageSource
from dinopl.encoders import ConvNet, MiniMLP
from dinopl.training import ExactResume, FiniteGuard
from kd.data import DataFraction
from kd.losses import KLDistillation, LabelCrossEntropy
from kd.module import KnowledgeDistillation
from kd.networks import EncoderClassifier, draw_classifier
from kd.teacher import CachedOutputs, OnlineOutputs, OutputSource, Teacher

SKIPPED = 3  # first steps of a run that are not timed
TEMPERATURE = 4.0
Step = Callable[[], None]


@dataclass(frozen=True)
class Setting:
    """One row of the table: data, networks, and how long to measure."""

    name: str
    source: ImageSource
    student: Callable[[Any, int], nn.Module]
    teacher: Callable[[Any, int], nn.Module]
    batch: int
    steps: int
    turns: int


def _classifier(encoder: Any, **options: Any) -> Callable[[Any, int], nn.Module]:
    return partial(EncoderClassifier, encoder=partial(encoder, **options))


SETTINGS = {
    "digits": Setting(
        "digits",
        DigitsImages(),
        _classifier(MiniMLP, hidden=(32,)),
        _classifier(MiniMLP, hidden=(256, 256)),
        64,
        200,
        7,
    ),
    "cifar": Setting(
        "cifar",
        NoiseImages(CIFAR10Images(), num_train=2048, num_test=64, seed=0),
        _classifier(ConvNet, width=20),
        _classifier(ConvNet, width=20),
        128,
        5,
        7,
    ),
}


class FreshTeacher(Teacher):
    """A network as it is drawn, untrained: its weights do not change the times."""

    def __init__(self, network: Callable[[Any, int], nn.Module]) -> None:
        super().__init__()
        self.network = network

    def load(self, shape: Any, num_classes: int) -> tuple[nn.Module, float | None, str]:
        """Draws it."""
        return draw_classifier(self.network, shape, num_classes, seed=1), None, "drawn"


class StepClock(Callback):
    """Times training inside the trainer; it waits for the device after the first and the last step only."""

    def __init__(self) -> None:
        self.start = self.end = 0.0
        self.steps = 0

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        """Notes when the first steps and the last one ended."""
        self.steps += 1
        if self.steps == SKIPPED or self.steps == trainer.num_training_batches:
            synchronize()
            self.start, self.end = (self.start or time.perf_counter()), time.perf_counter()

    def seconds(self) -> float:
        """Wall time per step."""
        return (self.end - self.start) / (self.steps - SKIPPED)


class Keep(Callback):
    """Takes the module's outputs as soon as they are ready, and stops."""

    def on_train_batch_start(self, trainer: Trainer, *_: Any) -> int:
        """Ends training before its first step."""
        return -1


def data_of(setting: Setting, steps: int) -> DataFraction:
    """The setting's data, on the training device."""
    pool = ImageDataModule(setting.source, batch_size=setting.batch, val_size=0, seed=0)
    return DataFraction(pool, steps_per_epoch=steps, subset_seed=0, order_seed=0, augmentation_seed=0)


def module_of(setting: Setting, data: DataFraction, outputs: OutputSource | None) -> KnowledgeDistillation:
    """A student: on labels without ``outputs``, or else distilled."""
    torch.manual_seed(0)
    taught: dict[str, Any] = {"objective": LabelCrossEntropy()}
    if outputs is not None:
        taught = {
            "objective": KLDistillation(TEMPERATURE),
            "teacher": FreshTeacher(setting.teacher),
            "outputs": outputs,
        }
    return KnowledgeDistillation(
        data.image_shape, data.num_classes, setting.student, **taught, optimizer=partial(torch.optim.AdamW, lr=1e-3)
    )


def fit(module: KnowledgeDistillation, data: DataFraction, precision: Any, *callbacks: Callback) -> Trainer:
    """Trains without files and output."""
    silent = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)
    trainer = Trainer(
        max_epochs=1, devices=1, precision=precision, num_sanity_val_steps=0, callbacks=list(callbacks), **silent
    )
    trainer.fit(module, datamodule=data)
    return trainer


def bare_steps(setting: Setting, precision: Any) -> dict[str, Step]:
    """One training step of each kind on one fixed batch, in a loop without a trainer."""
    kinds: dict[str, OutputSource | None] = {"labels": None, "online": OnlineOutputs(), "cached": CachedOutputs()}
    steps: dict[str, Step] = {}
    for name, outputs in kinds.items():
        data = data_of(setting, SKIPPED)
        module = module_of(setting, data, outputs)
        trainer = fit(module, data, precision, Keep())
        batch = next(iter(data.train_dataloader()))
        steps[name] = _bare(module.to(trainer.strategy.root_device), trainer, batch, outputs)
        if name == "online" and importlib.util.find_spec("torchdistill"):
            steps["torchdistill"] = torchdistill_step(setting, data, batch, trainer)
    return steps


def _bare(module: KnowledgeDistillation, trainer: Trainer, batch: Any, outputs: OutputSource | None) -> Step:
    student, objective = module.student.train(), module.objective
    optimizer = torch.optim.AdamW(parameter_groups(student), lr=1e-3)
    view, label, index = batch["views"][0], batch["label"], batch["index"]

    def one() -> None:
        optimizer.zero_grad()
        with trainer.precision_plugin.forward_context():
            logits = student(view)
            target = None if outputs is None else outputs(view, index, 0)
            loss: Tensor = objective(logits, target, label).mean()
        loss.backward()
        optimizer.step()

    return one


def torchdistill_step(setting: Setting, data: DataFraction, batch: Any, trainer: Trainer) -> Step:
    """The same step by torchdistill's ``DistillationBox`` with its KDLoss, which runs the teacher in every step."""
    from torchdistill.core.distillation import get_distillation_box

    logging.getLogger("torchdistill").setLevel(logging.ERROR)
    teacher, student = (
        draw_classifier(factory, data.image_shape, data.num_classes, seed=seed).to(trainer.strategy.root_device)
        for factory, seed in ((setting.teacher, 1), (setting.student, 0))
    )
    logits = {"sequential": [], "forward_proc": "forward_batch_only", "forward_hook": {"input": [], "output": ["head"]}}
    place = {"module_path": "head", "module_io": "output"}
    paths = {f"{who}_{key}": value for who in ("student", "teacher") for key, value in place.items()}
    kd_loss = {"key": "KDLoss", "kwargs": paths | {"temperature": TEMPERATURE, "alpha": 0.0}}
    config: dict[str, Any] = {
        "num_epochs": 1,
        "teacher": logits | {"requires_grad": False},
        "student": logits | {"requires_grad": True},
        "optimizer": {"key": "AdamW", "kwargs": {"lr": 1e-3}},
        "criterion": {
            "key": "WeightedSumLoss",
            "kwargs": {"sub_terms": {"kd": {"criterion": kd_loss, "weight": TEMPERATURE**2}}},
        },
    }
    device = trainer.strategy.root_device
    box = get_distillation_box(teacher, student, {}, config, device, [device], False, 1.0)
    box.teacher_model.eval()
    box.student_model.train()

    def one() -> None:
        with trainer.precision_plugin.forward_context():
            loss = box.forward_process(batch["views"][0], batch["label"], {})
        box.post_forward_process(loss=loss)

    return one


def time_trainer(setting: Setting, precision: Any, outputs: OutputSource | None) -> float:
    """Seconds per step inside a trainer with the command's callbacks, the loader included."""
    data = data_of(setting, SKIPPED + setting.steps * setting.turns)
    clock = StepClock()
    fit(module_of(setting, data, outputs), data, precision, FiniteGuard(), ExactResume(), clock)
    return clock.seconds()


def measure(setting: Setting, precision: str, threads: int) -> list[dict[str, object]]:
    """The rows of one setting and precision."""
    bare = time_turns(bare_steps(setting, precision), setting.turns, setting.steps, SKIPPED)
    kinds: dict[str, OutputSource | None] = {"labels": None, "online": OnlineOutputs(), "cached": CachedOutputs()}
    rows = []
    for name, seconds in bare.items():
        row: dict[str, object] = {"setting": setting.name, "precision": precision, "threads": threads, "step": name}
        row |= {"ms": round(1000 * seconds, 4), "of_labels": round(bare["labels"] / seconds, 3)}
        row |= {"of_online": round(bare["online"] / seconds, 3), "trainer_ms": "", "trainer_of_bare": ""}
        if name in kinds:
            inside = time_trainer(setting, precision, kinds[name])
            row |= {"trainer_ms": round(1000 * inside, 4), "trainer_of_bare": round(seconds / inside, 3)}
        rows.append(row)
        print("  ".join(f"{value!s:>15}" for value in row.values()), flush=True)
    return rows


def main() -> None:
    """Prints the table and writes it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--setting", nargs="+", choices=SETTINGS, default=list(SETTINGS))
    parser.add_argument("--precision", nargs="+", default=["32-true"])
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    warnings.simplefilter("ignore")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    names = ("setting", "precision", "threads", "step", "ms", "of_labels", "of_online", "trainer_ms", "trainer_of_bare")
    print(f"{hardware()}, torch {torch.__version__}")
    print("  ".join(f"{name:>15}" for name in names))
    for precision in options.precision:
        rows = [row for name in options.setting for row in measure(SETTINGS[name], precision, options.threads)]
        write_csv(results_file(f"kd_step_{'-'.join(options.setting)}", precision), rows)


if __name__ == "__main__":
    main()
