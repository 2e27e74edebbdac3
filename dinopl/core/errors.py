"""Errors that several parts share: a user's mistake, a run that diverged; the nearest name; checks of sizes."""

import difflib
import math
import re
from collections.abc import Iterable

MOST = 10**9  # of a size; a smaller one that exceeds the memory fails when the memory is asked for
MOST_PARTS = 10**4  # layers or factors, which are built one by one
MOST_NAMES = 10**7  # tokens of a vocabulary, which are named one by one
LONGEST = 1000  # characters of a message: a value may have any length, and the remedy stands at the end


class UserMistake(Exception):  # noqa: N818 - a mistake, not a failure of the program
    """What the user can correct: the command prints the message and exits with 2."""

    def __init__(self, message: str) -> None:
        line = "".join(c if c.isprintable() else "?" for c in " ".join(message.split()))  # no terminal's commands
        super().__init__(line if len(line) <= LONGEST else f"{line[: LONGEST - 300]} [...] {line[-290:]}")


class DivergenceError(FloatingPointError, RuntimeError):
    """The loss, the gradient or the state of a run is no longer finite, or a solver's states grow without end."""


class DataError(ValueError):
    """Data on the disk that cannot be used, found where they are read, which may be in mid-training."""


class ProcessDied(RuntimeError):  # noqa: N818 - what has happened
    """Another process of a run has ended, and this one cannot go on alone."""


def did_you_mean(word: str, names: Iterable[str]) -> str:
    """``"; did you mean 'x'?"`` for the nearest of ``names``; a full stop where none is near.

    Where no whole name is near, one whose last part is: ``model.student.alpha`` for ``alpha``.
    """
    known = list(names)
    near = [name for name in known if name.lower() == word.lower()][:1]
    if not near:  # of equally near ones the first in the alphabet: VGG11 for VGG1
        near = sorted(difflib.get_close_matches(word, known, n=max(len(known), 1), cutoff=0.6))
        near.sort(key=lambda name: -difflib.SequenceMatcher(None, name, word).ratio())
    if not near:
        by_last = {re.split("[./]", name)[-1]: name for name in reversed(known)}
        near = [by_last[last] for last in difflib.get_close_matches(word, by_last, n=1, cutoff=0.8)]
    return f"; did you mean {near[0]!r}?" if near else "."


def check_sizes(most: int = MOST, /, **sizes: int | None) -> None:
    """Raises a ``ValueError`` that names the first size below 1 or beyond ``most``; None, for a default, is allowed."""
    for name, size in sizes.items():
        if size is not None and size < 1:
            raise ValueError(f"{name}: {size} is too small; use 1 or more.")
        if size is not None and size > most:
            raise ValueError(f"{name}: {size} is too large; use {most} or less.")


def check_rank(rank: int, most: int = MOST) -> None:
    """Raises a ``ValueError`` for a mixer's rank, its number of factors, below 1 or beyond ``most``."""
    if rank < 1:
        raise ValueError(f"rank={rank} must be at least 1: use IdentityMixer for none")
    check_sizes(most, rank=rank)


def check_norm_eps(norm_eps: float) -> None:
    """Raises a ``ValueError`` for an epsilon that is not positive and finite."""
    if not 0 < norm_eps < math.inf:
        raise ValueError(f"norm_eps={norm_eps} must be positive: it keeps a norm from dividing by zero; use 1e-6, say")
