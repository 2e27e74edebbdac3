"""A search: Optuna's TPE draws the next point from the distributions, given what is known of those before.

TPE is "Algorithms for Hyper-Parameter Optimization" (Bergstra et al., NeurIPS 2011), section 4, as Optuna has it.
Optuna only proposes: its study is made anew from the run folders whenever the sweep starts, and no file is kept of it.
"""

import contextlib
import json
import math
import zlib
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from dinopl.sweep.file import SEED, VARIANT, Axis, Options, Range, Sweep
from dinopl.sweep.grid import Point, holds, refuse_twice
from dinopl.sweep.study import Outcome

if TYPE_CHECKING:
    from optuna import Study, Trial
    from optuna.distributions import BaseDistribution

PLAIN = (bool, int, float, str, type(None))


def open_search(sweep: Sweep, known: Iterable[tuple[Point, Outcome]]) -> "Study":
    """Optuna's study of a search, with what is known of the points drawn before.

    Args:
        sweep: the sweep file.
        known: points with what came of them.
    """
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(
        study_name=sweep.name, direction="maximize" if sweep.direction == "maximize" else "minimize"
    )
    for point, outcome in known:
        add(sweep, study, point, outcome)
    return study


def add(sweep: Sweep, study: "Study", point: Point, outcome: Outcome) -> None:
    """Adds a point that Optuna's study has not drawn itself, and what came of it."""
    from optuna.distributions import CategoricalDistribution
    from optuna.trial import create_trial

    params: dict[str, Any] = {VARIANT: point.variant} if sweep.variants else {}
    spreads: dict[str, BaseDistribution] = {name: CategoricalDistribution(list(sweep.variants)) for name in params}
    for axis in sweep.search:
        if axis.option in point.options:
            value = point.options[axis.option]
            params[axis.option] = value if is_plain(axis) else json.dumps(value)
            spreads[axis.option] = distribution(axis)
    value, state = result(sweep, outcome)
    with contextlib.suppress(ValueError):  # outside of a range that the file has changed since
        study.add_trial(create_trial(state=state, value=value, params=params, distributions=spreads))


def result(sweep: Sweep, outcome: Outcome) -> tuple[float | None, Any]:
    """The value and Optuna's state of a run: it wants a number of every finished one, the worst where there is none."""
    from optuna.trial import TrialState

    if outcome.status != "finished":
        return None, TrialState.PRUNED if outcome.status == "diverged" else TrialState.FAIL
    value = outcome.value
    worst = math.inf if sweep.direction == "minimize" else -math.inf
    return (value if value is not None and math.isfinite(value) else worst), TrialState.COMPLETE


def draw(sweep: Sweep, study: "Study") -> tuple["Trial", Point]:
    """Draws a point, option by option as their conditions allow.

    The sampler's seed is a function of the study's name and of how many points there are, so that a search that goes on
    later does not draw its first points again.
    """
    from optuna.samplers import TPESampler

    seed = zlib.crc32(sweep.name.encode()) + len(study.get_trials(deepcopy=False))
    study.sampler = TPESampler(seed=seed % 2**32)
    trial = study.ask()
    variant = trial.suggest_categorical(VARIANT, list(sweep.variants)) if sweep.variants else None
    known: Options = {SEED: sweep.seeds[0]} if sweep.seeds else {}
    chosen = dict(sweep.variants[variant]) if variant is not None else {}
    for axis in sweep.search:
        if holds(axis, {**sweep.fixed, VARIANT: variant, **known, **chosen}):
            refuse_twice(axis, chosen)
            spread: Any = distribution(axis)
            if not isinstance(axis.values, Range):
                found = trial.suggest_categorical(axis.option, spread.choices)
                chosen[axis.option] = found if is_plain(axis) else json.loads(str(found))
            else:
                suggest = trial.suggest_int if axis.values.integer else trial.suggest_float
                chosen[axis.option] = suggest(axis.option, spread.low, spread.high, step=spread.step, log=spread.log)
    return trial, Point(variant, chosen | known)


def is_plain(axis: Axis) -> bool:
    """Whether Optuna can have the values as they are; a list, say, it knows by its text."""
    return isinstance(axis.values, Range) or all(isinstance(value, PLAIN) for value in axis.values)


def distribution(axis: Axis) -> "BaseDistribution":
    """What values of an option are drawn from: those of a range, or any of a list."""
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    spread = axis.values
    if not isinstance(spread, Range):
        return CategoricalDistribution(spread if is_plain(axis) else [json.dumps(value) for value in spread])
    if spread.integer:
        return IntDistribution(int(spread.low), int(spread.high), log=spread.log, step=int(spread.step or 1))
    return FloatDistribution(spread.low, spread.high, log=spread.log, step=spread.step)


def conflict(sweep: Sweep, before: Mapping[str, Any]) -> str | None:
    """What of a search cannot change once it has begun; None if it has not."""
    axes = {axis.option: axis.choices() for axis in sweep.search if not isinstance(axis.values, Range)}
    known = before.get("axes", {})
    changed = [option for option, choices in axes.items() if option in known and known[option] != choices]
    for key, now in (("variants", list(sweep.variants)), ("direction", sweep.direction)):
        changed += [key] if before.get(key, now) != now else []
    return changed[0] if changed else None
