"""Names of metrics: which a report shows first, what a pattern stands for, and numbers in names."""

import fnmatch
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from dinopl.reports.views import all_views

if TYPE_CHECKING:
    from pandas import DataFrame, Series

# Counters, logged so that others can be placed in time.
COUNTERS = ("epoch", "step", "probe/epoch")


def metric_values(runs: "DataFrame", name: str) -> "Series[float]":
    """A column of metrics, or ``A - B``, the difference of two; NaN where a part is absent."""
    first, minus, second = name.partition(" - ")
    if name in runs:
        return runs[name]
    if minus and first in runs and second in runs:
        return runs[first] - runs[second]
    return runs["duration_s"] * float("nan")


def names_of(metrics: Iterable[Mapping[str, float | None]]) -> list[str]:
    """Names in several runs, in the order of their first appearance, without counters."""
    found = dict.fromkeys(name for run in metrics for name in run)
    return [name for name in found if name not in COUNTERS]


def headline(names: Sequence[str]) -> list[str]:
    """The metrics that say most: of those below, the first kind that there is.

    The test split's accuracies and what the families' views name; everything else of the test split; the same two of
    the validation split; all there is. Accuracies at which an iteration stopped (``iterated_…``) are controls and come
    with the rest.
    """
    for split in ("test", "val"):
        first = tuple(view.headline[split] for view in all_views() if split in view.headline)
        accuracy = re.compile(rf"{split}/(.*/)?(?!iterated)[^/]*accuracy(/.*)?")
        if best := [name for name in names if name.startswith(first) or accuracy.fullmatch(name)]:
            return best
        prefixes = (f"{split}/", *(prefix[: prefix.index("/") + 1] for prefix in first))
        if rest := [name for name in names if name.startswith(prefixes)]:
            return rest
    return list(names)


def matching(pattern: str, names: Sequence[str]) -> list[str]:
    """Names that a pattern stands for: itself, a difference ``A - B``, or a glob such as ``test/*/length=*``."""
    first, minus, second = pattern.partition(" - ")
    if pattern in names or (minus and first in names and second in names):
        return [pattern]
    return sorted((name for name in names if fnmatch.fnmatchcase(name, pattern)), key=natural)


def natural(name: str) -> list[tuple[int, str]]:
    """A key that sorts ``length=9`` before ``length=10``."""
    return [(int(part) if part.isdigit() else -1, part) for part in re.split(r"(\d+)", name)]


def place(name: str, key: str) -> tuple[str, float] | None:
    """A metric's panel and its number: ``test/loss/length=64`` is ``test/loss`` at 64; None without the key."""
    match = re.search(rf"/{re.escape(key)}=(-?[\d.]+(?:e[+-]?\d+)?)(?=/|$)", name)
    return (name[: match.start()] + name[match.end() :], float(match[1])) if match else None


def keys_of(names: Iterable[str]) -> list[str]:
    """Keys that numbers in names have, such as "length"."""
    return list(dict.fromkeys(key for name in names for key in re.findall(r"/([^/=]+)=-?[\d.]+", name)))
