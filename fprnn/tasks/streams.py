"""Random streams of sequences: the numbers of ``numpy.random.default_rng(seed)``, for many seeds in one go.

Every sequence of a task is a pure function of a seed of its own, so that it depends neither on the batch nor on the
process it is drawn in. Making a numpy generator costs about 15 microseconds, more than a model needs for a short
sequence; ``Streams`` computes the same bits for a whole batch with array arithmetic: numpy's ``SeedSequence``, PCG64
(O'Neill, 2014: a 128-bit linear congruential generator, output by xor-shift and rotation), Lemire's bounded integers.
"""

import hashlib
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

Words = NDArray[np.uint64]
"""Unsigned 64-bit numbers of any shape; seeds are ``(B,)``."""

_MASK32, _MASK128 = 2**32 - 1, 2**128 - 1
_MULTIPLIER = 0x2360ED051FC65DA44385DF649FCCF645  # of PCG64


def stream_seed(name: str, root: int | None = None) -> int:
    """Seed of the stream ``name`` under the run's seed.

    Args:
        name: which draw this is for.
        root: the run's seed; by default the one that ``seed_everything`` (or ``torch.manual_seed``) set last.

    Returns:
        The first 63 bits of SHA-256 of ``root/name``: the same on every platform, independent between names.
    """
    root = torch.initial_seed() if root is None else root
    return int.from_bytes(hashlib.sha256(f"{root}/{name}".encode()).digest()[:8], "big") >> 1


def sequence_seeds(stream: int, first: int, count: int) -> Words:
    """Seeds of the sequences ``first .. first + count - 1`` of a stream, ``(count,)``.

    They are consecutive, as in the data sets of the formal languages; ``SeedSequence`` makes neighbours independent.
    """
    seeds: Words = np.arange(count, dtype=np.uint64)
    seeds += np.array((stream + first) % 2**64, dtype=np.uint64)
    return seeds


class Streams:
    """One ``numpy.random.default_rng`` per seed, drawn from side by side.

    Args:
        seeds: one seed per stream, ``(B,)``.
    """

    def __init__(self, seeds: Words) -> None:
        self.seeds = np.asarray(seeds, dtype=np.uint64)
        self._pcg = _pcg64(self.seeds)
        self._used = 0  # 32-bit draws taken so far; the same in every row, but for those in _retried
        self._calls: list[tuple[int, int, int]] = []
        self._retried: dict[int, np.random.Generator] = {}

    def integers(self, low: int, high: int, count: int) -> NDArray[np.int64]:
        """What ``default_rng(seed).integers(low, high, size=count)`` draws next, for each seed.

        Args:
            low: smallest value.
            high: one more than the largest value; ``high - low`` is at most 2**32.
            count: draws per seed.

        Returns:
            Integers ``(B, count)``.
        """
        self._calls.append((low, high, count))
        span = high - low
        if span == 1:  # numpy draws nothing where there is nothing to choose
            return np.full((len(self.seeds), count), low, dtype=np.int64)
        product = self._draws32(count) * np.uint64(span)
        values = (product >> np.uint64(32)).astype(np.int64) + low
        # Lemire's method draws again where the lower half falls below 2**32 mod span: once in 10**8 for small spans.
        rejected = (product & np.uint64(_MASK32)) < np.uint64(2**32 % span)
        self._retry(values, np.flatnonzero(rejected.any(axis=1)))
        return values

    def _draws32(self, count: int) -> Words:
        """The next 32-bit draws: halves of PCG64's outputs, the lower one first."""
        first, last = self._used // 2, (self._used + count + 1) // 2
        outputs = _outputs(self._pcg, first, last - first)
        halves = np.stack([outputs & np.uint64(_MASK32), outputs >> np.uint64(32)], axis=-1)
        halves = halves.reshape(len(outputs), 2 * (last - first))
        start = self._used - 2 * first
        self._used += count
        return halves[:, start : start + count]

    def _retry(self, values: NDArray[np.int64], rows: NDArray[np.int64]) -> None:
        """Lets numpy itself draw the rows that rejected a draw, now and from now on."""
        low, high, count = self._calls[-1]
        for row, generator in self._retried.items():
            values[row] = generator.integers(low, high, size=count)
        for row in rows:
            if int(row) not in self._retried:
                generator = self._retried[int(row)] = np.random.default_rng(int(self.seeds[row]))
                values[row] = [generator.integers(a, b, size=n) for a, b, n in self._calls][-1]


class _Wide(NamedTuple):
    """128-bit numbers as two arrays of 64 bits."""

    high: Words
    low: Words

    def __add__(self, other: "_Wide") -> "_Wide":  # type: ignore[override]
        low = self.low + other.low
        return _Wide(self.high + other.high + (low < other.low), low)

    def __mul__(self, other: "_Wide") -> "_Wide":  # type: ignore[override]
        high = _multiply_high(self.low, other.low) + self.high * other.low + self.low * other.high
        return _Wide(high, self.low * other.low)


class _Pcg(NamedTuple):
    state: _Wide
    increment: _Wide


def _multiply_high(a: Words, b: Words) -> Words:
    """Upper 64 bits of the 128-bit product, by schoolbook multiplication of 32-bit halves."""
    mask, half = np.uint64(_MASK32), np.uint64(32)
    a_high, a_low, b_high, b_low = a >> half, a & mask, b >> half, b & mask
    middle = a_high * b_low + ((a_low * b_low) >> half)
    high: Words = a_high * b_high + (middle >> half) + ((a_low * b_high + (middle & mask)) >> half)
    return high


def _wide(*numbers: int) -> _Wide:
    return _Wide(
        np.array([n >> 64 for n in numbers], dtype=np.uint64), np.array([n % 2**64 for n in numbers], dtype=np.uint64)
    )


@lru_cache(maxsize=256)
def _jumps(first: int, count: int) -> tuple[_Wide, _Wide]:
    """Factors of state and increment in the state after ``first + 1 .. first + count`` steps, each ``(count,)``."""
    power = pow(_MULTIPLIER, first, 2**128)
    # 1 + M + ... + M**(first - 1) = (M**first - 1) / (M - 1): divided before it is reduced, hence the larger modulus
    total = (pow(_MULTIPLIER, first, 2**128 * (_MULTIPLIER - 1)) - 1) // (_MULTIPLIER - 1)
    powers, totals = [], []
    for _ in range(count):
        power, total = power * _MULTIPLIER & _MASK128, (total * _MULTIPLIER + 1) & _MASK128
        powers.append(power)
        totals.append(total)
    return _wide(*powers), _wide(*totals)


def _outputs(pcg: _Pcg, first: int, count: int) -> Words:
    """Outputs ``first .. first + count - 1`` of each generator, ``(B, count)``."""
    powers, totals = _jumps(first, count)
    state, increment = (_Wide(part.high[:, None], part.low[:, None]) for part in pcg)
    high, low = powers * state + totals * increment
    mixed, turn = high ^ low, high >> np.uint64(58)
    return np.bitwise_or(mixed >> turn, mixed << ((np.uint64(64) - turn) & np.uint64(63)))


def _pcg64(seeds: Words) -> _Pcg:
    """State and increment of ``PCG64(seed)``, ``(B,)`` each."""
    state_high, state_low, stream_high, stream_low = _seed_state(seeds)
    one = np.uint64(1)
    increment = _Wide((stream_high << one) | (stream_low >> np.uint64(63)), (stream_low << one) | one)
    return _Pcg((increment + _Wide(state_high, state_low)) * _wide(_MULTIPLIER) + increment, increment)


def _seed_state(seeds: Words) -> list[Words]:
    """``SeedSequence(seed).generate_state(4, uint64)``, as four arrays ``(B,)``."""
    constants = _hash_constants(0x43B0D7E5, 0x931E8875, 16)
    pool = np.zeros((4, len(seeds)), dtype=np.uint32)
    pool[0], pool[1] = seeds & np.uint64(_MASK32), seeds >> np.uint64(32)
    pool = _hash(pool, constants[:5])
    for source in range(4):
        hashed = _hash(pool[source], constants[4 + 3 * source : 8 + 3 * source])
        others = [target for target in range(4) if target != source]
        mixed = pool[others] * np.uint32(0xCA01F9DD) - hashed * np.uint32(0x4973F715)
        pool[others] = mixed ^ (mixed >> np.uint32(16))
    words = _hash(np.concatenate([pool, pool]), _hash_constants(0x8B51F9DD, 0x58F38DED, 8)).astype(np.uint64)
    return list(words[::2] | (words[1::2] << np.uint64(32)))


def _hash(value: NDArray[np.uint32], constants: NDArray[np.uint32]) -> NDArray[np.uint32]:
    """The ``hashmix`` of numpy, row by row: row i is xored with constant i and multiplied by constant i + 1."""
    value = (value ^ constants[:-1]) * constants[1:]
    return value ^ (value >> np.uint32(16))


@lru_cache(maxsize=2)
def _hash_constants(start: int, factor: int, count: int) -> NDArray[np.uint32]:
    """``start * factor**i`` for i = 0 .. count, ``(count + 1, 1)``."""
    return np.array([[start * pow(factor, i, 2**32) & _MASK32] for i in range(count + 1)], dtype=np.uint32)
