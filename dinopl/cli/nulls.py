"""Nulls that the parser lets pass, whatever the argument's type, and that fail later or are taken for false."""

import inspect
import typing
from typing import Any

from jsonargparse import Namespace

from dinopl.cli.config import opened
from dinopl.cli.tools.schema import hints
from dinopl.core.errors import UserMistake


def check_nulls(config: Any, explicit: set[tuple[str, ...]] | None, path: tuple[str, ...] = ()) -> None:
    """Refuses a null that a file or an option gives to an argument of another type.

    Args:
        config: the parsed configuration, with ``class_path`` and ``init_args``.
        explicit: from ``explicit_paths``, without what the data tell, which nobody needs to give. None is all.
        path: where ``config`` stands.

    Raises:
        UserMistake: if there is one.
    """
    cls, arguments = opened(config)
    for key, value in vars(arguments).items() if arguments else ():
        place = (*path, key)
        for item in value if isinstance(value, list) else ():
            if isinstance(item, Namespace) and (explicit is None or place in explicit):
                check_nulls(item, None, place)
        if isinstance(value, Namespace):
            check_nulls(value, explicit, place)
        elif value is None and cls and (explicit is None or place in explicit) and not _nullable(cls, key):
            raise UserMistake(f"--{'.'.join(place)} null: {cls.__name__} cannot do without it; give a value.")


def _nullable(cls: Any, name: str) -> bool:
    """Whether null suits an argument: its default or its type says so, or nothing is known of it."""
    try:
        argument = inspect.signature(cls).parameters[name]
        kind = hints(cls)[name]
    except (KeyError, TypeError, ValueError):
        return True
    if argument.default is None:
        return True
    return kind in (Any, object) or isinstance(kind, typing.TypeVar) or type(None) in typing.get_args(kind)
