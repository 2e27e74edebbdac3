"""Transforms that take away what the teacher says about the single sample: class means, other samples' outputs.

The class mean is the class-level knowledge of "Understanding and Improving Knowledge Distillation" (Tang et al., 2020).
"""

import math
from typing import Literal

import torch
from torch import Tensor

from dinopl.core.precision import at_least_float32
from dinopl.core.random import stream_seed
from kd.losses.base import TeacherOutputs
from kd.targets.base import TargetTransform, Visit, visit_keys


def class_means(outputs: TeacherOutputs, temperature: float) -> Tensor:
    """Logits whose softmax at a temperature is the mean of the teacher's, over the samples of each label.

    Returns:
        ``(C, C)`` in float64, one row a label; each row has the mean of the logits' mean. For infinite temperature the
        mean of the logits themselves, the limit of large T. Rows of labels that do not occur are NaN.
    """
    num_classes = outputs.logits.shape[1]
    logits, probs = (outputs.logits.new_zeros(num_classes, num_classes, dtype=torch.float64) for _ in range(2))
    for part in outputs.parts():
        logits.index_add_(0, part.label, part.logits.double())
        probs.index_add_(0, part.label, torch.softmax(part.logits.double() / temperature, dim=1))
    counts = torch.bincount(outputs.label, minlength=num_classes)[:, None]
    mean = logits / counts
    if math.isinf(temperature):
        return mean
    pooled = temperature * (probs / counts).clamp_min(torch.finfo(torch.float64).tiny).log()
    return pooled - pooled.mean(dim=1, keepdim=True) + mean.mean(dim=1, keepdim=True)


def partners(keys: Tensor, group: Tensor) -> Tensor:
    """Whose output each sample gets: a random cycle through each group, so that each is given away once.

    Keys ``(M,)`` decide the order within groups ``(M,)``. The result is positions, ``(M,)`` int64; a sample gets its
    own output only where it is alone in its group.
    """
    order = keys.argsort(stable=True)
    order = order[group[order].argsort(stable=True)]
    ordered = group[order]
    following = order.roll(-1)
    # the last of each group is followed by the first of its own; both come in the order of the groups
    following[ordered != ordered.roll(-1)] = order[ordered != ordered.roll(1)]
    return torch.empty_like(order).scatter(0, order, following)


class ClassMean(TargetTransform):
    """The teacher's mean output over the samples of the same label.

    Args:
        of: mean of the ``logits``, or of the ``probs`` at the objective's temperature.
    """

    needs_subset = True

    def __init__(self, of: Literal["logits", "probs"] = "logits") -> None:
        self.of: Literal["logits", "probs"] = of
        self._means: Tensor | None = None

    def prepare(self, outputs: TeacherOutputs, temperature: float) -> None:
        """Averages over the subset."""
        self._means = class_means(outputs, temperature if self.of == "probs" else math.inf)

    def __call__(self, teacher: Tensor, label: Tensor, index: Tensor, visit: Visit, temperature: float) -> Tensor:
        """The mean of each sample's label."""
        if self._means is None:
            raise RuntimeError("call prepare() before the first step: ClassMean averages over the subset")
        if self._means.device != label.device:
            self._means = self._means.to(label.device)
        return self._means[label].to(at_least_float32(teacher).dtype)


class ShuffledSamples(TargetTransform):
    """The teacher's output on another sample of the subset, un-augmented; each output is used once.

    Args:
        within_class: take it from the samples of the same label. One that is alone with its label keeps its own.
        per_visit: draw again at each visit.
        seed: of the pairing; None takes the stream "target/samples" of the run's seed.
    """

    needs_subset = needs_index = True

    def __init__(self, within_class: bool = True, per_visit: bool = False, seed: int | None = None) -> None:
        self.within_class = within_class
        self.per_visit = per_visit
        self.seed = stream_seed("target/samples") if seed is None else seed
        self._outputs: TeacherOutputs | None = None
        self._partners: tuple[int, Tensor] | None = None

    def prepare(self, outputs: TeacherOutputs, temperature: float) -> None:
        """Keeps the outputs, in the order of the index and where they are: on the CPU they may be a mapped file."""
        order = outputs.index.argsort()
        self._outputs = TeacherOutputs(outputs.logits, outputs.label[order], outputs.index[order])
        self._order = order
        self._partners = None

    def __call__(self, teacher: Tensor, label: Tensor, index: Tensor, visit: Visit, temperature: float) -> Tensor:
        """The logits of each sample's partner; ValueError if a sample is not in the subset."""
        if self._outputs is None:
            raise RuntimeError("call prepare() before the first step: ShuffledSamples draws from the subset")
        known = self._outputs.index
        index = index.to(known.device)
        position = torch.searchsorted(known, index).clamp_max(len(known) - 1)
        if not torch.equal(known[position], index):
            raise ValueError(
                f"index={index.tolist()[:4]}...: not all are in the subset that ShuffledSamples was prepared with"
            )
        visits = torch.as_tensor(visit if self.per_visit else 0, device=known.device).expand(len(index))
        chosen = position.clone()
        for number in torch.unique(visits).tolist():
            here = visits == number
            if self._partners is None or self._partners[0] != number:  # the pairing of the last visit is kept
                group = self._outputs.label if self.within_class else torch.zeros_like(known)
                self._partners = number, partners(visit_keys(self.seed, known, number), group)
            chosen[here] = self._partners[1][position[here]]
        logits = self._outputs.logits[self._order[chosen]]
        return at_least_float32(logits).to(teacher.device)
