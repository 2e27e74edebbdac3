"""The options that users may rely on: names and defaults, frozen in a file beside this test.

A change here is a change of the interface. If it is meant, write the file anew and say so in the changelog:

    python -m tests.dinopl.cli.test_public_options
"""

import importlib
import inspect
from pathlib import Path

import torch
from torch import nn

from dinopl.cli.tools import schema

FROZEN = Path(__file__).with_name("public_options.txt")
OURS = ("dinopl.", "fprnn.", "kd.")
HOMES = tuple(home for home in schema.HOMES if f"{home}.".startswith(OURS))


def public_classes() -> list[type]:
    """Concrete classes of ours that a configuration may name."""
    found: dict[str, type] = {}
    for home in map(importlib.import_module, HOMES):
        for name in getattr(home, "__all__", dir(home)):
            value = getattr(home, name)
            if inspect.isclass(value) and value.__module__.startswith(OURS) and not inspect.isabstract(value):
                found[name] = value
    inner = tuple | dict | Exception | nn.Linear | torch.autograd.Function  # parts that no configuration names
    return [found[name] for name in sorted(found) if not issubclass(found[name], inner)]


def options() -> list[str]:
    lines = []
    for cls in public_classes():
        for parameter in inspect.signature(cls).parameters.values():
            default = parameter.default
            if default is inspect.Parameter.empty:
                shown = ""
            elif inspect.isclass(default) or inspect.isroutine(default):
                shown = f" = {default.__name__}"
            elif type(default).__module__.startswith(OURS):
                shown = f" = {type(default).__name__}()"
            else:
                shown = f" = {default!r}"
            lines.append(f"{cls.__name__}.{parameter.name}{shown}")
    return lines


def test_options_are_the_frozen_ones() -> None:
    assert options() == FROZEN.read_text().splitlines()


def test_class_names_are_ours_alone() -> None:
    """A short name on the command line must not stand for a class of torch or torchvision too."""
    import torchvision

    def names(base: type) -> set[str]:
        below = {sub for sub in base.__subclasses__() if sub.__module__.startswith(("torch.", "torchvision."))}
        return {sub.__name__ for sub in below}.union(*(names(sub) for sub in below))

    theirs = names(nn.Module) | names(torch.optim.Optimizer) | names(torch.utils.data.Dataset)
    theirs |= {name for name in dir(torchvision.datasets) if inspect.isclass(getattr(torchvision.datasets, name))}
    assert {"CrossEntropyLoss", "CIFAR10", "VGG"} <= theirs
    assert not theirs & {cls.__name__ for cls in public_classes()}


if __name__ == "__main__":
    FROZEN.write_text("\n".join(options()) + "\n")
