"""Options as words of a command line."""

import json
from collections.abc import Iterable
from typing import Any


def word(option: str, value: Any) -> str:
    """``--option=value``, as the parser takes it: text as it is, everything else as JSON."""
    return f"--{option}={value if isinstance(value, str) else json.dumps(value)}"


def plain_name(option: str) -> str:
    """The dotted name of an option, however it was written: without dashes, value, ``init_args`` and ``class_path``."""
    parts = option.removeprefix("--").partition("=")[0].rstrip("+").split(".")
    kept = [part for part in parts if part != "init_args"]
    return ".".join(kept[:-1] if len(kept) > 1 and kept[-1] == "class_path" else kept)


def grouped(words: Iterable[str]) -> list[list[str]]:
    """Words put together with the option that they belong to."""
    groups: list[list[str]] = []
    for each in words:
        if each.startswith("--") or not groups:
            groups.append([])
        groups[-1].append(each)
    return groups
