"""Runs that differ in nothing but the seed, put together: means over seeds, and differences between groups.

The unit of every mean is the seed. Where a group holds several runs of one seed, because they differ in an option that
was not asked for, they are averaged first, so that ``n`` never counts more than there are seeds; a seed that lacks some
of these runs is left out.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from dinopl.core.statistics import Summary, summarize
from dinopl.reports.metrics import metric_values
from dinopl.reports.options import SEED, canonical, number, shown, varying, without_implied

if TYPE_CHECKING:
    from pandas import DataFrame, Series

VARIANT = "variant"


@dataclass(frozen=True)
class Group:
    """Runs with equal values of some options.

    Attributes:
        values: of the options that the groups are by.
        runs: rows of ``dinopl.reports.runs``, finished or not.
        within: options that differ within groups, besides the seed.
    """

    values: dict[str, Any]
    runs: "DataFrame"
    within: tuple[str, ...] = ()

    @property
    def finished(self) -> "DataFrame":
        """The rows of the runs that have finished."""
        return self.runs[self.runs["status"] == "finished"]

    @property
    def seeds(self) -> int:
        """Number of seeds that have a finished run."""
        return int(_seeds(self.finished).nunique())

    def label(self, options: Iterable[str]) -> str:
        """The group by its values of some options: the variant's name alone, others as ``option=value``."""
        return ", ".join(
            shown(self.values[name]) if name == VARIANT else f"{name}={shown(self.values[name])}" for name in options
        )

    def samples(self, metric: str) -> "Series[float]":
        """Values of a metric in finished runs, indexed by seed and the options in ``within``; NaN is left out."""
        runs = self.finished
        cells = runs[list(self.within)].map(canonical).agg(" ".join, axis=1) if self.within else runs["status"]
        values = metric_values(runs, metric).groupby([_seeds(runs), cells.rename("cell")], sort=False).last()
        return values.dropna()

    def summary(self, metric: str, level: float = 0.95) -> Summary:
        """Mean, standard deviation and interval of a metric over seeds."""
        return summarize(mean_by_seed(self.samples(metric)).tolist(), level)

    def difference(self, baseline: "Group", metric: str, level: float = 0.95) -> Summary:
        """The same of the differences from another group, over the seeds that both have."""
        ours, theirs = self.samples(metric), baseline.samples(metric)
        shared = ours[ours.index.isin(theirs.index)]
        return summarize(mean_by_seed(shared - theirs.reindex(shared.index)).tolist(), level)


def _seeds(runs: "DataFrame") -> "Series[Any]":
    """What distinguishes repetitions; a run whose seed is not known stands for itself."""
    return runs[SEED].where(runs[SEED].notna(), runs["run"])


def mean_by_seed(samples: "Series[float]") -> "Series[float]":
    """Means over the samples of a seed, the first level of their index.

    Only of seeds that have a sample at every second level that any seed has: means over different runs would differ by
    which runs are missing.
    """
    found = samples.groupby(level=0, sort=False).agg(["mean", "count"])
    return found["mean"][found["count"] == samples.index.get_level_values(1).nunique()]


def differing(runs: "DataFrame") -> list[str]:
    """Options that differ between runs, the seed left out; "variant" first, if there are several.

    Of a study these are options that it set. Those that follow from the variant, or from the class that their object
    has, are left out, but for the study's axes; so are paths that go with the seed (:func:`paths_by_seed`).
    """
    paths = paths_by_seed(runs)
    return [name for name in _differing(runs) if name not in paths]


def paths_by_seed(runs: "DataFrame") -> list[str]:
    """Options that name a file or folder, such as each seed's own teacher, and differ in no other way than the seed."""
    found = _differing(runs)
    paths = [name for name in found if all(v is None or (isinstance(v, str) and "/" in v) for v in runs[name])]
    places = runs.assign(**{SEED: _seeds(runs)})[[SEED, *(name for name in found if name not in paths)]].map(canonical)
    keys = [places[name] for name in places]
    return [name for name in paths if (runs[name].map(canonical).groupby(keys).nunique() == 1).all()]


def _differing(runs: "DataFrame") -> list[str]:
    names = runs.attrs["options"] if runs.attrs["swept"] is None else runs.attrs["swept"]
    variants = [VARIANT] if runs[VARIANT].nunique(dropna=False) > 1 else []
    found = variants + [name for name in varying(runs, names) if name != SEED]
    axes = {axis for study in runs.attrs["studies"] for axis in study["axes"]}
    kept = without_implied(runs, found)
    return [name for name in found if name in kept or name in axes]


def group(runs: "DataFrame", by: Sequence[str] | None = None) -> list[Group]:
    """Puts runs with equal values of the options together, in the order of the values.

    Numbers are in increasing order, variants and the values of a study's axes in the study's, other text in the
    alphabet's.

    Args:
        runs: from ``dinopl.reports.runs``.
        by: dotted options, or "variant"; None takes all that differ.
    """
    found = differing(runs)
    chosen = found if by is None else list(dict.fromkeys(by))
    within = tuple(name for name in found if name not in chosen)
    keys = [runs[name].map(canonical) for name in chosen] or [runs["run"].map(lambda _: "")]
    parts = [part for _, part in runs.groupby(keys, sort=False)]
    for part in parts:
        part.attrs = {}  # pandas copies them at each step
    made = [Group({name: number(part[name].tolist()[0]) for name in chosen}, part, within) for part in parts]
    orders = {}
    for name in chosen:
        listed = [
            study["variants"] if name == VARIANT else study["axes"].get(name, []) for study in runs.attrs["studies"]
        ]
        orders[name] = [canonical(value) for values in listed for value in values]
    return sorted(made, key=lambda group: [_rank(group.values[name], orders[name]) for name in chosen])


def _rank(value: Any, order: Sequence[str]) -> tuple[int, float, str]:
    """Sorts None before numbers before the rest."""
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
