"""Points made into runs: the parser of ``dinopl fit`` fills in every option, and the hash of them all names the run.

So a misspelt option is refused before anything runs, and two points that come to the same run are one.
"""

import hashlib
import json
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from dinopl.core.errors import UserMistake, did_you_mean
from dinopl.core.moved import flatten
from dinopl.reports.options import is_bookkeeping
from dinopl.sweep.file import SEED, Options, Sweep
from dinopl.sweep.grid import Point, references, substitute

Config = dict[str, Any]
Kind = Literal["trials", "shared"]
START = "ckpt_path"


@dataclass(frozen=True)
class Job:
    """One run of a study.

    Attributes:
        id: the hash of what makes a difference to it, and the name of its folder.
        kind: "trials", or "shared" for a run that others depend on.
        variant: name of the variant, or of the shared run.
        options: what it sets, as the sweep file says it.
        config: complete; ``${shared.ID.checkpoint}`` stands for a file of the shared run that has this id.
        needs: ids of the shared runs that must be finished first.
        words: its command line after ``dinopl fit``.
        key: the hash of these words and of the files that they name; empty where that does not fix the options.
        differences: of the options, those that it sets only against what the study began with.
    """

    id: str
    kind: Kind
    variant: str | None
    options: Options
    config: Config
    needs: tuple[str, ...]
    words: tuple[str, ...]
    key: str = ""
    differences: Options = field(default_factory=dict)

    def __str__(self) -> str:
        """The run by its folder, its variant and what it sets."""
        shown = [*([self.variant] if self.variant else []), *(f"{o}={value}" for o, value in self.options.items())]
        return f"{self.kind}/{self.id} ({', '.join(shown)})"


def compared(config: Mapping[str, Any]) -> dict[str, Any]:
    """Options by dotted name that make a difference to a run.

    Left out is what reports leave out too: the name, the folder, threads, loggers and the progress bar, where the data
    lie and how many processes load them. The checkpoint that a run starts from stays.

    Args:
        config: complete, as the parser gives it.
    """
    named = {".".join(path): value for path, value in flatten(dict(config))}
    return {name: value for name, value in named.items() if name == START or not is_bookkeeping(name)}


def content_id(config: Mapping[str, Any]) -> str:
    """Twelve hexadecimal digits of the SHA-256 of what makes a difference to a run.

    The first one is made a letter: ``60317439e125`` would be a number wherever YAML is read.
    """
    found = digest(compared(config))
    return "abcdef"[int(found[0], 16) % 6] + found[1:12]


def digest(value: Any) -> str:
    """The SHA-256 of a plain value, whatever the order of its keys."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def changed(before: Mapping[str, Any], now: Mapping[str, Any], swept: Collection[str]) -> dict[str, tuple[Any, Any]]:
    """Options outside of the swept ones that have another value than before, as ``{option: (before, now)}``.

    Args:
        before: a complete configuration.
        now: another.
        swept: dotted options; what lies below one of them is left out too.
    """
    old, new = compared(before), compared(now)
    prefixes = tuple(option.replace("init_args.", "") for option in swept)
    return {
        name: (old.get(name), new.get(name))
        for name in {**old, **new}
        if old.get(name) != new.get(name) and not any(name == p or name.startswith(f"{p}.") for p in prefixes)
    }


def word(option: str, value: Any) -> str:
    """``--option=value``, as the parser takes it: text as it is, everything else as JSON."""
    return f"--{option}={value if isinstance(value, str) else json.dumps(value)}"


def plain_name(option: str) -> str:
    """The dotted name of an option, however it was written: without dashes, value, ``init_args`` and ``class_path``."""
    parts = option.removeprefix("--").partition("=")[0].rstrip("+").split(".")
    kept = [part for part in parts if part != "init_args"]
    return ".".join(kept[:-1] if len(kept) > 1 and kept[-1] == "class_path" else kept)


def grouped(words: Iterable[str]) -> list[list[str]]:
    """Words put together with the option that they belong to."""
    groups: list[list[str]] = []
    for each in words:
        if each.startswith("--") or not groups:
            groups.append([])
        groups[-1].append(each)
    return groups


class Planner:
    """Turns points into jobs.

    Args:
        sweep: the sweep file.
        files: base configurations.
        beside: options given beside them, as words of a command line, which every run has.
        given: these options' values by their plain name.
        compose: gives the complete configuration for the words of a ``dinopl fit``.
        read: gives what a configuration file holds.
        known: configurations by ``Job.key``, from an earlier time. The parser takes a tenth of a second a run; and a
            run that was begun by an older version of the package stays what it was.
        names: folders' names of runs that are there, by the hash of their options as they are called today.

    Attributes:
        shared: the shared runs that were asked for so far, by id, each after those that it needs.
    """

    def __init__(
        self,
        sweep: Sweep,
        files: Sequence[str],
        beside: Sequence[str],
        given: Options,
        compose: Callable[[list[str]], Config],
        read: Callable[[str], Config],
        known: Mapping[str, Config] | None = None,
        names: Mapping[str, str] | None = None,
    ) -> None:
        self.sweep = sweep
        self.files = files
        self.beside = beside
        self.shared: dict[str, Job] = {}
        self._given = given
        self._compose = compose
        self._read = read
        self._configs = dict(known or {})
        self._names = names or {}
        self._contents: dict[str, Config] = {}
        self._seedless: dict[tuple[str, ...], Config] = {}

    def jobs(self, points: Iterable[Point]) -> dict[str, Job]:
        """The runs of points and those that they depend on by id, each after those that it needs.

        Raises:
            UserMistake: what the parser refuses, and references that lead nowhere.
        """
        trials: dict[str, Job] = {}
        for point in points:
            job = self.job(point)
            trials.setdefault(job.id, job)
        jobs, found = {**self.shared, **trials}, dict[str, Job]()

        def visit(run: str) -> None:
            for need in jobs[run].needs:
                visit(need)
            found.setdefault(run, jobs[run])

        for run in jobs:
            visit(run)
        return found

    def job(self, point: Point) -> Job:
        """The run of a point; likewise."""
        own = {option: value for option, value in self.sweep.fixed.items() if plain_name(option) not in self._given}
        known = self._given | own | point.options
        return self._job("trials", point.variant, self.files, own, self.beside, point.options, known, ())

    def _shared_run(self, name: str, known: Options, above: tuple[str, ...]) -> str:
        """The id of a shared run, for a point that sets ``known``."""
        if name not in self.sweep.shared:
            raise UserMistake(f"--sweep: there is no shared run {name!r}{did_you_mean(name, self.sweep.shared)}")
        if name in above:
            raise UserMistake(f"--sweep: the shared run {name!r} depends on itself, by way of {' and '.join(above)}.")
        config, options = self.sweep.shared[name]
        own = {plain_name(option) for option in options}
        beside = [each for group in grouped(self.beside) if plain_name(group[0]) not in own for each in group]
        try:
            job = self._job("shared", name, config or self.files, {}, beside, options, known, (*above, name))
        except UserMistake as mistake:
            text = str(mistake)
            raise mistake if text.startswith("--sweep") else UserMistake(f"shared run {name}: {text}") from None
        self.shared.setdefault(job.id, job)
        return job.id

    def _job(
        self,
        kind: Kind,
        variant: str | None,
        files: Sequence[str],
        fixed: Options,
        beside: Sequence[str],
        options: Options,
        known: Options,
        above: tuple[str, ...],
    ) -> Job:
        """A run of ``files``, over which lie ``fixed``, then the words ``beside``, then its own ``options``."""
        needs: dict[str, None] = {}

        def lookup(name: str) -> Any:
            match name.split("."):
                case ["shared", shared, "checkpoint" | "folder" as what]:
                    run = self._shared_run(shared, known, above)
                    needs[run] = None
                    return f"${{shared.{run}.{what}}}"
            if name not in known:
                names = [*known, *(f"shared.{run}.checkpoint" for run in self.sweep.shared)]
                raise UserMistake(f"--sweep: ${{{name}}} stands for nothing{did_you_mean(name, names)}")
            if list(references(known[name])):
                raise UserMistake(
                    f"--sweep: ${{{name}}} stands for another reference, {known[name]}; write that instead."
                )
            return known[name]

        first, own = substitute(dict(fixed), lookup), substitute(dict(options), lookup)
        words = [f"--config={file}" for file in files]
        words += [word(option, value) for option, value in first.items() if option not in own]
        words += [*beside, *(word(option, value) for option, value in own.items())]
        start = {**first, **own}.get(START)
        pending = start is not None and bool(list(references(start)))  # that checkpoint is still to be made
        self._contents.update({file: self._read(file) for file in files if file not in self._contents})
        key = digest([list(words), [self._contents[file] for file in files]])
        if key not in self._configs:
            parsed = [each for each in words if not (pending and each == word(START, start))]
            self._configs[key] = self._composed(parsed, start is None or pending) | ({START: start} if pending else {})
        config = self._configs[key]
        run = content_id(config)
        key = "" if config.get(START) is not None and not pending else key  # what a checkpoint brings may change
        return Job(self._names.get(run, run), kind, variant, dict(options), config, tuple(needs), tuple(words), key)

    def _composed(self, words: list[str], seed_alone: bool) -> Config:
        """The configuration; composed once for all seeds, where nothing else in it can depend on the seed."""
        others = tuple(each for each in words if not each.startswith(f"--{SEED}="))
        seed = next((each.partition("=")[2] for each in reversed(words) if each not in others), "")
        if not seed_alone:
            return self._compose(words)
        if not seed.isdecimal() or others not in self._seedless:
            self._seedless[others] = self._compose(words)
        return self._seedless[others] | ({SEED: int(seed)} if seed.isdecimal() else {})
