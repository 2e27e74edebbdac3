"""Results for the distillation study from the networks of finished runs: refitted heads, features, risk estimates.

Each run is read from its folder: student and data are those of its configuration, the teacher is read from the path
that the run used. ``kd_study.py`` makes tables of the results.
"""

from collections.abc import Iterator, Sequence
from itertools import combinations
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from dinopl.core.random import stream_seed
from dinopl.reports import Run
from kd.features import collect_features, refit_head
from kd.metrics import cka, cka_matrix, feature_alignment
from kd.networks import build, draw_classifier, penultimate
from kd.samplers import SelectedSampler
from kd.teacher import RunTeacher, count_correct
from kd.theory import risk_moments

ALIGNED = 2000  # samples, of text tokens, on which students' features are compared at most
Row = dict[str, Any]


def student_of(run: Run) -> tuple[nn.Module, Any]:
    """A finished run's student, and its data."""
    data = build(run.config["data"])
    data.setup("test")
    network, _, _ = RunTeacher(str(run.path)).load(data.input_shape, data.num_classes)
    return network.eval(), data


def features_of(student: nn.Module, run: Run) -> str:
    """Name of what goes into a student's last linear layer."""
    name = penultimate(student)
    if name is None:
        raise SystemExit(f"{run.path}: its student has no linear layer, so there are no features to compare")
    return name


def refitted(run: Run) -> Row:
    """Accuracies of a student with its own head, and with one that is fitted on the whole pool."""
    student, data = student_of(run)
    sampler = SelectedSampler(torch.arange(data.num_train), data.eval_batch_size)
    batches = data.indexed_loader(sampler, augment=False, label=data.train_label)
    refit = refit_head(student, features_of(student, run).removesuffix(":input"), batches, data.num_classes)
    (own, total), (new, _) = (count_correct(net, data.test_dataloader()) for net in (student, refit))
    return {"accuracy": own / total, "refit_accuracy": new / total}


class Featured(NamedTuple):
    """A finished student's outputs on the test split."""

    name: str
    """Of its curve."""
    seed: int | None
    """Of its run."""
    features: Tensor
    """What goes into its last linear layer, ``(n, d)``."""
    start: Tensor
    """The same before its training."""


def featured(name: str, run: Run) -> Featured:
    """The features of a run's student, trained and at its start."""
    student, data = student_of(run)
    model = run.config["model"]["init_args"]
    seed = model.get("student_seed")
    seed = stream_seed("student", run.seed) if seed is None else seed
    start = draw_classifier(lambda *shape: build(model["student"], *shape), data.input_shape, data.num_classes, seed)
    layer = features_of(student, run)
    found = [collect_features(network, layer, data.test_dataloader()).double() for network in (student, start)]
    rows = torch.linspace(0, len(found[0]) - 1, min(ALIGNED, len(found[0]))).long()  # evenly over the split
    return Featured(name, run.seed, *(features[rows] for features in found))


def pair_rows(students: Sequence[Featured]) -> Iterator[Row]:
    """CKA of every two students, and of each with its own start, where features can be compared one by one."""
    for student in students:
        both = student.features, student.start
        row = {"first": student.name, "first_seed": student.seed, "second": "own start", "second_seed": student.seed}
        yield row | {"cka": float(cka(*both)), "feature_alignment": float(feature_alignment(*both))}
    matrix = cka_matrix([student.features for student in students])
    for (i, one), (j, other) in combinations(enumerate(students), 2):
        row = {"first": one.name, "first_seed": one.seed, "second": other.name, "second_seed": other.seed}
        yield row | {"cka": float(matrix[i, j]), "feature_alignment": float("nan")}


def logits_of(run: Run) -> tuple[Tensor, Tensor, Tensor]:
    """Logits of a run's student and teacher on the test split, ``(n, C)`` each, and the labels ``(n,)``."""
    student, data = student_of(run)
    source = build(run.config["model"]["init_args"]["teacher"])
    teacher = source.load(data.input_shape, data.num_classes)[0].eval()
    found = []
    with torch.no_grad():
        for batch in data.test_dataloader():
            view = batch["views"][0]
            found.append((*(network(view).flatten(0, -2) for network in (student, teacher)), batch["label"].flatten()))
    ours, theirs, label = (torch.cat(part) for part in zip(*found, strict=True))
    return ours, theirs, label


def risk_rows(student: Tensor, teacher: Tensor, label: Tensor) -> Iterator[Row]:
    """How well a teacher's outputs estimate a student's cross-entropy on labels, at several temperatures.

    The reference is the risk on the labels of the same samples. With fewer samples than ``better_below`` the teacher's
    estimate has the smaller error; with more, its bias outweighs its smaller variance.
    """
    losses = -torch.log_softmax(student.double(), dim=1)
    truth = torch.nn.functional.one_hot(label, student.shape[1])
    for temperature in (1, 2, 4, 20):
        found = risk_moments(losses, truth, torch.softmax(teacher.double() / temperature, dim=1))
        saved = found.label_variance - found.teacher_variance
        row: Row = {"temperature": temperature, "risk": found.risk, "bias": found.bias}
        row |= {"label_variance": found.label_variance, "teacher_variance": found.teacher_variance}
        yield row | {"better_below": max(saved, 0.0) / found.bias**2 if found.bias else float("inf")}
