"""Features of whole splits, and the accuracy of probes on them, shared out among the processes of a run.

"Random Teachers are Good Teachers" (Sarnthein et al., ICML 2023), section 3: networks are in eval mode, without
gradients, and the first view is what they see. What differs from the reference: features stay on the device as float32
tensors, and a probe is trained once for all splits that it predicts. With several processes, each runs the networks on
every W-th batch of a split; the batches are those of one process, and so are the features. They are gathered once. Then
the processes share the queries of probes that only look neighbours up, and the other probes; what is added up are
numbers of correct predictions.
"""

import copy
import math
from collections.abc import Callable, Iterable, Mapping, Sequence, Sized
from itertools import islice
from typing import Any, NamedTuple, TypeVar

import torch
import torch.distributed as dist
from lightning.pytorch import Trainer
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset, SequentialSampler

from dinopl.core.divergences import tempered
from dinopl.core.types import as_batch
from dinopl.data.loader import ImageLoader
from dinopl.data.order import BatchSlice, EvalSampler
from dinopl.probes.base import Probe

T = TypeVar("T")


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
    return extract_several(lambda images: {"": embed(images)}, batches, device)[""]


def extract_several(
    outputs: Callable[[Tensor], Mapping[str, Tensor]],
    batches: Iterable[Any],
    device: torch.device,
    rank: int = 0,
    processes: int = 1,
) -> dict[str, Features]:
    """Several features of every sample at once, by name; the same on every process, each of which does its part.

    Args:
        outputs: maps ``(B, C, H, W)`` to tensors ``(B, ...)`` by name, such as :func:`network_outputs`.
        batches: as of :func:`extract_features`, the same on every process.
        device: likewise.
        rank: which process this is.
        processes: how many there are; more than one need torch's default process group.

    Raises:
        ValueError: if there is no batch.
    """

    def own() -> dict[str, list[Tensor]]:
        found: dict[str, list[Tensor]] = {}
        with torch.no_grad():
            for batch in map(as_batch, every_nth(batches, rank, processes)):
                values = {name: x.flatten(1).float() for name, x in outputs(batch["views"][0].to(device)).items()}
                for name, value in {**values, "label": batch["label"].to(device)}.items():
                    found.setdefault(name, []).append(value)
        return found

    parts = together(own, processes)
    if processes > 1:
        parts = gathered(parts, device, processes)
    if not parts:
        raise ValueError("a split to probe has no batches; give it at least one, or leave the split out")
    y = torch.cat(parts.pop("label"))
    return {name: Features(torch.cat(x), y) for name, x in parts.items()}


def network_outputs(network: nn.Module, images: Tensor, names: Iterable[str]) -> dict[str, Tensor]:
    """Outputs of a network by the names that probes give them.

    Args:
        network: with ``embed`` and, for outputs of the head, ``head``; without ``embed`` it is an encoder itself.
        images: ``(B, C, H, W)``.
        names: of ``encoder``, ``bottleneck`` and ``logits``.
    """
    embedding: Tensor = getattr(network, "embed", network)(images)
    head: Any = getattr(network, "head", None)
    makers = {"encoder": lambda x: x, "bottleneck": lambda x: head.bottleneck(x), "logits": lambda x: head(x)}
    return {name: makers[name](embedding) for name in names}


def compared_logits(module: nn.Module, side: str, logits: Tensor) -> Tensor:
    """Logits ``(B, m)`` as the module's loss compares them: less their centre, over their temperature.

    Args:
        module: with a ``loss`` whose attributes are ``{side}_centre`` and ``{side}_temperature``, as far as it has any.
        side: ``student`` or ``teacher``.
        logits: as the head returns them.
    """
    loss = getattr(module, "loss", None)
    return tempered(logits, getattr(loss, f"{side}_temperature", 1.0), getattr(loss, f"{side}_centre", None))


def check_outputs(network: nn.Module, probes: Iterable[Probe]) -> None:
    """Raises a ``ValueError`` that names the first probe of an output that a network does not have."""
    head = getattr(network, "head", None)
    for probe in probes:
        lacking = None
        if probe.features != "encoder" and head is None:
            lacking = "the network has no head"
        elif probe.features == "bottleneck" and not hasattr(head, "bottleneck"):
            lacking = f"the head {type(head).__name__} has no bottleneck"
        if lacking:
            raise ValueError(
                f"features={probe.features}: probe {probe.name!r} asks for it and {lacking}; probe the encoder"
            )


def accuracies(
    probes: Sequence[Probe],
    train: Features,
    splits: Mapping[str, Features],
    num_classes: int,
    seed: int,
    rank: int = 0,
    processes: int = 1,
) -> dict[str, dict[str, float]]:
    """Accuracy of every probe on every split.

    Args:
        probes: each is trained once and predicts all splits together.
        train: what the probes are trained on.
        splits: what they are judged on, by name.
        num_classes: number of classes.
        seed: given to each probe.
        rank: which process this is; all have the same features.
        processes: how many there are.

    Returns:
        ``{split: {probe: fraction of samples}}``; NaN throughout if a feature is not finite.
    """
    x, y = (torch.cat([split[column] for split in splits.values()]) for column in (0, 1))
    sizes = [len(split.x) for split in splits.values()]
    owner = torch.repeat_interleave(torch.arange(len(sizes)), torch.tensor(sizes)).to(y.device)
    if not (train.x.isfinite().all() and x.isfinite().all()):
        return {split: {probe.name: math.nan for probe in probes} for split in splits}

    def own() -> Tensor:
        """How many predictions of this process are right, by probe and split."""
        correct = torch.zeros(len(probes), len(sizes), dtype=torch.int64, device=x.device)
        for number, probe in enumerate(probes):
            mine = slice(None) if number % processes == rank else slice(0)
            if probe.splits_queries:
                mine = slice(len(x) * rank // processes, len(x) * (rank + 1) // processes)
            if len(x[mine]):
                right = probe.predict(train.x, train.y, x[mine], num_classes, seed) == y[mine]
                correct[number] = torch.bincount(owner[mine][right], minlength=len(sizes))
        return correct

    correct = together(own, processes)
    if processes > 1:
        dist.all_reduce(correct)
    return {
        split: {probe.name: int(correct[row, column]) / size for row, probe in enumerate(probes)}
        for column, (split, size) in enumerate(zip(splits, sizes, strict=True))
    }


def together(compute: Callable[[], T], processes: int) -> T:
    """What ``compute`` returns on this process; where it raises on any, all raise that, so that none waits."""
    errors: list[Exception | None] = [None] * processes
    try:
        result = compute()
    except Exception as error:
        errors[0] = error
    if processes > 1:
        dist.all_gather_object(errors, errors[0])
    for raised in errors:
        if raised is not None:
            raise raised
    return result


def gathered(parts: dict[str, list[Tensor]], device: torch.device, processes: int) -> dict[str, list[Tensor]]:
    """The batches of all processes in the order of their split: batch i is that of process ``i % processes``."""
    about: list[Any] = [None] * processes
    shapes = {name: (tuple(values[0].shape[1:]), values[0].dtype) for name, values in parts.items()}
    dist.all_gather_object(about, (shapes, [len(value) for value in parts.get("label", ())]))
    sizes = [lengths for _, lengths in about]
    longest, found = max(map(sum, sizes)), {}
    for name, (shape, dtype) in next((each for each, lengths in about if lengths), {}).items():
        padded = torch.zeros(longest, *shape, dtype=dtype, device=device)  # a collective takes equal shapes
        padded[: sum(map(len, parts.get(name, ())))] = torch.cat([padded[:0], *parts.get(name, ())])
        everyones = [torch.empty_like(padded) for _ in range(processes)]
        dist.all_gather(everyones, padded)
        pieces = [torch.split(every[: sum(lengths)], lengths) for every, lengths in zip(everyones, sizes, strict=True)]
        total = sum(map(len, sizes))
        found[name] = [pieces[number % processes][number // processes] for number in range(total)]
    return found


class EveryNth(EvalSampler):
    """Every ``processes``-th batch of another sampler, from batch ``rank`` on: the batches are the same ones.

    Args:
        whole: the sampler of all batches.
        rank: which process this is.
        processes: how many there are.
    """

    def __init__(self, whole: EvalSampler, rank: int, processes: int) -> None:
        super().__init__(whole.n, whole.batch_size, whole.rank, whole.world_size)
        self.first, self.every = rank, processes

    def _slices(self, start: int) -> list[BatchSlice]:
        return super()._slices(start)[self.first :: self.every]


def every_nth(batches: Iterable[Any], rank: int, processes: int) -> Iterable[Any]:
    """Batches ``rank``, ``rank + processes``, ... of a loader; of ours and of torch's, only those are read."""
    if processes == 1:
        return batches
    if isinstance(batches, ImageLoader) and type(batches.sampler) is EvalSampler:
        part = copy.copy(batches)
        part.sampler = EveryNth(batches.sampler, rank, processes)
        return part
    if isinstance(batches, DataLoader) and type(batches.sampler) is SequentialSampler and batches.batch_size:
        size, samples = batches.batch_size, len(batches.sampler)
        order = [list(range(low, min(low + size, samples))) for low in range(rank * size, samples, processes * size)]
        return DataLoader(
            batches.dataset, batch_sampler=order, num_workers=batches.num_workers, collate_fn=batches.collate_fn
        )
    return islice(batches, rank, None, processes)


def probe_loaders(trainer: Trainer, splits: Iterable[str], train: Any = None) -> dict[str, Iterable[Any]]:
    """Batches to probe, by split.

    They come from ``probe_dataloaders()`` of the data module; without that, from the loaders that the trainer holds.

    Args:
        trainer: within a run.
        splits: of "val" and "test".
        train: training loader of an earlier run, for a run that has none: the trainer forgets it after a fit.

    Returns:
        "train" and those of ``splits`` that exist and are not limited to 0 batches. Under ``fast_dev_run=n`` only the
        first n batches of each.
    """
    data = trainer.datamodule  # type: ignore[attr-defined]
    if hasattr(data, "probe_dataloaders"):
        loaders = data.probe_dataloaders()
    else:
        held = {
            "train": train if trainer.train_dataloader is None else trainer.train_dataloader,
            "val": trainer.val_dataloaders,
            "test": trainer.test_dataloaders,
        }
        loaders = {split: in_order(loader) for split, loader in held.items() if loader is not None}
    limits = {"train": 1, "val": trainer.limit_val_batches, "test": trainer.limit_test_batches}
    wanted = {split: loaders[split] for split in ("train", *splits) if split in loaders and limits[split] != 0}
    if batches := int(trainer.fast_dev_run):  # type: ignore[attr-defined]
        return {split: list(islice(loader, batches)) for split, loader in wanted.items()}
    return wanted


def in_order(loader: Any) -> Iterable[Any]:
    """A loader's whole data set in its order, whatever the sampler; the loader as it is where that is impossible.

    So a shuffled loader's generator is left alone, and one process sees what is otherwise spread over several.

    Raises:
        ValueError: if there are several loaders.
    """
    if isinstance(loader, list | tuple) and len(loader) == 1:
        loader = loader[0]
    if isinstance(loader, list | tuple | dict):
        raise ValueError(
            f"probes need one loader per split, got {len(loader)}; give a data module with probe_dataloaders()"
        )
    if not isinstance(loader, DataLoader) or isinstance(loader.dataset, IterableDataset) or loader.batch_size is None:
        return loader
    return DataLoader(loader.dataset, loader.batch_size, num_workers=loader.num_workers, collate_fn=loader.collate_fn)


def sample_count(loader: Any) -> int | None:
    """Number of samples of a loader; None where it is known only after running through it."""
    samples = loader.rows if isinstance(loader, ImageLoader) else getattr(loader, "dataset", None)
    return len(samples) if isinstance(samples, Sized) else None
