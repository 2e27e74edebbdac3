"""One configuration out of several: checkpoint, then config files in order, then options.

LightningCLI merges a class's arguments into those of the class that it replaces: ``--model.optimizer SGD`` over a
configured AdamW keeps AdamW's weight decay, because SGD has an argument of that name. Here a class that is replaced
takes its arguments with it (``merge``, ``drop_replaced``), and an argument that nobody gave for the new class is set to
that class's own default (``reset_defaults``), whatever the default of the place that it stands in was.
"""

import copy
import importlib
import inspect
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from jsonargparse import Namespace

from dinopl.cli.tools.configs import config_name, config_names, shipped_config
from dinopl.core.errors import UserMistake
from dinopl.core.moved import current_paths
from dinopl.core.suggest import did_you_mean

Config = dict[str, Any]


@dataclass
class Arguments:
    """The command line of one subcommand, taken apart."""

    subcommand: str
    files: list[str] = field(default_factory=list)
    options: list[str] = field(default_factory=list)
    print_config: bool = False
    trusted_modules: list[str] = field(default_factory=list)
    """Modules that a checkpoint may name, beside the listed ones; an option of the command alone, never of a file."""

    @classmethod
    def parse(cls, subcommand: str, tokens: Sequence[str]) -> "Arguments":
        """Separates ``--config`` files from the options, so that an option wins wherever it stands."""
        arguments = cls(subcommand)
        arguments.trusted_modules, tokens = split_trusted_modules(tokens)
        rest = iter(tokens)
        for token in rest:
            name, equals, value = token.partition("=")
            if token == "--print_config":
                arguments.print_config = True
                continue
            if name not in ("--config", "-c"):
                arguments.options.append(token)
                continue
            file = value if equals else next(rest, None)
            if not file:
                raise UserMistake("--config needs the path of a YAML file.")
            arguments.files.append(file)
        return arguments

    def pairs(self) -> Iterator[tuple[list[str], str]]:
        """Each option's dotted path, in parts, with its value as text; flags and ``--key+`` are left out."""
        for i, token in enumerate(self.options):
            if not token.startswith("--"):
                continue
            name, equals, value = token[2:].partition("=")
            if not equals:
                following = self.options[i + 1] if i + 1 < len(self.options) else "--"
                if following.startswith("--"):
                    continue
                value = following
            if not name.endswith("+"):
                yield name.split("."), value

    def values(self) -> Iterator[str]:
        """The text of every value; the names of options are left out."""
        for token in self.options:
            name, equals, value = token.partition("=")
            yield value if name.startswith("--") and equals else "" if token.startswith("--") else token

    def value(self, name: str) -> str | None:
        """The last value given for the option ``name``."""
        return next((value for path, value in reversed(list(self.pairs())) if path == [name]), None)


def split_trusted_modules(tokens: Sequence[str]) -> tuple[list[str], list[str]]:
    """Takes ``--trusted-modules NAME...`` out of a command line.

    Returns:
        The names, and the other words.

    Raises:
        UserMistake: if there is no name, or one is not a module's.
    """
    names: list[str] = []
    others: list[str] = []
    taking = False
    for token in tokens:
        option, equals, value = token.partition("=")
        if option in ("--trusted-modules", "--trusted_modules"):
            taking, before = True, len(names)
            names += [value] if equals else []
        elif taking and not token.startswith("-"):
            names.append(token)
        else:
            others.append(token)
            taking = False
        if taking and not all(part.isidentifier() for name in names[before:] for part in name.split(".")):
            raise UserMistake(f"--trusted-modules {names[-1]}: give names of modules, such as my_package.networks.")
    return names, others


def read_config(file: str, option: str = "--config") -> Config:
    """Reads a YAML mapping: a file, or a shipped configuration by its name where there is no such file.

    Args:
        file: its path or name.
        option: that named it, for messages.

    Raises:
        UserMistake: if the file is missing, is not YAML, or holds something else than a mapping.
    """
    try:
        path = Path(file) if Path(file).exists() else shipped_config(file) or Path(file)
        loaded = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, IsADirectoryError):
        hint = did_you_mean(config_name(file), config_names())
        raise UserMistake(
            f"{option} {file}: no such file{hint} `dinopl configs ls` lists the shipped ones and `dinopl configs cp "
            "NAME` copies one here."
        ) from None
    except OSError as error:
        raise UserMistake(
            f"{option} {file}: cannot be read ({error.strerror}); check its name and permissions."
        ) from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserMistake(f"{option} {file}: not valid YAML: {error}; correct the file.") from None
    if not isinstance(loaded, dict):
        found = "nothing" if loaded is None else f"a {type(loaded).__name__}"
        raise UserMistake(f"{option} {file}: holds {found}; it must be a mapping such as `model: ...`.")
    return current_paths(_without_empty_arguments(loaded))


def _without_empty_arguments(node: Any) -> Any:
    """``init_args:`` with nothing behind it means no arguments."""
    if isinstance(node, dict):
        return {key: _without_empty_arguments({} if key == "init_args" and x is None else x) for key, x in node.items()}
    return [_without_empty_arguments(item) for item in node] if isinstance(node, list) else node


def merge(base: Any, override: Any) -> Any:
    """Lays one configuration over another: mappings merge, everything else is replaced.

    A mapping that names another class than the one below replaces it whole.
    """
    if isinstance(base, str) and isinstance(override, dict) and override.keys() & {"class_path", "init_args"}:
        base = {"class_path": base}
    if not (isinstance(base, dict) and isinstance(override, dict)):
        same = class_name(base) is not None and class_name(base) == class_name(override)
        return base if same and isinstance(base, dict) else override
    named = class_name(override)
    if named is not None and class_name(base) not in (None, named):
        return override
    return base | {key: merge(base[key], value) if key in base else value for key, value in override.items()}


def drop_replaced(config: Config, arguments: Arguments) -> Config:
    """A copy of ``config`` with what an option replaces whole put in place: another class, a mapping, a list."""
    config = copy.deepcopy(config)
    for path, text in arguments.pairs():
        value = _parse(text)
        if path[-1] == "class_path":
            path, value = path[:-1], {"class_path": value}
        parent = _descend(config, path[:-1]) if path and path[-1] != "init_args" else None
        if parent is None:
            continue
        below = parent.get(path[-1])
        if isinstance(value, list) or (isinstance(value, str) and isinstance(below, str)):
            parent[path[-1]] = value
        elif isinstance(value, dict):
            parent[path[-1]] = merge(below, value)
        elif isinstance(below, dict) and class_name(value) not in (None, class_name(below)):
            parent[path[-1]] = {"class_path": value}
    return config


def explicit_paths(config: Config, arguments: Arguments) -> set[tuple[str, ...]]:
    """Every place that a file or an option names, with all places above it; ``init_args`` left out."""
    leaves = [path for path, _ in flatten(config)]
    for path, text in arguments.pairs():
        place = tuple(part for part in path if part != "init_args")
        leaves += [place + below for below, _ in flatten(_parse(text))]
    return {path[: i + 1] for path in leaves for i in range(len(path))}


def flatten(config: Any, prefix: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Leaves of nested mappings as (path, value); ``init_args`` is left out of paths."""
    if not isinstance(config, dict) or not config:
        yield prefix, config
        return
    for key, value in config.items():
        yield from flatten(value, prefix if key == "init_args" else (*prefix, str(key)))


def reset_defaults(config: Any, explicit: set[tuple[str, ...]], path: tuple[str, ...] = (), owner: Any = None) -> None:
    """Sets what nobody gave to the chosen class's own default, where a place's default is another class.

    Args:
        config: the parsed configuration, with ``class_path`` and ``init_args``; changed in place.
        explicit: from ``explicit_paths``.
        path: where ``config`` stands.
        owner: class whose argument ``config`` is; None at the top.
    """
    cls, arguments = opened(config)
    if not arguments:
        return
    default = _signature(owner).get(path[-1]) if owner is not None and path else None
    replaced = cls is not None and default is not None and default is not cls and not isinstance(default, cls)
    own = _signature(cls)
    for key, value in list(vars(arguments).items()):
        place = (*path, key)
        if isinstance(value, Namespace):
            reset_defaults(value, explicit, place, cls)
        elif replaced and place not in explicit and key in own and _is_plain(own[key]):
            arguments[key] = own[key]


def opened(config: Any) -> tuple[Any, Any]:
    """The class that a parsed node names, and its arguments; None, and the node itself, where it names none."""
    cls = import_class(config["class_path"]) if "class_path" in config else None
    return cls, config if cls is None else config.get("init_args")


def _descend(config: Config, path: Sequence[str]) -> Config | None:
    """The mapping at ``path``, stepping into ``init_args`` on the way; None where there is none."""
    node: Any = config
    for part in [*path, None]:
        if isinstance(node, dict) and "class_path" in node and part not in ("class_path", "init_args"):
            node = node.setdefault("init_args", {})
        if part is None:
            break
        node = node.get(part) if isinstance(node, dict) else None
    return node if isinstance(node, dict) else None


def class_name(node: Any) -> str | None:
    """The last part of the class that a node names; None if it names none."""
    name = node.get("class_path") if isinstance(node, dict) else node
    if not isinstance(name, str) or not all(part.isidentifier() for part in name.split(".")):
        return None
    return name.rsplit(".", 1)[-1]


def _parse(text: str) -> Any:
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError:
        return text


def import_class(class_path: str) -> Any:
    """What a class path names; None if there is no such thing."""
    module, _, name = class_path.rpartition(".")
    try:
        return getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError):
        return None


def _signature(cls: Any) -> dict[str, Any]:
    """Defaults of a class's constructor by argument; those that are None or missing are left out."""
    if cls is None:
        return {}
    parameters = inspect.signature(cls).parameters.values()
    return {p.name: p.default for p in parameters if p.default is not inspect.Parameter.empty}


def _is_plain(value: Any) -> bool:
    if isinstance(value, list | tuple):
        return all(map(_is_plain, value))
    return value is None or isinstance(value, bool | int | float | str)


def class_paths(config: Any) -> Iterator[str]:
    """Every class that a configuration names, also within lists."""
    if isinstance(config, list):
        for item in config:
            yield from class_paths(item)
    elif isinstance(config, dict):
        if isinstance(config.get("class_path"), str):
            yield config["class_path"]
        for value in config.values():
            yield from class_paths(value)


def differences(checkpoint: Mapping[str, Any], used: Mapping[str, Any]) -> list[tuple[str, Any, Any]]:
    """Options whose value in the checkpoint is not the one that is used, as (option, checkpoint, used)."""
    ours = dict(flatten(dict(used)))
    rows = [(".".join(path), value, ours.get(path)) for path, value in flatten(dict(checkpoint)) if path in ours]
    return [row for row in rows if row[1] != row[2]]
