"""Label training and distillation of a classifier, as one LightningModule.

"Revisiting Knowledge Distillation: The Hidden Role of Dataset Size" (Lanzillotta et al., arXiv 2510.15516). A student
is trained on labels or on a teacher's outputs, with the same samples, order and start, so that only the target differs.
A teacher is trained by the same module with the labels as its objective.

What differs from the first author's early code: the teacher is no part of the module, is identified by its content and
checked against its recorded accuracy; its outputs are kept by sample index, and only where that is exact; student and
teacher are compared on the same un-augmented samples in one pass.
"""

from collections.abc import Callable, Iterable, Iterator
from inspect import getattr_static
from itertools import islice
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau
from torch.optim.optimizer import Optimizer

from dinopl.core.divergences import entropy
from dinopl.core.module import BaseModule
from dinopl.core.optimizer import check_weight_decay, parameter_groups
from dinopl.core.seeds import seeded, stream_seed
from dinopl.core.types import ImageBatch
from dinopl.data.batch import as_batch
from dinopl.encoders import evaluation
from kd.data import DataFraction
from kd.evaluation import Measuring
from kd.features import FeatureCapture, FeatureObjective
from kd.losses import FeaturesAlone, LabelCrossEntropy, Objective
from kd.metrics import parameter_distance
from kd.networks import EncoderClassifier, as_shape, draw_classifier
from kd.samplers import SelectedSampler
from kd.targets import TargetTransform, WholeTeacher
from kd.teacher.outputs import (
    OnlineOutputs,
    OutputSource,
    Surroundings,
    automatic,
    flattened,
    is_indexed,
    pool_of,
    subset_outputs,
)
from kd.teacher.sources import FAMILY, HeldTeacher, Teacher, check_classes, count_correct


class KnowledgeDistillation(BaseModule):
    """A classifier trained on labels, on a teacher's outputs, or on both.

    Logged in training, every ``trainer.log_every_n_steps``: ``train/loss``, ``train/accuracy``, and with a teacher's
    outputs ``train/agreement`` and ``train/target_entropy``. For validation (``val/``), test (``test/``) and, after the
    test, the student's own samples un-augmented (``subset/``): ``accuracy``, ``nll``, ``brier``, ``ece``, ``entropy``;
    with a teacher ``agreement``, ``kl``, ``hellinger`` and more; in the latter two also ``cka`` and ``nc1`` to ``nc4``.

    Args:
        input_shape: shape of one sample: channels, height and width of images, vocabulary size and length of text. The
            command links it from the data.
        num_classes: number of classes. The command links it from the data.
        student: makes the student for a shape and a number of classes: samples to logits.
        teacher: where the teacher comes from; null for none, which objectives on labels alone do not need.
        objective: what the student minimises; by default the cross-entropy to the labels.
        target: what part of the teacher is used; by default all of it.
        features: objectives on features, which are added.
        outputs: where the teacher's outputs come from in training; null keeps them in memory where that is exact, and
            computes them otherwise.
        optimizer: makes the optimiser. It gets the parameters of the student and of maps between features, in two
            groups: weights, and biases with normalisation weights.
        lr_scheduler: makes the learning-rate schedule, such as WarmupCosine.
        lr_scheduler_interval: whether the schedule moves every optimiser step or every epoch.
        bias_weight_decay: weight decay of biases and normalisation weights; null leaves the optimiser's own.
        student_seed: of the student's start; null takes the stream "student" of the run's seed.
        measured_features: names of the student's and of the teacher's module whose outputs are compared in tests, with
            ``:input`` behind a name for what goes into it; null takes what goes into the last linear layers; an empty
            list measures no features.
        measure_subset: whether a test also measures the student on its own samples, un-augmented.
        check_teacher: whether the teacher's accuracy on the test data is measured at the start of training.

    Raises:
        FileNotFoundError: if the teacher is not there.
        ValueError: if an option is out of range, or the teacher cannot serve; the message names it.
    """

    family = FAMILY
    monitored = "val/nll"

    def __init__(
        self,
        input_shape: tuple[int, ...],
        num_classes: int,
        student: Callable[[Any, int], nn.Module] = EncoderClassifier,
        teacher: Teacher | None = None,
        objective: Objective | None = None,
        target: TargetTransform | None = None,
        features: list[FeatureObjective] | None = None,
        outputs: OutputSource | None = None,
        optimizer: Callable[[Iterable[Any]], Optimizer] = torch.optim.AdamW,
        lr_scheduler: Callable[[Optimizer], LRScheduler | ReduceLROnPlateau] | None = None,
        lr_scheduler_interval: Literal["step", "epoch"] = "step",
        bias_weight_decay: float | None = 0.0,
        student_seed: int | None = None,
        measured_features: list[str] | None = None,
        measure_subset: bool = True,
        check_teacher: bool = True,
    ) -> None:
        super().__init__(optimizer, lr_scheduler, lr_scheduler_interval)
        _check(input_shape, num_classes, optimizer, bias_weight_decay)
        self.input_shape = as_shape(input_shape)
        self.num_classes = num_classes
        seed = stream_seed("student") if student_seed is None else student_seed
        self.student = draw_classifier(student, self.input_shape, num_classes, seed)
        self.objective = objective or LabelCrossEntropy()
        self.target = target or WholeTeacher()
        self.features = nn.ModuleList(features or [])
        if isinstance(self.objective, FeaturesAlone) and not features:
            raise ValueError("--model.objective FeaturesAlone: there are none; give --model.features.")
        self.outputs = outputs
        self.bias_weight_decay = bias_weight_decay
        self.measured_features = measured_features
        self.measure_subset = measure_subset
        self.check_teacher = check_teacher
        self._teacher_source = teacher
        self._teacher = self._load_teacher(teacher)
        self._outputs: OutputSource | None = None
        self._captures: list[FeatureCapture] = []
        self._ready = False

    @property
    def teacher(self) -> HeldTeacher | None:
        """The frozen teacher, which is no part of the module; None without one."""
        return self._teacher

    def forward(self, x: Tensor) -> Tensor:
        """The student's logits: ``(B, C, H, W)`` to ``(B, K)``, or tokens ``(B, T)`` to ``(B, T, K)``."""
        logits: Tensor = self.student(x)
        return logits

    def facts(self) -> dict[str, Any]:
        """What a result must say about student and teacher, in plain values."""
        return {
            "student": {"parameters": sum(parameter.numel() for parameter in self.student.parameters())},
            "teacher": None if self._teacher is None else self._teacher.facts(),
        }

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Parameters of the student and of maps between features: weights, then biases with normalisation weights."""
        return parameter_groups(nn.ModuleList([self.student, *self.features]), self.bias_weight_decay)

    def setup(self, stage: str) -> None:
        """Gets the teacher ready, and checks everything that depends on the data.

        Raises:
            ValueError: in one line, naming the option.
        """
        data = self._data()
        _check_views(data)
        self._check_student()
        if self._teacher is not None and not self._ready:
            self._settle_teacher(self._teacher)
        self._measuring = self._measured_by()
        if stage == "fit" and self._teacher is not None:
            self._connect_features(self._teacher)
            self._choose_outputs(self._surroundings())
        self._ready = True

    def on_train_start(self) -> None:
        """Gets the teacher's outputs, and lets objective and target look at them."""
        if self._teacher is None:
            return
        around = self._surroundings()
        with torch.no_grad():
            if self._outputs is not None:
                self._outputs.fill(around)
            if self.objective.needs_subset or (self._uses_logits and self.target.needs_subset):
                found = subset_outputs(around)
                self.objective.prepare(found)
                self.target.prepare(found, self.objective.temperature)
        if self.features:
            self._captures = [capture.attach() for capture in self._feature_captures(self._teacher)]

    def on_train_end(self) -> None:
        """Takes the hooks away."""
        self._detach()

    def on_exception(self, exception: BaseException) -> None:
        """Takes the hooks away."""
        self._detach()

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        """One step.

        Args:
            batch: an ``ImageBatch``, or samples with labels and, if any, indices.
            batch_idx: position in the epoch.

        Returns:
            The mean loss over samples (of text, over tokens), times the batch's share of the global batch.

        Raises:
            ValueError: if the target draws by index, and there is none.
        """
        batch = as_batch(batch)
        if batch_idx == 0:
            self._check_index(batch)
        logits = self.student(batch["views"][0])
        target = self._target(batch) if self._uses_logits or self._captures else None
        student, label, _ = flattened(logits, batch["label"], batch["index"])
        loss = self.objective(student, target, label).mean()
        if self._captures:
            ours, theirs = (capture.take() for capture in self._captures)
            loss = loss + sum(part(ours, theirs) for part in self.features)
        if (self.trainer.global_step + 1) % self.trainer.log_every_n_steps == 0:  # type: ignore[attr-defined]
            self._log_step(loss, student, target, label)
        return self.weighted(loss, batch)

    def on_validation_epoch_start(self) -> None:
        """Forgets the last epoch's counts."""
        self._measuring.start("val", self.device)

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        """Measures one batch of the validation split."""
        self._measuring.add("val", as_batch(batch))

    def on_validation_epoch_end(self) -> None:
        """Logs what the validation split comes to."""
        self._log_all(self._measuring.finish("val"))

    def on_test_epoch_start(self) -> None:
        """Starts measuring."""
        self._measuring.start("test", self.device)

    def test_step(self, batch: Any, batch_idx: int) -> None:
        """Measures one batch of the test split."""
        self._measuring.add("test", as_batch(batch))

    def on_test_epoch_end(self) -> None:
        """Logs what the test split comes to, and the student's own samples."""
        values = self._measuring.finish("test")
        if self.measure_subset and isinstance(self._data(), DataFraction):
            values |= self._measured_subset()
        if self._teacher is not None:
            distance = parameter_distance(self.student, self._teacher.network).float()
            values |= {"test/parameter_distance": distance} if torch.isfinite(distance) else {}
            if self._teacher.measured is not None:
                values["teacher/accuracy"] = torch.tensor(self._teacher.measured)
        self._log_all(values)

    def predict_step(self, batch: Any, batch_idx: int) -> dict[str, Tensor]:
        """Logits of the student and, if there is one, of the teacher, with the samples' index and label."""
        batch = as_batch(batch)
        view = batch["views"][0]
        out = {"index": batch["index"], "label": batch["label"], "student_logits": self.student(view)}
        return out if self._teacher is None else out | {"teacher_logits": self._teacher(view)}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Marks the checkpoint with its family, and with the teacher that it learnt from."""
        super().on_save_checkpoint(checkpoint)
        ours = {"input_shape": list(self.input_shape), "num_classes": self.num_classes}
        teacher = None if self._teacher is None else self._teacher.fingerprint
        checkpoint["dinopl"].update(ours, teacher=teacher)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Takes up a checkpoint of the same family and, to train on, of the same teacher.

        Raises:
            ValueError: if it is another one's.
        """
        super().on_load_checkpoint(checkpoint)
        ours = checkpoint.get("dinopl") or {}
        if not self._in_training():
            state = checkpoint["state_dict"]
            checkpoint["state_dict"] = {name: x for name, x in state.items() if not name.startswith("features.")}
            return
        here = None if self._teacher is None else self._teacher.fingerprint
        if "teacher" in ours and ours["teacher"] != here:
            there, now = (found[:12] if found else "none" for found in (ours["teacher"], here))
            raise ValueError(
                f"--model.teacher: the checkpoint learnt from {there}, and this is {now}; give that teacher"
            )

    @property
    def _uses_logits(self) -> bool:
        return self.objective.needs_teacher

    def _data(self) -> Any:
        return getattr(self.trainer, "datamodule", None)

    def _in_training(self) -> bool:
        """Whether a trainer is training; ``load_from_checkpoint`` has none at all."""
        try:
            return bool(self.trainer.training)
        except RuntimeError:
            return False

    def _surroundings(self) -> Surroundings:
        assert self._teacher is not None
        return Surroundings(self._teacher, self.trainer, self._data(), self.objective.temperature)

    def _measured_by(self) -> Measuring:
        return Measuring(
            self.student,
            self._teacher,
            self.num_classes,
            fidelity=self._uses_logits or not self.features,
            text=len(self.input_shape) == 2,
            features=self.measured_features,
        )

    def _load_teacher(self, source: Teacher | None) -> HeldTeacher | None:
        needed = self.objective.needs_teacher or self.objective.needs_subset or bool(self.features)
        if source is None:
            if needed:
                who = "--model.features" if self.features else f"--model.objective {type(self.objective).__name__}"
                raise ValueError(
                    f"{who} needs a teacher; give --model.teacher RunTeacher --model.teacher.path RUN, or another kind."
                )
            return None
        loaded = source.load(self.input_shape, self.num_classes)
        if {id(part) for part in loaded.network.parameters()} & {id(part) for part in self.student.parameters()}:
            raise ValueError(
                "--model.teacher: it has parameters of the student, which would be frozen with it; make a network for "
                "each, or give the teacher a copy.deepcopy."
            )
        return HeldTeacher(loaded, source.tolerance)

    def _settle_teacher(self, teacher: HeldTeacher) -> None:
        """Moves the teacher to its device, checks its accuracy and its classes, and identifies it."""
        strategy = self.trainer.strategy
        teacher.network = teacher.network.to(strategy.root_device)
        assert self._teacher_source is not None
        teacher.network = self._teacher_source.finish(teacher.network, self._teacher_samples, self.num_classes)
        outputs = _outputs_of(teacher.network, self.input_shape)
        if self._uses_logits or not self.features:
            check_classes(outputs[-1], self.num_classes, teacher.source)
        if self.check_teacher and outputs[-1] == self.num_classes and hasattr(self._data(), "test_dataloader"):
            counts = count_correct(teacher, self._moved(self._data().test_dataloader()))
            counted = torch.tensor(counts, dtype=torch.float32, device=strategy.root_device)
            correct, total = strategy.reduce(counted, reduce_op="sum").tolist()
            teacher.check(correct, total)
        teacher.settle(self.target.adapt_teacher)
        teacher.network = self.trainer.precision_plugin.convert_module(teacher.network)

    def _teacher_samples(self) -> Iterator[Any]:
        """The teacher's training samples, un-augmented, with labels."""
        data = self._data()
        index = data.teacher_index if isinstance(data, DataFraction) else torch.arange(data.num_train)
        pool = pool_of(data)
        label = data.train_label if isinstance(data, DataFraction) else None
        return iter(pool.indexed_loader(SelectedSampler(index, pool.eval_batch_size), augment=False, label=label))

    def _moved(self, batches: Iterable[Any]) -> Iterator[Any]:
        """Batches on the training device; of a loader that draws, without a trace in the generators."""
        with seeded(0):
            for batch in batches:
                yield self.trainer.strategy.batch_to_device(as_batch(batch), self.trainer.strategy.root_device)

    def _check_index(self, batch: ImageBatch) -> None:
        if self._uses_logits and self.target.needs_index and bool((batch["index"] < 0).any()):
            raise ValueError(
                f"--model.target {type(self.target).__name__}: it draws for each sample by its index, and these "
                "batches have none; let them be (input, label, index), or use DataFraction."
            )

    def _visit(self, batch: ImageBatch) -> int:
        """Number of the pass; a loader of another project makes one in each epoch, and does not say so."""
        return batch.get("visit", 0 if is_indexed(self._data()) else self.current_epoch)

    def _check_student(self) -> None:
        outputs = _outputs_of(self.student, self.input_shape) if not self._ready else ()
        if outputs and outputs[-1] != self.num_classes:
            raise ValueError(
                f"--model.student: it gives {outputs[-1]} logits, and the data have {self.num_classes} classes; give "
                "one that takes the number of classes."
            )

    def _connect_features(self, teacher: HeldTeacher) -> None:
        """Lets feature objectives see the shapes of what they compare."""
        if not self.features or self._ready:
            return
        found = []
        for capture, network in zip(self._feature_captures(teacher), (self.student, teacher.network), strict=True):
            with capture:
                _outputs_of(network, self.input_shape)
                found.append({name: feature.cpu().float() for name, feature in capture.take().items()})
        for part in self.features:
            part.connect(*found)  # type: ignore[operator]

    def _feature_captures(self, teacher: HeldTeacher) -> list[FeatureCapture]:
        """What takes the features of student and teacher."""
        networks = ((self.student, "student_modules"), (teacher.network, "teacher_modules"))
        return [
            FeatureCapture(
                network, [name for part in self.features for name in getattr(part, names)], "--model.features"
            )
            for network, names in networks
        ]

    def _choose_outputs(self, around: Surroundings) -> None:
        """Where the teacher's outputs come from, unless features make it run in every step anyway."""
        self._outputs = None
        if self.features and not isinstance(self.outputs, OnlineOutputs | None):
            raise ValueError(
                f"--model.outputs {type(self.outputs).__name__}: --model.features needs the teacher in every step; "
                "leave it null."
            )
        if self._uses_logits and not self.features:
            shape = _outputs_of(around.teacher.network, self.input_shape)
            count = torch.Size(shape[1:]).numel()
            self._outputs = self.outputs or automatic(around, count)
            self._outputs.check(around)
        if (self.objective.needs_subset or self.target.needs_subset) and not is_indexed(around.data):
            raise ValueError(
                "--model.objective or --model.target looks at the whole subset, and these data have no sample index; "
                "use DataFraction."
            )

    def _target(self, batch: ImageBatch) -> Tensor | None:
        """The teacher's logits, transformed: ``(B, K)``, of text ``(B * T, K)``; None if only features are wanted."""
        assert self._teacher is not None
        view, visit = batch["views"][0], self._visit(batch)
        logits = self._teacher(view) if self._outputs is None else self._outputs(view, batch["index"], visit)
        if not self._uses_logits:
            return None
        flat, label, index = flattened(logits, batch["label"], batch["index"])
        return self.target(flat, label, index, visit, self.objective.temperature)

    def _log_all(self, values: dict[str, Tensor]) -> None:
        """Logs values that all processes share."""
        self.log_dict({name: value.to(self.device) for name, value in values.items()}, sync_dist=True)

    def _measured_subset(self) -> dict[str, Tensor]:
        """The student on its own samples, un-augmented; as many batches as the trainer lets through in tests."""
        precision = self.trainer.precision_plugin
        self._measuring.start("subset", self.device)
        limit = self.trainer.limit_test_batches
        for batch in map(as_batch, _limited(self._data().subset_dataloader(), limit)):
            batch["views"] = [precision.convert_input(view) for view in batch["views"]]
            with precision.forward_context():
                self._measuring.add("subset", batch)
        return self._measuring.finish("subset")

    def _log_step(self, loss: Tensor, student: Tensor, target: Tensor | None, label: Tensor) -> None:
        with torch.no_grad():
            predicted = student.argmax(dim=1)
            values = {"loss": loss.detach(), "accuracy": (predicted == label).float().mean()}
            if target is not None:
                values["agreement"] = (predicted == target.argmax(dim=1)).float().mean()
                temperature = self.objective.temperature
                if temperature < float("inf"):
                    values["target_entropy"] = entropy(target.float() / temperature).mean()
        for name, value in values.items():
            self.log(f"train/{name}", value, prog_bar=name in ("loss", "accuracy"))

    def _detach(self) -> None:
        for capture in self._captures:
            capture.remove()
        self._captures = []


def _check(input_shape: Any, num_classes: Any, optimizer: Any, bias_weight_decay: float | None) -> None:
    """Refuses at the start what would fail once training is set up."""
    if input_shape is None or len(input_shape) not in (2, 3):
        raise ValueError("--model.input_shape: the data do not tell it; give [channels, height, width].")
    if not isinstance(num_classes, int) or num_classes < 2:
        raise ValueError(f"--model.num_classes {num_classes}: give at least 2.")
    if optimizer is None:
        raise ValueError("--model.optimizer null: a student needs an optimiser; give a class such as AdamW.")
    check_weight_decay(bias_weight_decay=bias_weight_decay)


def _check_views(data: Any) -> None:
    inner: Any = pool_of(data)
    if getattr_static(inner, "views", None) is None:  # text has none; a property that fails is not taken for that
        return
    if len(inner.views) != 1:
        option = "--data.views" if inner is data else "--data.data.views"
        raise ValueError(f"{option}: {len(inner.views)} views of a sample; KnowledgeDistillation takes one.")


def _outputs_of(network: nn.Module, shape: tuple[int, ...]) -> tuple[int, ...]:
    """Shape of what a network returns for one sample; the network is as it was afterwards."""
    anchor = next(iter(network.parameters()), torch.zeros(()))
    view = (
        torch.zeros(1, *shape, dtype=anchor.dtype) if len(shape) == 3 else torch.zeros(1, shape[1], dtype=torch.int64)
    )
    with torch.no_grad(), evaluation(network):
        outputs = network(view.to(anchor.device))
    return tuple(outputs.shape)


def _limited(batches: Iterable[Any], limit: int | float) -> Iterator[Any]:
    """As many batches as a trainer's limit lets through."""
    if isinstance(limit, float):
        limit = max(int(limit * len(batches)), 1) if limit else 0  # type: ignore[arg-type]
    return islice(batches, limit)
