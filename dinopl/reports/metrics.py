"""Names of metrics: which a report shows first, and what a pattern stands for."""

import fnmatch
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

# Counters, logged so that others can be placed in time.
COUNTERS = ("epoch", "step", "probe/epoch")


class Place(NamedTuple):
    """A metric's name taken apart at ``KEY=NUMBER``."""

    family: str
    number: float


def metric_value(metrics: Mapping[str, float | None], name: str) -> float | None:
    """The value of a metric, or of ``A - B``, the difference of two; None if a part is null or absent."""
    if name in metrics:
        return metrics[name]
    first, minus, second = name.partition(" - ")
    a, b = metrics.get(first), metrics.get(second)
    return a - b if minus and a is not None and b is not None else None


def names_of(metrics: Iterable[Mapping[str, float | None]]) -> list[str]:
    """Names in several runs, in the order of their first appearance, without counters."""
    found = dict.fromkeys(name for run in metrics for name in run)
    return [name for name in found if name not in COUNTERS]


def headline(names: Sequence[str]) -> list[str]:
    """The metrics that say most: of those below, the first kind that there is.

    The test split's accuracies and the student's probes on it; everything else of the test split; accuracies and the
    student's probes on the validation split; everything else of that; all there is. Accuracies at which an iteration
    stopped (``iterated_…``) are controls and come with the rest.
    """
    kinds: list[Callable[[str], bool]] = [
        lambda name: name.startswith("probe/student/") or _is_accuracy(name, "test"),
        lambda name: name.startswith(("probe/", "test/")),
        lambda name: name.startswith("probe_val/student/") or _is_accuracy(name, "val"),
        lambda name: name.startswith(("probe_val/", "val/")),
    ]
    chosen = ([name for name in names if kind(name)] for kind in kinds)
    return next((some for some in chosen if some), list(names))


def _is_accuracy(name: str, split: str) -> bool:
    first, *rest = name.split("/")
    return first == split and any(part.endswith("accuracy") and not part.startswith("iterated") for part in rest)


def matching(pattern: str, names: Sequence[str]) -> list[str]:
    """Names that a pattern stands for: itself, a difference ``A - B``, or a glob such as ``test/*/length=*``."""
    if pattern in names:
        return [pattern]
    first, minus, second = pattern.partition(" - ")
    if minus and first in names and second in names:
        return [pattern]
    return sorted((name for name in names if fnmatch.fnmatchcase(name, pattern)), key=natural)


def natural(name: str) -> list[tuple[int, str]]:
    """A key that sorts ``length=9`` before ``length=10``."""
    return [(int(part) if part.isdigit() else -1, part) for part in re.split(r"(\d+)", name)]


def place(name: str, key: str) -> Place | None:
    """Where a metric stands in its family: ``test/loss/length=64`` is ``test/loss`` at 64; None without the key."""
    match = re.search(rf"/{re.escape(key)}=(-?[\d.]+(?:e[+-]?\d+)?)(?=/|$)", name)
    return Place(name[: match.start()] + name[match.end() :], float(match[1])) if match else None


def keys_of(names: Iterable[str]) -> list[str]:
    """Keys that numbered families have, such as "length"."""
    return list(dict.fromkeys(key for name in names for key in re.findall(r"/([^/=]+)=-?[\d.]+", name)))
