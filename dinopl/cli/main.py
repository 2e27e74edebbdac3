"""The entry point: sends the words of the command line to a run or a tool, and turns mistakes into exit codes.

torch and Lightning are imported only for what needs them, so that help, versions and refusals come at once.
"""

import os
import sys
import traceback
from collections.abc import Sequence

from dinopl.cli.allocator import keep_freed_memory
from dinopl.cli.help import HELP, versions
from dinopl.core.errors import UserMistake
from dinopl.core.suggest import did_you_mean

RUNS = ("fit", "validate", "test", "predict")
TOOLS = ("sweep", "configs", "export", "report", "cite", "doctor")


def main(args: Sequence[str] | None = None) -> int:
    """Runs the command.

    Args:
        args: the words after ``dinopl``; by default those of the process.

    Returns:
        0, or 2 after a user's mistake, or 130 after Ctrl-C. SIGTERM leaves with 143. Any other error is raised.
    """
    # A thread that waits for work by spinning takes it from whoever has some: on a busy machine that made steps of a
    # small network 90 times slower. OpenMP reads this once, when torch is imported.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    words = list(sys.argv[1:] if args is None else args)
    show_traceback = "--traceback" in words
    try:
        return _dispatch([word for word in words if word != "--traceback"])
    except UserMistake as mistake:
        if show_traceback:
            traceback.print_exc()
        if os.environ.get("LOCAL_RANK", "0") == "0":  # of several processes one tells it
            sys.stderr.write(f"dinopl: error: {mistake}\n")
        return 2
    except KeyboardInterrupt:
        sys.stderr.write("dinopl: interrupted\n")
        return 130
    except SystemExit as stop:  # argparse leaves this way after printing help
        if not stop.code:
            return 0
        raise


def _dispatch(words: list[str]) -> int:
    match words:
        case [] | ["--help" | "-h" | "help", *_]:
            sys.stdout.write(HELP)
        case ["--version", *_]:
            sys.stdout.write(versions() + "\n")
        case ["configs", *rest]:
            from dinopl.cli.tools.configs import configs

            return configs(rest)
        case ["export", *rest]:
            from dinopl.cli.tools.export import export

            return export(rest)
        case ["sweep", *rest]:
            from dinopl.sweep.command import sweep

            return sweep(rest)
        case ["report", *rest]:
            from dinopl.cli.tools.report import report

            return report(rest)
        case ["cite", *rest]:
            from dinopl.cli.tools.cite import cite

            return cite(rest)
        case ["doctor", *rest]:
            from dinopl.cli.tools.doctor import doctor

            return doctor(rest)
        case [command, *rest] if command in RUNS:
            from dinopl.cli.config import Arguments, read_config

            arguments = Arguments.parse(command, rest)
            for file in arguments.files:  # a missing file is told before torch is imported
                read_config(file)
            keep_freed_memory()
            from dinopl.cli.runs import run

            run(command, rest)
        case [command, *_]:
            hint = did_you_mean(command, [*RUNS, *TOOLS, "--help", "--version"])
            raise UserMistake(f"{command}: no such command{hint} `dinopl --help` lists them.")
    return 0
