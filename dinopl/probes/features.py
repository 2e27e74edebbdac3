"""Features of whole splits, and the accuracy of probes on them: no Lightning, only loaders, functions and tensors.

"Random Teachers are Good Teachers" (Sarnthein et al., ICML 2023), section 3: networks are in eval
mode, without gradients, and the first view is what they see. What differs from the reference: features stay on the
device as one float32 tensor, and a probe is trained once for all splits that it predicts.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from dinopl.core.types import as_batch
from dinopl.probes.base import Probe


class Features(NamedTuple):
    """Features of a split."""

    x: Tensor
    """``(N, D)`` float32."""
    y: Tensor
    """Classes, ``(N,)`` int64."""


def extract_features(embed: Callable[[Tensor], Tensor], batches: Iterable[Any], device: torch.device) -> Features:
    """Features of every sample, from its first view.

    Args:
        embed: maps ``(B, C, H, W)`` to ``(B, ...)``; what follows the first dimension is flattened.
        batches: image batches, as dicts or as images with labels.
        device: where images are moved, and where the features stay.

    Raises:
        ValueError: if there is no batch.
    """
    x, y = [], []
    with torch.no_grad():
        for batch in map(as_batch, batches):
            x.append(embed(batch["views"][0].to(device)).flatten(1).float())
            y.append(batch["label"].to(device))
    if not x:
        raise ValueError("a split to probe has no batches; give it at least one, or leave the split out")
    return Features(torch.cat(x), torch.cat(y))


def accuracies(
    probes: Sequence[Probe], train: Features, splits: Mapping[str, Features], num_classes: int, seed: int
) -> dict[str, dict[str, float]]:
    """Accuracy of every probe on every split.

    Args:
        probes: each is trained once and predicts all splits together.
        train: what the probes are trained on.
        splits: what they are judged on, by name.
        num_classes: number of classes.
        seed: given to each probe.

    Returns:
        ``{split: {probe: fraction of samples}}``; NaN throughout if a feature is not finite.
    """
    x = torch.cat([split.x for split in splits.values()])
    sizes = [len(split.x) for split in splits.values()]
    result: dict[str, dict[str, float]] = {name: {} for name in splits}
    finite = bool(train.x.isfinite().all() and x.isfinite().all())
    for probe in probes:
        if not finite:
            result = {split: {**found, probe.name: math.nan} for split, found in result.items()}
            continue
        predicted = torch.split(probe.predict(train.x, train.y, x, num_classes, seed), sizes)
        for (name, split), classes in zip(splits.items(), predicted, strict=True):
            result[name][probe.name] = int((classes == split.y).sum()) / len(split.y)
    return result
