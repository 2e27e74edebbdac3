"""``dinopl cite``: BibTeX of what a configuration or a run uses."""

import sys
from collections.abc import Sequence
from pathlib import Path

from dinopl.cli.config import Arguments, Config, class_paths, split_trusted_modules
from dinopl.core.errors import UserMistake

HELP = """\
usage: dinopl cite --config FILE ... [--OPTION VALUE ...]
       dinopl cite RUN_FOLDER [--trusted-modules NAME ...]

Prints BibTeX of the paper, data set, architecture and optimiser that a configuration uses, defaults included, or that a
run used. What can be given to `dinopl fit` can be given here. A class of your own is cited if it has a class attribute
`citation` with its BibTeX entry.

try:
  dinopl cite --config random_teacher > references.bib
  dinopl cite --config random_teacher --data.dataset FashionMNISTImages
"""


def cite(arguments: Sequence[str]) -> int:
    """Runs ``dinopl cite`` with the arguments after the word ``cite``."""
    if not arguments or arguments[0] in ("--help", "-h"):
        sys.stdout.write(HELP)
        return 0
    trusted, arguments = split_trusted_modules(arguments)
    config = _of_run(arguments, trusted) if arguments[:1] and arguments[0][:1] != "-" else _of_options(arguments)

    from dinopl.cli.tools.citations import bibliography

    try:
        entries, unknown = bibliography(config)
    except (ImportError, AttributeError, ValueError) as error:
        raise UserMistake(f"cite: {error}; run it where the classes of the configuration can be imported.") from error
    blocks = [f"% {', '.join(names)}\n{entry}\n" for entry, names in entries.items()]
    blocks += [f"% no citation is known of {path}\n" for path in unknown]
    sys.stdout.write("\n".join(blocks))
    return 0


def _of_run(arguments: Sequence[str], trusted: Sequence[str]) -> Config:
    """The configuration that a run kept. The folder may be of another's making, so it may not name everything."""
    from dinopl.core.trust import admitting, resolve
    from dinopl.reports import Run

    folder, *rest = arguments
    if rest:
        raise UserMistake(f"cite {folder}: takes no further words, got {rest[0]}; for a file give --config {folder}.")
    if Path(folder).is_file():
        raise UserMistake(f"cite {folder}: is a file; give --config {folder}.")
    try:
        config = Run.load(folder, history=False).config
    except (OSError, ValueError) as error:
        raise UserMistake(f"cite: {error}") from error
    if not config:
        raise UserMistake(f"cite {folder}: the run did not keep its configuration; give --config FILE.")
    try:
        with admitting(trusted):
            for path in class_paths(config):
                resolve(path)
    except ValueError as error:
        raise UserMistake(
            f"cite {folder}: its configuration {error}; read it and give --config {folder}/config.yaml, or admit a "
            "module of your own with --trusted-modules NAME."
        ) from error
    return config


def _of_options(arguments: Sequence[str]) -> Config:
    """The complete configuration, through the real parser."""
    parsed = Arguments.parse("fit", arguments)

    from dinopl.sweep.resolve import Resolver

    return Resolver()(parsed)
