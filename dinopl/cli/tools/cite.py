"""``dinopl cite``: BibTeX of what a configuration or a run uses."""

import importlib
import inspect
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from dinopl.cli.config import Arguments, Config, class_paths, split_trusted_modules
from dinopl.core.errors import UserMistake
from dinopl.core.moved import current_path

FAMILIES = ("dinopl", "fprnn", "kd")
# Packages whose classes need no remark where no citation is known.
FRAMEWORKS = (*FAMILIES, "torch", "torchvision", "torchmetrics", "lightning", "builtins", "abc")

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

_FILE = Path(__file__).with_name("citations.bib").read_text(encoding="utf-8")
_ENTRIES = re.findall(r"(?m)^% (.+)\n(@\w+\{(\w+),\n(?:  .+\n)+\})$", _FILE)
REFERENCES = {key: entry for _, entry, key in _ENTRIES}
"""BibTeX entries by key."""
CITATIONS: dict[str, list[str]] = {}
"""Keys by class; one that is not listed goes with what its base class goes with."""
for _classes, _, _key in _ENTRIES:
    for _name in _classes.split():
        CITATIONS.setdefault(_name, []).append(_key)


def cite(arguments: Sequence[str]) -> int:
    """Runs ``dinopl cite`` with the arguments after the word ``cite``."""
    if not arguments or arguments[0] in ("--help", "-h"):
        sys.stdout.write(HELP)
        return 0
    trusted, arguments = split_trusted_modules(arguments)
    if arguments and not arguments[0].startswith("-"):
        config = _of_run(arguments, trusted)
    else:
        parsed = Arguments.parse("fit", arguments)

        from dinopl.cli.resolve import Resolver

        config = Resolver()(parsed)  # complete, by the real parser
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


def citations_of(cls: type) -> list[str]:
    """BibTeX entries of a class: its attribute ``citation``, or what is listed of it, or of its nearest base class."""
    for base in inspect.getmro(cls):
        if isinstance(own := vars(base).get("citation"), str):
            return [own.strip()]
        package, _, rest = base.__module__.partition(".")
        ours = package in FAMILIES
        if keys := CITATIONS.get(base.__name__ if ours else f"{package}.{rest.partition('.')[0]}.{base.__name__}"):
            return [REFERENCES[key] for key in keys]
    return []


def bibliography(config: Any) -> tuple[dict[str, list[str]], list[str]]:
    """The entries that a complete configuration calls for.

    Args:
        config: nested plain values; classes with their whole paths.

    Returns:
        Names of classes by entry, in the order of the configuration; and paths of foreign classes without an entry.
    """
    entries: dict[str, list[str]] = {}
    unknown: list[str] = []
    for path in dict.fromkeys([*class_paths(config), *_data_set_paths(config)]):
        module, _, name = current_path(path).rpartition(".")
        cls = getattr(importlib.import_module(module), name)
        found = citations_of(cls) if inspect.isclass(cls) else []
        for entry in found:
            entries.setdefault(entry, []).append(name)
        if not found and path.partition(".")[0] not in FRAMEWORKS:
            unknown.append(path)
    return entries, unknown


def _data_set_paths(config: Any) -> Iterator[str]:
    """Class paths that stand in plain options, as that of a torchvision data set does."""
    if isinstance(config, dict):
        for key, value in config.items():
            yield from _data_set_paths(value) if key != "class_path" else ()
    elif isinstance(config, list):
        for item in config:
            yield from _data_set_paths(item)
    elif isinstance(config, str) and config.startswith("torchvision.datasets."):
        yield config
