"""A search: Optuna's TPE draws the next point from the distributions, given what is known of those before.

TPE is "Algorithms for Hyper-Parameter Optimization" (Bergstra et al., NeurIPS 2011), section 4, as Optuna has it.
"""

import json
import zlib
from typing import TYPE_CHECKING, Any

from dinopl.sweep.file import SEED, VARIANT, Axis, Sweep
from dinopl.sweep.grid import Point, holds, refuse_twice
from dinopl.sweep.values import Range

if TYPE_CHECKING:
    from optuna import Study, Trial

DRAWN = "drawn"
PLAIN = (bool, int, float, str, type(None))


def has_more(sweep: Sweep, study: "Study") -> bool:
    """Whether a search is to draw further points, or has some to try again."""
    trials = study.get_trials(deepcopy=False)
    drawn = sum(bool(trial.user_attrs.get(DRAWN)) for trial in trials)
    return drawn < sweep.trials or any(trial.state.name == "WAITING" for trial in trials)


def draw(sweep: Sweep, study: "Study") -> tuple["Trial", Point]:
    """Takes a point to try again, or else draws one.

    The sampler's seed is a function of the study's name and of how many points there are, so that a search that goes on
    later does not draw its first points again.
    """
    from optuna.samplers import TPESampler

    seed = zlib.crc32(sweep.name.encode()) + len(study.get_trials(deepcopy=False))
    study.sampler = TPESampler(seed=seed % 2**32)
    trial = study.ask()
    if "id" not in trial.user_attrs:
        trial.set_user_attr(DRAWN, True)
    return trial, point_of(trial, sweep)


def point_of(trial: "Trial", sweep: Sweep) -> Point:
    """The point of a trial, drawn option by option as their conditions allow."""
    names = list(sweep.variants)
    variant = trial.suggest_categorical(VARIANT, names) if names else None
    seed = {SEED: sweep.seeds[0]} if sweep.seeds else {}
    chosen = dict(sweep.variants[variant]) if variant is not None else {}
    for axis in sweep.search:
        if holds(axis, {**sweep.fixed, VARIANT: variant, **seed, **chosen}):
            refuse_twice(axis, chosen)
            chosen[axis.option] = suggest(trial, axis)
    return Point(variant, chosen | seed)


def suggest(trial: "Trial", axis: Axis) -> Any:
    """One value: of a range from its distribution, of a list any, which Optuna knows by its text if it is not plain."""
    spread = axis.values
    if not isinstance(spread, Range):
        plain = all(isinstance(value, PLAIN) for value in spread)
        choices = list(spread) if plain else [json.dumps(value) for value in spread]
        found = trial.suggest_categorical(axis.option, choices)
        return found if plain else json.loads(str(found))
    if spread.integer:
        low, high, step = int(spread.low), int(spread.high), int(spread.step or 1)
        return trial.suggest_int(axis.option, low, high, step=step, log=spread.log)
    return trial.suggest_float(axis.option, spread.low, spread.high, step=spread.step, log=spread.log)


def conflict(sweep: Sweep, before: dict[str, Any]) -> str | None:
    """What of a search cannot change once it has begun; None if it has not."""
    axes = {axis.option: axis.choices() for axis in sweep.search if not isinstance(axis.values, Range)}
    known = before.get("axes", {})
    changed = [option for option, choices in axes.items() if option in known and known[option] != choices]
    for key, now in (("variants", list(sweep.variants)), ("direction", sweep.direction)):
        changed += [key] if before.get(key, now) != now else []
    return changed[0] if changed else None
