"""Label training and distillation of a classifier, as one LightningModule.

"Revisiting Knowledge Distillation: The Hidden Role of Dataset Size" (Lanzillotta et al., arXiv 2510.15516). A student
is trained on labels or on a teacher's outputs, with the same samples, order and start, so that only the target differs.
A teacher is trained by the same module with the labels as its objective.

What differs from the first author's early code: the teacher is no part of the module, is identified by its content and
checked against its recorded accuracy; its outputs are kept by sample index only where they are those of every step up
to rounding; student and teacher are compared on the same un-augmented samples in one pass.
"""

from collections.abc import Callable, Iterable
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau
from torch.optim.optimizer import Optimizer

from dinopl.core.optimizer import check_weight_decay, parameter_groups
from dinopl.core.random import stream_seed
from dinopl.core.types import as_batch
from dinopl.data.indexed import check_no_probes, check_one_view
from dinopl.encoders.common import check_smallest_batch
from kd.features import FeatureObjective, PairedCapture
from kd.losses import LabelCrossEntropy, Objective
from kd.metrics import EvaluatedModule, Evaluation
from kd.metrics.evaluation import check_labels
from kd.networks import EncoderClassifier, as_shape, check_outputs, draw_classifier
from kd.targets import TargetTransform, WholeTeacher
from kd.teacher.frozen import (
    FAMILY,
    FrozenTeacher,
    Teacher,
    TrainingContext,
    check_identity,
    load_teacher,
    prepare_teacher,
)
from kd.teacher.outputs import OutputSource, choose_outputs, flattened, prepare_targets, visit_of


class KnowledgeDistillation(EvaluatedModule):
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
        teacher: where the teacher comes from; None for none, which objectives on labels alone do not need.
        objective: what the student minimises; by default the cross-entropy to the labels.
        target: what part of the teacher is used; by default all of it.
        features: objectives on features, which are added.
        outputs: where the teacher's outputs come from in training; None keeps them in memory where they
            depend on the sample alone, and computes them in every step otherwise.
        optimizer: makes the optimiser. It gets the parameters of the student and of maps between features, in two
            groups: weights, and biases with normalisation weights.
        lr_scheduler: makes the learning-rate schedule, such as WarmupCosine.
        lr_scheduler_interval: whether the schedule moves every optimiser step or every epoch.
        bias_weight_decay: weight decay of biases and normalisation weights; None leaves the optimiser's own.
        student_seed: of the student's start; None takes the stream "student" of the run's seed.
        measured_features: names of the student's and of the teacher's module whose outputs are compared in tests, with
            ``:input`` behind a name for what goes into it; None takes what goes into the last linear layers; an empty
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
        if optimizer is None:
            raise ValueError("optimizer=None: a student needs one; give a class such as AdamW")
        check_weight_decay(bias_weight_decay=bias_weight_decay)
        self.input_shape = as_shape(input_shape)
        self.num_classes = num_classes
        seed = stream_seed("student") if student_seed is None else student_seed
        self.student = draw_classifier(student, self.input_shape, num_classes, seed)
        self.objective = objective or LabelCrossEntropy()
        self.target = target or WholeTeacher()
        self.features = nn.ModuleList(features or [])
        if self.objective.needs_features and not features:
            raise ValueError(f"features=None: {type(self.objective).__name__} trains by them alone; give some")
        self.outputs = outputs
        self.bias_weight_decay = bias_weight_decay
        self.measured_features = measured_features
        self.measure_subset = measure_subset
        self.check_teacher = check_teacher
        self._compares_logits = self.objective.needs_teacher or not features
        self._teacher_source = teacher
        needs = [part for part in (*self.features, self.objective) if part.needs_teacher or part.needs_subset]
        self._teacher = load_teacher(teacher, needs, self.student, self.input_shape, num_classes)
        self._outputs: OutputSource | None = None
        self._capture: PairedCapture | None = None
        self._ready = False

    @property
    def teacher(self) -> FrozenTeacher | None:
        """The frozen teacher, which is no part of the module; None without one."""
        return self._teacher

    @property
    def _data(self) -> Any:
        return getattr(self.trainer, "datamodule", None)

    @property
    def _context(self) -> TrainingContext | None:
        """What the teacher is used in; None without a teacher."""
        if self._teacher is None:
            return None
        return TrainingContext(self._teacher, self.trainer, self._data, self.objective.temperature)

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
        """Prepares the teacher, and checks everything that depends on the data; a ValueError names the argument."""
        check_one_view(self._data)
        check_no_probes(self._data)
        context = self._context
        if not self._ready:
            check_outputs(self.student, self.input_shape, self.num_classes)
            if context is not None and self._teacher_source is not None:
                adapt, shape, classes = self.target.adapt_teacher, self.input_shape, self.num_classes
                options = {"compared": self._compares_logits, "check_accuracy": self.check_teacher}
                prepare_teacher(context, self._teacher_source, adapt, shape, classes, **options)
        network = None if context is None else context.teacher.network
        options = {"fidelity": self._compares_logits, "text": len(self.input_shape) == 2}
        self.evaluation = Evaluation(self.student, network, self.num_classes, self.measured_features, **options)
        if stage == "fit" and len(self.input_shape) == 3:
            check_smallest_batch(self.student, self.input_shape, self.trainer)
        if stage == "fit" and context is not None:
            if self.features:
                parts: Any = list(self.features)
                self._capture = PairedCapture(self.student, context.teacher.network, parts)
                if not self._ready:
                    self._capture.connect(self.input_shape)
            needs_subset = self.objective.needs_subset or self.target.needs_subset
            needed = self.objective.needs_teacher, bool(self.features), needs_subset
            self._outputs = choose_outputs(context, self.outputs, self.input_shape, *needed)
        self._ready = True

    def on_train_start(self) -> None:
        """Computes the teacher's outputs, and shows them to objective and target."""
        if (context := self._context) is not None:
            prepare_targets(context, self._outputs, self.objective, self.target)
        if self._capture is not None:
            self._capture.attach()

    def on_train_end(self) -> None:
        """Removes the hooks on features."""
        if self._capture is not None:
            self._capture.remove()

    def on_exception(self, exception: BaseException) -> None:
        """Removes the hooks on features."""
        self.on_train_end()

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        """The mean loss over samples (of text, over tokens), times the batch's share of the global batch.

        Raises:
            ValueError: if the target draws by index, and there is none.
        """
        batch = as_batch(batch)
        if batch_idx == 0 or batch["label"].device.type == "cpu":  # elsewhere it waits for the device
            check_labels(batch["label"], self.num_classes, needed=False)
        view, visit = batch["views"][0], visit_of(batch, self._data, self.current_epoch)
        logits = self.student(view)
        student, label, index = flattened(logits, batch["label"], batch["index"])
        target = None
        if self.objective.needs_teacher or self._capture is not None:
            assert self._teacher is not None
            taught = self._teacher(view) if self._outputs is None else self._outputs(view, batch["index"], visit)
            if self.objective.needs_teacher:
                if batch_idx == 0:
                    self.target.check_index(batch["index"])
                taught = flattened(taught, batch["label"], batch["index"])[0]
                target = self.target(taught, label, index, visit, self.objective.temperature)
        try:
            loss = self.objective(student, target, label).mean()
        except (IndexError, RuntimeError):  # perhaps since it reads labels, and there are none
            check_labels(label, self.num_classes, needed=True)
            raise
        if self._capture is not None:
            loss = loss + self._capture.loss()
        if (self.trainer.global_step + 1) % self.trainer.log_every_n_steps == 0:  # type: ignore[attr-defined]
            self.log_step(loss, student, target, label, self.objective.temperature)
        return self.weighted(loss, batch)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Marks the checkpoint with its family, and with the teacher that it learnt from."""
        super().on_save_checkpoint(checkpoint)
        ours = {"input_shape": list(self.input_shape), "num_classes": self.num_classes}
        teacher = None if self._teacher is None else self._teacher.fingerprint
        checkpoint["dinopl"].update(ours, teacher=teacher)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Takes up a checkpoint of the same family and, to train on, of the same teacher; ValueError otherwise."""
        super().on_load_checkpoint(checkpoint)
        ours = checkpoint.get("dinopl") or {}
        if self._trainer is None or not self._trainer.training:  # ``load_from_checkpoint`` has no trainer at all
            state = checkpoint["state_dict"]
            checkpoint["state_dict"] = {name: x for name, x in state.items() if not name.startswith("features.")}
        elif "teacher" in ours:
            check_identity(self._teacher, ours["teacher"])
