"""Trials that differ in nothing but the seed, put together: means over seeds, and differences between groups.

The unit of every mean is the seed. Where a group holds several runs of one seed, because they differ in an option that
was not asked for, they are averaged first, so that ``n`` never counts more than there are seeds; a seed that lacks some
of these runs is left out.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dinopl.core.statistics import Summary, paired_differences, summarize
from dinopl.reports.collection import Collection, Trial
from dinopl.reports.metrics import metric_value
from dinopl.reports.options import SEED, canonical, shown, varying, without_implied

VARIANT = "variant"


@dataclass(frozen=True)
class Group:
    """Trials with equal values of some options.

    Attributes:
        values: of the options that the groups are by.
        trials: all of them, finished or not.
        within: options that differ within groups, besides the seed.
    """

    values: dict[str, Any]
    trials: list[Trial]
    within: tuple[str, ...] = ()

    @property
    def seeds(self) -> int:
        """Number of seeds that have a finished run."""
        return len({_seed(trial) for trial in self.trials if trial.status == "finished"})

    def statuses(self) -> Counter[str]:
        """How many trials have each status."""
        return Counter(trial.status for trial in self.trials)

    def label(self, options: Iterable[str]) -> str:
        """The group by its values of some options: the variant's name alone, others as ``option=value``."""
        return ", ".join(
            shown(self.values[name]) if name == VARIANT else f"{name}={shown(self.values[name])}" for name in options
        )

    def samples(self, metric: str) -> dict[tuple[Any, ...], float]:
        """Values of a metric in finished runs, by seed and the options in ``within``; nulls are left out."""
        found = {}
        for trial in self.trials:
            value = metric_value(trial.run.metrics, metric) if trial.run and trial.status == "finished" else None
            if value is not None:
                found[_seed(trial), *(canonical(trial.value(option)) for option in self.within)] = value
        return found

    def summary(self, metric: str, level: float = 0.95) -> Summary:
        """Mean, standard deviation and interval of a metric over seeds."""
        return summarize(list(mean_by_seed(self.samples(metric)).values()), level)

    def difference(self, baseline: "Group", metric: str, level: float = 0.95) -> Summary:
        """The same of the differences from another group, over the seeds that both have."""
        differences = paired_differences(self.samples(metric), baseline.samples(metric))
        return summarize(list(mean_by_seed(differences).values()), level)


def _seed(trial: Trial) -> Any:
    """What tells repetitions apart; a run whose seed is not known stands for itself."""
    return trial.path if trial.seed is None else trial.seed


def mean_by_seed(samples: Mapping[tuple[Any, ...], float]) -> dict[Any, float]:
    """Means over the samples that share the first part of their key.

    Only of seeds that have a sample for every rest of a key that any seed has: means over different runs would differ
    by which runs are missing.
    """
    found: dict[Any, dict[tuple[Any, ...], float]] = {}
    for (seed, *rest), value in samples.items():
        found.setdefault(seed, {})[tuple(rest)] = value
    cells = {rest for values in found.values() for rest in values}
    return {seed: sum(values.values()) / len(cells) for seed, values in found.items() if len(values) == len(cells)}


def differing(collection: Collection) -> list[str]:
    """Options that differ between the trials, the seed left out; "variant" first, if there are several.

    Of a study these are options that it set. Those that follow from the variant, or from the class that their object
    has, are left out, but for the study's axes; so are paths that go with the seed (:func:`paths_by_seed`).
    """
    found = _differing(collection)
    return [name for name in found if name not in _paths_by_seed(found, collection.trials)]


def paths_by_seed(collection: Collection) -> list[str]:
    """Options that name a file or folder, such as each seed's own teacher, and differ in no other way than the seed."""
    return _paths_by_seed(_differing(collection), collection.trials)


def _differing(collection: Collection) -> list[str]:
    trials = collection.trials
    planned = all(trial.planned for trial in trials)
    names = dict.fromkeys(name for trial in trials for name in (trial.options if planned else trial.settings))
    found = varying([{name: trial.value(name) for name in names} for trial in trials])
    variants = [VARIANT] if len({trial.variant for trial in trials}) > 1 else []
    found = variants + [name for name in found if name != SEED]
    axes = {axis for study in collection.studies for axis in study.axes}
    kept = without_implied(found, lambda trial, name: trials[trial].value(name), len(trials))
    return [name for name in found if name in kept or name in axes]


def _paths_by_seed(found: Sequence[str], trials: Sequence[Trial]) -> list[str]:
    """Paths that have one value for each seed and value of the options that are no paths."""
    paths = [name for name in found if all(_is_path(trial.value(name)) for trial in trials)]
    others = [name for name in found if name not in paths]
    places = [canonical([_seed(trial), *(trial.value(name) for name in others)]) for trial in trials]
    pairs = {name: {(at, trial.value(name)) for at, trial in zip(places, trials, strict=True)} for name in paths}
    return [name for name in paths if len(pairs[name]) == len(set(places))]


def _is_path(value: Any) -> bool:
    return value is None or (isinstance(value, str) and "/" in value)


def group(collection: Collection, by: Sequence[str] | None = None) -> list[Group]:
    """Puts trials with equal values of the options together, in the order of the values.

    Numbers are in increasing order, variants and the values of a study's axes in the study's, other text in the
    alphabet's.

    Args:
        collection: from ``collect``.
        by: dotted options, or "variant"; None takes all that differ.
    """
    found = differing(collection)
    chosen = found if by is None else list(by)
    within = tuple(name for name in found if name not in chosen)
    groups: dict[tuple[str, ...], list[Trial]] = {}
    for trial in collection.trials:
        groups.setdefault(tuple(canonical(trial.value(name)) for name in chosen), []).append(trial)
    made = [Group({name: trials[0].value(name) for name in chosen}, trials, within) for trials in groups.values()]
    orders = {name: _order(collection, name) for name in chosen}
    return sorted(made, key=lambda group: [_rank(group.values[name], orders[name]) for name in chosen])


def _order(collection: Collection, option: str) -> list[str]:
    listed = [study.variants if option == VARIANT else study.axes.get(option, []) for study in collection.studies]
    return [canonical(value) for values in listed for value in values]


def _rank(value: Any, order: Sequence[str]) -> tuple[int, float, str]:
    """Sorts null before numbers before the rest."""
    if value is None:
        return 0, 0.0, ""
    if isinstance(value, int | float):
        return 1, float(value), ""
    text = canonical(value)
    return 2, order.index(text) if text in order else len(order), text


def baseline_of(group: Group, groups: Iterable[Group], option: str, value: Any) -> Group | None:
    """The group that has ``value`` for ``option`` and otherwise what ``group`` has.

    Options that the baseline does not have, since they belong to what ``option`` replaces, are passed over.

    Returns:
        The group; None for a baseline itself, if there is none, or if there are several that fit as well.
    """
    if canonical(group.values[option]) == canonical(value):
        return None
    others = [name for name in group.values if name != option]
    found = [
        candidate
        for candidate in groups
        if canonical(candidate.values[option]) == canonical(value)
        and all(candidate.values[name] in (None, group.values[name]) for name in others)
    ]
    exact = [candidate for candidate in found if all(candidate.values[n] == group.values[n] for n in others)]
    best = exact or found
    return best[0] if len(best) == 1 else None
