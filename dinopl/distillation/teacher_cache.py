"""The frozen teacher's outputs, kept by sample index.

A frozen teacher in eval mode on deterministic views is a function of the sample's index alone. What is kept is the
bottleneck vector (51 MB for CIFAR-10 with the paper's head), not the logits (13 GB): one matrix product gives the
logits back. This saves the teacher's encoder, about a quarter of a step.

A kept vector is the one that a step would compute up to rounding: matrix products may round differently in batches of
another size or order, depending on the processor. It is computed at the precision of training, so the logits differ by
less than 1e-5 in float32 and 1e-12 in float64 (no logit exceeds 1 with unit rows). Under the squared error any
difference moves a student that starts at its teacher, so there nothing is kept unless asked for; under cross-entropy
and KL such a student leaves by rounding anyway.
"""

from collections.abc import Callable
from typing import Any

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor

from dinopl.core.types import as_batch
from dinopl.data.indexed import IndexedValues
from dinopl.distillation.losses import ViewLoss
from dinopl.distillation.network import BottleneckHead, Network
from dinopl.distillation.teachers import TeacherRule


class TeacherCache:
    """Bottleneck vectors of the training images.

    Args:
        wanted: True requires a cache, False never caches, None caches when that changes rounding at most and the loss
            is not one whose gradient is exactly 0 at the teacher.
    """

    def __init__(self, wanted: bool | None) -> None:
        self.wanted = wanted
        self.active = False
        self._codes: IndexedValues | None = None
        self._classify: Callable[[Tensor], Tensor]

    @property
    def filled(self) -> bool:
        """Whether ``logits`` may be called."""
        return self._codes is not None

    def decide(self, rule: TeacherRule, teacher: Network, loss: ViewLoss, trainer: Trainer) -> None:
        """Decides whether to cache.

        Raises:
            ValueError: if a cache is required where the teacher's output is not a function of the index.
        """
        reason = _why_not(rule, teacher, trainer)
        if self.wanted and reason:
            raise ValueError(f"cache_teacher=True: {reason}; None caches only where that can be")
        self._codes = None
        self.active = self.wanted or (self.wanted is None and reason is None and not loss.zero_gradient_at_teacher)

    def fill(self, teacher: Network, trainer: Trainer, device: torch.device) -> None:
        """Runs the teacher once over the training images, in batches of the training's size and precision."""
        if not self.active:
            return
        datamodule = trainer.datamodule  # type: ignore[attr-defined]
        precision = trainer.precision_plugin
        codes = IndexedValues(datamodule.num_train, None, device)
        rank_zero_info(f"The teacher is run once over all {datamodule.num_train} training images.")
        for raw in datamodule.cache_dataloader():
            batch = as_batch(raw)
            images = precision.convert_input(batch["views"][0].to(device))  # as training batches are converted
            with torch.no_grad(), precision.forward_context():
                codes.put(batch["index"].to(device), teacher.bottleneck(images))
        self._codes = codes
        self._classify = getattr(teacher.head, "fixed_classifier", lambda: teacher.classify)()

    def logits(self, teacher: Network, index: Tensor) -> Tensor:
        """The teacher's logits of the samples ``index``, ``(B,) -> (B, m)``."""
        assert self._codes is not None
        return self._classify(self._codes.take(index))


def _why_not(rule: TeacherRule, teacher: Network, trainer: Trainer) -> str | None:
    """Why the teacher's outputs cannot be kept by index; None if they can."""
    datamodule: Any = getattr(trainer, "datamodule", None)
    if not rule.static:
        return "the teacher moves, or its BatchNorm uses batch statistics"
    if not isinstance(teacher.head, BottleneckHead):
        return "the head has no bottleneck"
    if not hasattr(datamodule, "cache_dataloader"):
        return "the data have no sample index"
    if not datamodule.deterministic_views:
        return "the views are random"
    if len(datamodule.views) > 1:
        return "there are several views"
    return None
