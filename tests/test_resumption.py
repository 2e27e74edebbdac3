"""A run resumed from the middle of an epoch is the undisturbed run, bit for bit, in all families.

Every case trains once and saves checkpoints on the way, as ``ModelCheckpoint`` does; then it trains on from some of
them under another seed. ``DINOPL_RESUMPTIONS=10`` resumes ten times in each case, from batches drawn at random.
"""

import json
import os
import random
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningDataModule, LightningModule, Trainer, seed_everything
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.loggers.logger import DummyLogger
from torch import Tensor, nn
from torch.optim.lr_scheduler import OneCycleLR, ReduceLROnPlateau

from dinopl import ImageDataModule, SelfDistillation
from dinopl.core.module import BaseModule
from dinopl.core.schedules import WarmupConstant, WarmupCosine
from dinopl.core.types import ImageShape
from dinopl.data import CropFlip, DigitsImages, WholeImage
from dinopl.distillation.heads import ProjectionHead
from dinopl.distillation.teachers import FrozenTeacher
from dinopl.encoders import MiniMLP
from dinopl.training import ExactResume
from fprnn.iteration_caps import GammaIterations
from fprnn.layers import FPRNN
from fprnn.module import SequenceModeling
from fprnn.solvers import PicardSolver
from fprnn.tasks import AdaptiveLengths, SequenceDataModule, WordProblem
from kd import NetworkTeacher
from kd.data import DataFraction
from kd.losses import KLDistillation
from kd.module import KnowledgeDistillation
from kd.networks import EncoderClassifier

RESUMPTIONS = int(os.environ.get("DINOPL_RESUMPTIONS", "1"))
BATCHES, EPOCHS = 7, 3  # so that no accumulation divides an epoch
ADAM = partial(torch.optim.AdamW, lr=0.01)

Family = Callable[..., tuple[BaseModule, LightningDataModule]]

pytestmark = [
    pytest.mark.filterwarnings(f"ignore:{text}:UserWarning:lightning")
    for text in (
        ".*callbacks used to create the checkpoint",
        ".*in eval mode",
        ".*have no .val_dataloader.",
        "Detected",
    )
]


class Follower(FrozenTeacher):
    """A teacher that follows its student step by step, as DINO's does."""

    static = False

    def after_step(self, teacher: nn.Module, student: nn.Module, step: int) -> None:
        with torch.no_grad():
            for slow, fast in zip(teacher.parameters(), student.parameters(), strict=True):
                slow.lerp_(fast, 0.1)


def images(**options: Any) -> ImageDataModule:
    return ImageDataModule(
        **{"batch_size": 32, "train_size": 32 * BATCHES - 5, "test_size": 50, "val_size": 20} | options
    )


def distillation(moving: bool = False, **options: Any) -> tuple[BaseModule, LightningDataModule]:
    given: dict[str, Any] = {
        "lr_scheduler_interval": "step",
        "optimizer": ADAM,
        "encoder": partial(MiniMLP, hidden=(8,)),
    }
    head = partial(ProjectionHead, hidden=(8,), bottleneck_dim=4, out_dim=16)
    views = [CropFlip(8) if moving else WholeImage()]
    teacher = Follower() if moving else FrozenTeacher()
    return SelfDistillation(ImageShape(1, 8, 8), head=head, teacher=teacher, **given | options), images(views=views)


def sequences(**options: Any) -> tuple[BaseModule, LightningDataModule]:
    curriculum = AdaptiveLengths(smoothing=0.5, threshold=0.1)
    sizes = {"batch_size": 4, "steps_per_epoch": BATCHES, "val_size": 3, "test_size": 3}
    data = SequenceDataModule(WordProblem("Z2"), train_length=8, eval_lengths=[4], curriculum=curriculum, **sizes)
    layer = partial(FPRNN, solver=PicardSolver())
    given = {"d_model": 4, "optimizer": ADAM, "random_max_iterations": GammaIterations()}
    return SequenceModeling(data.vocab_size, data.num_targets, layer=layer, **given | options), data


def student(shape: Any, classes: int) -> nn.Module:
    return nn.Sequential(nn.Dropout(0.2), EncoderClassifier(shape, classes, partial(MiniMLP, hidden=(8,))))


def knowledge(**options: Any) -> tuple[BaseModule, LightningDataModule]:
    pool = ImageDataModule(DigitsImages(), val_size=20, batch_size=16, views=[CropFlip(8)])
    data = DataFraction(pool, 0.02, steps_per_epoch=BATCHES, augmentations=2)
    torch.manual_seed(0)
    teacher = NetworkTeacher(partial(EncoderClassifier, encoder=partial(MiniMLP, hidden=(4,))))
    given = {"optimizer": ADAM, "teacher": teacher, "objective": KLDistillation(4.0), "check_teacher": False}
    return KnowledgeDistillation((1, 8, 8), 10, student, **given | options), data


FAMILIES: dict[str, Family] = {
    "self-distillation": distillation,
    "moving teacher": partial(distillation, moving=True),
    "sequence model": sequences,
    "knowledge distillation": knowledge,
}


class Rows(DummyLogger):
    """Keeps what is logged."""

    def __init__(self) -> None:
        super().__init__()
        self.rows: list[dict[str, float]] = []

    def log_metrics(self, metrics: Any, step: int | None = None) -> None:
        self.rows.append({"step": step} | {name: float(value) for name, value in metrics.items()})


class SaveAt(Checkpoint):
    """Saves after the training batches given, counted over epochs, and inside each validation if asked."""

    def __init__(self, folder: Path, batches: set[int], validations: bool = False) -> None:
        self.folder, self.batches, self.validations = folder, batches, validations

    def on_train_batch_end(self, trainer: Trainer, *args: Any) -> None:
        done = trainer.fit_loop.epoch_loop.batch_progress.total.ready
        if done in self.batches:
            trainer.save_checkpoint(self.folder / f"{done}.ckpt")

    def on_validation_end(self, trainer: Trainer, *args: Any) -> None:
        done = trainer.fit_loop.epoch_loop.batch_progress.total.ready
        if self.validations:
            trainer.save_checkpoint(self.folder / f"{done}-validated.ckpt")


def trained(
    family: Family, *callbacks: Callback, source: Path | None = None, options: Any = None, **trainer: Any
) -> tuple[list[Any], list[Any]]:
    """Parameters, state of optimiser and schedule, and rows of metrics of a training."""
    seed_everything(1 if source is None else 99, verbose=False)
    model, data = family(**(options or {}))
    if source is not None and isinstance(data, SequenceDataModule):
        assert data.seed is not None
    rows = Rows()
    saves = any(isinstance(callback, Checkpoint) for callback in callbacks)
    quiet = dict.fromkeys(("enable_progress_bar", "enable_model_summary"), False) | {"enable_checkpointing": saves}
    own = {"accelerator": "cpu", "devices": 1, "max_epochs": EPOCHS, "log_every_n_steps": 1, "num_sanity_val_steps": 0}
    fit = Trainer(callbacks=[ExactResume(), *callbacks], logger=rows, **quiet | own | trainer)
    fit.fit(model, data, ckpt_path=source, weights_only=None if source is None else True)
    schedules = [config.scheduler.state_dict() for config in fit.lr_scheduler_configs]
    return [model.state_dict(), fit.optimizers[0].state_dict(), schedules], rows.rows


def same(a: Any, b: Any) -> bool:
    """Equal in structure and bit for bit."""
    if isinstance(a, Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(value, b[name]) for name, value in a.items())
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(same(x, y) for x, y in zip(a, b, strict=True))
    return bool(a == b or (a != a and b != b))


def check(folder: Path, family: Family, *callbacks: Callback, places: list[int] | None = None, **given: Any) -> None:
    """Resumes from some batches of a training, and compares."""
    draw = random.Random(repr((family, given)))
    last = BATCHES * EPOCHS
    inside = [batch for batch in range(1, last) if batch % BATCHES]
    batches = places or draw.sample(inside, min(RESUMPTIONS, len(inside)))
    whole, rows = trained(family, SaveAt(folder, set(batches)), *callbacks, **given)
    for batch in batches:
        state, rest = trained(family, *callbacks, source=folder / f"{batch}.ckpt", **given)
        assert same(state, whole), f"from batch {batch} of {last}: another end"
        assert same(rest, rows[len(rows) - len(rest) :]), f"from batch {batch} of {last}: other metrics"
        accumulated = given.get("accumulate_grad_batches", 1)
        assert len(rest) >= (last - batch) // accumulated


SCHEDULES: dict[str, Any] = {
    "none": None,
    "whole training": partial(WarmupCosine, warmup_steps=2),
    "one cycle": partial(OneCycleLR, max_lr=0.05, total_steps=BATCHES * EPOCHS),
}


@pytest.fixture(autouse=True)
def _no_seed() -> Iterator[None]:
    before = os.environ.get("PL_GLOBAL_SEED")
    yield
    os.environ.pop("PL_GLOBAL_SEED", None)
    if before is not None:
        os.environ["PL_GLOBAL_SEED"] = before


@pytest.mark.parametrize("accumulated", [1, 3])
@pytest.mark.parametrize("schedule", list(SCHEDULES))
@pytest.mark.parametrize("family", list(FAMILIES))
def test_a_run_resumed_in_mid_epoch_is_the_undisturbed_one(
    family: str, schedule: str, accumulated: int, tmp_path: Path
) -> None:
    if accumulated > 1 and schedule == "one cycle":
        pytest.skip("its length is a number of optimiser steps, of which there are fewer")
    options = {"lr_scheduler": SCHEDULES[schedule]}
    check(tmp_path, FAMILIES[family], options=options, accumulate_grad_batches=accumulated)


def test_two_processes_resume_inside_an_accumulation(tmp_path: Path) -> None:
    """Each has gradients and random states of its own."""
    script = Path(__file__).with_name("resumption_in_two_processes.py")
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(script.parent.parent)}
    done = subprocess.run(
        [sys.executable, str(script), str(tmp_path)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    for rank in range(2):
        report = json.loads((tmp_path / f"rank-{rank}.json").read_text())
        assert report == {family: {"state": True, "rows": True} for family in FAMILIES}


class Early(Callback):
    """Asks for the length of the training at the start of the fit, which sets up the training loader."""

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        assert trainer.train_dataloader is None

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        assert trainer.estimated_stepping_batches == BATCHES * EPOCHS
        assert trainer.train_dataloader is not None


@pytest.mark.parametrize("family", list(FAMILIES))
def test_a_callback_that_sets_up_the_loader_early_changes_nothing(family: str, tmp_path: Path) -> None:
    check(tmp_path, FAMILIES[family], Early())


@pytest.mark.parametrize("family", list(FAMILIES))
def test_a_module_alone_resumes_at_the_right_batch_too(family: str, tmp_path: Path, monkeypatch: Any) -> None:
    """Without ``ExactResume``, other numbers are drawn, but no batch comes twice."""
    seen: list[list[int]] = []

    class Seen(Callback):
        def on_train_batch_end(self, trainer: Trainer, pl_module: Any, outputs: Any, batch: Any, *args: Any) -> None:
            seen.append(batch["tokens" if "tokens" in batch else "index"].flatten().tolist())

    monkeypatch.setitem(globals(), "ExactResume", Seen)
    options = {"lr_scheduler": SCHEDULES["whole training"]}
    if family == "sequence model":
        options["random_max_iterations"] = None  # tokens follow the accuracy through the curriculum
    trained(FAMILIES[family], SaveAt(tmp_path, {9}), options=options)
    whole, seen = seen, []
    trained(FAMILIES[family], source=tmp_path / "9.ckpt", options=options)
    assert seen == whole[9:]


def with_monitor(name: str) -> Any:
    """A schedule that watches a metric of the validation."""

    class Watching(ReduceLROnPlateau):
        monitor = name

    return partial(Watching, patience=0, threshold=0.5)


MONITORED = {
    "self-distillation": "val/kl",
    "sequence model": "val/loss/length=4",
    "knowledge distillation": "val/nll",
}


@pytest.mark.parametrize("interval", [1.0, 0.5])
@pytest.mark.parametrize("family", list(MONITORED))
def test_a_schedule_that_watches_the_validation_goes_on_from_any_place(
    family: str, interval: float, tmp_path: Path
) -> None:
    """From inside an epoch, from a validation, also inside an epoch, and from an epoch's end."""
    given: Any = {"options": {"lr_scheduler": with_monitor(MONITORED[family])}, "val_check_interval": interval}

    class Ends(SaveAt):
        def on_train_epoch_end(self, trainer: Trainer, *args: Any) -> None:
            trainer.save_checkpoint(self.folder / f"{trainer.current_epoch}-over.ckpt")

    whole, rows = trained(FAMILIES[family], Ends(tmp_path, {9}, validations=True), **given)
    assert whole[1]["param_groups"][0]["lr"] < 0.01
    validated = BATCHES if interval == 1.0 else BATCHES - 1
    for name in ("9", f"{validated}-validated", "1-over"):
        state, rest = trained(FAMILIES[family], source=tmp_path / f"{name}.ckpt", **given)
        assert same(state, whole), name
        assert same(rest, rows[len(rows) - len(rest) :]), name


class Everywhere(SaveAt):
    """Saves after every batch, within every validation, after it, and at every epoch's end; notes what was before."""

    def __init__(self, folder: Path, ends: "Draws", places: list[str] | None) -> None:
        super().__init__(folder, set())
        self.ends, self.places = ends, places
        self.before: dict[str, tuple[int, int]] = {}

    def save(self, trainer: Trainer, place: str) -> None:
        if self.places is not None and place not in self.places:
            return
        self.before[place] = len(trainer.logger.rows), len(self.ends.steps)  # type: ignore[union-attr]
        trainer.save_checkpoint(self.folder / f"{place}.ckpt")

    def on_train_batch_end(self, trainer: Trainer, *args: Any) -> None:
        self.save(trainer, f"{trainer.fit_loop.total_batch_idx + 1}")

    def on_validation_batch_end(self, trainer: Trainer, *args: Any) -> None:
        self.save(trainer, f"{trainer.fit_loop.total_batch_idx + 1}-validating")

    def on_validation_end(self, trainer: Trainer, *args: Any) -> None:
        self.save(trainer, f"{trainer.fit_loop.total_batch_idx + 1}-validated")

    def on_train_epoch_end(self, trainer: Trainer, *args: Any) -> None:
        self.save(trainer, f"{trainer.current_epoch}-over")


class Draws(Callback):
    """Draws from torch's generator within each validation, and notes each end of an epoch."""

    def __init__(self) -> None:
        self.steps: list[int] = []

    def on_validation_batch_end(self, *args: Any) -> None:
        torch.rand(3)

    def on_train_epoch_end(self, trainer: Trainer, *args: Any) -> None:
        self.steps.append(trainer.global_step)


# Places around a validation and an epoch's end of seven batches, by the interval of validations and the limit of steps.
PLACES: list[tuple[str, dict[str, Any], list[str]]] = [
    ("sequence model", {"val_check_interval": 3}, ["3", "10-validating", "7", "0-over"]),
    ("knowledge distillation", {"val_check_interval": 3}, ["6", "13-validating", "6-validated", "14"]),
    ("moving teacher", {"val_check_interval": 1.0}, ["7", "21-validating"]),
    ("self-distillation", {"val_check_interval": 1.0}, ["14", "7-validating", "21"]),
    ("sequence model", {"val_check_interval": 3, "accumulate_grad_batches": 3}, ["3", "5", "3-validating", "7"]),
    ("sequence model", {"val_check_interval": 2, "accumulate_grad_batches": 3}, ["2", "4-validating", "9"]),
    ("moving teacher", {"val_check_interval": 2, "accumulate_grad_batches": 3}, ["2", "4-validating"]),
    ("knowledge distillation", {"val_check_interval": 2, "accumulate_grad_batches": 3}, ["2-validated", "11"]),
    ("sequence model", {"val_check_interval": 3, "max_steps": 13}, ["0-over", "13", "13-validating", "13-validated"]),
    ("self-distillation", {"val_check_interval": 3, "max_steps": 11, "max_epochs": -1}, ["0-over", "10", "11"]),
    ("knowledge distillation", {"limit_val_batches": 0}, ["7", "21", "1-over"]),
]


@pytest.mark.parametrize("case", range(len(PLACES)))
def test_what_was_to_come_of_a_batch_comes_after_resuming(case: int, tmp_path: Path) -> None:
    """The batch's row, the validation that follows, the epoch's end; also from within a validation."""
    family, options, places = PLACES[case]
    given = {"options": {"lr_scheduler": None if "max_steps" in options else SCHEDULES["whole training"]}} | options
    ends = Draws()
    saver = Everywhere(tmp_path, ends, None if RESUMPTIONS > 1 else places)
    whole, rows = trained(FAMILIES[family], ends, saver, **given)
    for place in saver.before:
        later = Draws()
        state, rest = trained(FAMILIES[family], later, source=tmp_path / f"{place}.ckpt", **given)
        assert same(state, whole), place
        logged, over = saver.before[place]
        assert same(rest, rows[logged:]), place
        assert later.steps == ends.steps[over:], place
    assert saver.before.keys() >= set(places)
    print(f"resumed from {len(saver.before)} places")  # shown with -s


# --- the length of the training


@pytest.mark.parametrize("family", ["self-distillation", "sequence model", "knowledge distillation"])
@pytest.mark.parametrize(("interval", "length"), [("step", 4 * EPOCHS), ("epoch", EPOCHS)])
def test_an_open_length_is_the_whole_training(family: str, interval: str, length: int) -> None:
    """Of seven batches, two of which make a step, an epoch has four steps."""
    floor = []

    class Ask(Callback):
        def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
            floor.append(trainer.lr_scheduler_configs[0].scheduler.total_steps)

    options = {"lr_scheduler": partial(WarmupCosine, warmup_steps=2), "lr_scheduler_interval": interval}
    whole, _ = trained(FAMILIES[family], Ask(), options=options, accumulate_grad_batches=2)
    assert floor == [length]
    assert whole[1]["param_groups"][0]["lr"] == 0


@pytest.mark.parametrize("family", ["self-distillation", "sequence model", "knowledge distillation"])
def test_a_schedule_of_a_training_without_end_is_refused(family: str) -> None:
    with pytest.raises(ValueError, match="total_steps=None: the whole training, which has no end") as caught:
        trained(FAMILIES[family], options={"lr_scheduler": WarmupCosine}, max_epochs=-1)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("family", ["self-distillation", "sequence model", "knowledge distillation"])
@pytest.mark.parametrize(
    ("schedule", "message"),
    [
        (partial(WarmupCosine, warmup_steps=20), None),
        (partial(WarmupCosine, warmup_steps=21), "warmup_steps=21: the whole training has 21 steps"),
        (partial(WarmupConstant, warmup_steps=21), None),
        (partial(WarmupConstant, warmup_steps=22), "warmup_steps=22: the whole training has 21 steps"),
    ],
)
def test_a_warm_up_that_takes_the_whole_training_is_reported(
    family: str, schedule: Any, message: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level("INFO"):
        trained(FAMILIES[family], options={"lr_scheduler": schedule})
    reported = [text for text in caplog.messages if "warmup_steps" in text]
    assert [message] == [text[: len(message)] for text in reported] if message else not reported
