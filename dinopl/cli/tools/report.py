"""``dinopl report``: tables, differences and figures from run folders; ``dinopl.reports`` has what is computed."""

import argparse
import re
import shutil
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from dinopl.cli.tools import ToolParser
from dinopl.core.errors import UserMistake, did_you_mean
from dinopl.core.files import replacing

DESCRIPTION = """\
Averages finished runs over their seeds, in a table on the terminal.

RUNS_OR_STUDY are folders: a study of `dinopl sweep`, finished or not; a folder of runs of `dinopl fit`, such as runs; a
single run. Runs that are equal but for their seed form a group. Of several attempts at one run the latest that finished
or diverged counts. Runs that diverged, failed or have not ended are counted beside the mean and are no part of it.
"""
EPILOG = """\
try:
  dinopl report runs/random_teacher
  dinopl report runs --by model.student.alpha --metric 'probe/student/*' --csv runs.csv --figure alpha.png
  dinopl report runs --metric 'probe/student/knn - probe/teacher/knn'
  dinopl report runs --baseline model.student=TeacherCopy
  dinopl report runs --metric 'test/sequence_accuracy/length=*' --x length --figure lengths.png
  dinopl report --compare runs/digits/TIME runs/digits/TIME
"""


def parser() -> argparse.ArgumentParser:
    """The options of ``dinopl report``."""
    made = ToolParser(
        "report",
        "`dinopl report --help` explains",
        usage="dinopl report RUNS_OR_STUDY ... [options]\n       dinopl report --compare A B",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = made.add_argument
    add("runs", nargs="*", metavar="RUNS_OR_STUDY", help="folders; put them before the options")
    add("--by", nargs="*", metavar="OPTION", help="a row for each value of these dotted options, or of `variant`; by "
        "default all that differ, but for the seed; without a name all runs in one row")  # fmt: skip
    add("--metric", nargs="+", action="extend", metavar="NAME", help="names, globs such as 'probe/*', or a difference "
        "'A - B'; by default the student's probes and the accuracies on the test split, or else all of that split, or "
        "else the validation split's")  # fmt: skip
    add("--baseline", metavar="OPTION=VALUE", help="also show differences from the group with this value (a variant by "
        "its name alone), paired over the seeds that both have")  # fmt: skip
    add("--level", type=float, default=0.95, help="of intervals, 0.95 by default: Student's t below 10 seeds, the "
        "percentile bootstrap from 10 on")  # fmt: skip
    add("--csv", type=Path, metavar="FILE", help="write a row per run: options and metrics by their names")
    add("--markdown", type=Path, metavar="FILE", help="write the tables as Markdown")
    add("--latex", type=Path, metavar="FILE", help="write the tables for LaTeX, with the rules of booktabs")
    add("--figure", type=Path, metavar="FILE", help="draw a .png, .pdf or .svg; its numbers go into a .csv beside it")
    add("--x", metavar="OPTION", help="what is on the figure's horizontal axis: an option, or a key in the metrics' "
        "names such as length; by default what the study says, or the option with the most values")  # fmt: skip
    add("--band", choices=("sd", "interval"), default="sd", help="the figure's bands: standard deviation over seeds "
        "(the default), or the interval of the mean")  # fmt: skip
    add("--compare", nargs=2, type=Path, metavar=("A", "B"), help="two runs: options and metrics that differ")
    return made


def report(arguments: Sequence[str]) -> int:
    """Runs ``dinopl report`` with the arguments after the word ``report``."""
    options = parser().parse_args(arguments)

    with one_line("report"):
        if options.compare:
            sys.stdout.write(_compare(*options.compare) + "\n")
        else:
            _report(options)
    return 0


@contextmanager
def one_line(tool: str) -> Iterator[None]:
    """Turns what reading and writing refuse into the user's mistake, arguments under the names of their options.

    Args:
        tool: the word after ``dinopl``.
    """
    from dinopl.reports import UnknownNameError

    try:
        yield
    except (OSError, ValueError) as error:
        text = str(error)
        if isinstance(error, OSError) and error.strerror:
            text = f"{error.filename}: {error.strerror}"
        text = re.sub(r"^(by|metric|baseline|level|x)s?=(.*?): ", r"--\1 \2: ", text)
        near = did_you_mean(error.name, error.known) if isinstance(error, UnknownNameError) else ""
        raise UserMistake(f"{tool}: {text}{near}") from error


def _compare(*folders: Path) -> str:
    from dinopl.reports import Run, compare, comparison_text, runs

    found: list[Run] = []
    for folder in folders:
        rows = runs(folder).query("status != 'waiting'")
        if len(rows) != 1:
            raise UserMistake(f"report: --compare {folder}: holds {len(rows)} runs; name the folder of one.")
        found.append(Run.load(rows["run"].iloc[0], history=False))
    return "\n".join([f"A: {found[0].path}", f"B: {found[1].path}", "", comparison_text(compare(*found))])


def _report(options: argparse.Namespace) -> None:
    """Everything is checked before anything is printed or written."""
    from dinopl.reports import FORMATS, Report, differing, paths_by_seed, report_figure, save_report_figure, write_runs
    from dinopl.reports.run import FILES

    if not options.runs:
        raise UserMistake("report: give a study or a folder of runs, before the options: dinopl report runs")
    if options.x and not options.figure:
        raise UserMistake(f"report: --x {options.x}: is of a figure; give --figure FILE too.")
    outputs = {"csv": options.csv, "markdown": options.markdown, "latex": options.latex, "figure": options.figure}
    outputs["figure's numbers"] = options.figure and options.figure.with_suffix(".csv")
    for name, file in outputs.items():
        if file and file.name in FILES and file.exists():
            shown = (
                f"--{name} {file}" if name in vars(options) else f"--figure {options.figure}: its numbers' {file.name}"
            )
            raise UserMistake(f"report: {shown}: a run's own file would be overwritten; name another.")
    made = Report.of(options.runs, options.by, options.metric or (), options.baseline, options.level)
    plot = None
    if options.figure:
        if options.figure.suffix not in FORMATS:
            raise UserMistake(f"report: --figure {options.figure}: must end in one of {', '.join(FORMATS)}.")
        if options.csv and options.csv.absolute() == options.figure.with_suffix(".csv").absolute():
            raise UserMistake(f"report: --csv {options.csv}: the figure's own numbers go there; name another file.")
        plot = made.plot(options.x)
    sys.stdout.write(made.text(shutil.get_terminal_size((120, 24)).columns) + "\n")
    if options.csv:
        columns = dict.fromkeys([*differing(made.runs), *made.groups[0].values, *paths_by_seed(made.runs)])
        chosen = made.metrics if options.metric else ()
        sys.stdout.write(f"\nruns: {write_runs(options.csv, made.runs, list(columns), chosen)}\n")
    for name, file, layout in (
        ("markdown", options.markdown, made.markdown),
        ("latex", options.latex, made.latex),
    ):
        if file:
            file.parent.mkdir(parents=True, exist_ok=True)
            with replacing(file) as temporary:
                temporary.write_text(layout() + "\n", encoding="utf-8")
            sys.stdout.write(f"\n{name}: {file}\n")
    if plot:
        points, x, log = plot
        figure = report_figure(points, x, options.band, log, options.level)
        path, numbers = save_report_figure(figure, options.figure, points, x)
        sys.stdout.write(f"\nfigure: {path}\nits numbers: {numbers}\n")
