"""Complaints that many parts share: sizes that are none or beyond all measure, and norms that would divide by zero."""

import math

MOST = 10**9  # of a size; what memory lacks for less is told when it is asked for
MOST_PARTS = 10**4  # layers or factors, which are made one by one
MOST_NAMES = 10**7  # tokens of a vocabulary, which are named one by one


def check_sizes(most: int = MOST, /, **sizes: int | None) -> None:
    """Refuses sizes below 1 or beyond ``most``, by name; None stands for a default and passes.

    Args:
        most: the largest size.
        sizes: options of a layer.

    Raises:
        ValueError: if one is out of range; the message names it.
    """
    for name, size in sizes.items():
        if size is not None and size < 1:
            raise ValueError(f"{name}: {size} is too small; use 1 or more.")
        if size is not None and size > most:
            raise ValueError(f"{name}: {size} is too large; use {most} or less.")


def check_rank(rank: int, most: int = MOST) -> None:
    """Refuses a number of a mixer's factors below 1 or beyond ``most``.

    Raises:
        ValueError: if it is out of range.
    """
    if rank < 1:
        raise ValueError(f"rank={rank} must be at least 1: use IdentityMixer for none")
    check_sizes(most, rank=rank)


def check_norm_eps(norm_eps: float) -> None:
    """Refuses a number that does not keep a norm from dividing by zero.

    Raises:
        ValueError: if it is not positive and finite.
    """
    if not 0 < norm_eps < math.inf:
        raise ValueError(f"norm_eps={norm_eps} must be positive: it keeps a norm from dividing by zero; use 1e-6, say")
