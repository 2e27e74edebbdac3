"""How a student is measured on a split: its predictions, its fidelity to the teacher, the features of both.

Both networks see the same un-augmented samples in one pass. What differs from the first author's early code is just
that: there each network saw its own augmentation of the training samples, which hides how alike they are.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.distributed import get_rank, get_world_size, is_available, is_initialized

from dinopl.core.types import ImageBatch
from kd.features.capture import FeatureCapture, find_module
from kd.metrics import FidelityMetrics
from kd.networks import penultimate
from kd.teacher.sources import HeldTeacher

Split = Literal["val", "test", "subset"]
OPTION = "--model.measured_features"


class Measuring:
    """The metrics of each split, from the first batch to the last.

    Args:
        student: what is measured.
        teacher: what it is compared with; None for nothing.
        num_classes: of both.
        fidelity: whether the logits of both are compared.
        text: whether samples are windows of tokens, which have no neural collapse to measure.
        features: names of the student's and the teacher's module whose outputs are compared; None takes what goes into
            the last linear layers; empty compares none. In validation none are compared.
    """

    def __init__(
        self,
        student: nn.Module,
        teacher: HeldTeacher | None,
        num_classes: int,
        *,
        fidelity: bool,
        text: bool,
        features: list[str] | None,
    ) -> None:
        self.student = student
        self.teacher = teacher
        self.num_classes = num_classes
        self.fidelity = fidelity and teacher is not None
        self.text = text
        self.names = self._names() if features is None else (features[0], features[-1]) if features else None
        self._metrics: dict[Split, FidelityMetrics] = {}
        self._counted: dict[Split, int] = {}

    def start(self, split: Split, device: torch.device) -> None:
        """Begins a split anew."""
        featured = split != "val" and self.names is not None
        self._counted[split] = 0
        self._metrics[split] = FidelityMetrics(
            self.num_classes,
            teacher=self.fidelity,
            alignment=featured and self.teacher is not None,
            collapse=featured and not self.text,
            prefix=f"{split}/",
        ).to(device)

    def add(self, split: Split, batch: ImageBatch) -> None:
        """Adds a batch, un-augmented."""
        view = batch["views"][0]
        names = None if split == "val" else self.names
        values: dict[str, Any] = {"label": batch["label"], "index": self._numbered(split, batch["index"])}
        with _captured(self.student, names and names[0]) as features:
            values["student"] = self.student(view)
            values |= features("student_features")
        if self.teacher is not None and (self.fidelity or names):
            with _captured(self.teacher.network, names and names[1]) as features:
                logits = self.teacher(view)
                values |= {"teacher": logits} if self.fidelity else {}
                values |= features("teacher_features")
        if names:
            values["weight"] = _classifier_weight(self.student, names[0])
        self._metrics[split].update(**values)

    def finish(self, split: Split) -> dict[str, Tensor]:
        """The values by name, over all processes; what is not a number is left out."""
        values = self._metrics.pop(split).compute()
        return {name: value.float() for name, value in values.items() if torch.isfinite(value)}

    def _numbered(self, split: Split, index: Tensor) -> Tensor:
        """The indices; samples without any, as other projects' loaders give them, are counted over all processes.

        Features are kept by index, and one index is one sample: all but one would be left out.
        """
        if bool((index >= 0).all()):
            return index
        rank, processes = (get_rank(), get_world_size()) if is_available() and is_initialized() else (0, 1)
        first = self._counted[split]
        self._counted[split] += len(index)
        return torch.arange(first, first + len(index), device=index.device) * processes + rank

    def _names(self) -> tuple[str, str] | None:
        student = penultimate(self.student)
        teacher = student if self.teacher is None else penultimate(self.teacher.network)
        return None if student is None or teacher is None else (student, teacher)


@contextmanager
def _captured(network: nn.Module, name: str | None) -> Iterator[Callable[[str], dict[str, Tensor]]]:
    """Gives the features of a module under a name of one's own, after the network has run; nothing for no module."""
    with ExitStack() as stack:
        capture = None if name is None else stack.enter_context(FeatureCapture(network, [name], OPTION))

        def taken(called: str) -> dict[str, Tensor]:
            return {} if capture is None or name is None else {called: capture.take()[name]}

        yield taken


def _classifier_weight(network: nn.Module, name: str) -> Tensor | None:
    """Rows of the linear layer whose input is measured; None if it is not one."""
    layer = find_module(network, name, OPTION)
    return layer.weight if name.endswith(":input") and isinstance(layer, nn.Linear) else None
