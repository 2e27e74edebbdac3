"""Self-distillation of a student from a teacher, without labels, as one LightningModule.

"Random Teachers are Good Teachers" (Sarnthein et al., ICML 2023), sections 3 and 4. The defaults are the paper's
setting: a frozen teacher at its random initialisation, a student that starts as its copy, one un-augmented view,
cross-entropy between the softmax outputs at temperature 1.

DINO (Caron et al., ICCV 2021) is the same module with other settings: several random views, a teacher that is the
moving average of the student, centred outputs at low temperatures, schedules, and a last layer that is frozen at first
(``configs/dinopl/dino_cifar10.yaml``).

What differs from the authors' code: a frozen teacher is run once and its bottleneck vectors are kept by sample index;
biases and normalisation weights do not decay (``bias_weight_decay=0.01`` restores that quirk); head, softmax and loss
stay in float32 under any precision.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Literal

import torch
from lightning.pytorch import Callback
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor, nn
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau
from torch.optim.optimizer import Optimizer

from dinopl.core.checkpoints import FAMILY
from dinopl.core.module import BaseModule
from dinopl.core.optimizer import check_weight_decay, parameter_groups
from dinopl.core.schedules import Schedule, Scheduled
from dinopl.core.types import ImageBatch, ImageShape, as_batch, views_seen
from dinopl.distillation.heads import ProjectionHead
from dinopl.distillation.losses import CrossEntropyViews, ViewLoss, view_pairs
from dinopl.distillation.network import Network, draw_network
from dinopl.distillation.student_start import StudentStart, TeacherCopy
from dinopl.distillation.teacher_cache import TeacherCache
from dinopl.distillation.teachers import FrozenTeacher, TeacherRule
from dinopl.encoders import MiniVGG
from dinopl.encoders.common import check_smallest_batch
from dinopl.probes import Probe, ProbeCallback


class SelfDistillation(Scheduled, BaseModule):
    """A student trained to reproduce a teacher's softmax output; labels are not used unless ``supervised``.

    Args:
        image_shape: channels, height and width of a view. The command takes it from the data.
        encoder: makes an encoder for an image shape, ``(B, C, H, W) -> (B, embed_dim)``.
        head: makes a projection head for an embedding size, ``(B, embed_dim) -> (B, m)``.
        teacher: how the teacher is made and how it moves; by default drawn at random and frozen.
        student: where the student starts; by default at the teacher.
        loss: distance between the outputs, and which views are paired; by default cross-entropy of equal views.
        optimizer: makes the optimiser. It gets the student's parameters only, in two groups: weights, and biases with
            normalisation weights.
        lr_scheduler: makes the learning-rate schedule.
        lr_scheduler_interval: whether the schedule moves every optimiser step or every epoch.
        learning_rate: a schedule of the learning rate itself, over the whole training, instead of ``lr_scheduler``.
        weight_decay: likewise, of the weights' decay; None leaves the optimiser's own.
        freeze_last_layer: for how many epochs the head's last layer stays at its start; 1 in DINO.
        supervised: learn the batch's labels, or its target logits where it has some, instead of the teacher's outputs.
        bias_weight_decay: weight decay of biases and normalisation weights. 0.01 with AdamW is what the reference code
            did by oversight; None leaves the optimiser's own.
        cache_teacher: keep the teacher's bottleneck vectors by sample index instead of computing them in each step.
            None: when views are deterministic, the teacher is frozen in eval mode, the head has a bottleneck and the
            loss is not ``MSEViews``. What is kept equals what a step computes up to rounding (1e-5 in float32).
        probes: what measures the features of input, teacher and student; labels are used here only.
        probe_epochs: after every how many epochs to probe, or after which. Before training and at the end always.
        num_classes: number of classes of the probing data. The command takes it from the data.
        predict_logits: whether ``predict`` also returns logits, which are wide with the paper's head.

    Raises:
        ValueError: if an option is out of range; the message names it.
    """

    family = FAMILY

    def __init__(
        self,
        image_shape: ImageShape,
        encoder: Callable[[ImageShape], nn.Module] = MiniVGG,
        head: Callable[[int], nn.Module] = ProjectionHead,
        teacher: TeacherRule | None = None,
        student: StudentStart | None = None,
        loss: ViewLoss | None = None,
        optimizer: Callable[[Iterable[Any]], Optimizer] = torch.optim.AdamW,
        lr_scheduler: Callable[[Optimizer], LRScheduler | ReduceLROnPlateau] | None = None,
        lr_scheduler_interval: Literal["step", "epoch"] = "epoch",
        learning_rate: Schedule | None = None,
        weight_decay: Schedule | None = None,
        freeze_last_layer: int = 0,
        supervised: bool = False,
        bias_weight_decay: float | None = 0.0,
        cache_teacher: bool | None = None,
        probes: list[Probe] | None = None,
        probe_epochs: int | list[int] = 1,
        num_classes: int | None = None,
        predict_logits: bool = True,
    ) -> None:
        super().__init__(optimizer, lr_scheduler, lr_scheduler_interval)
        _check(image_shape, optimizer, bias_weight_decay)
        self.image_shape = ImageShape(*image_shape)

        def draw(seed: int) -> Network:
            return draw_network(encoder, head, self.image_shape, seed)

        self.teacher_rule = teacher or FrozenTeacher()
        self.teacher = self.teacher_rule.draw(draw)
        self.student = (student or TeacherCopy())(self.teacher, draw)
        self.loss = loss or CrossEntropyViews()
        if learning_rate is not None and lr_scheduler is not None:
            raise ValueError("learning_rate: lr_scheduler sets the learning rate too; give one of them")
        if freeze_last_layer and not hasattr(self.student.head, "last_layer"):
            raise ValueError(f"freeze_last_layer={freeze_last_layer}: the head has no last_layer; use 0")
        if supervised and num_classes is None:
            raise ValueError("num_classes=None: is not known from the data; a supervised student needs it")
        self.follow(learning_rate=learning_rate, weight_decay=weight_decay)
        self.freeze_last_layer = freeze_last_layer
        self.supervised = supervised
        self.bias_weight_decay = bias_weight_decay
        self.num_classes = num_classes
        self.predict_logits = predict_logits
        self.probe_callback = ProbeCallback(probes, probe_epochs) if probes else None
        self.teacher_cache = TeacherCache(cache_teacher)
        self._steps_seen = self._epochs_seen = 0
        self._clock = (0, 1, 1)

    def forward(self, images: Tensor) -> Tensor:
        """The student's embedding of ``(B, C, H, W)`` images, ``(B, embed_dim)``."""
        return self.student.embed(images)

    def train(self, mode: bool = True) -> "SelfDistillation":
        """Sets the student's mode; the teacher's is set by the teacher rule."""
        super().train(mode)
        self.teacher_rule.set_mode(self.teacher, mode)
        return self

    def configure_callbacks(self) -> list[Callback]:
        """Attaches the probes."""
        return [self.probe_callback] if self.probe_callback else []

    def parameter_groups(self) -> list[dict[str, Any]]:
        """The student's parameters: weights, then biases with normalisation weights."""
        return parameter_groups(self.student, self.bias_weight_decay)

    def setup(self, stage: str) -> None:
        """Decides whether the teacher is cached, and whether there is anything to compare; both depend on the data.

        Raises:
            ValueError: if a cache is required where none can be kept, the loss pairs no views, or a schedule is to last
                as long as a training without end.
        """
        views = getattr(getattr(self.trainer, "datamodule", None), "views", None)
        if views is not None:
            sides = [[i for i, view in enumerate(views) if side in view.seen_by] for side in ("teacher", "student")]
            view_pairs(sides[0], sides[1], self.loss.pairing)
        if stage == "fit":
            check_smallest_batch(self.student, self.image_shape, self.trainer)
            self.teacher_cache.decide(self.teacher_rule, self.teacher, self.loss, self.trainer)
            if self.scheduled and self.trainer.max_epochs in (None, -1) and self.trainer.max_steps == -1:
                raise ValueError("max_epochs=-1: schedules last as long as the training; give it an end, or max_steps")

    @property
    def scheduled(self) -> list[Scheduled]:
        """The parts whose numbers follow schedules: this module, its loss, the teacher's rule."""
        return [part for part in (self, self.loss, self.teacher_rule) if part.schedules]

    def advance_all(self, step: int) -> None:
        """Sets every number that follows a schedule to that of an optimiser step."""
        self._clock = (step, *self._clock[1:])
        for part in self.scheduled:
            part.advance(*self._clock)

    def on_train_start(self) -> None:
        """Fills the teacher's cache, and moves a teacher that its checkpoint left behind the student."""
        if self.scheduled:
            steps, batches = self.trainer.estimated_stepping_batches, self.trainer.num_training_batches
            per_epoch = math.ceil(batches / self.trainer.accumulate_grad_batches) if batches < math.inf else steps
            self._clock = (0, int(steps), int(per_epoch))
            beyond = {
                f"{name}: {text}"
                for part in self.scheduled
                for name, schedule in part.schedules.items()
                for text in schedule.cut_off(*self._clock[1:])
            }
            if beyond:
                rank_zero_warn(
                    f"The training ends after {steps} steps, {self._clock[2]} an epoch, before the second part of a "
                    f"schedule begins ({'; '.join(sorted(beyond))}): the first is cut off. Train longer, or give where "
                    "as a share of the training, such as 0.1."
                )
            self.advance_all(max(self.trainer.global_step - 1, 0))  # the step that the teacher may yet have to follow
        self._follow()
        self.teacher_cache.fill(self.teacher, self.trainer, self.device)

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        """Sets what follows a schedule: a function of the number of optimiser steps, so that a resumed run goes on."""
        if self._epochs_seen < self.current_epoch:  # resumed after an epoch's last batch: Lightning leaves out its end
            self._follow_epoch(self.current_epoch - 1)
        if not self.scheduled:
            return
        self.advance_all(self.trainer.global_step)
        for group in self.trainer.optimizers[0].param_groups:
            if self.learning_rate is not None:
                group["lr"] = self.learning_rate
            if self.weight_decay is not None and group["name"] == "weights":
                group["weight_decay"] = self.weight_decay

    @torch.no_grad()
    def targets(self, batch: ImageBatch, views: Sequence[int]) -> list[Tensor]:
        """What the student learns, for each of the teacher's views: logits ``(B, m)`` before centre and temperature.

        Args:
            batch: of images, and of labels or targets if ``supervised``.
            views: the numbers of the views that the teacher sees.
        """
        if self.supervised:
            if "target" in batch:
                return [batch["target"]] * len(views)
            return [self.loss.label_logits(batch["label"], self.num_classes or 1)] * len(views)
        if self.training and self.teacher_cache.filled:
            return [self.teacher_cache.logits(self.teacher, batch["index"])]
        return [self.teacher(batch["views"][i]) for i in views]

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        """One step of distillation.

        Args:
            batch: an ``ImageBatch``, or images with labels that are ignored unless ``supervised``.
            batch_idx: position in the epoch.

        Returns:
            The mean loss over samples and pairs of views, times the batch's share of the global batch.
        """
        batch = as_batch(batch)
        seen_by_teacher, seen_by_student = views_seen(batch)
        pairs = view_pairs(seen_by_teacher, seen_by_student, self.loss.pairing)
        teacher = self.targets(batch, seen_by_teacher)
        student = [self.student(batch["views"][i]) for i in seen_by_student]
        losses, kl = self.loss(student, teacher, pairs)  # softmax of (logits - centre) / temperature
        self.loss.update_centres(student, teacher, batch.get("share", 1.0))  # after they were used
        loss = losses.mean()
        self.log("train/loss", loss.detach(), prog_bar=True)
        self.log("train/kl", kl.mean(), prog_bar=True)
        return self.weighted(loss, batch)

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        """Leaves the last layer where it started for the first epochs: without a gradient no optimiser moves it."""
        if self.current_epoch < self.freeze_last_layer:
            last_layer: Any = self.student.head.last_layer
            for parameter in last_layer.parameters():
                parameter.grad = None

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Moves the teacher after each optimiser step, not after each batch of an accumulation."""
        self._follow()

    def on_train_epoch_end(self) -> None:
        """Moves a teacher that follows epochs."""
        self._follow_epoch(self.current_epoch)

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        """Logs the losses on the validation split."""
        self._log_losses("val", as_batch(batch))

    def test_step(self, batch: Any, batch_idx: int) -> None:
        """Logs the losses on the test split."""
        self._log_losses("test", as_batch(batch))

    def predict_step(self, batch: Any, batch_idx: int) -> dict[str, Tensor]:
        """Embeddings and logits of both networks on the first view, with the samples' index and label."""
        batch = as_batch(batch)
        out = {"index": batch["index"], "label": batch["label"]}
        for name, network in (("student", self.student), ("teacher", self.teacher)):
            embedding = network.embed(batch["views"][0])
            out[f"{name}_embedding"] = embedding
            if self.predict_logits:
                out[f"{name}_logits"] = network.head(embedding)
        return out

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Marks the checkpoint with its family, so that another refuses it in one line, and its image shape."""
        super().on_save_checkpoint(checkpoint)
        # Callbacks save after an optimiser step and before the teacher has followed it.
        checkpoint["dinopl"] |= {"image_shape": list(self.image_shape), "teacher_step": self._steps_seen}
        checkpoint["dinopl"] |= {"teacher_epoch": self._epochs_seen, "clock": list(self._clock)}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Takes up a checkpoint of the same family, with the number of steps that its teacher has followed."""
        super().on_load_checkpoint(checkpoint)
        found = {"teacher_step": checkpoint.get("global_step", 0), "teacher_epoch": checkpoint.get("epoch", 0)}
        found |= checkpoint.get("dinopl") or {}
        self._steps_seen, self._epochs_seen = found["teacher_step"], found["teacher_epoch"]
        self._clock = tuple(found.get("clock", self._clock))
        self.advance_all(self._clock[0])  # what is only evaluated has the temperatures of its last step

    def _follow_epoch(self, epoch: int) -> None:
        """Lets the teacher follow the end of an epoch."""
        self.teacher_rule.after_epoch(self.teacher, self.student, epoch)
        self._epochs_seen = epoch + 1

    def _follow(self) -> None:
        """Lets the teacher follow an optimiser step that it has not followed yet."""
        step, seen = self.trainer.global_step, self._steps_seen
        self._steps_seen = step
        if step > seen:
            self.teacher_rule.after_step(self.teacher, self.student, step)

    def _log_losses(self, split: str, batch: ImageBatch) -> None:
        views = batch["views"]
        seen_by_teacher, seen_by_student = views_seen(batch)
        # Evaluation shows one view, the whole image, to both, whatever training pairs.
        pairs = [(0, 0)] if len(views) == 1 else view_pairs(seen_by_teacher, seen_by_student, self.loss.pairing)
        student, teacher = [self.student(views[i]) for i in seen_by_student], self.targets(batch, seen_by_teacher)
        loss, kl = self.loss(student, teacher, pairs)
        values = {
            "loss": loss.mean(),
            "kl": kl.mean(),
            "student_entropy": self.loss.entropy("student", student).mean(),
            "teacher_entropy": self.loss.entropy("teacher", teacher).mean(),
        }
        if self.supervised and "target" not in batch:
            values["accuracy"] = (student[0].argmax(dim=-1) == batch["label"]).float().mean()
        names = {f"{split}/{name}": value for name, value in values.items()}
        # Lightning 2.6 takes the mean of the sizes over processes in whole numbers, and so loses half a sample.
        size = len(views[0]) * self.trainer.world_size
        self.log_dict(names, batch_size=size, on_epoch=True, sync_dist=True)


def _check(image_shape: Any, optimizer: Any, bias_weight_decay: float | None) -> None:
    """Refuses at the start what would fail once training is set up."""
    if image_shape is None:
        raise ValueError("image_shape: is not known from the data; give [channels, height, width]")
    if optimizer is None:
        raise ValueError("optimizer=None: a student needs an optimiser; give a class such as AdamW")
    check_weight_decay(bias_weight_decay=bias_weight_decay)
