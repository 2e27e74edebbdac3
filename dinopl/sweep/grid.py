"""The points of a sweep: every combination that its conditions allow, each once. Pure functions of the sweep file."""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dinopl.sweep.file import SEED, VARIANT, Axis, Options, Sweep


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
        for seed in _seeds(sweep)
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
        chosen: options that are settled, and part of the result.
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
    """Raises ``ValueError`` if the option of an axis is settled already."""
    if axis.option in chosen:
        raise ValueError(f"{axis.option} is set by a variant and swept as well; leave one out, or add `when:`")


def corners(sweep: Sweep) -> list[Point]:
    """Points that show each choice of a search, and the ends and the middle of each range, one after the other."""
    seed = _seeds(sweep)[0]
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


def _seeds(sweep: Sweep) -> list[Options]:
    return [{SEED: seed} for seed in sweep.seeds] or [{}]


def _distinct(points: Iterable[Point]) -> list[Point]:
    """Each point once, in their order."""
    return list({json.dumps([point.variant, point.options], sort_keys=True): point for point in points}.values())
