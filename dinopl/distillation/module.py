"""Self-distillation of a student from a teacher, without labels, as one LightningModule.

"Random Teachers are Good Teachers" (Sarnthein et al., ICML 2023), sections 3 and 4. The defaults are the paper's
setting: a frozen teacher at its random initialisation, a student that starts as its copy, one un-augmented view,
cross-entropy between the softmax outputs at temperature 1.

What differs from the authors' code: a frozen teacher is run once and its bottleneck vectors are kept by sample index;
biases and normalisation weights do not decay (``bias_weight_decay=0.01`` restores that quirk); head, softmax and loss
stay in float32 under any precision.
"""

from collections.abc import Callable, Iterable
from typing import Any, Literal

import torch
from lightning.pytorch import Callback
from torch import Tensor, nn
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau
from torch.optim.optimizer import Optimizer

from dinopl.core.checkpoints import FAMILY
from dinopl.core.divergences import entropy
from dinopl.core.module import BaseModule
from dinopl.core.optimizer import check_weight_decay, parameter_groups
from dinopl.core.types import ImageBatch, ImageShape, as_batch
from dinopl.distillation.heads import ProjectionHead
from dinopl.distillation.losses import CrossEntropyViews, ViewLoss, view_pairs
from dinopl.distillation.network import Network, draw_network
from dinopl.distillation.student_start import StudentStart, TeacherCopy
from dinopl.distillation.teacher_cache import TeacherCache
from dinopl.distillation.teachers import FrozenTeacher, TeacherRule
from dinopl.encoders import MiniVGG
from dinopl.probes import Probe, ProbeCallback


class SelfDistillation(BaseModule):
    """A student trained to reproduce a teacher's softmax output; labels are never used.

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
        self.bias_weight_decay = bias_weight_decay
        self.num_classes = num_classes
        self.predict_logits = predict_logits
        self.probe_callback = ProbeCallback(probes, probe_epochs) if probes else None
        self.teacher_cache = TeacherCache(cache_teacher)
        self._steps_seen = 0

    def forward(self, images: Tensor) -> Tensor:
        """The student's embedding of ``(B, C, H, W)`` images, ``(B, embed_dim)``."""
        return self.student.embed(images)

    def train(self, mode: bool = True) -> "SelfDistillation":
        """Sets the student's mode; the teacher's is the teacher rule's business."""
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
            ValueError: if a cache is required where none can be kept, or the loss pairs no views.
        """
        views = getattr(getattr(self.trainer, "datamodule", None), "views", None)
        if views is not None:
            view_pairs(len(views), len(views), self.loss.pairing)
        if stage == "fit":
            self.teacher_cache.decide(self.teacher_rule, self.teacher, self.loss, self.trainer)

    def on_train_start(self) -> None:
        """Fills the teacher's cache, and moves a teacher that its checkpoint left behind the student."""
        self._follow()
        self.teacher_cache.fill(self.teacher, self.trainer, self.device)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        """One step of distillation.

        Args:
            batch: an ``ImageBatch``, or images with labels that are ignored.
            batch_idx: position in the epoch.

        Returns:
            The mean loss over samples and pairs of views, times the batch's share of the global batch.
        """
        batch = as_batch(batch)
        with torch.no_grad():
            if self.teacher_cache.filled:
                teacher = [self.teacher_cache.logits(self.teacher, batch["index"])]
            else:
                teacher = [self.teacher(view) for view in batch["views"]]
        losses, kl = self.loss([self.student(view) for view in batch["views"]], teacher)
        loss = losses.mean()
        self.log("train/loss", loss.detach(), prog_bar=True)
        self.log("train/kl", kl.mean(), prog_bar=True)
        return self.weighted(loss, batch)

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Moves the teacher after each optimiser step, not after each batch of an accumulation."""
        self._follow()

    def on_train_epoch_end(self) -> None:
        """Moves a teacher that follows epochs."""
        self.teacher_rule.after_epoch(self.teacher, self.student, self.current_epoch)

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

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Takes up a checkpoint of the same family, with the number of steps that its teacher has followed."""
        super().on_load_checkpoint(checkpoint)
        step = checkpoint.get("global_step", 0)
        self._steps_seen = (checkpoint.get("dinopl") or {}).get("teacher_step", step)

    def _follow(self) -> None:
        """Lets the teacher follow an optimiser step that it has not followed yet."""
        step, seen = self.trainer.global_step, self._steps_seen
        self._steps_seen = step
        if step > seen:
            self.teacher_rule.after_step(self.teacher, self.student, step)

    def _log_losses(self, split: str, batch: ImageBatch) -> None:
        views = batch["views"]
        student, teacher = [self.student(view) for view in views], [self.teacher(view) for view in views]
        loss, kl = self.loss(student, teacher)
        values = {
            "loss": loss.mean(),
            "kl": kl.mean(),
            "student_entropy": entropy(torch.stack(student)).mean(),
            "teacher_entropy": entropy(torch.stack(teacher)).mean(),
        }
        names = {f"{split}/{name}": value for name, value in values.items()}
        self.log_dict(names, batch_size=len(views[0]), on_epoch=True, sync_dist=True)


def _check(image_shape: Any, optimizer: Any, bias_weight_decay: float | None) -> None:
    """Refuses at the start what would fail once training is set up."""
    if image_shape is None:
        raise ValueError("image_shape: is not known from the data; give [channels, height, width]")
    if optimizer is None:
        raise ValueError("optimizer=None: a student needs an optimiser; give a class such as AdamW")
    check_weight_decay(bias_weight_decay=bias_weight_decay)
