"""Scores of masked sequence tasks: cross-entropy, token accuracy and sequence accuracy.

As functions, and as torchmetrics classes over them that add up over batches and processes. A position counts where the
mask is True; a sequence counts if it has such a position, and is right if it is right at all of them. That is the
metric of "Fixed-Point RNNs" (Movahedi et al., NeurIPS 2025), appendix D, but for the released code's scoring of BOS
and padding, which is a matter of the task's mask here.
"""

from collections.abc import Iterable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchmetrics import Metric

from dinopl.core.precision import at_least_float32


class Tally(NamedTuple):
    """A mean in two parts, scalars.

    Attributes:
        total: the sum.
        number: of what was summed.
    """

    total: Tensor
    number: Tensor


def masked_cross_entropy(logits: Tensor, targets: Tensor, mask: Tensor) -> Tally:
    """Cross-entropy in at least float32, summed over the mask.

    Args:
        logits: ``(B, T, C)``.
        targets: ``(B, T)`` int64.
        mask: ``(B, T)`` bool.
    """
    kept = targets.masked_fill(~mask, -100)
    total = F.cross_entropy(at_least_float32(logits).flatten(0, 1), kept.flatten(), ignore_index=-100, reduction="sum")
    return Tally(total, mask.sum())


def token_hits(predictions: Tensor, targets: Tensor, mask: Tensor) -> Tally:
    """Scored positions that are right, out of all scored; each ``(B, T)``."""
    return Tally(((predictions == targets) & mask).sum(), mask.sum())


def sequence_hits(predictions: Tensor, targets: Tensor, mask: Tensor) -> Tally:
    """Sequences that are right at every scored position, out of those with one; each ``(B, T)``."""
    counted = mask.any(1)
    right = ((predictions == targets) | ~mask).all(1)
    return Tally((right & counted).sum(), counted.sum())


def answer_tallies(logits: Tensor, targets: Tensor, mask: Tensor) -> dict[str, Tally]:
    """All three: ``loss``, ``token_accuracy`` and ``sequence_accuracy`` of logits ``(B, T, C)``."""
    predictions = logits.argmax(-1)
    return {
        "loss": masked_cross_entropy(logits, targets, mask),
        "token_accuracy": token_hits(predictions, targets, mask),
        "sequence_accuracy": sequence_hits(predictions, targets, mask),
    }


def add_up(tallies: Iterable[Tally]) -> Tally:
    """The mean over everything that several means are of."""
    totals, counts = zip(*tallies, strict=True)
    return Tally(torch.stack(totals).sum(), torch.stack(counts).sum())


class TallyMetric(Metric):
    """A mean over everything that it was shown, on every process; NaN before it was shown anything."""

    full_state_update = False
    total: Tensor
    number: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.add_state("total", torch.zeros(()), dist_reduce_fx="sum")
        self.add_state("number", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, tally: Tally) -> None:
        """Adds a sum and how many."""
        self.total = self.total + tally.total
        self.number = self.number + tally.number

    def compute(self) -> Tensor:
        """The mean so far, a scalar."""
        return self.total / self.number


class MaskedCrossEntropy(TallyMetric):
    """Mean of :func:`masked_cross_entropy` over scored positions."""

    def update(self, logits: Tensor, targets: Tensor, mask: Tensor) -> None:  # type: ignore[override]
        """Takes logits ``(B, T, C)``, targets and mask ``(B, T)``."""
        super().update(masked_cross_entropy(logits, targets, mask))


class MaskedTokenAccuracy(TallyMetric):
    """Share of scored positions that are right, see :func:`token_hits`."""

    def update(self, predictions: Tensor, targets: Tensor, mask: Tensor) -> None:  # type: ignore[override]
        """Takes predictions, targets and mask, ``(B, T)`` each."""
        super().update(token_hits(predictions, targets, mask))


class MaskedSequenceAccuracy(TallyMetric):
    """Share of sequences that are right at every scored position, see :func:`sequence_hits`."""

    def update(self, predictions: Tensor, targets: Tensor, mask: Tensor) -> None:  # type: ignore[override]
        """Takes predictions, targets and mask, ``(B, T)`` each."""
        super().update(sequence_hits(predictions, targets, mask))


class Scores(nn.ModuleDict):
    """Means by name, each made when it is first added to."""

    def add(self, name: str, tally: Tally) -> TallyMetric:
        """Adds to the mean of a name, on the tally's device, and returns it."""
        if name not in self:
            self[name] = TallyMetric().to(tally.total.device)
        metric = self[name]
        assert isinstance(metric, TallyMetric)
        metric.update(tally)
        return metric

    def reset(self) -> None:
        """Forgets all values."""
        for metric in self.values():
            assert isinstance(metric, TallyMetric)
            metric.reset()
