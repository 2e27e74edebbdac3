"""Points made into runs: the real parser settles every option, and the hash of them all names the run.

So a misspelt option is refused before anything runs, and two points that come to the same run are one.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import yaml

from dinopl.cli.config import Arguments, Config, read_config
from dinopl.core.errors import UserMistake, did_you_mean
from dinopl.sweep.file import SEED, Options, Sweep
from dinopl.sweep.grid import Point
from dinopl.sweep.identity import content_id, digest
from dinopl.sweep.references import references, substitute
from dinopl.sweep.words import grouped, plain_name, word

Kind = Literal["trials", "shared"]
START = "ckpt_path"


@dataclass(frozen=True)
class Job:
    """One run of a study.

    Attributes:
        id: the hash of what makes a difference to it.
        kind: "trials", or "shared" for a run that others depend on.
        variant: name of the variant, or of the shared run.
        options: what it sets, as the sweep file says it.
        config: complete; ``${shared.ID.checkpoint}`` stands for a file of the shared run that has this id.
        needs: ids of the shared runs that must be finished first.
        words: its command line after ``dinopl fit``.
        key: the hash of these words and of the files that they name; empty if that does not settle the options.
        apart: of the options, those that it sets only against what the study began with.
    """

    id: str
    kind: Kind
    variant: str | None
    options: Options
    config: Config
    needs: tuple[str, ...]
    words: tuple[str, ...]
    key: str = ""
    apart: Options = field(default_factory=dict)


@dataclass(frozen=True)
class Runs:
    """All runs of a study, by id.

    Attributes:
        trials: of its points.
        shared: that others depend on, and that are no points themselves.
        doubles: how many points came to the same run as an earlier one.
    """

    trials: Mapping[str, Job]
    shared: Mapping[str, Job]
    doubles: int = 0

    def ordered(self) -> list[Job]:
        """All of them, each after those that it depends on."""
        jobs = {**self.shared, **self.trials}
        found: dict[str, Job] = {}

        def visit(run: str) -> None:
            if run not in found:
                for need in jobs[run].needs:
                    visit(need)
                found[run] = jobs[run]

        for run in jobs:
            visit(run)
        return list(found.values())


@dataclass(frozen=True)
class _Layers:
    """What a run sets: for all runs, beside the file (words), and its own. Later ones win."""

    files: Sequence[str]
    first: Mapping[str, Any]
    beside: Sequence[str]
    own: Mapping[str, Any]


class Planner:
    """Turns points into jobs.

    Args:
        sweep: the sweep file.
        arguments: base configurations and the options given beside, which every run has.
        resolve: gives the complete configuration for the arguments of a ``fit``.
        known: configurations by ``Job.key``, from an earlier time. The parser takes a tenth of a second a run; and a
            run that was begun by an older version of the package stays what it was.

    Attributes:
        shared: the shared runs that were asked for so far, by id, each after those that it needs.
    """

    def __init__(
        self,
        sweep: Sweep,
        arguments: Arguments,
        resolve: Callable[[Arguments], Config],
        known: Mapping[str, Config] | None = None,
    ) -> None:
        self.sweep = sweep
        self.arguments = arguments
        self.resolve = resolve
        self.shared: dict[str, Job] = {}
        self._configs = dict(known or {})
        self._files: dict[str, Config] = {}
        self._seedless: dict[tuple[str, ...], Config] = {}
        self._beside = {plain_name(".".join(path)): yaml.safe_load(text) for path, text in arguments.pairs()}

    def runs(self, points: Iterable[Point]) -> "Runs":
        """The runs of points, and the runs that those depend on.

        Raises:
            UserMistake: what the parser refuses, and references that lead nowhere.
        """
        made = [self.job(point) for point in points]
        trials: dict[str, Job] = {}
        for job in made:
            trials.setdefault(job.id, job)
        shared = {run: job for run, job in self.shared.items() if run not in trials}
        return Runs(trials, shared, len(made) - len(trials))

    def job(self, point: Point) -> Job:
        """The run of a point; likewise."""
        fixed = {option: value for option, value in self.sweep.fixed.items() if plain_name(option) not in self._beside}
        layers = _Layers(self.arguments.files, fixed, self.arguments.options, point.options)
        return self._job("trials", point.variant, layers, self._beside | fixed | point.options, ())

    def _shared_run(self, name: str, known: Options, above: tuple[str, ...]) -> str:
        """The id of a shared run, for a point that sets ``known``."""
        if name not in self.sweep.shared:
            raise UserMistake(f"--sweep: there is no shared run {name!r}{did_you_mean(name, self.sweep.shared)}")
        if name in above:
            raise UserMistake(f"--sweep: the shared run {name!r} depends on itself, by way of {' and '.join(above)}.")
        run = self.sweep.shared[name]
        given = {plain_name(option) for option in run.options}
        groups = [group for group in grouped(self.arguments.options) if plain_name(group[0]) not in given]
        beside = [each for group in groups for each in group]
        layers = _Layers(run.config or self.arguments.files, {}, beside, run.options)
        try:
            job = self._job("shared", name, layers, known, (*above, name))
        except UserMistake as mistake:
            told = str(mistake)
            raise mistake if told.startswith("--sweep") else UserMistake(f"shared run {name}: {told}") from None
        self.shared.setdefault(job.id, job)
        return job.id

    def _job(self, kind: Kind, variant: str | None, layers: _Layers, known: Options, above: tuple[str, ...]) -> Job:
        needs: dict[str, None] = {}

        def lookup(name: str) -> Any:
            match name.split("."):
                case ["shared", shared, "checkpoint" | "folder" as what]:
                    run = self._shared_run(shared, known, above)
                    needs[run] = None
                    return f"${{shared.{run}.{what}}}"
            return self._known(name, known)

        first, own = substitute(dict(layers.first), lookup), substitute(dict(layers.own), lookup)
        words = [f"--config={file}" for file in layers.files]
        words += [word(option, value) for option, value in first.items() if option not in own]
        words += [*layers.beside, *(word(option, value) for option, value in own.items())]
        key, config = self._config(words, layers.files, {**first, **own}.get(START))
        return Job(content_id(config), kind, variant, dict(layers.own), config, tuple(needs), tuple(words), key)

    def _known(self, name: str, known: Options) -> Any:
        if name not in known:
            names = [*known, *(f"shared.{run}.checkpoint" for run in self.sweep.shared)]
            raise UserMistake(f"--sweep: ${{{name}}} stands for nothing{did_you_mean(name, names)}")
        if list(references(known[name])):
            raise UserMistake(f"--sweep: ${{{name}}} stands for another reference, {known[name]}; write that instead.")
        return known[name]

    def _config(self, words: Sequence[str], files: Sequence[str], start: str | None) -> tuple[str, Config]:
        """The key and the configuration; a checkpoint that is still to be made cannot be looked into."""
        pending = start is not None and bool(list(references(start)))
        key = self._key(words, files)
        if key not in self._configs:
            parsed = [each for each in words if not (pending and each == word(START, start))]
            config = self.resolve(Arguments.parse("fit", parsed)) if start and not pending else self._resolve(parsed)
            self._configs[key] = config | {START: start} if pending else config
        config = self._configs[key]
        return ("" if config.get(START) is not None and not pending else key), config

    def _resolve(self, words: Sequence[str]) -> Config:
        """The configuration, parsed once for all seeds: without a checkpoint nothing else in it depends on the seed."""
        others = tuple(each for each in words if not each.startswith(f"--{SEED}="))
        seeds = [each.partition("=")[2] for each in words if each.startswith(f"--{SEED}=")]
        seed = seeds[-1] if seeds else ""
        if not seed.isdecimal() or others not in self._seedless:
            self._seedless[others] = self.resolve(Arguments.parse("fit", list(words)))
        return self._seedless[others] | ({SEED: int(seed)} if seed.isdecimal() else {})

    def _key(self, words: Sequence[str], files: Sequence[str]) -> str:
        for file in files:
            if file not in self._files:
                self._files[file] = read_config(file)
        return digest([list(words), [self._files[file] for file in files]])
