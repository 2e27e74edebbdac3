"""From a configuration to BibTeX: the classes that it names, and what their packages say of them."""

import importlib
import inspect
from collections.abc import Iterator
from typing import Any

from dinopl.cli.config import class_paths
from dinopl.core.moved import current_path

FAMILIES = ("dinopl", "fprnn", "kd")
# Packages whose classes need no remark if nothing is known of them.
FRAMEWORKS = (*FAMILIES, "torch", "torchvision", "torchmetrics", "lightning", "builtins", "abc")


def citations_of(cls: type) -> list[str]:
    """BibTeX entries of a class: its attribute ``citation``, or its package's, or those of its nearest base class."""
    for base in inspect.getmro(cls):
        if isinstance(own := vars(base).get("citation"), str):
            return [own.strip()]
        package, _, rest = base.__module__.partition(".")
        found = importlib.import_module(f"{package if package in FAMILIES else 'dinopl'}.citations")
        place = f"{package}.{rest.partition('.')[0]}.{base.__name__}"
        keys = found.CITATIONS.get(base.__name__) if package in FAMILIES else found.ELSEWHERE.get(place)
        if keys:
            return [found.REFERENCES[key] for key in keys]
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
