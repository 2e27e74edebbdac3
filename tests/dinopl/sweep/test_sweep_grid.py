"""Ranges and the expansion of grids, against numpy and brute force."""

import itertools
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dinopl.sweep.file import SEED, Axis, Range, Sweep, numbers, read_range, read_values
from dinopl.sweep.grid import Point, corners, expand, references, substitute

FEW = settings(max_examples=60, deadline=None)
ENDS = st.tuples(st.floats(1e-6, 1e3), st.floats(1.001, 1e3)).map(lambda pair: (pair[0], pair[0] * pair[1]))


@FEW
@given(ends=ENDS, number=st.integers(2, 40), log=st.booleans())
def test_a_range_is_numpys(ends: tuple[float, float], number: int, log: bool) -> None:
    low, high = ends
    expected = (np.geomspace if log else np.linspace)(low, high, number)
    np.testing.assert_allclose(Range(low, high, number, log=log).values(), expected, rtol=1e-9)


@FEW
@given(low=st.integers(-50, 50), steps=st.integers(0, 30), step=st.sampled_from([1, 3, 0.1, 0.25]))
def test_a_range_by_steps_ends_where_it_says(low: int, steps: int, step: float) -> None:
    high = low + steps * step + (0.4 * step if steps == 0 else 0.0)
    values = Range(low, high, step=step).values()
    np.testing.assert_allclose(values, [low + i * step for i in range(steps + 1)], rtol=1e-9, atol=1e-9)


def test_whole_numbers_stay_whole() -> None:
    assert Range(1, 64, 7, log=True).values() == [1, 2, 4, 8, 16, 32, 64]
    assert all(isinstance(value, int) for value in Range(1, 64, 7, log=True).values())
    assert Range(0, 1, 3).values() == [0, 0.5, 1]
    assert Range(10, 1000, 4, log=True, integer=True).values() == [10, 46, 215, 1000]
    assert read_values(["1e-3", "3E2", "a1e3", [1, "2e-1"]]) == (0.001, 300.0, "a1e3", [1, 0.2])
    assert numbers({"lr": "1e-4", "name": "e"}) == {"lr": 1e-4, "name": "e"}


@pytest.mark.parametrize(
    ("given_", "complaint"),
    [
        ({"from": 1, "too": 2}, "no key 'too'; did you mean 'to'?"),
        ({"from": 1}, "needs the number `to`"),
        ({"from": 2, "to": 1, "number": 3}, "must be greater"),
        ({"from": 0, "to": 1, "number": 3, "scale": "log"}, "must begin above 0"),
        ({"from": 1, "to": 2, "number": 1}, "at least 2 values"),
        ({"from": 1, "to": 2, "step": 0}, "`step` is 0"),
        ({"from": 1, "to": 2, "step": 0.5, "number": 3}, "neither with `number`"),
        ({"from": 1, "to": 2, "scale": "cubic"}, "give linear or log"),
        ({"from": True, "to": 2}, "needs the number `from`"),
    ],
)
def test_what_is_no_range_is_refused(given_: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        read_range(given_)


def brute_force(sweep: Sweep) -> set[Any]:
    """Every product of values, from which options whose conditions are not met are taken out."""
    found = set()
    for seed in sweep.seeds or (None,):
        for variant, own in sweep.variants.items() or [(None, {})]:
            for axes in sweep.grids:
                for values in itertools.product(*(axis.choices() for axis in axes)):
                    known = {**sweep.fixed, "variant": variant, **own} | ({SEED: seed} if seed is not None else {})
                    chosen = dict(own)
                    for axis, value in zip(axes, values, strict=True):
                        if all(known.get(option) in allowed for option, allowed in axis.when.items()):
                            known[axis.option] = chosen[axis.option] = value
                    if seed is not None:
                        chosen[SEED] = seed
                    found.add((variant, frozenset(chosen.items())))
    return found


@st.composite
def sweeps(draw: st.DrawFn) -> Sweep:
    names = [f"model.option{i}" for i in range(draw(st.integers(0, 4)))]
    variants = draw(st.lists(st.sampled_from("abc"), unique=True, max_size=3))
    axes: list[Axis] = []
    for name in names:
        values = draw(st.lists(st.integers(0, 5), min_size=1, max_size=3))
        conditions = {"variant": tuple(draw(st.lists(st.sampled_from("abc"), min_size=1)))} if variants else {}
        if axes:
            conditions[draw(st.sampled_from(axes)).option] = tuple(draw(st.lists(st.integers(0, 5), min_size=1)))
        axes.append(Axis(name, tuple(values), conditions if draw(st.booleans()) else {}))
    return Sweep(
        name="s",
        fixed={"model.fixed": 1},
        grids=(tuple(axes), tuple(axes[:1])) if draw(st.booleans()) else (tuple(axes),),
        variants={name: {f"model.{name}": True} for name in variants},
        seeds=tuple(draw(st.lists(st.integers(0, 9), unique=True, max_size=3))),
    )


@FEW
@given(sweep=sweeps())
def test_expansion_is_every_allowed_combination_once(sweep: Sweep) -> None:
    points = expand(sweep)
    keys = [(point.variant, frozenset(point.options.items())) for point in points]
    assert len(set(keys)) == len(keys)
    assert set(keys) == brute_force(sweep)
    seeds = [point.options.get(SEED) for point in points]
    assert [seed for seed, _ in itertools.groupby(seeds)] == list(sweep.seeds or (None,))  # seeds vary slowest


def test_a_condition_looks_at_what_is_set_and_at_the_seed() -> None:
    axes = (Axis("a", (1, 2), {"fixed": ("x",)}), Axis("b", (3,), {"seed_everything": (1,), "a": (2,)}))
    points = expand(Sweep(name="s", fixed={"fixed": "x"}, grids=(axes,), seeds=(0, 1)))
    assert [point.options for point in points] == [
        {"a": 1, SEED: 0},
        {"a": 2, SEED: 0},
        {"a": 1, SEED: 1},
        {"a": 2, "b": 3, SEED: 1},
    ]


def test_an_option_is_set_once() -> None:
    sweep = Sweep(name="s", grids=((Axis("lr", (1, 2)),),), variants={"a": {"lr": 3}})
    with pytest.raises(ValueError, match="lr is set by a variant and swept as well"):
        expand(sweep)


def test_corners_of_a_search_show_every_choice() -> None:
    axes = (Axis("a", ("x", "y")), Axis("b", Range(1, 100, log=True)), Axis("c", (1, 2), {"a": ("y",)}))
    points = corners(Sweep(name="s", search=axes, seeds=(3,)))
    assert Point(None, {"a": "y", "b": 1, "c": 1, SEED: 3}) in points
    assert {point.options["b"] for point in points} == {1, 10, 100}
    assert not any("c" in point.options for point in points if point.options["a"] == "x")


def test_references_are_replaced_wherever_they_stand() -> None:
    value = {"a": ["${x}", "under ${ y }/z"], "b": 3, "${x}": None}
    assert list(references(value)) == ["x", "y"]
    assert substitute(value, {"x": 1.5, "y": "home"}.__getitem__) == {"a": [1.5, "under home/z"], "b": 3, "${x}": None}
