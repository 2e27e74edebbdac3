"""Images per second of a random-teacher step beside a supervised step of the same encoder and head.

Per image the supervised step costs one forward and one backward pass, three passes in all; an uncached teacher adds a
fourth, so the uncached step can reach 75 % of the supervised one and a cached one 100 %. Our aims: 70 % and 85 %. The
same step is then timed inside the command, against the bare loop: 90 % on CIFAR/VGG11 shapes, 80 % on digits.

    python benchmarks/self_distillation_step.py [--setting digits cifar] [--precision 32-true bf16-mixed] [--threads 2]
    python benchmarks/self_distillation_step.py --parts [--setting cifar] [--threads 1]

With ``--parts`` it times the parts of a cached step instead, each as a share of the last layer's four matrix products:
what is not a product should cost little beside them. Encoders are timed in float32, in bfloat16, and as the overlay
``cpu-bf16`` has them, in bfloat16 with the channels last.

The variants take turns, so that a busy machine slows all of them alike; the median over the turns is reported. Inside
the command the whole time between the end of the second step and that of the last is divided by the steps, so that
logging and the ends of epochs count; the bare loop that it is compared with takes as many steps, before and after it.
"""

import argparse
import contextlib
import io
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from hardware import hardware, results_file, write_csv
from lightning.pytorch import Callback, Trainer
from torch import Tensor
from turns import synchronize, time_turns

from dinopl.cli.runs import run
from dinopl.core.optimizer import parameter_groups
from dinopl.core.types import ImageShape
from dinopl.distillation.heads import ProjectionHead, unit_rows
from dinopl.distillation.losses import CrossEntropyViews
from dinopl.distillation.network import Network, draw_network
from dinopl.distillation.student_start import TeacherCopy
from dinopl.distillation.teachers import FrozenTeacher
from dinopl.encoders import VGG11, MiniVGG

SKIPPED = 2  # first steps of a run that are not timed, inside the command and outside


@dataclass(frozen=True)
class Setting:
    """One row of the table: shapes, and how long to measure."""

    name: str
    encoder: Callable[[ImageShape], torch.nn.Module]
    shape: ImageShape
    batch: int
    head: dict[str, Any]
    steps: int
    turns: int
    config: list[str]
    fused: bool
    """Whether the configuration's AdamW is fused."""


SETTINGS = {
    "digits": Setting(
        "digits",
        MiniVGG,
        ImageShape(1, 8, 8),
        128,
        {"hidden": (256, 256), "bottleneck_dim": 64, "out_dim": 1024},
        steps=60,
        turns=7,
        config=["--config", "configs/random_teacher.yaml"],
        fused=False,
    ),
    "cifar": Setting(
        "cifar",
        VGG11,
        ImageShape(3, 32, 32),
        256,
        {"hidden": (2048, 2048), "bottleneck_dim": 256, "out_dim": 65536},
        steps=2,
        turns=3,
        config=["--config", "configs/dinopl/cifar10_vgg11.yaml"],
        fused=True,
    ),
}


class StepClock(Callback):
    """Times training inside the Trainer; it waits for the device after the second and the last step only."""

    def __init__(self) -> None:
        self.start = self.end = 0.0
        self.steps = 0

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        """Notes when the second and the last step ended."""
        self.steps += 1
        if self.steps in (SKIPPED, trainer.max_steps):
            synchronize()
            self.start, self.end = (self.start or time.perf_counter()), time.perf_counter()

    def seconds(self) -> float:
        """Wall time per step, of everything from the end of the second step to the end of the last."""
        return (self.end - self.start) / (self.steps - SKIPPED)


def bare_steps(setting: Setting, precision: str, device: torch.device) -> dict[str, Callable[[], None]]:
    """One training step of each kind, on one fixed batch."""

    def draw(seed: int) -> Network:
        return draw_network(setting.encoder, lambda r: ProjectionHead(r, **setting.head), setting.shape, seed)

    teacher = FrozenTeacher(seed=0).draw(draw).to(device)
    images = torch.randn(setting.batch, *setting.shape, device=device)
    labels = torch.randint(0, 10, (setting.batch,), device=device)
    loss_fn = CrossEntropyViews()
    autocast = torch.autocast(device.type, torch.bfloat16, enabled=precision.startswith("bf16"))
    with torch.no_grad(), autocast:
        code = teacher.bottleneck(images)
    classify = teacher.head.fixed_classifier()

    def step(loss_of: Callable[[Network], Tensor]) -> Callable[[], None]:
        student = TeacherCopy()(teacher, draw).to(device).train()
        optimizer = torch.optim.AdamW(parameter_groups(student), lr=1e-3, weight_decay=0.0, fused=setting.fused)

        def one() -> None:
            optimizer.zero_grad()
            with autocast:
                loss = loss_of(student)
            loss.backward()
            optimizer.step()

        return one

    def distil(target: Callable[[], Tensor]) -> Callable[[Network], Tensor]:
        def loss(student: Network) -> Tensor:
            with torch.no_grad():
                logits = target()
            return loss_fn([student(images)], [logits])[0].mean()

        return loss

    return {
        "supervised": step(lambda student: F.cross_entropy(student(images), labels)),
        "uncached": step(distil(lambda: teacher(images))),
        "cached": step(distil(lambda: classify(code))),
    }


def parts(setting: Setting, device: torch.device) -> dict[str, Callable[[], object]]:
    """The parts of one cached training step, each on its own."""

    def draw(seed: int) -> Network:
        return draw_network(setting.encoder, lambda r: ProjectionHead(r, **setting.head), setting.shape, seed)

    network = draw(0).to(device)
    head: Any = network.head
    channels_last = draw(0).encoder.to(device).to(memory_format=torch.channels_last)
    images = torch.randn(setting.batch, *setting.shape, device=device)
    embedding = network.embed(images).detach().requires_grad_()
    code = head.bottleneck(embedding).detach()
    student = head.classify(code).detach().requires_grad_()
    teacher = draw(1).to(device)(images).detach()
    weight, gradient = head.last_layer.weight.detach(), torch.randn_like(student)
    loss_fn, classify = CrossEntropyViews(), head.fixed_classifier()

    def products() -> None:
        for _ in range(2):  # the student's and the teacher's logits
            torch.mm(code, weight.t())
        torch.mm(gradient.t(), code)
        torch.mm(gradient, weight)

    def encode(encoder: torch.nn.Module, autocast: bool) -> Callable[[], None]:
        def one() -> None:
            with torch.autocast(device.type, torch.bfloat16, enabled=autocast):
                out = encoder(images)
            out.float().sum().backward()

        return one

    def optimise(fused: bool) -> Callable[[], object]:
        copy = draw(0).to(device)
        for parameter in copy.parameters():
            parameter.grad = torch.zeros_like(parameter)
        return torch.optim.AdamW(parameter_groups(copy), lr=1e-3, weight_decay=0.0, fused=fused).step

    def rows() -> None:
        head.last_layer.weight.grad = None
        unit_rows(head.last_layer.weight).backward(rows_gradient)

    rows_gradient = torch.randn_like(weight)
    return {
        "products of the last layer": products,
        "unit rows": rows,
        "loss and KL": lambda: loss_fn([student], [teacher])[0].mean().backward(),
        "teacher's logits, a product": lambda: classify(code),
        "hidden layers and bottleneck": lambda: head.bottleneck(embedding).sum().backward(),
        "AdamW": optimise(False),
        "AdamW, fused": optimise(True),
        "encoder, float32": encode(network.encoder, False),
        "encoder, bfloat16": encode(network.encoder, True),
        "encoder, cpu-bf16": encode(channels_last, True),
    }


def measure_parts(setting: Setting, threads: int) -> list[dict[str, object]]:
    """The parts of one setting: milliseconds, and shares of the time of the last layer's products."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    times = time_turns(parts(setting, device), setting.turns, setting.steps)
    found = []
    for name, seconds in times.items():
        row: dict[str, object] = {"setting": setting.name, "threads": threads, "part": name}
        row |= {"ms": round(1000 * seconds, 3), "of_products": round(seconds / times["products of the last layer"], 3)}
        found.append(row)
        print("  ".join(f"{value!s:>30}" for value in row.values()), flush=True)
    return found


def time_loop(one: Callable[[], None], steps: int) -> float:
    """Wall time per step of a bare loop, timed as inside the command."""
    for _ in range(SKIPPED):
        one()
    synchronize()
    start = time.perf_counter()
    for _ in range(steps):
        one()
    synchronize()
    return (time.perf_counter() - start) / steps


def time_command(setting: Setting, precision: str, cached: bool, threads: int, folder: Path) -> float:
    """Seconds per step inside ``dinopl fit`` on random images of the setting's shape."""
    images = folder / f"{setting.name}.npz"
    if not images.exists():
        count = setting.batch * (8 if setting.name == "cifar" else 9)
        shape = (setting.shape.height, setting.shape.width, setting.shape.channels)
        pixels = np.random.default_rng(0).integers(0, 256, (count, *shape), dtype=np.uint8)
        labels = np.arange(count) % 10
        np.savez(images, x_train=pixels, y_train=labels, x_test=pixels[:256], y_test=labels[:256])
    options = {
        "trainer.default_root_dir": folder / "runs",
        "trainer.max_steps": SKIPPED + setting.steps * setting.turns,
        "trainer.max_epochs": -1,
        "trainer.precision": precision,
        "trainer.limit_val_batches": 0,
        "trainer.enable_checkpointing": "false",
        "trainer.enable_model_summary": "false",
        "trainer.callbacks": '[{"class_path": "self_distillation_step.StepClock"}]',
        "test_after_fit": "false",
        "threads": threads,
        "model.probes": "null",
        "model.cache_teacher": str(cached).lower(),
        "data.dataset": f'{{"class_path": "NpzImages", "init_args": {{"path": "{images}"}}}}',
        "data.val_size": 0,
        "data.train_size": "null",
        "data.drop_last": "true",
    }
    with contextlib.redirect_stdout(io.StringIO()):
        cli = run("fit", [*setting.config, *(f"--{name}={value}" for name, value in options.items())])
    clock = next(c for c in cli.trainer.callbacks if type(c).__name__ == "StepClock")
    return clock.seconds()


def measure(setting: Setting, precision: str, threads: int, folder: Path) -> list[dict[str, object]]:
    """The rows of one setting and precision."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    steps = bare_steps(setting, precision, device)
    bare = time_turns(steps, setting.turns, setting.steps)
    rows = []
    for name, seconds in bare.items():
        row: dict[str, object] = {"setting": setting.name, "precision": precision, "threads": threads, "step": name}
        row |= {"ms": round(1000 * seconds, 3), "images_per_s": round(setting.batch / seconds, 1)}
        row["of_supervised"] = round(bare["supervised"] / seconds, 3)
        row |= {"bare_ms": "", "command_ms": "", "command_of_bare": ""}
        if name != "supervised":
            before = time_loop(steps[name], setting.steps * setting.turns)
            inside = time_command(setting, precision, name == "cached", threads, folder)
            loop = (before + time_loop(steps[name], setting.steps * setting.turns)) / 2
            row |= {"bare_ms": round(1000 * loop, 3), "command_ms": round(1000 * inside, 3)}
            row["command_of_bare"] = round(loop / inside, 3)
        rows.append(row)
        print("  ".join(f"{value!s:>16}" for value in row.values()), flush=True)
    return rows


def main() -> None:
    """Prints the table and writes it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--setting", nargs="+", choices=SETTINGS, default=list(SETTINGS))
    parser.add_argument("--precision", nargs="+", default=["32-true", "bf16-mixed"])
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--parts", action="store_true", help="time the parts of a step")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.parts:
        print(f"{hardware()}, torch {torch.__version__}")
        for setting in options.setting:
            found = measure_parts(SETTINGS[setting], options.threads)
            write_csv(results_file(f"self_distillation_parts_{setting}", "32-true"), found)
        return
    names = ("setting", "precision", "threads", "step", "ms", "images_per_s", "of_supervised")
    print(f"{hardware()}, torch {torch.__version__}")
    print("  ".join(f"{name:>16}" for name in (*names, "bare_ms", "command_ms", "command_of_bare")))
    with tempfile.TemporaryDirectory() as folder:
        for precision in options.precision:
            rows = [r for s in options.setting for r in measure(SETTINGS[s], precision, options.threads, Path(folder))]
            write_csv(results_file(f"self_distillation_step_{'-'.join(options.setting)}", precision), rows)


if __name__ == "__main__":
    main()
