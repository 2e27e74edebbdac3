"""``dinopl runs``: the runs of a study or folder, one per line, and the best of them by a metric."""

import argparse
import shutil
import sys
import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING

from dinopl.cli.tools import ToolParser
from dinopl.cli.tools.report import one_line
from dinopl.core.errors import UserMistake, did_you_mean

if TYPE_CHECKING:
    from pandas import DataFrame

HELP = """\
usage: dinopl runs ls [FOLDER ...] [--metric NAME ...]
       dinopl runs best --metric NAME [FOLDER ...] [--mode max|min] [--number N]

Lists the runs of FOLDER (runs by default): a study of `dinopl sweep`, a folder of runs, a single run. Shown are status,
seed, the options that differ, and a metric: the study's, else the first of `dinopl report`, or those named.

`best` sorts the finished runs by one metric. Whether a large or a small value is good is what the study says; where it
says nothing, accuracies and what else is no loss, error or divergence are to be large. --mode decides otherwise.
Means over seeds are `dinopl report`; the same rows in a notebook are `dinopl.reports.runs(FOLDER)`.

try:
  dinopl runs ls
  dinopl runs ls runs/locality --metric 'probe_val/student/*'
  dinopl runs best --metric probe_val/student/linear runs/locality
"""
SMALL = ("loss", "nll", "kl", "ece", "brier", "error", "perplexity", "bits_per_character")  # ends of names


def runs(arguments: Sequence[str]) -> int:
    """Runs ``dinopl runs`` with the arguments after the word ``runs``."""
    if not arguments or arguments[0] in ("--help", "-h") or {"--help", "-h"} & set(arguments):
        sys.stdout.write(HELP)
        return 0
    what, *rest = arguments
    if what not in ("ls", "best"):
        raise UserMistake(f"runs {what}: give ls or best{did_you_mean(what, ('ls', 'best'))}")
    parser = ToolParser(f"runs {what}", "`dinopl runs --help` explains", add_help=False)
    parser.add_argument("folders", nargs="*")
    parser.add_argument("--metric", nargs=1 if what == "best" else "+", action="extend", required=what == "best")
    if what == "best":
        parser.add_argument("--mode", choices=("max", "min"))
        parser.add_argument("--number", type=int, default=5)
    options = parser.parse_intermixed_args(rest)
    with one_line(f"runs {what}"):
        sys.stdout.write(_best(options) if what == "best" else _listed(options))
    return 0


def _listed(options: argparse.Namespace) -> str:
    from dinopl.reports import chosen_metrics
    from dinopl.reports import runs as read_runs

    frame = read_runs(options.folders or ["runs"])
    counts = ", ".join(f"{count} {status}" for status, count in frame["status"].value_counts().items())
    metrics = chosen_metrics(frame, options.metric) if options.metric else chosen_metrics(frame)[:1]
    lines = [f"{len(frame)} run{'s' * (len(frame) != 1)}: {counts}"]
    if evaluations := frame.attrs["evaluations"]:
        lines.append(f"left out: {evaluations} of validate, test or predict")
    return "\n".join([*lines, "", _table(frame, metrics, frame), ""])


def _best(options: argparse.Namespace) -> str:
    from dinopl.reports import chosen_metrics
    from dinopl.reports import runs as read_runs
    from dinopl.reports.metrics import metric_values

    if options.number < 1:
        raise UserMistake(f"runs best: --number {options.number}: give 1 or more.")
    frame, asked = read_runs(options.folders or ["runs"]), options.metric[0]
    names = chosen_metrics(frame, options.metric)
    if len(names) > 1:
        some = ", ".join(names[:4])
        raise UserMistake(f"runs best: --metric {asked}: stands for {len(names)} metrics; name one, such as {some}.")
    finished = frame[frame["status"] == "finished"]
    values = metric_values(finished, names[0] if names else asked).dropna()
    if values.empty:
        raise UserMistake(f"runs best: --metric {asked}: no finished run has a value; `dinopl runs ls` lists the runs.")
    said = [
        study["direction"] for study in frame.attrs["studies"] if study["metric"] == names[0] and study["direction"]
    ]
    small = any(part.endswith(SMALL) for part in names[0].split("/"))
    mode = options.mode or (said[0][:3] if said else "min" if small else "max")
    best = frame.loc[values.sort_values(ascending=mode == "min", kind="stable").index[: options.number]]
    which = "smallest" if mode == "min" else "largest"
    title = f"{which} {names[0]} of {len(values)} finished run{'s' * (len(values) != 1)}"
    return f"{title}\n\n{_table(best, names, frame)}\n\nbest: {best['run'].iloc[0]}\n"


def _table(rows: "DataFrame", metrics: Sequence[str], frame: "DataFrame") -> str:
    """A line per run, with the options that differ between all runs of the frame, as far as the terminal has room."""
    from dinopl.reports import differing
    from dinopl.reports.metrics import metric_values
    from dinopl.reports.options import SEED, shown
    from dinopl.reports.tables import as_text

    room = shutil.get_terminal_size((120, 24)).columns
    first, options = ["run", "status", SEED], differing(frame)
    table = rows[[*first, *options]].assign(**{name: metric_values(rows, name) for name in metrics}).astype(object)
    cells = table.where(table.notna(), None).map(shown).rename(columns={SEED: "seed"})
    widths = {name: 2 + max(map(len, [str(name), *cells[name]])) for name in cells}
    left = room + 2 - sum(widths[name] for name in ("run", "status", "seed", *metrics))
    columns, missing = ["run", "status", "seed"], list[str]()
    for name in options:
        (columns if widths[name] <= left else missing).append(name)
        left -= widths[name] if widths[name] <= left else 0
    text = as_text(cells.set_index(columns)[list(metrics)], room)
    if not missing:
        return text
    names = ", ".join(missing[:6]) + (", ..." if len(missing) > 6 else "")
    note = f"{len(missing)} more differ ({names}); a wider terminal, or `dinopl report --csv`, has them"
    return f"{text}\n\n{textwrap.fill(note, room)}"
