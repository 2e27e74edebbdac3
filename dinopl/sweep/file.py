"""The sweep file: read, and checked for everything that can be known without the base configuration."""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dinopl.core.errors import did_you_mean

SEED = "seed_everything"
VARIANT = "variant"
KEYS = (
    *("name", "config", "set", "grid", "search", "trials", "variants", "seeds", "shared", "metric", "direction"),
    *("x", "by", "reference"),
)
DIRECTIONS = ("minimize", "maximize")
TEST_METRICS = ("test/", "probe/")
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
            count = math.floor((self.high - self.low) / self.step * (1 + 1e-12)) + 1
            spread = [self.low + position * self.step for position in range(count)]
        else:
            shares = [position / ((self.number or 3) - 1) for position in range(self.number or 3)]
            ratio, width = self.high / self.low if self.log else 1.0, self.high - self.low
            spread = [self.low * ratio**share if self.log else self.low + width * share for share in shares]
        return list(dict.fromkeys(self._rounded(value) for value in spread))

    def _rounded(self, value: float) -> float:
        """A whole number where that is asked for; otherwise without what floating-point arithmetic left behind."""
        if self.integer:
            return round(value)
        short = float(f"{value:.12g}")
        return int(short) if short.is_integer() and isinstance(self.low, int) and isinstance(self.high, int) else short


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
        grids: alternatives, each of which runs every combination of its axes.
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


def read_sweep(given: Mapping[str, Any], stem: str) -> Sweep:
    """Reads the mapping that a sweep file holds.

    Args:
        given: the mapping.
        stem: the study's name where the file gives none.

    Raises:
        ValueError: naming the key and the remedy.
    """
    for key in given:
        if key not in KEYS:
            raise ValueError(f"no key {key!r}{did_you_mean(str(key), KEYS)} It holds {', '.join(KEYS)}")
    if "grid" in given and "search" in given:
        raise ValueError("`grid` runs every combination and `search` looks for the best; give one of them")
    trials = given.get("trials")
    if trials is not None and "search" not in given:
        raise ValueError("`trials` is for `search`; a grid has as many runs as it has points")
    if "search" in given and (isinstance(trials, bool) or not isinstance(trials, int) or trials < 1):
        raise ValueError(f"a search needs `trials`, the number of runs, got {trials!r}")
    grids = given["grid"] if isinstance(given.get("grid"), list) else [given.get("grid")]
    if not grids:
        raise ValueError("`grid` is an empty list; leave it out, or give options with their values")
    seeds: Any = given.get("seeds")
    seeds = list(range(seeds)) if isinstance(seeds, int) and not isinstance(seeds, bool) else seeds
    if seeds is not None:
        whole = isinstance(seeds, list) and all(isinstance(each, int) and not isinstance(each, bool) for each in seeds)
        if not whole or not seeds or len(set(seeds)) != len(seeds) or min(seeds) < 0:
            raise ValueError(f"`seeds` must be a list of different whole numbers from 0 on, or how many, got {seeds!r}")
    shared: dict[str, tuple[tuple[str, ...], Options]] = {}
    for name, value in _mapping(given.get("shared"), "shared").items():
        if not isinstance(value, Mapping):
            raise ValueError(f"`shared.{name}` must be a mapping with `config`, `options` or both, got {value!r}")
        for key in value:
            if key not in ("config", "options"):
                raise ValueError(f"shared.{name}: no key {key!r}{did_you_mean(str(key), ('config', 'options'))}")
        config = _texts(value.get("config"), f"shared.{name}.config")
        shared[str(name)] = config, _options(value.get("options"), f"shared.{name}.options")
    variants = _mapping(given.get("variants"), "variants")
    references = _mapping(given.get("reference"), "reference")
    sweep = Sweep(
        name=_text(given, "name") or stem,
        config=_texts(given.get("config"), "config"),
        fixed=_options(given.get("set"), "set"),
        grids=tuple(_axes(each, "grid") for each in grids),
        search=_axes(given.get("search"), "search"),
        trials=trials or 0,
        variants={str(name): _options(value, f"variants.{name}") for name, value in variants.items()},
        seeds=tuple(seeds or ()),
        shared=shared,
        metric=_text(given, "metric"),
        direction=_text(given, "direction"),
        x=_text(given, "x"),
        by=_texts(given.get("by"), "by"),
        reference={str(metric): _reference(str(metric), value) for metric, value in references.items()},
    )
    _check(sweep)
    return sweep


def _text(given: Mapping[str, Any], key: str) -> str | None:
    value = given.get(key)
    if value is not None and (not isinstance(value, str) or not value.strip()):
        raise ValueError(f"`{key}` must be text, got {value!r}")
    return value


def _texts(value: Any, key: str) -> tuple[str, ...]:
    values = value if isinstance(value, list) else [value] if value is not None else []
    if not all(isinstance(item, str) for item in values):
        raise ValueError(f"`{key}` must be text or a list of texts, got {value!r}")
    return tuple(values)


def _mapping(value: Any, key: str) -> Mapping[str, Any]:
    if value is not None and not isinstance(value, Mapping):
        raise ValueError(f"`{key}` must be a mapping, got {value!r}")
    return value or {}


def _options(value: Any, place: str) -> Options:
    """Dotted options with their values, which are taken as they stand."""
    if value is not None and (not isinstance(value, Mapping) or not all(isinstance(option, str) for option in value)):
        raise ValueError(f"`{place}` must be a mapping of dotted options, such as model.optimizer.lr: 0.1")
    return {option: numbers(item) for option, item in (value or {}).items()}


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
    if block is not None and not isinstance(block, Mapping):
        raise ValueError(f"`{place}` must be a mapping of dotted options to lists or ranges, got {block!r}")
    found = []
    for option, given in (block or {}).items():
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
        found.append(Axis(str(option), values, {key: tuple(numbers(items)) for key, items in allowed.items()}))
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
    for key in given:
        if key not in RANGE_KEYS:
            raise ValueError(f"no key {key!r}{did_you_mean(str(key), [*RANGE_KEYS, 'values', 'when'])}")
    values = {key: numbers(value) for key, value in given.items()}
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
    if number is not None and (not isinstance(number, int) or isinstance(number, bool) or number < 2):
        raise ValueError(f"`number` is {number!r}: a range has at least 2 values")
    if step is not None and (not isinstance(step, int | float) or isinstance(step, bool) or step <= 0):
        raise ValueError(f"`step` is {step!r}: it must be above 0")
    if step is not None and (number is not None or scale == "log"):
        raise ValueError("`step` goes neither with `number` nor with a log scale; leave one out")
    return Range(low, high, number, step, scale == "log", values.get("integer", False) is True)


def numbers(value: Any) -> Any:
    """The value with text such as ``1e-3`` turned into the number that it stands for."""
    if isinstance(value, str) and _NUMBER.fullmatch(value):
        return float(value)
    if isinstance(value, Mapping):
        return {key: numbers(item) for key, item in value.items()}
    return [numbers(item) for item in value] if isinstance(value, Sequence) and not isinstance(value, str) else value


def check_name(name: str) -> None:
    """Raises ``ValueError`` if a study of this name would not lie in the folder that it is to lie in."""
    if not name.strip() or Path(name).is_absolute() or ".." in Path(name).parts:
        raise ValueError(f"the study's name is {name!r}: give a relative name without '..'")


def _check(sweep: Sweep) -> None:
    """Raises ``ValueError`` for keys that do not go together."""
    check_name(sweep.name)
    if (sweep.metric is None) != (sweep.direction is None):
        raise ValueError("`metric` and `direction` belong together; give both or neither")
    if sweep.direction not in (None, *DIRECTIONS):
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
