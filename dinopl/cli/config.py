"""One configuration out of several: checkpoint, then config files in order, then options.

LightningCLI merges a class's arguments into those of the class that it replaces: ``--model.optimizer SGD`` over a
configured AdamW keeps AdamW's weight decay, because SGD has an argument of that name. Here a class that is replaced
takes its arguments with it (``merge``, ``drop_replaced``), and an argument not given for the new class is set to that
class's own default (``reset_defaults``), whatever the default of the place that it stands in was.
"""

import copy
import importlib
import inspect
import math
import os
import typing
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Any

import yaml
from jsonargparse import Namespace

from dinopl.cli.tools.configs import config_name, config_names, shipped_config
from dinopl.core.errors import UserMistake, did_you_mean
from dinopl.core.files import read_yaml
from dinopl.core.moved import current_paths, flatten

Config = dict[str, Any]

# Numbers that the parser and the Trainer take, and that fail later or are passed over in silence: lowest, highest, and
# what they must be.
BOUNDS: dict[str, tuple[float, float, str]] = {
    "seed_everything": (0, 2**32 - 1, "must be from 0 to 4294967295; give another seed."),
    "threads": (1, 4096, "must be at least 1 and at most 4096; leave it out for torch's choice."),
    "trainer.accumulate_grad_batches": (1, math.inf, "must be at least 1; 1 accumulates nothing."),
    "trainer.check_val_every_n_epoch": (
        *(1, math.inf),
        "must be at least 1; --trainer.limit_val_batches 0 switches validation off.",
    ),
    "trainer.gradient_clip_val": (0, math.inf, "must be at least 0; leave it out for no clipping."),
    "trainer.max_epochs": (-1, math.inf, "must be at least 0, or -1 for no limit."),
    "trainer.max_steps": (-1, math.inf, "must be at least 0, or -1 for no limit."),
}


@dataclass
class Arguments:
    """The files and the options of one subcommand."""

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
                # A lone ~ is null in YAML; where a folder is asked for, the user means the one that the shell means.
                option = name if equals else (arguments.options or [""])[-1]
                if (value if equals else token) == "~" and option.endswith(("root", "dir", "folder", "path")):
                    token = token.removesuffix("~") + os.path.expanduser("~")
                arguments.options.append(token)
                continue
            file = value if equals else next(rest, None)
            if not file:
                raise UserMistake("--config needs the path of a YAML file.")
            arguments.files.append(os.path.expanduser(file))
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
        """The last value given for the option ``name``, a dotted path."""
        return next((value for path, value in reversed(list(self.pairs())) if path == name.split(".")), None)


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
        UserMistake: if the file is missing, is not YAML, has a key twice, or holds something else than a mapping.
    """
    try:
        path = Path(file) if Path(file).exists() else shipped_config(file) or Path(file)
        loaded = read_yaml(path.read_text(encoding="utf-8"))
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
    except ValueError as error:
        raise UserMistake(f"{option} {file}: {error}") from None
    if not isinstance(loaded, dict):
        found = "nothing" if loaded is None else f"a {type(loaded).__name__}"
        raise UserMistake(f"{option} {file}: holds {found}; it must be a mapping such as `model: ...`.")
    return current_paths(_with_arguments(loaded))


def _with_arguments(node: Any) -> Any:
    """``init_args:`` with nothing behind it means no arguments."""
    if isinstance(node, dict):
        return {key: _with_arguments({} if key == "init_args" and x is None else x) for key, x in node.items()}
    return [_with_arguments(item) for item in node] if isinstance(node, list) else node


def whole_numbers(trainer: Namespace, composed: Config, arguments: Arguments) -> Config:
    """The Trainer's arguments for which an integer was given and a float was read.

    To its limits 1 is one batch, and 1.0 is all of them. jsonargparse reads 1 as 1.0 where an argument takes either.
    """
    given = dict(composed["trainer"]) if isinstance(composed.get("trainer"), dict) else {}
    for path, text in arguments.pairs():  # an option wins over a file, also where it is no integer
        if path[:1] == ["trainer"] and len(path) == 2:
            given[path[1]] = int(text) if text.isdecimal() else text
    return {name: x for name, x in given.items() if type(x) is int and type(trainer.get(name)) is float}


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
        value = parse_value(text, path)
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
        leaves += [place + below for below, _ in flatten(parse_value(text, path))]
    return {path[: i + 1] for path in leaves for i in range(len(path))}


def reset_defaults(config: Any, explicit: set[tuple[str, ...]], path: tuple[str, ...] = (), owner: Any = None) -> None:
    """Sets arguments that were not given to the chosen class's own defaults, where a place's default is another class.

    Args:
        config: the parsed configuration, changed in place; at ``path`` of it, as an argument of the class ``owner``.
        explicit: from ``explicit_paths``.
        path: none at the top.
        owner: None at the top.
    """
    cls, arguments = opened(config)
    if not arguments:
        return
    default = _defaults(owner).get(path[-1]) if path else None
    replaced = cls is not None and default is not None and default is not cls and not isinstance(default, cls)
    own = _defaults(cls)
    for key, value in list(vars(arguments).items()):
        place = (*path, key)
        if isinstance(value, Namespace):
            reset_defaults(value, explicit, place, cls)
        elif replaced and place not in explicit and key in own and _is_plain(own[key]):
            arguments[key] = own[key]


def expand_home(node: Any) -> Any:
    """Replaces ``~`` at the start of every path by the user's folder, in place: the shell does so in some words.

    And what some classes of Lightning's have for a default, a device or a member of an enumeration, by its word.
    """
    if type(node).__module__ == "torch":
        return str(node)
    if isinstance(node, str):
        node = str(node.value) if isinstance(node, Enum) else node
        return os.path.expanduser(node) if node == "~" or node.startswith("~/") else node
    if isinstance(node, list):
        return [expand_home(item) for item in node]
    if not isinstance(node, dict | Namespace):
        return node
    for key, value in list((vars(node) if isinstance(node, Namespace) else node).items()):
        node[key] = expand_home(value)
    return node


def check_bounds(config: Any) -> None:
    """Raises a ``UserMistake`` for a number out of its bounds, NaN included."""
    for option, (low, high, remedy) in BOUNDS.items():
        value = config.get(option)
        if isinstance(value, int | float) and not low <= value <= high:
            shown = f"{value:g}" if isinstance(value, float) else value  # the parser made -1 to -1.0
            raise UserMistake(f"--{option} {shown}: {remedy}")
    for option, value in config.items():  # leaves; torch and numpy take 64 bits, and fail where the number is used
        for each in value if isinstance(value, list | tuple) else (value,):
            if isinstance(each, int) and abs(each) >= 2**63:
                raise UserMistake(f"--{option.replace('.init_args', '')} {each}: needs more than 64 bits; give less.")


def check_nulls(config: Any, explicit: set[tuple[str, ...]] | None, path: tuple[str, ...] = ()) -> None:
    """Raises a ``UserMistake`` for a null that a file or an option gives to an argument of another type.

    The parser lets null pass whatever the type; it would fail later, or count as false.

    Args:
        config: the parsed configuration, or what stands at ``path`` of it.
        explicit: from ``explicit_paths``, without what is known from the data, which need not be given. None is all.
        path: none at the top.
    """
    from dinopl.cli.tools.schema import hints  # imports torch

    cls, arguments = opened(config)
    if path == ("trainer",):
        cls = importlib.import_module("lightning.pytorch").Trainer
    for key, value in vars(arguments).items() if arguments else ():
        place = (*path, key)
        for item in value if isinstance(value, list) else ():
            if isinstance(item, Namespace) and (explicit is None or place in explicit):
                check_nulls(item, None, place)
        if isinstance(value, Namespace):
            check_nulls(value, explicit, place)
        elif value is None and path == () and key == "test_after_fit":  # it would count as false
            raise UserMistake(f"--{key} null: give true or false.")
        elif value is None and cls and (explicit is None or place in explicit):
            kind = hints(cls).get(key, Any)
            known = key in parameters(cls) and kind not in (Any, object) and not isinstance(kind, typing.TypeVar)
            if known and parameters(cls)[key].default is not None and type(None) not in typing.get_args(kind):
                raise UserMistake(f"--{'.'.join(place)} null: {cls.__name__} cannot do without it; give a value.")


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


def parse_value(text: str, path: Sequence[str]) -> Any:
    """The value of the option at ``path``."""
    try:
        return read_yaml(text)
    except yaml.YAMLError:
        return text
    except ValueError as error:
        raise UserMistake(f"--{'.'.join(path)}: {error}") from None


def import_class(class_path: str) -> Any:
    """What a class path names; None if there is no such thing."""
    module, _, name = class_path.rpartition(".")
    try:
        return getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError):
        return None


def parameters(cls: Any) -> Mapping[str, inspect.Parameter]:
    """Arguments of a class's constructor, or of a function, by name; none for anything else."""
    try:
        return inspect.signature(cls).parameters
    except (TypeError, ValueError):  # None, or without a signature
        return {}


def _defaults(cls: Any) -> dict[str, Any]:
    """Defaults by argument; arguments without one are left out."""
    return {p.name: p.default for p in parameters(cls).values() if p.default is not inspect.Parameter.empty}


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
