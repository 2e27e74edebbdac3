"""What tasks over a corpus share: where it lies, tokens in memory or in files, and an order that misses none of it.

A corpus is gone through in passes. Each pass has an order of its own, which follows from the seed and the pass's number
alone, and training sequence n is the n-th piece of all passes, one behind the other. So a sequence depends on nothing
but the seed, its number and its length, and none comes twice before all have come once.
"""

import os
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from dinopl.core.random import stream_seed
from fprnn.tasks.task import LengthRange, SequenceBatch, Streams, sequence_seeds

Integers = NDArray[np.int64]


def data_folder() -> Path:
    """Folder of all data sets: the environment's ``DINOPL_DATA``, or else ``./data``."""
    return Path(os.environ.get("DINOPL_DATA") or "data")


def find_path(option: str, path: str, remedy: str) -> Path:
    """A path as given, or else below the folder of all data sets.

    Raises:
        FileNotFoundError: if it is in neither place; the message names ``option``, both places and the ``remedy``.
    """
    given = Path(path).expanduser()
    below = data_folder() / given
    for candidate in (given, below):
        if candidate.exists():
            return candidate
    places = f"{given}" if given == below else f"{given}, nor at {below}"
    raise FileNotFoundError(f"{option}: nothing at {places}; {remedy}.")


def read_utf8(file: Path, named: str, remedy: str, encoding: str = "utf-8-sig") -> str:
    """The text of a file, by default without the byte-order mark that some editors put before it.

    Raises:
        ValueError: if it is not UTF-8; the message begins with ``named`` and ends with the ``remedy``.
    """
    try:
        return file.read_bytes().decode(encoding)
    except UnicodeDecodeError as error:
        raise ValueError(f"{named} is not UTF-8 (byte {error.start}); {remedy}") from None


class TokenStore:
    """Token numbers in one or more arrays, which may be mapped from files, as if they were one.

    Args:
        parts: arrays ``(N_i,)`` of integers.
    """

    def __init__(self, parts: Sequence[NDArray[Any]]) -> None:
        self.parts = [part for part in parts if len(part)]
        self._ends = np.cumsum([len(part) for part in self.parts], dtype=np.int64)

    def __len__(self) -> int:
        return int(self._ends[-1]) if self.parts else 0

    def cut(self, begin: int, end: int) -> "TokenStore":
        """The tokens ``begin .. end - 1``, not copied."""
        starts = self._ends - [len(part) for part in self.parts]
        return TokenStore(
            [part[max(begin - start, 0) : max(end - start, 0)] for part, start in zip(self.parts, starts, strict=True)]
        )

    def windows(self, starts: Integers, width: int) -> Integers:
        """The ``width`` tokens from each start on, ``(B, width)``.

        Args:
            starts: ``(B,)``; no window may reach beyond the end.
            width: tokens of a window.
        """
        windows = np.empty((len(starts), width), dtype=np.int64)
        for window, start in zip(windows, starts.tolist(), strict=True):
            number = int(np.searchsorted(self._ends, start, side="right"))
            filled = 0
            while filled < width:
                part = self.parts[number]
                offset = start + filled - int(self._ends[number]) + len(part)
                piece = part[offset : offset + width - filled]
                window[filled : filled + len(piece)] = piece
                filled, number = filled + len(piece), number + 1
        return windows


@lru_cache(maxsize=4)
def pass_order(stream: int, number: int, count: int) -> Integers:
    """Order of a pass: the numbers 0 .. count - 1, shuffled.

    Args:
        stream: seed of the training stream.
        number: which pass.
        count: pieces of a pass.
    """
    seeds = sequence_seeds(stream_seed(f"pass={number}", stream), 0, count)
    # One draw from each seed's generator, which is not kept: a text may have millions of windows.
    draws = np.array([np.random.default_rng(seed).integers(2**32) for seed in seeds.tolist()], dtype=np.int64)
    order: Integers = draws.argsort(kind="stable")
    order.flags.writeable = False  # shared by all callers
    return order


def window_starts(stream: int, first: int, count: int, total: int, length: int) -> Integers:
    """Where the training windows ``first .. first + count - 1`` of a text begin.

    A pass cuts the text into windows behind each other, from a random place on, and shuffles them.

    Args:
        stream: seed of the training stream.
        first: number of the first window.
        count: number of windows.
        total: tokens of the text, ``length + 1`` or more.
        length: tokens that a window is asked for; it reads one more.

    Returns:
        Starts ``(count,)`` between 0 and ``total - length - 1``.
    """
    per_pass = max((total - 1) // length - 1, 1)
    numbers, places = np.divmod(np.arange(first, first + count), per_pass)
    starts = np.empty(count, dtype=np.int64)
    for number in np.unique(numbers).tolist():
        seed = stream_seed(f"shift={number}", stream)
        shift = Streams(np.array([seed], dtype=np.uint64)).integers(0, total - per_pass * length, 1)[0, 0]
        rows = numbers == number
        starts[rows] = shift + length * pass_order(stream, number, per_pass)[places[rows]]
    return starts


def shortened(batch: SequenceBatch, stream: int, first: int, lengths: LengthRange) -> SequenceBatch:
    """Training sequences of random lengths: what is behind a sequence's end is not scored.

    Args:
        batch: sequences of the longest length, ``(B, T)``.
        stream: seed of the training stream.
        first: number of the first sequence.
        lengths: what each one's length is drawn from.
    """
    if lengths.shortest == lengths.longest:
        return batch
    seeds = sequence_seeds(stream_seed("length", stream), first, len(batch["tokens"]))
    length = Streams(seeds).integers(lengths.shortest, lengths.longest + 1, 1)
    mask = batch["mask"] & torch.from_numpy(np.arange(lengths.longest) < length)
    return {"tokens": batch["tokens"], "targets": batch["targets"] * mask, "mask": mask}
