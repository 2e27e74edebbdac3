"""What a module takes as a batch of sequences."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from fprnn.tasks.task import SequenceBatch


def as_sequence_batch(batch: Any) -> SequenceBatch:
    """Tokens, targets and mask, from a mapping of these names or a sequence in this order; no mask scores everything.

    What else a mapping holds is kept.

    Raises:
        TypeError: if it is anything else.
    """
    if isinstance(batch, list | tuple) and 2 <= len(batch) <= 3:
        batch = dict(zip(("tokens", "targets", "mask"), batch, strict=False))
    if not isinstance(batch, Mapping) or not batch.keys() >= {"tokens", "targets"}:
        raise TypeError(f"a batch must hold tokens, targets and perhaps a mask; got {type(batch).__name__}")
    columns: Any = dict(batch)
    columns["targets"] = columns["targets"].long()
    columns["mask"] = columns.get("mask", torch.ones_like(columns["targets"])).bool()
    return columns


def check_range(kind: str, ids: Tensor, **count: int) -> None:
    """Refuses tokens or targets that the model has no row for; waits for their device.

    Args:
        kind: what one of the ids is.
        ids: integers of any shape.
        count: how many different ones the model knows, under the name of its argument.

    Raises:
        ValueError: if one is negative, or not below the count.
    """
    if not ids.numel():
        return
    ((name, known),) = count.items()
    least, most = (int(bound) for bound in ids.aminmax())
    if most >= known:
        raise ValueError(f"{name}={known}: too small for data with {kind} {most}; use {most + 1}, or correct the data")
    if least < 0:
        raise ValueError(
            f"{name}={known}: the data have {kind} {least}; number from 0 and mask what is not to be scored"
        )


def first_rows(batch: SequenceBatch, count: int | None) -> SequenceBatch:
    """The first rows of every column; None keeps all."""
    columns: Any = {name: column[:count] for name, column in batch.items()}  # type: ignore[index]
    return columns


def row_numbers(batch: Mapping[str, Any], rows: int, seen: int, rank: int, world_size: int) -> Tensor:
    """Which rows of the data set a batch holds, ``(rows,)``.

    Args:
        batch: may say it itself, under ``index``.
        rows: of the batch.
        seen: rows of the batches before it in this process.
        rank: this process, whose rows are every ``world_size``-th one, as Lightning's sampler shares them out.
        world_size: number of processes.
    """
    own: Tensor | None = batch.get("index")
    return torch.arange(seen, seen + rows) * world_size + rank if own is None else own
