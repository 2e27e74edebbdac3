"""Two runs side by side: options, metrics and versions that differ."""

from typing import Any, NamedTuple

from dinopl.reports.options import canonical, flatten_options, shown
from dinopl.reports.run import Run
from dinopl.reports.views.table import aligned

FACTS = ("status", "command", "resumed_from", "duration_s")


class Comparison(NamedTuple):
    """What differs between two runs; each list holds names with the first run's value and the second's.

    Attributes:
        options: by their dotted names; null and absent are the same.
        metrics: null and absent are the same.
        facts: status, command, duration, the checkpoint that was taken up, and versions.
        equal_options: number of options that are equal.
        equal_metrics: number of metrics that are equal.
    """

    options: list[tuple[str, Any, Any]]
    metrics: list[tuple[str, float | None, float | None]]
    facts: list[tuple[str, Any, Any]]
    equal_options: int
    equal_metrics: int

    def text(self) -> str:
        """Aligned plain text, a block a kind; metrics have their difference, second minus first."""
        metrics = [(name, a, b, None if a is None or b is None else b - a) for name, a, b in self.metrics]
        blocks = [
            _block("option", ("A", "B"), self.options, self.equal_options),
            _block("metric", ("A", "B", "B - A"), metrics, self.equal_metrics),
            _block("run", ("A", "B"), self.facts, 0),
        ]
        return "\n\n".join(block for block in blocks if block)


def compare(a: Run, b: Run) -> Comparison:
    """Sets two runs side by side."""
    options, equal_options = _differing(flatten_options(a.config), flatten_options(b.config))
    metrics, equal_metrics = _differing(a.metrics, b.metrics)
    facts, _ = _differing(_facts(a), _facts(b))
    return Comparison(options, metrics, facts, equal_options, equal_metrics)


def _facts(run: Run) -> dict[str, Any]:
    versions = {f"version of {name}": version for name, version in run.versions.items()}
    return {name: getattr(run, name) for name in FACTS} | versions


def _differing(a: dict[str, Any], b: dict[str, Any]) -> tuple[list[tuple[str, Any, Any]], int]:
    names = dict.fromkeys([*a, *b])
    rows = [(name, a.get(name), b.get(name)) for name in names if canonical(a.get(name)) != canonical(b.get(name))]
    return rows, len(names) - len(rows)


def _block(kind: str, columns: tuple[str, ...], rows: list[Any], equal: int) -> str:
    """What differs, and how many do not."""
    told = [f"({equal} {'other ' if rows else ''}{kind}{'s' if equal > 1 else ''} equal)"] if equal else []
    table = [aligned([(kind, *columns), *((name, *map(shown, values)) for name, *values in rows)])] if rows else []
    return "\n".join([*table, *told])
