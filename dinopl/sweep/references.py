"""``${...}`` in the values of a sweep file: another option of the same run, or a file of a run that it depends on."""

import re
from collections.abc import Callable, Iterator
from typing import Any

REFERENCE = re.compile(r"\$\{([^{}]*)\}")


def references(value: Any) -> Iterator[str]:
    """What a value refers to, also within lists and mappings."""
    if isinstance(value, str):
        yield from (match[1].strip() for match in REFERENCE.finditer(value))
    elif isinstance(value, dict):
        for item in value.values():
            yield from references(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from references(item)


def substitute(value: Any, lookup: Callable[[str], Any]) -> Any:
    """A copy of a value with every reference replaced by what it stands for.

    A text that is nothing but a reference becomes the value itself, of whatever type; within a longer text it becomes
    its text.

    Args:
        value: text, or lists and mappings that hold some.
        lookup: what a reference stands for.
    """
    if isinstance(value, dict):
        return {key: substitute(item, lookup) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [substitute(item, lookup) for item in value]
    if not isinstance(value, str):
        return value
    if whole := REFERENCE.fullmatch(value):
        return lookup(whole[1].strip())
    return REFERENCE.sub(lambda match: str(lookup(match[1].strip())), value)
