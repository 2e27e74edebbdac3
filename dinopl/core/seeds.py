"""Named random streams: every draw of a run has a seed of its own, derived from one number.

A draw that shares a generator with others changes when an unrelated option consumes one number more. Here each draw
names its stream ("teacher", "student", "probe", ...) and is seeded by ``stream_seed(name)``; nothing else reads it.
"""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

import torch


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
