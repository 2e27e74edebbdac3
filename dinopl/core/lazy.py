"""Front doors of packages: public names that are imported when they are first used, so that importing costs nothing."""

import importlib
from collections.abc import Callable, Iterable, Mapping
from typing import Any


def lazy_names(
    package: str, homes: Mapping[str, Iterable[str]]
) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """``__getattr__`` and ``__dir__`` of a package whose public names stand in modules that are not imported yet.

    Type checkers do not see through this: beside it, the package imports the same names under ``if TYPE_CHECKING``.

    Args:
        package: its ``__name__``.
        homes: for each module the public names that are taken from it.

    Returns:
        What the package assigns to ``__getattr__`` and ``__dir__``.
    """
    home = {name: module for module, names in homes.items() for name in names}

    def find(name: str) -> Any:
        if name not in home:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return getattr(importlib.import_module(home[name]), name)

    return find, lambda: sorted(home)
