"""Nulls that the parser lets pass, whatever the argument's type, and that fail later or are taken for false."""

import inspect
import typing
from typing import Any

from jsonargparse import Namespace

from dinopl.app.compose import import_class
from dinopl.app.errors import UserMistake


def check_nulls(config: Any, explicit: set[tuple[str, ...]], path: tuple[str, ...] = ()) -> None:
    """Refuses a null that a file or an option gives to an argument of another type.

    Args:
        config: the parsed configuration, with ``class_path`` and ``init_args``.
        explicit: from ``explicit_paths``; what nobody gave may be null until the data tell it.
        path: where ``config`` stands.

    Raises:
        UserMistake: if there is one.
    """
    cls = import_class(config["class_path"]) if "class_path" in config else None
    arguments = config.get("init_args") if cls else config
    for key, value in vars(arguments).items() if arguments else ():
        place = (*path, key)
        if isinstance(value, Namespace):
            check_nulls(value, explicit, place)
        elif value is None and cls and place in explicit and not _nullable(cls, key):
            raise UserMistake(f"--{'.'.join(place)} null: {cls.__name__} cannot do without it; give a value.")


def _nullable(cls: Any, name: str) -> bool:
    """Whether null suits an argument: its default or its type says so, or nothing is known of it."""
    argument = inspect.signature(cls).parameters.get(name)
    if argument is None or argument.default is None:
        return True
    try:
        kind = typing.get_type_hints(cls.__init__ if inspect.isclass(cls) else cls).get(name, Any)
    except (NameError, TypeError):
        return True
    return kind in (Any, object) or isinstance(kind, typing.TypeVar) or type(None) in typing.get_args(kind)
