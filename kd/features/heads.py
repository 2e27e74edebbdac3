"""Linear retraining: a new head on a frozen backbone, which shows whether a gain is in the features or in the head.

"Revisiting Knowledge Distillation: The Hidden Role of Dataset Size", the experiment that refits the heads of students
on the whole pool. Two recipes, both of the authors' early code: L2 logistic regression, here solved to convergence and
not stopped after 100 iterations; and SGD in steps of ten epochs, to labels or to any other objective.
"""

import copy
from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import SGD
from torch.optim.lr_scheduler import StepLR

from dinopl.core.precision import at_least_float32
from dinopl.core.random import seeded, stream_seed
from kd.features.capture import batches_with_features
from kd.losses.base import Objective
from kd.losses.labels import LabelCrossEntropy


class HeadFit(ABC):
    """How a linear head is fitted to features."""

    @abstractmethod
    def __call__(self, features: Tensor, label: Tensor, num_classes: int, teacher: Tensor | None = None) -> nn.Linear:
        """A head, ``(B, D)`` to ``(B, C)``, on the features' device.

        Args:
            features: ``(N, D)``.
            label: ``(N,)`` int64.
            num_classes: C.
            teacher: the teacher's logits ``(N, C)``, for objectives that read them.
        """


class LogisticHead(HeadFit):
    """L2-penalised multinomial logistic regression, solved to convergence on the CPU in float64.

    Args:
        inverse_penalty: scikit-learn's ``C``: larger values penalise less.
        max_iter: iterations at which the solver gives up, with scikit-learn's ``ConvergenceWarning``.
    """

    def __init__(self, inverse_penalty: float = 1.0, max_iter: int = 10_000) -> None:
        self.inverse_penalty = inverse_penalty
        self.max_iter = max_iter

    def __call__(self, features: Tensor, label: Tensor, num_classes: int, teacher: Tensor | None = None) -> nn.Linear:
        """See :class:`HeadFit`; ValueError if a class has no sample."""
        from sklearn.linear_model import LogisticRegression

        solver = LogisticRegression(C=self.inverse_penalty, max_iter=self.max_iter)
        solver.fit(features.double().cpu().numpy(), label.cpu().numpy())
        weight, bias = torch.as_tensor(solver.coef_), torch.as_tensor(solver.intercept_)
        if len(solver.classes_) == 2:  # scikit-learn keeps one row: the second class's logit over the first's
            weight, bias = torch.cat([-weight, weight]) / 2, torch.cat([-bias, bias]) / 2
        if len(weight) != num_classes:
            raise ValueError(
                f"a head for {num_classes} classes needs samples of each, got {len(solver.classes_)} classes"
            )
        head = nn.Linear(features.shape[1], num_classes, dtype=torch.float64).requires_grad_(False)
        head.weight.copy_(weight)
        head.bias.copy_(bias)
        return head.to(features.device, at_least_float32(features).dtype)


class SGDHead(HeadFit):
    """A linear layer trained with plain SGD for a fixed number of epochs.

    Args:
        objective: what it minimises; by default the cross-entropy to the labels.
        lr: learning rate, divided by ten after every third of the epochs.
        epochs: passes over the features.
        batch_size: samples per step.
        seed: of initialisation and order; None takes the stream "head" of the run's seed.
    """

    def __init__(
        self,
        objective: Objective | None = None,
        lr: float = 0.1,
        epochs: int = 30,
        batch_size: int = 256,
        seed: int | None = None,
    ) -> None:
        self.objective = objective or LabelCrossEntropy()
        self.lr = lr
        self.epochs = epochs
        self.batch_size = batch_size
        self.seed = stream_seed("head") if seed is None else seed

    def __call__(self, features: Tensor, label: Tensor, num_classes: int, teacher: Tensor | None = None) -> nn.Linear:
        """See :class:`HeadFit`; ValueError if the objective needs a teacher and there is none."""
        features = at_least_float32(features)
        generator = torch.Generator().manual_seed(self.seed)
        with seeded(self.seed):
            head = nn.Linear(features.shape[1], num_classes).to(features)
        optimizer = SGD(head.parameters(), lr=self.lr)
        schedule = StepLR(optimizer, step_size=max(self.epochs // 3, 1), gamma=0.1)
        for _ in range(self.epochs):
            order = torch.randperm(len(features), generator=generator).to(features.device)
            for start in range(0, len(order), self.batch_size):
                batch = order[start : start + self.batch_size]
                target = None if teacher is None else teacher[batch]
                optimizer.zero_grad()
                self.objective(head(features[batch]), target, label[batch]).mean().backward()
                optimizer.step()
            schedule.step()
        return head.requires_grad_(False)


def refit_head(
    network: nn.Module,
    head: str,
    batches: Iterable[Any],
    num_classes: int,
    fit: HeadFit | None = None,
    teacher: nn.Module | None = None,
) -> nn.Module:
    """A copy of a network with its head replaced by one that is fitted on the frozen rest.

    Args:
        network: left as it is; it is run in eval mode.
        head: dotted name of the head, whose input ``(B, D)`` are the features.
        batches: image batches of the pool, un-augmented, on the network's device.
        num_classes: C.
        fit: how; by default :class:`LogisticHead`.
        teacher: maps images to logits, for a fit that reads them.

    Raises:
        ValueError: if there is no such module, or its input is not one vector per sample.
    """
    features: list[Tensor] = []
    labels: list[Tensor] = []
    logits: list[Tensor] = []
    for batch, found in batches_with_features(network, f"{head}:input", batches, "head"):
        features.append(found)
        labels.append(batch["label"])
        if teacher is not None:
            with torch.no_grad():
                logits.append(teacher(batch["views"][0]))
    if features[0].ndim != 2:
        raise ValueError(
            f"head={head}: gets {tuple(features[0].shape[1:])} per sample, not a vector; name the last layer"
        )
    with torch.enable_grad():
        new = (fit or LogisticHead())(
            torch.cat(features), torch.cat(labels), num_classes, torch.cat(logits) if logits else None
        )
    network = copy.deepcopy(network)
    network.set_submodule(head, new)
    return network
