"""Finite groups as multiplication tables: cyclic, symmetric and alternating ones, and their direct products.

The order of the elements is that of the public word-problem data sets on which A5 and S5 are benchmarked (Merrill et
al., "The Illusion of State in State-Space Models", ICML 2024), so that tables and words carry over.
"""

import re
from difflib import get_close_matches
from functools import lru_cache
from itertools import permutations
from math import factorial, prod

import numpy as np
from numpy.typing import NDArray

MAX_ORDER = 5040
"""Largest group that is tabulated, S7: its table has 25 million entries."""

_FACTOR = re.compile(r"([ZSA])([1-9]\d{0,3})")


def cayley_table(name: str) -> NDArray[np.int16]:
    """Multiplication table of a group.

    Args:
        name: ``Z<n>`` (addition modulo n), ``S<n>`` (permutations of 0 .. n-1, in lexicographic order), ``A<n>`` (the
            even ones, in the same order), or a direct product such as ``A4_x_Z5`` (pairs, row-major). The identity is
            always element 0. Permutations multiply as ``(a * b)[i] = a[b[i]]``: b acts first.

    Returns:
        ``(order, order)``; entry ``[i, j]`` is the index of ``i * j``.

    Raises:
        ValueError: if there is no such group, or it has more than 5,040 elements.
    """
    table = np.zeros((1, 1), dtype=np.int32)
    for kind, degree in parse_group(name):
        factor, size = _factor_table(kind, degree), len(table)
        # pairs, row-major: (i, k) (j, l) = (i j, k l)
        pairs = table[:, None, :, None] * len(factor) + factor[None, :, None, :]
        table = pairs.reshape(size * len(factor), size * len(factor))
    return table.astype(np.int16)


def element_names(name: str) -> tuple[str, ...]:
    """Readable names of a group's elements: numbers, permutations in one-line form, joined by commas in products."""
    names = [""]
    for kind, degree in parse_group(name):
        if kind == "Z":
            factor = [str(element) for element in range(degree)]
        else:
            factor = [f"({' '.join(map(str, permutation))})" for permutation in _permutations(kind, degree)]
        names = [f"{left},{right}" if left else right for left in names for right in factor]
    return tuple(names)


def parse_group(name: str) -> list[tuple[str, int]]:
    """Kind and degree of each factor of a group's name, as in ``[("A", 4), ("Z", 5)]``.

    Raises:
        ValueError: if there is no such group, or it has more than 5,040 elements.
    """
    matches = [_FACTOR.fullmatch(part) for part in name.split("_x_")]
    factors = [(match[1], int(match[2])) for match in matches if match]
    if len(factors) < len(matches):
        guesses = [_closest(part) for part in re.split(r"(?i)[_ ]*[x*][_ ]*", name)]
        hint = f' Did you mean "{"_x_".join(map(str, guesses))}"?' if all(guesses) else ""
        raise ValueError(f"group={name}: unknown.{hint} Groups are Z<n>, S<n>, A<n> and products like A4_x_Z5")
    if any(kind != "Z" and degree > 7 for kind, degree in factors) or prod(_order(*f) for f in factors) > MAX_ORDER:
        raise ValueError(
            f"group={name}: has more than the {MAX_ORDER} elements that a table is made for; choose a smaller one, S7 "
            "at most"
        )
    return factors


def _order(kind: str, degree: int) -> int:
    return degree if kind == "Z" else factorial(degree) // (2 if kind == "A" and degree > 1 else 1)


@lru_cache(maxsize=8)
def _factor_table(kind: str, degree: int) -> NDArray[np.int16]:
    if kind == "Z":
        element = np.arange(degree)
        return ((element[:, None] + element) % degree).astype(np.int16)
    elements = _permutations(kind, degree)
    place_values = degree ** np.arange(degree)[::-1]
    codes = elements @ place_values  # increasing, since the elements are in lexicographic order
    return np.stack([np.searchsorted(codes, a[elements] @ place_values) for a in elements]).astype(np.int16)


def _permutations(kind: str, degree: int) -> NDArray[np.int64]:
    """Permutations of 0 .. degree-1 in lexicographic order, all of them ("S") or the even ones ("A")."""
    elements: NDArray[np.int64] = np.array(list(permutations(range(degree))), dtype=np.int64)
    if kind == "S":
        return elements
    first, second = np.triu_indices(degree, 1)
    inversions = (elements[:, first] > elements[:, second]).sum(axis=1)
    return np.compress(inversions % 2 == 0, elements, axis=0)


def _closest(part: str) -> str | None:
    """The factor that was probably meant, in another spelling or one letter away."""
    respelt = re.sub(r"[ _{}<>-]", "", part).upper()
    if _FACTOR.fullmatch(respelt):
        return respelt
    known = [f"S{n}" for n in range(2, 8)] + [f"A{n}" for n in range(3, 8)] + [f"Z{n}" for n in range(2, 61)]
    return next(iter(get_close_matches(respelt, known, n=1, cutoff=0.5)), None)
