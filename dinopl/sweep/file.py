"""The sweep file: read, and checked for everything that can be known without the base configuration."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dinopl.cli.config import read_config
from dinopl.core.errors import UserMistake, did_you_mean
from dinopl.sweep.values import RANGE_KEYS, Range, numbers, read_values

SEED = "seed_everything"
VARIANT = "variant"
KEYS = (
    *("name", "config", "set", "grid", "search", "trials", "variants", "seeds", "shared", "metric", "direction"),
    *("x", "by", "reference"),
)
DIRECTIONS = ("minimize", "maximize")
TEST_METRICS = ("test/", "probe/")

Options = dict[str, Any]


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
class SharedRun:
    """A run that others depend on.

    Attributes:
        name: under which others refer to it.
        config: its configurations; empty for the base configuration.
        options: laid over them; values may refer to options of the run that asks for it.
    """

    name: str
    config: tuple[str, ...]
    options: Options


@dataclass(frozen=True)
class Sweep:
    """A sweep file.

    Attributes:
        name: of the study, and of its folder.
        config: base configurations, if the command line names none.
        fixed: options that are the same for every run.
        grids: alternatives, each of which runs every combination of its axes.
        search: distributions and choices, if this is a search.
        trials: how many runs a search makes.
        variants: options that change together, by name.
        seeds: of every point; empty leaves the base configuration's.
        shared: runs that others depend on, by name.
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
    shared: dict[str, SharedRun] = field(default_factory=dict)
    metric: str | None = None
    direction: str | None = None
    x: str | None = None
    by: tuple[str, ...] = ()
    reference: dict[str, Any] = field(default_factory=dict)

    def axes(self) -> list[Axis]:
        """All axes, of the grids or of the search."""
        return [*(axis for grid in self.grids for axis in grid), *self.search]

    def swept(self) -> set[str]:
        """Options that are not the same in all runs."""
        varied = {option for options in self.variants.values() for option in options}
        return varied | {axis.option for axis in self.axes()} | ({SEED} if self.seeds else set())


def read_sweep(file: str) -> Sweep:
    """Reads a sweep file, or a shipped one by its name.

    Raises:
        UserMistake: naming the file, the key and the remedy.
    """
    given = read_config(file, "--sweep")
    try:
        sweep = _read(given, Path(file).name.removesuffix(".yaml").removesuffix(".sweep"))
        _check(sweep)
    except ValueError as error:
        raise UserMistake(f"--sweep {file}: {error}.") from error
    return sweep


def _read(given: Mapping[str, Any], stem: str) -> Sweep:
    for key in given:
        if key not in KEYS:
            raise ValueError(f"no key {key!r}{did_you_mean(str(key), KEYS)} It holds {', '.join(KEYS)}")
    if "grid" in given and "search" in given:
        raise ValueError("`grid` runs every combination and `search` looks for the best; give one of them")
    return Sweep(
        name=_text(given, "name") or stem,
        config=_texts(given.get("config"), "config"),
        fixed=_options(given.get("set"), "set"),
        grids=_grids(given.get("grid")),
        search=_axes(given.get("search"), "search"),
        trials=_count(given.get("trials"), "search" in given),
        variants={
            str(name): _options(value, f"variants.{name}") for name, value in _mapping(given, "variants").items()
        },
        seeds=_seeds(given.get("seeds")),
        shared={str(name): _shared(str(name), value) for name, value in _mapping(given, "shared").items()},
        metric=_text(given, "metric"),
        direction=_text(given, "direction"),
        x=_text(given, "x"),
        by=_texts(given.get("by"), "by"),
        reference={str(key): _reference(str(key), value) for key, value in _mapping(given, "reference").items()},
    )


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


def _mapping(given: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    value = given.get(key)
    if value is not None and not isinstance(value, Mapping):
        raise ValueError(f"`{key}` must be a mapping, got {value!r}")
    return value or {}


def _options(value: Any, place: str) -> Options:
    """Dotted options with their values, which are taken as they stand."""
    if value is None:
        return {}
    if not isinstance(value, Mapping) or not all(isinstance(option, str) for option in value):
        raise ValueError(f"`{place}` must be a mapping of dotted options, such as model.optimizer.lr: 0.1")
    return {option: numbers(item) for option, item in value.items()}


def _grids(value: Any) -> tuple[tuple[Axis, ...], ...]:
    """One grid, or a list of which each is run."""
    blocks = value if isinstance(value, list) else [value]
    if not blocks:
        raise ValueError("`grid` is an empty list; leave it out, or give options with their values")
    return tuple(_axes(block, "grid") for block in blocks)


def _axes(value: Any, place: str) -> tuple[Axis, ...]:
    if value is None:
        return ()
    if not isinstance(value, Mapping):
        raise ValueError(f"`{place}` must be a mapping of dotted options to lists or ranges, got {value!r}")
    return tuple(_axis(str(option), given, place) for option, given in value.items())


def _axis(option: str, given: Any, place: str) -> Axis:
    try:
        if not isinstance(given, Mapping):
            return Axis(option, read_values(given))
        rest = {key: item for key, item in given.items() if key != "when"}
        if "values" not in rest and not rest.keys() & set(RANGE_KEYS):
            raise ValueError("expected a list, a range such as {from: 1, to: 4, number: 4}, or `values:` with a list")
        if "values" in rest and len(rest) > 1:
            raise ValueError("`values` stands alone or with `when`")
        return Axis(option, read_values(rest.get("values", rest)), _when(given.get("when")))
    except ValueError as error:
        raise ValueError(f"{place}.{option}: {error}") from error


def _when(value: Any) -> dict[str, tuple[Any, ...]]:
    if value is None:
        return {}
    if not isinstance(value, Mapping) or not value:
        raise ValueError(f"`when` must be a mapping of options to values, got {value!r}")
    return {str(key): tuple(numbers(item if isinstance(item, list) else [item])) for key, item in value.items()}


def _count(value: Any, needed: bool) -> int:
    if value is None and not needed:
        return 0
    if not needed:
        raise ValueError("`trials` is for `search`; a grid has as many runs as it has points")
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError(f"a search needs `trials`, the number of runs, got {value!r}")
    return value


def _seeds(value: Any) -> tuple[int, ...]:
    values = list(range(value)) if isinstance(value, int) and not isinstance(value, bool) else value
    if values is None:
        return ()
    whole = isinstance(values, list) and all(isinstance(seed, int) and not isinstance(seed, bool) for seed in values)
    if not whole or not values or len(set(values)) != len(values) or min(values) < 0:
        raise ValueError(f"`seeds` must be a list of different whole numbers from 0 on, or how many, got {value!r}")
    return tuple(values)


def _shared(name: str, value: Any) -> SharedRun:
    if not isinstance(value, Mapping):
        raise ValueError(f"`shared.{name}` must be a mapping with `config`, `options` or both, got {value!r}")
    unknown = next((key for key in value if key not in ("config", "options")), None)
    if unknown is not None:
        raise ValueError(f"shared.{name}: no key {unknown!r}{did_you_mean(str(unknown), ('config', 'options'))}")
    config = _texts(value.get("config"), f"shared.{name}.config")
    return SharedRun(name, config, _options(value.get("options"), f"shared.{name}.options"))


def _reference(metric: str, value: Any) -> Any:
    """A number, or numbers by values of x, by variants, or by both."""
    value = numbers(value)
    if isinstance(value, Mapping):
        return {str(key): _reference(metric, item) for key, item in value.items()}
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"reference.{metric}: expected a number, or numbers by x or by variant, got {value!r}")
    return value


def check_name(name: str) -> None:
    """Raises ``ValueError`` if a study of this name would not lie in the folder that it is to lie in."""
    if not name.strip() or Path(name).is_absolute() or ".." in Path(name).parts:
        raise ValueError(f"the study's name is {name!r}: give a relative name without '..'")


def _check(sweep: Sweep) -> None:
    check_name(sweep.name)
    if (sweep.metric is None) != (sweep.direction is None):
        raise ValueError("`metric` and `direction` belong together; give both or neither")
    if sweep.direction not in (None, *DIRECTIONS):
        raise ValueError(f"`direction` is {sweep.direction!r}: give minimize or maximize")
    if sweep.search:
        _check_search(sweep)
    for axes in (*sweep.grids, sweep.search):
        _check_conditions(axes, [*sweep.fixed, *(option for options in sweep.variants.values() for option in options)])
    for axis in sweep.axes():
        if axis.option == SEED:
            raise ValueError(f"{SEED} is given as `seeds:`")
        if axis.option in sweep.fixed and not axis.when:
            raise ValueError(f"{axis.option} is under `set` and swept as well; leave one out")
        if not sweep.search and isinstance(axis.values, Range) and axis.values.number is axis.values.step is None:
            raise ValueError(f"grid.{axis.option}: a range in a grid needs `number` or `step`")
    _check_hints(sweep)


def _check_search(sweep: Sweep) -> None:
    if sweep.metric is None:
        raise ValueError("a search needs `metric` and `direction`, such as probe_val/student/knn and maximize")
    if sweep.metric.startswith(TEST_METRICS):
        raise ValueError(
            f"`metric` is {sweep.metric}, measured on the test split, on which nothing is selected; search by one of "
            "the validation split, such as probe_val/student/knn or val/loss"
        )
    if len(sweep.seeds) > 1:
        raise ValueError("a search runs each point under one seed; repeat the best under several with a grid")
    for axis in sweep.search:
        if isinstance(axis.values, Range) and axis.values.number is not None:
            raise ValueError(f"search.{axis.option}: a search draws from the whole range; leave out `number`")


def _check_conditions(axes: Iterable[Axis], known: Iterable[str]) -> None:
    """A condition looks at what is settled before its option: what is set, the variant, earlier options."""
    settled = [VARIANT, SEED, *known]
    for axis in axes:
        for option in axis.when:
            if option not in settled:
                raise ValueError(
                    f"{axis.option}: `when` names {option}, which is not among the options before it"
                    f"{did_you_mean(option, settled)}"
                )
        settled.append(axis.option)


def _check_hints(sweep: Sweep) -> None:
    swept = [*sweep.swept(), *([VARIANT] if sweep.variants else [])]
    for key, options in (("x", [sweep.x] if sweep.x else []), ("by", sweep.by)):
        for option in options:
            if option not in swept:
                raise ValueError(f"`{key}` names {option}, which is not swept{did_you_mean(option, swept)}")
