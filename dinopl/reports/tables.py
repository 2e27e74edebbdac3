"""The tables of a report: groups of runs against metrics, two runs side by side, and a CSV row per run.

A table is a frame of text: its index names the rows, its columns are metrics. It is laid out for the
terminal, for Markdown and for LaTeX.
"""

import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dinopl.core.files import replacing
from dinopl.core.statistics import Summary
from dinopl.reports.options import SEED, canonical, flatten_options, number, shown

if TYPE_CHECKING:
    from pandas import DataFrame

    from dinopl.reports.groups import Group
    from dinopl.reports.run import Run


def rounded(value: float | None, sign: str = "") -> str:
    """A number with three decimals, "-" for none; ``sign="+"`` shows a plus too."""
    return "-" if value is None or value != value else f"{value:{sign}z.3f}"


def aligned(rows: Sequence[Sequence[str]]) -> str:
    """Plain text: the first column to the left, the others to the right, with a rule under the first row."""
    widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]
    lines = [
        "  ".join([row[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(row[1:], widths[1:], strict=True))])
        for row in rows
    ]
    return "\n".join([lines[0], "-" * len(lines[0]), *lines[1:]])


def as_text(table: "DataFrame", width: int = 100) -> str:
    """Aligned plain text. Columns named ``FAMILY/KEY=VALUE``, such as lengths, get a block under the family's name.

    Args:
        table: of text.
        width: columns that do not fit go to a further block.
    """
    families: dict[str, list[str]] = {}
    for name in table.columns:
        family, _, last = name.rpartition("/")
        families.setdefault(family if "=" in last and " - " not in name else "", []).append(name)
    for family in [family for family, names in families.items() if family and len(names) == 1]:
        families.pop(family)
    grouped = [name for family, names in families.items() if family for name in names]
    alone = [name for name in table.columns if name not in grouped]
    several = {family: names for family, names in families.items() if family}
    index = [[str(name), *table.index.get_level_values(level)] for level, name in enumerate(table.index.names)]
    blocks = []
    for title, names in [*([("", alone)] if alone or not several else []), *several.items()]:
        block = list(index)
        for name in names:
            column = [name[len(title) + 1 :] if title else name, *table[name]]
            used = sum(max(map(len, other)) + 2 for other in [*block, column]) - 2
            if len(block) > len(index) and used > width:
                blocks.append((title, block))
                block = list(index)
            block.append(column)
        blocks.append((title, block))
    return "\n\n".join((f"{title}\n" if title else "") + aligned(list(zip(*b, strict=True))) for title, b in blocks)


def as_markdown(table: "DataFrame") -> str:
    """A Markdown table."""
    head = [[*table.index.names, *table.columns], ["---"] * table.index.nlevels + ["---:"] * len(table.columns)]
    rows = [[cell.replace("|", "\\|") for cell in row] for row in table.reset_index().to_numpy()]
    return "\n".join(f"| {' | '.join(row)} |" for row in [[c.replace("|", "\\|") for c in head[0]], head[1], *rows])


def as_latex(table: "DataFrame") -> str:
    """A LaTeX ``tabular`` with the rules of the package ``booktabs``, ± in math mode."""
    columns = "l" * table.index.nlevels + "r" * len(table.columns)
    text = table.reset_index().to_latex(index=False, escape=True, column_format=columns)
    return text.replace(" ± ", " $\\pm$ ").strip()


def summary_table(groups: Sequence["Group"], metrics: Sequence[str], others: Sequence[str] = ()) -> "DataFrame":
    """A row per group: its options, how many seeds have finished and how else runs ended, mean ± deviation over seeds.

    A cell with fewer seeds than ``n``, since some of their values are not numbers, says how many; "-" has none.

    Args:
        groups: by the same options, at least one.
        metrics: names, or differences ``A - B``.
        others: ends of runs that get a column if any run has them, besides "finished".
    """
    import pandas as pd

    index = {name: [shown(group.values[name]) for group in groups] for name in groups[0].values}
    index["n"] = [str(group.seeds) for group in groups]
    for status in others:
        counts = [int((group.runs["status"] == status).sum()) for group in groups]
        if any(counts):
            index[status] = [str(count) for count in counts]
    cells = {}
    for metric in metrics:
        summaries = [group.summary(metric) for group in groups]
        places = decimals(summaries)
        few = [f" (n={s.n})" if 0 < s.n < int(n) else "" for s, n in zip(summaries, index["n"], strict=True)]
        cells[metric] = [mean_and_deviation(s, places) + end for s, end in zip(summaries, few, strict=True)]
    return pd.DataFrame(index | cells, dtype=object).set_index(list(index))


def difference_table(
    pairs: Sequence[tuple["Group", "Group | None"]], metrics: Sequence[str], level: float = 0.95
) -> "DataFrame":
    """A row per group: the mean difference from its baseline over shared seeds, with its interval.

    Args:
        pairs: groups with their baselines; a group without one has no row.
        metrics: names, or differences ``A - B``.
        level: of the intervals.
    """
    import pandas as pd

    compared = [(group, baseline) for group, baseline in pairs if baseline is not None]
    index = {name: [shown(group.values[name]) for group, _ in compared] for name in pairs[0][0].values}
    cells = {}
    for metric in metrics:
        summaries = [group.difference(baseline, metric, level) for group, baseline in compared]
        places = decimals(summaries)
        cells[metric] = [mean_and_interval(summary, places) for summary in summaries]
    return pd.DataFrame(index | cells, dtype=object).set_index(list(index))


def decimals(summaries: Iterable[Summary]) -> int:
    """Decimal places for a column: enough for two digits of the smallest deviation, but four at most.

    Where all means are below 0.01, it is as many as show four digits of the largest.
    """

    def exponent(value: float) -> int:
        return math.floor(math.log10(abs(value))) if value else 0

    found = [(summary.mean, summary.sd) for summary in summaries if summary.mean is not None]
    largest = max((abs(mean) for mean, _ in found), default=0.0)
    most = 4 if largest >= 0.01 else 3 - exponent(largest)
    needed = [1 - exponent(sd) if sd else 3 - exponent(mean) for mean, sd in found]
    return min(max([0, *needed]), most)


def mean_and_deviation(summary: Summary, places: int) -> str:
    """``0.7720 ± 0.0092``, without the deviation of a single value; "-" without values."""
    if summary.mean is None:
        return "-"
    deviation = "" if summary.sd is None else f" ± {summary.sd:.{places}f}"
    return f"{summary.mean:.{places}f}{deviation}"


def mean_and_interval(summary: Summary, places: int) -> str:
    """``+0.084 [+0.051, +0.117] (n=3)``, without the interval of a single value; "-" without values."""
    if summary.mean is None:
        return "-"
    interval = summary.interval
    between = f" [{interval.low:+.{places}f}, {interval.high:+.{places}f}]" if interval else ""
    return f"{summary.mean:+.{places}f}{between} (n={summary.n})"


def write_runs(path: str | Path, runs: "DataFrame", options: Sequence[str], metrics: Sequence[str] = ()) -> Path:
    """Writes a CSV with a row per run.

    Columns are the run's folder, its status, the number of earlier attempts, the seed and the options by their dotted
    names, the duration in seconds, and metrics by theirs. What is absent is empty. Diverged runs have their last
    values; so have runs that were interrupted.

    Args:
        path: of the file; its folder is made if need be.
        runs: from ``dinopl.reports.runs``.
        options: dotted names, or "variant".
        metrics: names, or differences; by default all that any run has.
    """
    import pandas as pd

    from dinopl.reports.metrics import metric_values

    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    columns = (
        ["variant"] * ("variant" in options) + [SEED] + [name for name in options if name not in ("variant", SEED)]
    )
    written = runs[["run", "status", "earlier_attempts"]].copy()
    for name in columns:
        cells = (number(value) for value in runs[name])
        plain = [cell if cell is None or isinstance(cell, int | float | str) else shown(cell) for cell in cells]
        written[name] = pd.Series(plain, runs.index, dtype=object)
    written["duration_s"] = runs["duration_s"]
    for name in metrics or runs.attrs["metrics"]:
        written[name] = metric_values(runs, name)
    with replacing(path) as temporary:
        written.to_csv(temporary, index=False, encoding="utf-8")
    return path


def compare(a: "Run", b: "Run") -> "DataFrame":
    """Sets two runs side by side.

    Returns:
        A row per name, with the columns ``kind`` ("option", "metric", "run"), ``name``, ``A``, ``B`` and ``equal``;
        what is absent is None and equal to null. "run" has status, command, duration, the checkpoint that was taken
        up, and versions.
    """
    import pandas as pd

    facts = ("status", "command", "resumed_from", "duration_s")
    sides = [
        {
            "option": flatten_options(run.config),
            "metric": run.metrics,
            "run": {name: getattr(run, name) for name in facts}
            | {f"version of {name}": version for name, version in run.versions.items()},
        }
        for run in (a, b)
    ]
    rows: list[tuple[Any, ...]] = []
    for kind in sides[0]:
        left, right = (side[kind] for side in sides)
        for name in dict.fromkeys([*left, *right]):
            pair = left.get(name), right.get(name)
            rows.append((kind, name, *pair, canonical(pair[0]) == canonical(pair[1])))
    return pd.DataFrame(rows, columns=["kind", "name", "A", "B", "equal"], dtype=object)


def comparison_text(compared: "DataFrame") -> str:
    """What differs, a block per kind, and how many do not; metrics have their difference, second minus first.

    Args:
        compared: from :func:`compare`.
    """
    blocks = []
    for kind, rows in compared.groupby("kind", sort=False):
        differing, equal = rows[~rows["equal"].astype(bool)], int(rows["equal"].sum())
        cells = [[str(kind), "A", "B", *(["B - A"] if kind == "metric" else [])]]
        for _, name, a, b, _ in differing.itertuples(index=False):
            difference = [None if a is None or b is None else b - a] if kind == "metric" else []
            cells.append([name, *map(shown, [a, b, *difference])])
        count = f"({equal} {'other ' if len(differing) else ''}{kind}{'s' if equal > 1 else ''} equal)"
        lines = [*([aligned(cells)] if len(differing) else []), *([count] if equal and kind != "run" else [])]
        blocks += ["\n".join(lines)] if lines else []
    return "\n\n".join(blocks)
