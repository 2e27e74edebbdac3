"""From the words of the command line to a study in which everything waits to be run.

It needs the real parser, and so all that a run imports.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from dinopl.cli.config import Arguments, Config, read_config
from dinopl.core.errors import UserMistake, did_you_mean
from dinopl.sweep.devices import check_one_device, cores, environments
from dinopl.sweep.file import Sweep, check_name
from dinopl.sweep.folder import StudyFolder, describe, moved
from dinopl.sweep.grid import Point
from dinopl.sweep.plan import Job, Planner, Runs
from dinopl.sweep.request import FLAGS, VALUES, Request
from dinopl.sweep.search import conflict
from dinopl.sweep.study import Study
from dinopl.sweep.words import grouped, plain_name

PLACE = ("name", "trainer.default_root_dir")
ROOT = "runs"


@dataclass(frozen=True)
class Settled:
    """A study with all its options settled.

    Attributes:
        study: the study.
        example: its first run; of a search, one that it might draw.
        notes: what the user should know.
    """

    study: Study
    example: Job
    notes: tuple[str, ...] = ()


def settle(request: Request, file: Sweep, points: Sequence[Point]) -> Settled:
    """Puts every run's options through the real parser; nothing is written.

    Args:
        request: the command line.
        file: the sweep file.
        points: of the grid; of a search, some that show what it draws from.

    Raises:
        UserMistake: for whatever is wrong with the options, or what they come to.
    """
    arguments = request.arguments
    _check_words(file, arguments)
    given = {".".join(path): value for path, value in arguments.pairs()}
    kept = [each for group in grouped(arguments.options) if plain_name(group[0]) not in PLACE for each in group]
    arguments = replace(arguments, files=arguments.files or list(file.config), options=kept)
    file = replace(file, name=given.get("name", file.name))
    try:
        check_name(file.name)
    except ValueError as error:
        raise UserMistake(f"--name: {error}.") from error
    root = given.get("trainer.default_root_dir") or _root(arguments.files)
    folder = StudyFolder((Path(root) / file.name).absolute())
    runs = Planner(file, arguments, _resolve, folder.known()).runs(points)
    for job in runs.ordered():
        check_one_device(job.config)
    wanted = Runs({}, {}) if file.search else runs
    doubles = f"{runs.doubles} points come to the same run as another, and are run once"
    notes = (doubles,) if runs.doubles and not file.search else ()
    study = Study(file, arguments, folder, wanted, request.storage, request.retries)
    return Settled(study, next(iter(runs.trials.values())), notes)


def _resolve(arguments: Arguments) -> Config:
    from dinopl.sweep.resolve import resolve

    return resolve(arguments)


def _root(files: Sequence[str]) -> str:
    """The folder of all runs, as the base configurations have it."""
    trainers = [read_config(file).get("trainer") or {} for file in files]
    return next((each["default_root_dir"] for each in reversed(trainers) if "default_root_dir" in each), ROOT)


def _check_words(file: Sweep, arguments: Arguments) -> None:
    from dinopl.cli.runs import OPTIONS

    swept = {plain_name(option) for option in file.swept()}
    for group in grouped(arguments.options):
        option = plain_name(group[0])
        if option in swept:
            raise UserMistake(f"--{option}: is swept by the sweep file; leave it out here, or there.")
        if "." not in option and option not in OPTIONS:
            raise UserMistake(f"--{option}: no such option{did_you_mean(option, [*VALUES, *FLAGS, *OPTIONS])}")
    if arguments.print_config:
        raise UserMistake("--print_config: of which run? --print-commands prints them all, to add it to one.")


def settle_and_prepare(request: Request, file: Sweep, points: Sequence[Point]) -> tuple[Settled, list[dict[str, str]]]:
    """Settles a study, writes it and fills its queue.

    Returns:
        The study, and the environment of each worker.

    Raises:
        UserMistake: before anything is written.
    """
    from dinopl.training.files import obstacle

    settled = settle(request, file, points)
    if problem := obstacle(settled.study.folder.path):
        raise UserMistake(problem)
    places = environments(request.workers, settled.example.config)
    study = replace(settled.study, threads=max(1, cores() // len(places)))
    return prepare(replace(settled, study=study), "retry-failed" in request.flags), places


def prepare(settled: Settled, failed_too: bool = False) -> Settled:
    """Writes what the study is, and puts every run into the queue that is not in it.

    Args:
        settled: the study.
        failed_too: whether to give runs that failed another round.

    Returns:
        The study. If it began with other base options, its runs say theirs, so that a table tells them apart.
    """
    study, example = settled.study, settled.example
    queues = study.open()
    with queues.locked() as now:
        before = study.folder.read()
        _refuse_conflict(study, before)
        runs, different = _told_apart(study, before)
        study = replace(study, runs=runs)
        study.folder.write(describe(study.sweep, example, before))
        for job in study.runs.ordered():
            study.folder.begin(job)
        if not study.sweep.search:
            study.folder.forget(study.runs.trials)
        queues.tend(now)
        queues.shared.enqueue(study.runs.shared.values(), failed_too)
        queues.trials.enqueue((job for job in study.runs.ordered() if job.kind == "trials"), failed_too)
    notes = (*settled.notes, _told_moved(different)) if different else settled.notes
    return replace(settled, study=study, notes=notes)


def _refuse_conflict(study: Study, before: dict[str, Any]) -> None:
    changed = conflict(study.sweep, before) if study.sweep.search else None
    if changed is not None:
        raise UserMistake(
            f"--sweep: {changed} is not what the search {study.sweep.name!r} began with, and its choices cannot "
            "change; give it another name with --name."
        )


def _told_apart(study: Study, before: dict[str, Any]) -> tuple[Runs, dict[str, tuple[Any, Any]]]:
    """The runs, of which new ones say in their options how they differ from those that the study began with."""
    found: dict[str, Job] = {}
    different: dict[str, tuple[Any, Any]] = {}
    for run, job in study.runs.trials.items():
        known = study.folder.facts("trials", run).get("apart")
        own = moved(study.sweep, job, before) if known is None else {}
        different |= own
        apart = {option: now for option, (_, now) in own.items()} if known is None else known
        found[run] = replace(job, options=job.options | apart, apart=apart)
    return replace(study.runs, trials=found), different


def _told_moved(different: dict[str, tuple[Any, Any]]) -> str:
    shown = [f"{option} was {before} and is {now}" for option, (before, now) in list(different.items())[:3]]
    more = f", and {len(different) - 3} more" if len(different) > 3 else ""
    return f"since the study began {', '.join(shown)}{more}: these are new runs, the earlier ones stay"
