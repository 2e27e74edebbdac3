"""The sweep file: read, and checked for everything that can be known without the base configuration."""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np

from dinopl.core.errors import did_you_mean

SEED = "seed_everything"
VARIANT = "variant"
TEST_METRICS = ("test/", "probe/")
MOST_VALUES = 100_000  # of an axis
RANGE_KEYS = ("from", "to", "number", "step", "scale", "integer")

# YAML 1.1 takes 1e-3 for text, and so does PyYAML; researchers take it for a number.
_NUMBER = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+")

Options = dict[str, Any]


@dataclass(frozen=True)
class Range:
    """Numbers between two ends, both included; without a number of values, a distribution for a search.

    Attributes:
        low: the first value.
        high: the last value; ``step`` may end before it.
        number: of values; None if ``step`` says it, or in a search.
        step: between values; None if ``number`` says it.
        log: spread evenly in logarithm instead of linearly.
        integer: rounded to whole numbers.
    """

    low: float
    high: float
    number: int | None = None
    step: float | None = None
    log: bool = False
    integer: bool = False

    def values(self) -> list[float]:
        """The values in their order, each once; of a distribution its ends and the middle."""
        if self.step is not None:
            spread = self.low + self.step * np.arange(math.floor((self.high - self.low) / self.step * (1 + 1e-12)) + 1)
        else:
            spread = (np.geomspace if self.log else np.linspace)(self.low, self.high, self.number or 3)
        # twelve digits: without what floating-point arithmetic left behind
        found = [round(value) if self.integer else float(f"{value:.12g}") for value in spread.tolist()]
        if isinstance(self.low, int) and isinstance(self.high, int):
            found = [int(value) if float(value).is_integer() else value for value in found]
        return list(dict.fromkeys(found))


@dataclass(frozen=True)
class Axis:
    """One option and the values that it takes.

    Attributes:
        option: its dotted name.
        values: in their order, or a range.
        when: values of other options, or of "variant", under which it is set at all.
    """

    option: str
    values: tuple[Any, ...] | Range
    when: dict[str, tuple[Any, ...]] = field(default_factory=dict)

    def choices(self) -> list[Any]:
        """All values; of a distribution its ends and the middle."""
        return self.values.values() if isinstance(self.values, Range) else list(self.values)


@dataclass(frozen=True)
class Sweep:
    """A sweep file.

    Attributes:
        name: of the study, and of its folder.
        config: base configurations, if the command line names none.
        fixed: options that are the same for every run, ``set`` in the file.
        grids: alternatives, each of which runs every combination of its axes; ``grid`` in the file.
        search: distributions and choices, if this is a search.
        trials: how many runs a search makes.
        variants: options that change together, by name.
        seeds: of every point; empty leaves the base configuration's.
        shared: runs that others depend on, by name: configurations (none for the base configuration) and the options
            laid over them, whose values may refer to options of the run that asks for it.
        metric: what "best" looks at and a search improves.
        direction: "minimize" or "maximize".
        x: option for the figure's horizontal axis.
        by: options, or "variant", that the figure has a line for each value of.
        reference: values from elsewhere, by metric, for the figure.
    """

    name: str
    config: tuple[str, ...] = ()
    fixed: Options = field(default_factory=dict)
    grids: tuple[tuple[Axis, ...], ...] = ((),)
    search: tuple[Axis, ...] = ()
    trials: int = 0
    variants: dict[str, Options] = field(default_factory=dict)
    seeds: tuple[int, ...] = ()
    shared: dict[str, tuple[tuple[str, ...], Options]] = field(default_factory=dict)
    metric: str | None = None
    direction: str | None = None
    x: str | None = None
    by: tuple[str, ...] = ()
    reference: dict[str, Any] = field(default_factory=dict)

    def axes(self) -> list[Axis]:
        """All axes, of the grids or of the search."""
        return [*(axis for axes in self.grids for axis in axes), *self.search]

    def swept(self) -> list[str]:
        """Options that are not the same in all runs."""
        varied = [option for options in self.variants.values() for option in options]
        return list(dict.fromkeys([*varied, *(axis.option for axis in self.axes()), *([SEED] if self.seeds else [])]))


KEYS = tuple({"fixed": "set", "grids": "grid"}.get(each.name, each.name) for each in fields(Sweep))


def read_sweep(given: Mapping[str, Any], stem: str) -> Sweep:
    """Reads the mapping that a sweep file holds.

    Args:
        given: the mapping.
        stem: the study's name where the file gives none.

    Raises:
        ValueError: naming the key and the remedy.
    """
    _known(given, KEYS, "")
    if "grid" in given and "search" in given:
        raise ValueError("`grid` runs every combination and `search` looks for the best; give one of them")
    trials: Any = given.get("trials")
    if trials is not None and "search" not in given:
        raise ValueError("`trials` is for `search`; a grid has as many runs as it has points")
    if "search" in given and (not _is_whole(trials) or trials < 1):
        raise ValueError(f"a search needs `trials`, the number of runs, got {trials!r}")
    grids = given["grid"] if isinstance(given.get("grid"), list) else [given.get("grid")]
    if not grids:
        raise ValueError("`grid` is an empty list; leave it out, or give options with their values")
    seeds: Any = given.get("seeds")
    if _is_whole(seeds):
        seeds = list(range(min(seeds, MOST_VALUES + 1)))
        if len(seeds) > MOST_VALUES:
            raise ValueError(f"`seeds` is {given['seeds']}: give {MOST_VALUES} at most")
    whole = isinstance(seeds, list) and all(map(_is_whole, seeds))
    if seeds is not None and (not whole or not seeds or len(set(seeds)) != len(seeds) or min(seeds) < 0):
        raise ValueError(f"`seeds` must be a list of different whole numbers from 0 on, or how many, got {seeds!r}")
    shared = {}
    for name, value in _mapping(given.get("shared"), "shared").items():
        facts = _mapping(value, place := f"shared.{name}", "a mapping with `config`, `options` or both")
        _known(facts, ("config", "options"), f"{place}: ")
        shared[name] = (
            _texts(facts.get("config"), f"{place}.config"),
            _options(facts.get("options"), f"{place}.options"),
        )
    variants, references = (_mapping(given.get(key), key) for key in ("variants", "reference"))
    name, metric, direction, x = (
        _expect(given.get(key), str, key, "text") for key in ("name", "metric", "direction", "x")
    )
    sweep = Sweep(
        name=name or stem,
        config=_texts(given.get("config"), "config"),
        fixed=_options(given.get("set"), "set"),
        grids=tuple(_axes(each, "grid") for each in grids),
        search=_axes(given.get("search"), "search"),
        trials=trials or 0,
        variants={name: _options(value, f"variants.{name}") for name, value in variants.items()},
        seeds=tuple(seeds or ()),
        shared=shared,
        metric=metric,
        direction=direction,
        x=x,
        by=_texts(given.get("by"), "by"),
        reference={metric: _reference(metric, value) for metric, value in references.items()},
    )
    _check(sweep)
    return sweep


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _known(given: Mapping[str, Any], keys: Sequence[str], place: str = "") -> None:
    for key in given:
        if key not in keys:
            raise ValueError(f"{place}no key {key!r}{did_you_mean(str(key), keys)} It holds {', '.join(keys)}")


def _expect(value: Any, kind: type, key: str, what: str) -> Any:
    """The value, which may be None, if it is of this kind."""
    if value is not None and not isinstance(value, kind):
        raise ValueError(f"`{key}` must be {what}, got {value!r}")
    return value


def _mapping(value: Any, key: str, what: str = "a mapping") -> dict[str, Any]:
    return {str(name): item for name, item in (_expect(value, Mapping, key, what) or {}).items()}


def _texts(value: Any, key: str) -> tuple[str, ...]:
    values = value if isinstance(value, list) else [] if value is None else [value]
    if not all(isinstance(item, str) for item in values):
        raise ValueError(f"`{key}` must be text or a list of texts, got {value!r}")
    return tuple(values)


def _options(value: Any, key: str) -> Options:
    """Dotted options with their values, which are taken as they stand."""
    return dict(numbers(_mapping(value, key, "a mapping of dotted options, such as model.optimizer.lr: 0.1")))


def _reference(metric: str, value: Any) -> Any:
    """A number, or numbers by values of x, by variants, or by both."""
    value = numbers(value)
    if isinstance(value, Mapping):
        return {str(key): _reference(metric, item) for key, item in value.items()}
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"reference.{metric}: expected a number, or numbers by x or by variant, got {value!r}")
    return value


def _axes(block: Any, place: str) -> tuple[Axis, ...]:
    """The axes of one grid, or of a search."""
    found = []
    for option, given in _mapping(block, place, "a mapping of dotted options to lists or ranges").items():
        when: Any = None
        try:
            if isinstance(given, Mapping):
                when = given.get("when")
                given = {key: item for key, item in given.items() if key != "when"}
                if "values" not in given and not given.keys() & set(RANGE_KEYS):
                    raise ValueError(
                        "expected a list, a range such as {from: 1, to: 4, number: 4}, or `values:` with a list"
                    )
                if "values" in given and len(given) > 1:
                    raise ValueError("`values` stands alone or with `when`")
                given = given.get("values", given)
            if when is not None and (not isinstance(when, Mapping) or not when):
                raise ValueError(f"`when` must be a mapping of options to values, got {when!r}")
            values = read_values(given)
        except ValueError as error:
            raise ValueError(f"{place}.{option}: {error}") from error
        allowed = {str(key): item if isinstance(item, list) else [item] for key, item in (when or {}).items()}
        found.append(Axis(option, values, {key: tuple(numbers(items)) for key, items in allowed.items()}))
    return tuple(found)


def read_values(given: Any) -> tuple[Any, ...] | Range:
    """What stands behind an option: a list, or a mapping that describes a range.

    Raises:
        ValueError: if it is neither, or empty.
    """
    if isinstance(given, Mapping):
        return read_range(given)
    if not isinstance(given, list):
        raise ValueError(f"expected a list of values or a range, got {given!r}; a fixed value goes under `set:`")
    if not given:
        raise ValueError("an empty list; give at least one value")
    return tuple(numbers(value) for value in given)


def read_range(given: Mapping[str, Any]) -> Range:
    """Reads ``{from: 1e-4, to: 1e-1, number: 4, scale: log}``.

    Raises:
        ValueError: if a key is unknown or missing, or a value makes no range.
    """
    _known(given, RANGE_KEYS)
    values = numbers(given)
    for key in ("from", "to"):
        value = values.get(key)
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise ValueError(f"a range needs the number `{key}`, got {value!r}")
    low, high, number, step = values["from"], values["to"], values.get("number"), values.get("step")
    scale = values.get("scale", "linear")
    if scale not in ("linear", "log"):
        raise ValueError(f"`scale` is {scale!r}: give linear or log")
    if high <= low:
        raise ValueError(f"`to` ({high}) must be greater than `from` ({low})")
    if scale == "log" and low <= 0:
        raise ValueError(f"a range on a log scale must begin above 0, not at {low}")
    if number is not None and (not _is_whole(number) or number < 2):
        raise ValueError(f"`number` is {number!r}: a range has at least 2 values")
    if step is not None and (not isinstance(step, int | float) or isinstance(step, bool) or step <= 0):
        raise ValueError(f"`step` is {step!r}: it must be above 0")
    if (number or 0) > MOST_VALUES or (step is not None and (high - low) / step > MOST_VALUES):
        raise ValueError(f"a range has at most {MOST_VALUES} values")
    if step is not None and (number is not None or scale == "log"):
        raise ValueError("`step` goes neither with `number` nor with a log scale; leave one out")
    return Range(low, high, number, step, scale == "log", values.get("integer", False) is True)


def numbers(value: Any) -> Any:
    """The value with text such as ``1e-3`` turned into the number that it stands for."""
    if isinstance(value, str):
        return float(value) if _NUMBER.fullmatch(value) else value
    if isinstance(value, Mapping):
        return {key: numbers(item) for key, item in value.items()}
    return [numbers(item) for item in value] if isinstance(value, Sequence) else value


def check_name(name: str) -> None:
    """Raises ``ValueError`` if a study of this name would not lie in the folder that it is to lie in."""
    if not name.strip() or Path(name).is_absolute() or ".." in Path(name).parts:
        raise ValueError(f"the study's name is {name!r}: give a relative name without '..'")


def _check(sweep: Sweep) -> None:
    """Raises ``ValueError`` for keys that do not go together."""
    check_name(sweep.name)
    if (sweep.metric is None) != (sweep.direction is None):
        raise ValueError("`metric` and `direction` belong together; give both or neither")
    if sweep.direction not in (None, "minimize", "maximize"):
        raise ValueError(f"`direction` is {sweep.direction!r}: give minimize or maximize")
    if sweep.search and sweep.metric is None:
        raise ValueError("a search needs `metric` and `direction`, such as probe_val/student/knn and maximize")
    if sweep.search and str(sweep.metric).startswith(TEST_METRICS):
        raise ValueError(
            f"`metric` is {sweep.metric}, measured on the test split, on which nothing is selected; search by one of "
            "the validation split, such as probe_val/student/knn or val/loss"
        )
    if sweep.search and len(sweep.seeds) > 1:
        raise ValueError("a search runs each point under one seed; repeat the best under several with a grid")
    for axes in (*sweep.grids, sweep.search):
        # a condition looks at what is known before its option: what is set, the variant, earlier options
        earlier = [VARIANT, SEED, *sweep.fixed, *(option for options in sweep.variants.values() for option in options)]
        for axis in axes:
            for option in axis.when:
                if option not in earlier:
                    raise ValueError(
                        f"{axis.option}: `when` names {option}, which is not among the options before it"
                        f"{did_you_mean(option, earlier)}"
                    )
            earlier.append(axis.option)
    for axis in sweep.axes():
        if axis.option == SEED:
            raise ValueError(f"{SEED} is given as `seeds:`")
        if axis.option in sweep.fixed and not axis.when:
            raise ValueError(f"{axis.option} is under `set` and swept as well; leave one out")
        if sweep.search and isinstance(axis.values, Range) and axis.values.number is not None:
            raise ValueError(f"search.{axis.option}: a search draws from the whole range; leave out `number`")
        if not sweep.search and isinstance(axis.values, Range) and axis.values.number is axis.values.step is None:
            raise ValueError(f"grid.{axis.option}: a range in a grid needs `number` or `step`")
    swept = [*sweep.swept(), *([VARIANT] if sweep.variants else [])]
    for key, options in (("x", [sweep.x] if sweep.x else []), ("by", sweep.by)):
        for option in options:
            if option not in swept:
                raise ValueError(f"`{key}` names {option}, which is not swept{did_you_mean(option, swept)}")
