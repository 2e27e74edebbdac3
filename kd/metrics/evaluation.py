"""How a student is evaluated on a split: its predictions, its fidelity to the teacher, the features of both.

Both networks see the same un-augmented samples in one pass. What differs from the first author's early code is just
that: there each network saw its own augmentation of the training samples, which hides how alike they are.
"""

from collections.abc import Iterable
from contextlib import ExitStack
from itertools import islice
from typing import Any, Literal

import torch
from lightning.pytorch import Trainer
from torch import Tensor, nn
from torch.distributed import get_rank, get_world_size, is_available, is_initialized
from torchmetrics import Metric, MetricCollection

from dinopl.core.divergences import entropy
from dinopl.core.errors import DataError
from dinopl.core.module import BaseModule
from dinopl.core.types import ImageBatch, as_batch
from kd.features.capture import FeatureCapture, find_module
from kd.metrics.features import FeatureAlignment, NeuralCollapse, parameter_distance
from kd.metrics.predictions import (
    Agreement,
    BrierScore,
    CentredLogitError,
    ExpectedCalibrationError,
    HellingerDistance,
    LabelAccuracy,
    LogitError,
    NegativeLogLikelihood,
    PredictiveEntropy,
    PredictiveKL,
    ProbabilityDistance,
)
from kd.networks import penultimate

Split = Literal["val", "test", "subset"]


class FidelityMetrics(MetricCollection):
    """A student's predictions, its fidelity to the teacher, and its features.

    ``update`` takes keywords, and each metric the ones that it knows: ``student`` and ``teacher``, logits ``(..., C)``;
    ``label`` ``(...)``; ``index`` ``(B,)``; ``student_features`` and ``teacher_features`` ``(B, d)``; ``weight``, the
    classifier's rows. ``compute`` gives "accuracy", "nll", "brier", "ece" and "entropy"; with a teacher "agreement",
    "kl", "hellinger", "l2", "logit_mse" and "centred_logit_mse"; "cka" and "feature_alignment"; "nc1", "nc2_norm",
    "nc2_angle", "nc3" and "nc4".

    Args:
        num_classes: C.
        teacher: whether there are a teacher's logits.
        alignment: whether there are features of both.
        collapse: whether to measure neural collapse on the student's features; not for text.
        bins: of the calibration error.
        alignment_samples: samples that features are compared on at most.
        collapse_samples: samples that neural collapse is measured on at most.
        prefix: of the names, such as "test/".
    """

    def __init__(
        self,
        num_classes: int,
        teacher: bool = True,
        alignment: bool = False,
        collapse: bool = False,
        bins: int = 15,
        alignment_samples: int = 2000,
        collapse_samples: int = 20_000,
        prefix: str | None = None,
    ) -> None:
        metrics: dict[str, Metric] = {
            "accuracy": LabelAccuracy(num_classes),
            "nll": NegativeLogLikelihood(),
            "brier": BrierScore(),
            "ece": ExpectedCalibrationError(num_classes, bins),
            "entropy": PredictiveEntropy(),
        }
        if teacher:
            metrics |= {
                "agreement": Agreement(num_classes),
                "kl": PredictiveKL(),
                "hellinger": HellingerDistance(),
                "l2": ProbabilityDistance(),
                "logit_mse": LogitError(),
                "centred_logit_mse": CentredLogitError(),
            }
        if alignment:
            metrics["alignment"] = FeatureAlignment(alignment_samples)
        if collapse:
            metrics["collapse"] = NeuralCollapse(num_classes, collapse_samples)
        # With compute groups, metrics that are equal on the first batch share a state from then on: accuracy and
        # agreement are equal wherever the teacher is right on all of it.
        super().__init__(dict[str, Any](metrics), prefix=prefix, compute_groups=False)


class Evaluation:
    """The metrics of each split, from the first batch to the last.

    Args:
        student: the network that is evaluated.
        teacher: what it is compared with; None for nothing.
        num_classes: of both.
        features: names of the student's and the teacher's module whose outputs are compared; None takes what goes into
            the last linear layers; empty compares none. In validation none are compared.
        fidelity: whether the logits of both are compared.
        text: whether samples are windows of tokens, which have no neural collapse to measure.
    """

    def __init__(
        self,
        student: nn.Module,
        teacher: nn.Module | None,
        num_classes: int,
        features: list[str] | None = None,
        *,
        fidelity: bool,
        text: bool,
    ) -> None:
        self.student = student
        self.teacher = teacher
        self.num_classes = num_classes
        self.fidelity = fidelity and teacher is not None
        self.text = text
        if features is None:
            found = [penultimate(network) for network in (student, teacher) if network is not None]
            features = [] if None in found else [name for name in found if name]
        self.names = (features[0], features[-1]) if features else None
        self._metrics: dict[Split, FidelityMetrics] = {}
        self._counted: dict[Split, int] = {}

    def start(self, split: Split, device: torch.device) -> None:
        """Starts a split from no samples."""
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
        check_labels(batch["label"], self.num_classes, needed=True)
        names = None if split == "val" else self.names
        values: dict[str, Any] = {"label": batch["label"], "index": self._numbered(split, batch["index"])}
        with torch.no_grad(), ExitStack() as stack:
            hooks = []
            for network, name in zip((self.student, self.teacher), names or (), strict=False):
                if network is not None:
                    hooks.append(stack.enter_context(FeatureCapture(network, [name], "measured_features")))
            values["student"] = self.student(view)
            if self.teacher is not None and (self.fidelity or names):
                logits = self.teacher(view)
                values |= {"teacher": logits} if self.fidelity else {}
            for side, hook in zip(("student_features", "teacher_features"), hooks, strict=False):
                (values[side],) = hook.take().values()
        if names:
            layer = find_module(self.student, names[0], "measured_features")
            linear = names[0].endswith(":input") and isinstance(layer, nn.Linear)
            values["weight"] = layer.weight if linear else None  # its rows are compared with the classes' mean features
        self._metrics[split].update(**values)

    def finish(self, split: Split) -> dict[str, Tensor]:
        """The values by name, over all processes; what is not a number is left out."""
        values = self._metrics.pop(split).compute()
        if split == "test" and self.teacher is not None:
            values["test/parameter_distance"] = parameter_distance(self.student, self.teacher)
        return {name: value.float() for name, value in values.items() if torch.isfinite(value)}

    def run(self, split: Split, batches: Iterable[Any], trainer: Trainer) -> dict[str, Tensor]:
        """Evaluates batches that the trainer does not run itself, at its precision and within its limit for tests."""
        limit = trainer.limit_test_batches
        if isinstance(limit, float):
            limit = max(int(limit * len(batches)), 1) if limit else 0  # type: ignore[arg-type]
        self.start(split, trainer.strategy.root_device)
        precision = trainer.precision_plugin
        for batch in map(as_batch, islice(batches, limit)):
            batch["views"] = [precision.convert_input(view) for view in batch["views"]]
            with precision.forward_context():
                self.add(split, batch)
        return self.finish(split)

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


def check_labels(label: Tensor, num_classes: int, *, needed: bool) -> None:
    """Refuses labels that are none of the classes; waits for their device.

    Args:
        label: of any shape, integers; -1 is none.
        num_classes: their number.
        needed: whether each sample must have one.

    Raises:
        DataError: if one is not below ``num_classes``, or is negative where it is needed.
    """
    if not label.numel():
        return
    least, most = (int(bound) for bound in label.aminmax())
    if most >= num_classes:
        raise DataError(
            f"num_classes={num_classes}: too few for data with label {most}; use {most + 1}, or correct the data"
        )
    if needed and least < 0:
        raise DataError(f"num_classes={num_classes}: the data have label {least}; number classes from 0")


class EvaluatedModule(BaseModule):
    """A module whose student is evaluated on the validation split, the test split and its own samples.

    Attributes:
        evaluation: made in ``setup``.
        measure_subset: whether a test also evaluates the student on its own samples, un-augmented.
        student: the network that is evaluated.
        teacher: maps views to logits, with its ``measured`` accuracy; None without one.
    """

    evaluation: Evaluation
    measure_subset: bool
    student: nn.Module
    teacher: Any

    def on_validation_epoch_start(self) -> None:
        """Starts the measures of the validation split."""
        self.evaluation.start("val", self.device)

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        """Measures one batch of the validation split."""
        self.evaluation.add("val", as_batch(batch))

    def on_validation_epoch_end(self) -> None:
        """Logs the measures of the validation split."""
        self._log_all(self.evaluation.finish("val"))

    def on_test_epoch_start(self) -> None:
        """Starts the measures of the test split."""
        self.evaluation.start("test", self.device)

    def test_step(self, batch: Any, batch_idx: int) -> None:
        """Measures one batch of the test split."""
        self.evaluation.add("test", as_batch(batch))

    def on_test_epoch_end(self) -> None:
        """Logs the measures of the test split, and those of the student's own samples."""
        values = self.evaluation.finish("test")
        data: Any = getattr(self.trainer, "datamodule", None)
        if self.measure_subset and hasattr(data, "subset_dataloader"):
            values |= self.evaluation.run("subset", data.subset_dataloader(), self.trainer)
        if self.teacher is not None and self.teacher.measured is not None:
            values["teacher/accuracy"] = torch.tensor(self.teacher.measured)
        self._log_all(values)

    def predict_step(self, batch: Any, batch_idx: int) -> dict[str, Tensor]:
        """Logits of the student and, if there is one, of the teacher, with the samples' index and label."""
        batch = as_batch(batch)
        view = batch["views"][0]
        out = {"index": batch["index"], "label": batch["label"], "student_logits": self.student(view)}
        return out if self.teacher is None else out | {"teacher_logits": self.teacher(view)}

    def _log_all(self, values: dict[str, Tensor]) -> None:
        """Logs values that all processes share."""
        self.log_dict({name: value.to(self.device) for name, value in values.items()}, sync_dist=True)

    def log_step(self, loss: Tensor, student: Tensor, target: Tensor | None, label: Tensor, temperature: float) -> None:
        """Logs a training step: its loss, logits ``(B, C)`` of student and target, classes ``(B,)``."""
        with torch.no_grad():
            predicted = student.argmax(dim=1)
            values = {"loss": loss.detach(), "accuracy": (predicted == label).float().mean()}
            if target is not None:
                values["agreement"] = (predicted == target.argmax(dim=1)).float().mean()
                if temperature < float("inf"):
                    values["target_entropy"] = entropy(target.float() / temperature).mean()
        for name, value in values.items():
            self.log(f"train/{name}", value, prog_bar=name in ("loss", "accuracy"))
