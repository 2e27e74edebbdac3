"""What makes two runs the same run: their complete options, without what only says where and how they run."""

import hashlib
import json
from collections.abc import Collection, Mapping
from typing import Any

from dinopl.core.moved import flatten
from dinopl.reports.options import is_bookkeeping

DIGITS = 12
LETTERS = "abcdef"


def compared(config: Mapping[str, Any]) -> dict[str, Any]:
    """Options by dotted name that make a difference to a run.

    Left out is what reports leave out too: the name, the folder, threads, loggers and the progress bar, where the data
    lie and how many processes load them. The checkpoint that a run starts from stays.

    Args:
        config: complete, as the parser gives it.
    """
    named = {".".join(path): value for path, value in flatten(dict(config))}
    return {name: value for name, value in named.items() if name == "ckpt_path" or not is_bookkeeping(name)}


def content_id(config: Mapping[str, Any]) -> str:
    """Twelve hexadecimal digits of the SHA-256 of what makes a difference to a run.

    The first one is made a letter: ``60317439e125`` would be a number wherever YAML is read.
    """
    found = digest(compared(config))
    return LETTERS[int(found[0], 16) % len(LETTERS)] + found[1:DIGITS]


def digest(value: Any) -> str:
    """The SHA-256 of a plain value, whatever the order of its keys."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def changed(before: Mapping[str, Any], now: Mapping[str, Any], swept: Collection[str]) -> dict[str, tuple[Any, Any]]:
    """Options outside of the swept ones that have another value than before, as ``{option: (before, now)}``.

    Args:
        before: a complete configuration.
        now: another.
        swept: dotted options; what lies below one of them is left out too.
    """
    old, new = compared(before), compared(now)
    prefixes = tuple(option.replace("init_args.", "") for option in swept)
    return {
        name: (old.get(name), new.get(name))
        for name in {**old, **new}
        if old.get(name) != new.get(name) and not any(name == p or name.startswith(f"{p}.") for p in prefixes)
    }
