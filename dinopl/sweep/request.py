"""The command line of ``dinopl sweep``, taken apart."""

from collections.abc import Sequence
from dataclasses import dataclass

from dinopl.cli.config import Arguments
from dinopl.core.errors import UserMistake
from dinopl.sweep.words import grouped

HELP = """\
usage: dinopl sweep --config BASE.yaml --sweep SWEEP.yaml [--workers N] [--OPTION VALUE ...]

Runs every point of a sweep file, shared with whoever runs the same command on the same folder, here or elsewhere.
Stop it and start it again: what is finished stays, the rest goes on.

  --sweep FILE        what is swept; docs/sweeps.md describes the file
  --config FILE       the base configuration, as of dinopl fit
  --workers N         runs at a time on this machine; by default one a GPU, or one
  --storage URL       a database of Optuna's instead of the journal in the study's folder
  --retries N         further attempts of a run that fails, 2 by default
  --retry-failed      give runs another round whose attempts are used up
  --print-commands    print the runs' own commands instead
  --slurm             print a job-array script of --workers tasks that join the study
  --name NAME         of the study, by default the sweep file's; it lies in DIR/NAME
  --trainer.default_root_dir DIR
  and every other option of dinopl fit, for all runs
"""
VALUES = ("sweep", "workers", "storage", "retries")
FLAGS = ("print-commands", "slurm", "retry-failed", "help")


@dataclass(frozen=True)
class Request:
    """What is asked for.

    Attributes:
        sweep: the sweep file.
        arguments: of the runs.
        workers: runs at a time; None for as many as there are GPUs.
        storage: URL; None for the journal.
        retries: further attempts of a run that fails.
        flags: of ``FLAGS``, those that were given.
    """

    sweep: str
    arguments: Arguments
    workers: int | None = None
    storage: str | None = None
    retries: int = 2
    flags: frozenset[str] = frozenset()

    @classmethod
    def parse(cls, words: Sequence[str]) -> "Request":
        """Separates the sweep's own options from those of the runs.

        Raises:
            UserMistake: if an own option is wrong or missing.
        """
        own: dict[str, str] = {}
        flags: set[str] = set()
        rest: list[str] = []
        for group in grouped(words):
            name = group[0].removeprefix("--").partition("=")[0].replace("_", "-")
            if name in FLAGS or group[0] == "-h":
                flags.add("help" if group[0] == "-h" else name)
            elif name in VALUES:
                own[name] = group[0].partition("=")[2] or " ".join(group[1:])
            else:
                rest += group
        _check(own, flags)
        return cls(
            own.get("sweep", ""),
            Arguments.parse("fit", rest),
            int(own["workers"]) if "workers" in own else None,
            own.get("storage"),
            int(own.get("retries", 2)),
            frozenset(flags),
        )

    @property
    def prints(self) -> bool:
        """Whether something is printed instead of run."""
        return bool(self.flags & {"print-commands", "slurm"})


def _check(own: dict[str, str], flags: set[str]) -> None:
    for name, value in own.items():
        if not value:
            raise UserMistake(f"--{name} needs a value.")
    for name, least in (("workers", 1), ("retries", 0)):
        text = own.get(name, str(least))
        if not text.isdigit() or int(text) < least:
            raise UserMistake(f"--{name} {text}: must be a whole number of at least {least}.")
    if "sweep" not in own and "help" not in flags:
        raise UserMistake("sweep: needs --sweep FILE; `dinopl sweep --help` says more.")
