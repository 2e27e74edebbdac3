"""The points of a sweep: every combination that its conditions allow, each once. Pure functions of the sweep file.

Also ``${...}`` in values: another option of the same run, or a file of a run that it depends on.
"""

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dinopl.sweep.file import SEED, VARIANT, Axis, Options, Sweep

REFERENCE = re.compile(r"\$\{([^{}]*)\}")


@dataclass(frozen=True)
class Point:
    """What one run sets, as the sweep file says it: references are not resolved yet.

    Attributes:
        variant: its name; None if the sweep has no variants.
        options: the variant's, then the axes', then the seed.
    """

    variant: str | None
    options: Options


def expand(sweep: Sweep) -> list[Point]:
    """All points of a grid.

    Seeds vary slowest, so that a study that is stopped early has whole grids for its first seeds; then variants, then
    the axes in the order of the file.

    Raises:
        ValueError: if a variant and an axis set the same option.
    """
    return _distinct(
        Point(variant, chosen | seed)
        for seed in [{SEED: seed} for seed in sweep.seeds] or [{}]
        for variant, options in start(sweep)
        for axes in sweep.grids
        for chosen in combinations(axes, options, sweep.fixed | {VARIANT: variant} | seed)
    )


def start(sweep: Sweep) -> list[tuple[str | None, Options]]:
    """Variants with their options; one without a name if there are none."""
    return list(sweep.variants.items()) or [(None, {})]


def combinations(axes: Sequence[Axis], chosen: Options, known: Mapping[str, Any]) -> Iterator[Options]:
    """Every choice of values for the axes.

    Args:
        axes: of which each may depend on those before it.
        chosen: options that are chosen already, and part of the result.
        known: what else conditions may look at.
    """
    if not axes:
        yield dict(chosen)
        return
    first, *rest = axes
    if not holds(first, {**known, **chosen}):
        yield from combinations(rest, chosen, known)
        return
    refuse_twice(first, chosen)
    for value in first.choices():
        yield from combinations(rest, {**chosen, first.option: value}, known)


def holds(axis: Axis, known: Mapping[str, Any]) -> bool:
    """Whether the conditions of an axis are met; an option that is not set meets none."""
    return all(option in known and known[option] in values for option, values in axis.when.items())


def refuse_twice(axis: Axis, chosen: Mapping[str, Any]) -> None:
    """Raises ``ValueError`` if the option of an axis is set already."""
    if axis.option in chosen:
        raise ValueError(f"{axis.option} is set by a variant and swept as well; leave one out, or add `when:`")


def corners(sweep: Sweep) -> list[Point]:
    """Points that show each choice of a search, and the ends and the middle of each range, one after the other."""
    seed: Options = {SEED: sweep.seeds[0]} if sweep.seeds else {}
    first = {axis.option: Axis(axis.option, tuple(axis.choices()[:1]), axis.when) for axis in sweep.search}
    return _distinct(
        Point(variant, chosen | seed)
        for variant, options in start(sweep)
        for shown in [None, *sweep.search]
        for chosen in combinations(
            [axis if axis is shown else first[axis.option] for axis in sweep.search],
            options,
            sweep.fixed | {VARIANT: variant} | seed,
        )
    )


def _distinct(points: Iterable[Point]) -> list[Point]:
    """Each point once, in their order."""
    return list({json.dumps([point.variant, point.options], sort_keys=True): point for point in points}.values())


def references(value: Any) -> Iterator[str]:
    """What a value refers to, also within lists and mappings."""
    if isinstance(value, str):
        yield from (match[1].strip() for match in REFERENCE.finditer(value))
    elif isinstance(value, dict):
        for item in value.values():
            yield from references(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from references(item)


def substitute(value: Any, lookup: Callable[[str], Any]) -> Any:
    """A copy of a value with every reference replaced by what it stands for.

    A text that is nothing but a reference becomes the value itself, of whatever type; within a longer text it becomes
    its text.

    Args:
        value: text, or lists and mappings that hold some.
        lookup: what a reference stands for.
    """
    if isinstance(value, dict):
        return {key: substitute(item, lookup) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [substitute(item, lookup) for item in value]
    if not isinstance(value, str):
        return value
    if whole := REFERENCE.fullmatch(value):
        return lookup(whole[1].strip())
    return REFERENCE.sub(lambda match: str(lookup(match[1].strip())), value)
