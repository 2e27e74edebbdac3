"""Random streams: each draw of a run has a name and a seed of its own, and augmentation a number for each sample.

A draw that shares a generator with others changes when an unrelated option consumes one number more. Here each draw
names its stream ("teacher", "student", "probe", ...) and is seeded by ``stream_seed(name)``; nothing else reads it.

In augmentation a generator's next number would also depend on batch composition, workers and processes. There each
sample has a 64-bit key, and each draw is a hash of that key (the finaliser of splitmix64: Steele, Lea and Flood, "Fast
splittable pseudorandom number generators", OOPSLA 2014). Only int64 operations are used, which wrap alike on every
device, so that the numbers are the same bits everywhere.
"""

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor


def stream_seed(name: str, root: int | None = None) -> int:
    """Seed of the stream ``name`` under the run's seed.

    Args:
        name: which draw this is for.
        root: the run's seed; by default the one that ``seed_everything`` (or ``torch.manual_seed``) set last.

    Returns:
        The first 63 bits of SHA-256 of ``root/name``: the same on every platform, independent between names.
    """
    root = torch.initial_seed() if root is None else root
    digest = hashlib.sha256(f"{root}/{name}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Runs a block under ``seed`` on the CPU generator, and leaves the global generator as it found it."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        yield


_BITS = 64
_MASK = (1 << _BITS) - 1


def _signed(value: int) -> int:
    """The int64 that has the bits of ``value`` modulo 2**64."""
    value &= _MASK
    return value - (1 << _BITS) if value >> (_BITS - 1) else value


_GOLDEN = _signed(0x9E3779B97F4A7C15)
_FIRST = _signed(0xBF58476D1CE4E5B9)
_SECOND = _signed(0x94D049BB133111EB)


def _shift(x: Tensor, bits: int) -> Tensor:
    """Shift right that fills with zeros; torch's own repeats the sign bit."""
    return (x >> bits) & ((1 << (_BITS - bits)) - 1)


def mix(x: Tensor) -> Tensor:
    """A bijection of int64 that turns counters into bits that look random; any shape."""
    x = (x ^ _shift(x, 30)) * _FIRST
    x = (x ^ _shift(x, 27)) * _SECOND
    return x ^ _shift(x, 31)


def sample_keys(seed: int, epoch: int | Tensor, index: Tensor) -> Tensor:
    """One key per sample, which changes from epoch to epoch.

    Args:
        seed: of the augmentation's stream.
        epoch: 0 for the first; one for all samples, or one each, ``(B,)`` int64.
        index: position of each sample in its data set, ``(B,)`` int64.

    Returns:
        Keys, ``(B,)`` int64, on the device of ``index``.
    """
    run = int(mix(torch.tensor(_signed(seed))))
    steps = torch.as_tensor(epoch, device=index.device) + 1
    return mix(index * _GOLDEN + mix(steps * _GOLDEN + run))


def derived_keys(keys: Tensor, first: int, count: int = 1) -> Tensor:
    """Keys for the draws ``first`` to ``first + count - 1``, independent of one another.

    Args:
        keys: ``(B,)`` int64.
        first: number of the first draw, from 0.
        count: how many.

    Returns:
        ``(count, B)`` int64.
    """
    draws = torch.arange(first + 1, first + 1 + count, device=keys.device)
    return mix(keys + draws[:, None] * _GOLDEN)


def uniform(keys: Tensor, first: int, count: int) -> Tensor:
    """The draws ``first`` to ``first + count - 1``, uniform in [0, 1) with 24 random bits: ``(count, B)`` float32."""
    return _shift(derived_keys(keys, first, count), 40).float() / (1 << 24)


def integers(keys: Tensor, first: int, highs: Sequence[int]) -> list[Tensor]:
    """The draws from ``first`` on, one for each bound, uniform on ``0..high-1``: ``(B,)`` int64 each.

    The bias is below ``high / 2**31``.
    """
    bits = _shift(derived_keys(keys, first, len(highs)), 33)
    return [row % high for row, high in zip(bits, highs, strict=True)]
