"""Files that appear whole or not at all, and YAML as plain values.

A file that is replaced stays until its successor is whole.

The successor is written beside the file, since a rename is atomic only within one file system, and is on the disk
before it takes the file's name: a process that is killed, a full disk or a power failure leaves the old file.
"""

import contextlib
import glob
import os
import secrets
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import yaml

DEPTH = 60  # levels of a configuration
MOST_VALUES = 20_000  # aliases within aliases multiply them: nine lines of YAML can stand for a thousand million


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Gives a temporary path beside ``path``; it becomes ``path`` at the end of the block, unless that raised.

    What a killed writer left is removed by the next one on the same machine that writes to the same ``path``.

    Args:
        path: the file to write; its folder must exist. A device or pipe, such as ``/dev/stdout``, is written to as it
            is. A symbolic link is replaced, and what it points to is kept.
    """
    if path.parent.as_posix() in ("/dev", "/dev/fd") or (path.exists() and not path.is_file()):
        yield path
        return
    prefix = f".{path.name}.{socket.gethostname()}-"  # a process's number says nothing on another machine
    temporary = path.with_name(f"{prefix}{os.getpid()}-{secrets.token_hex(4)}.tmp")
    try:
        temporary.touch(exist_ok=False)
    except OSError as error:
        error.filename = str(path)  # the name that the caller knows
        raise
    try:
        for stray in path.parent.glob(f"{glob.escape(prefix)}*.tmp") if os.name == "posix" else ():
            writer = stray.name.removeprefix(prefix).partition("-")[0]
            with contextlib.suppress(OSError, ValueError):
                try:
                    os.kill(int(writer), 0)  # does nothing to a process that is alive, even another user's
                except ProcessLookupError:
                    stray.unlink(missing_ok=True)
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        if error.filename in (None, str(temporary), temporary):
            error.filename = str(path)
        raise
    finally:
        temporary.unlink(missing_ok=True)
    with contextlib.suppress(OSError):  # without this, which some systems refuse, a crash may undo the rename
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def cannot_write(path: Path, reason: str) -> str:
    """The message for a folder that cannot be written to."""
    return f"cannot write to {path}: {reason}; choose another folder as default_root_dir"


def why_not_writable(folder: Path) -> str | None:
    """Why ``folder`` could not be made or written to, as far as it shows without writing; None if nothing does."""
    try:
        existing = next(parent for parent in (folder, *folder.parents) if parent.exists())
    except OSError as error:
        return cannot_write(folder, error.strerror or str(error))
    if not existing.is_dir():
        return cannot_write(folder, f"{existing} is a file")
    if not os.access(existing, os.W_OK | os.X_OK):
        return cannot_write(folder, f"no permission to write in {existing}")
    return None


class PlainLoader(yaml.SafeLoader):
    """Plain YAML in which a key of a mapping stands once; the standard's loader lets the last one win in silence.

    A date is text, as it is for the parser.
    """

    yaml_implicit_resolvers: ClassVar[Any] = {  # type: ignore[misc]
        first: [(tag, form) for tag, form in forms if tag != "tag:yaml.org,2002:timestamp"]
        for first, forms in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    twice: str | None = None
    """The message for the last key that stands twice."""

    depth = 0

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        """As the standard's loader, which recurses as deep as the text does."""
        if self.depth > DEPTH:
            raise ValueError(f"nests deeper than {DEPTH} levels; write it flatter.")
        self.depth += 1
        node: yaml.Node | None = super().compose_node(parent, index)
        self.depth -= 1
        return node

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """As the standard's loader."""
        lines: dict[str, int] = {}
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.tag != "tag:yaml.org,2002:merge":
                line = key.start_mark.line + 1
                if key.value in lines:
                    self.twice = f"key {key.value!r} twice, in lines {lines[key.value]} and {line}; join the two."
                lines[key.value] = line
        return super().construct_mapping(node, deep)


def read_yaml(text: str) -> Any:
    """What a YAML text says, in plain values.

    Raises:
        yaml.YAMLError: if the text is not YAML.
        ValueError: if it has a key twice, a value that its form or tag does not fit, or what is no tree of plain
            values: PyYAML has no bounds, and an alias may stand within what it names.
    """
    loader = PlainLoader(text)
    node = loader.get_single_node()
    try:
        loaded = None if node is None else loader.construct_document(node)
    except (ValueError, LookupError, TypeError, AttributeError, ArithmeticError) as error:  # of PyYAML's constructors
        reason = str(error).partition(";")[0]
        raise ValueError(f"has a value that cannot be read ({reason}); correct it, or put it in quotes.") from None
    if loader.twice:
        raise ValueError(loader.twice)
    found = [(loaded, 0)]
    for value, depth in found:  # grows on the way
        if depth > DEPTH:
            raise ValueError(f"nests deeper than {DEPTH} levels, or contains itself; write it flatter.")
        if len(found) > MOST_VALUES:
            raise ValueError(f"has more than {MOST_VALUES} values; write fewer.")
        if isinstance(value, dict | list):
            found += [(below, depth + 1) for below in (value.values() if isinstance(value, dict) else value)]
        elif value is not None and type(value) not in (bool, int, float, str):
            raise ValueError(f"holds a {type(value).__name__}, which is no plain value; write a number or text.")
    return loaded
