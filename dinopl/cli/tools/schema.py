"""A JSON schema of configurations, for editors: names of options, their types, defaults and descriptions.

Made from public signatures, annotations and docstrings alone. An editor that knows it completes and explains options
and marks misspelt ones. What it does not check is left to the command: which options a class needs, whether a class is
of the kind that an option takes, and everything about classes that are not listed here, such as a user's own.
"""

import importlib
import inspect
import json
import pathlib
import types
import typing
from collections import abc
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

Schema = dict[str, Any]

# Where classes that a configuration may name are public.
HOMES = (
    *("dinopl", "dinopl.training", "dinopl.data", "dinopl.encoders", "dinopl.distillation.heads"),
    *("dinopl.distillation.student_start", "dinopl.distillation.losses", "dinopl.probes"),
    *("dinopl.distillation.teachers", "dinopl.distillation.monitors"),
    *("fprnn", "fprnn.baselines", "fprnn.iteration_caps", "fprnn.layers", "fprnn.mixers", "dinopl.core.schedules"),
    *("fprnn.solvers", "fprnn.tasks"),
    *("kd", "kd.features", "kd.losses", "kd.targets"),
    *("torch.optim", "torch.optim.lr_scheduler", "lightning.pytorch.callbacks", "lightning.pytorch.loggers"),
)
# Packages whose base classes are kinds of objects; others, such as ``datetime.timedelta``, are plain to the command.
OURS = ("dinopl.", "fprnn.", "kd.")
KINDS = (*OURS, "torch.nn.", "torch.optim.", "lightning.")
# Parts that no configuration names.
INNER = (tuple, dict, Exception, torch.autograd.Function)
PLAIN: dict[Any, Schema] = {
    bool: {"type": "boolean"},
    int: {"type": "integer"},
    float: {"type": "number"},
    str: {"type": "string"},
    pathlib.Path: {"type": "string"},
    type(None): {"type": "null"},
    dict: {"type": "object"},
    list: {"type": "array"},
    tuple: {"type": "array"},
}


class Classes:
    """The public classes of ``HOMES``, which a configuration may name.

    Attributes:
        paths: short name and paths of each.
        kinds: definitions for options that take objects of some kind, filled as they are needed.
    """

    def __init__(self) -> None:
        self.paths: dict[type, set[str]] = {}
        self.kinds: Schema = {}
        for home in HOMES:
            module = importlib.import_module(home)
            for name in getattr(module, "__all__", None) or dir(module):
                value = getattr(module, name)
                if name.startswith("_") or not inspect.isclass(value) or issubclass(value, INNER):
                    continue
                if value.__module__.startswith(home.split(".")[0]) and not inspect.isabstract(value):
                    self.paths.setdefault(value, {name, f"{value.__module__}.{name}"}).add(f"{home}.{name}")

    def below(self, base: type, option: str) -> list[str]:
        """Names to offer to an option: subclasses; of networks in general, those of the package of its name."""
        found = [(cls.__name__, paths) for cls, paths in self.paths.items() if issubclass(cls, base)]
        if base is nn.Module:
            homes = (f".{option}s.", *((".baselines.",) if option == "layer" else ()))
            found = [(name, paths) for name, paths in found if any(home in path for path in paths for home in homes)]
        return sorted(name for name, _ in found)

    def fitting(self, owner: Any, option: str) -> list[str]:
        """Names of the classes that an option of a class takes, by its annotation; none where that says nothing."""
        names = [self.below(base, option) for base in _bases(hints(owner).get(option))]
        return sorted({name for found in names for name in found})


def _bases(annotation: Any) -> list[type]:
    """Classes of objects that an annotation names: in unions, in lists, and as what a factory makes."""
    if inspect.isclass(annotation) and annotation.__module__.startswith(KINDS):
        return [annotation]
    inner = typing.get_args(annotation)
    parts = inner[-1:] if typing.get_origin(annotation) is abc.Callable else inner
    return [base for part in parts for base in _bases(part)]


def build_schema() -> Schema:
    """The schema of a whole configuration."""
    from lightning.pytorch import LightningDataModule, LightningModule, Trainer

    classes = Classes()
    arguments = {cls.__name__: arguments_of(cls, classes) for cls in classes.paths}
    cases = [
        {
            "if": {"properties": {"class_path": {"enum": sorted(paths)}}, "required": ["class_path"]},
            "then": {"properties": {"init_args": {"$ref": f"#/$defs/{cls.__name__}"}}},
        }
        for cls, paths in classes.paths.items()
    ]

    def option(kind: str, description: str) -> Schema:
        return {"type": [kind, "null"], "default": None, "description": description}

    properties = {
        "seed_everything": {"type": ["integer", "boolean"], "default": 0, "description": "The run's seed."},
        "name": option("string", "First part of the run folder's path."),
        "threads": option("integer", "CPU threads of each process; null is torch's own choice."),
        "test_after_fit": {"type": "boolean", "default": True, "description": "End fit with the test split."},
        "ckpt_path": option("string", "Checkpoint to resume from, or to use."),
        "weights_only": option("boolean", "Whether a checkpoint may hold nothing but plain values and tensors."),
        "trainer": arguments_of(Trainer, classes),
        "model": object_of(LightningModule, classes),
        "data": object_of(LightningDataModule, classes),
    }
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Configuration of dinopl fit, validate, test and predict",
        "type": "object",
        "additionalProperties": False,
        "properties": properties,
        "$defs": {
            **dict(sorted(arguments.items())),
            **dict(sorted(classes.kinds.items())),
            "object": {
                "type": "object",
                "properties": {
                    "class_path": {"type": "string", "description": "Name of the class; your own with its module."},
                    "init_args": {"type": ["object", "null"], "description": "Arguments of the class."},
                    "dict_kwargs": {"type": "object", "description": "Arguments that the class passes on."},
                },
                "additionalProperties": False,
                "allOf": cases,
            },
        },
    }


def as_text(schema: Schema) -> str:
    """JSON with a line a definition, so that a change shows where it is."""
    head = json.dumps({key: value for key, value in schema.items() if key != "$defs"})
    definitions = ",\n".join(f"{json.dumps(name)}: {json.dumps(value)}" for name, value in schema["$defs"].items())
    return f'{head[:-1]},\n"$defs": {{\n{definitions}\n}}}}\n'


def arguments_of(cls: type, classes: Classes) -> Schema:
    """The options of a class: the arguments of its constructor.

    None is required, since factories get some of theirs from elsewhere. Descriptions are our own classes' only.

    Args:
        cls: any class.
        classes: those that options may name.
    """
    from docstring_parser import parse  # jsonargparse[signatures] brings it

    parameters = inspect.signature(cls).parameters.values()
    annotations = hints(cls)
    docstring = parse((inspect.getdoc(cls) or "") if cls.__module__.startswith(OURS) else "")
    documented = {param.arg_name: " ".join((param.description or "").split()) for param in docstring.params}
    properties = {}
    for parameter in parameters:
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            continue
        described = {"description": documented[parameter.name]} if documented.get(parameter.name) else {}
        default = _plain(parameter.default)
        properties[parameter.name] = {
            **schema_of(annotations.get(parameter.name, Any), classes, parameter.name),
            **described,
            **({"default": default[0]} if default else {}),
        }
    return {
        "type": ["object", "null"],  # nothing behind `init_args:` means no arguments
        **({"description": docstring.short_description} if docstring.short_description else {}),
        "properties": properties,
        "additionalProperties": any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters),
    }


def hints(maker: Any) -> Mapping[str, Any]:
    """Annotations of a class's constructor, or of a function; none where they cannot be resolved."""
    try:
        return typing.get_type_hints(maker.__init__ if inspect.isclass(maker) else maker)
    except (NameError, TypeError):
        return {}


def _plain(value: Any) -> tuple[Any] | None:
    """A default in a tuple, if JSON has it."""
    if isinstance(value, list | tuple):
        items = [_plain(item) for item in value]
        return ([item[0] for item in items if item],) if all(items) else None
    return (value,) if value is None or (type(value) in (bool, int, float, str) and value == value) else None


def schema_of(annotation: Any, classes: Classes, option: str = "") -> Schema:
    """What an annotation allows; everything, where JSON schema cannot say it.

    Args:
        annotation: resolved.
        classes: those that options may name.
        option: name of the argument.
    """
    origin, inner = typing.get_origin(annotation), typing.get_args(annotation)
    if annotation in PLAIN:
        return dict(PLAIN[annotation])
    if origin is typing.Literal:
        return {"enum": list(inner)}
    if origin in (typing.Union, types.UnionType):
        return _any_of([schema_of(part, classes, option) for part in inner])
    if origin in (dict, abc.Mapping, abc.MutableMapping):
        return {"type": "object"}
    if origin in (list, tuple, abc.Sequence, abc.Iterable):
        parts = [part for part in inner if part is not Ellipsis]
        return {"type": "array", "items": _any_of([schema_of(part, classes, option) for part in parts])}
    if origin is abc.Callable and inner and not typing.is_typeddict(inner[-1]):
        return object_of(inner[-1], classes, option)
    if inspect.isclass(annotation) and issubclass(annotation, tuple):
        return {"type": "array"}
    return object_of(annotation, classes, option)


def object_of(base: Any, classes: Classes, option: str = "") -> Schema:
    """An object by its class: a name alone, or with arguments; of ``base``, whose subclasses are offered."""
    if not inspect.isclass(base) or not base.__module__.startswith(KINDS) or typing.Protocol in base.__bases__:
        return {}
    kind = f"kind.{base.__name__}" + (f".{option}" if base.__name__ == "Module" else "")
    if kind not in classes.kinds:
        names = classes.below(base, option)
        offered: Schema = {"examples": names} if names else {}
        whole = {"allOf": [{"$ref": "#/$defs/object"}, {"properties": {"class_path": offered}}]}
        classes.kinds[kind] = {"anyOf": [{"type": "string", **offered}, whole]}
    return {"$ref": f"#/$defs/{kind}"}


def _any_of(schemas: list[Schema]) -> Schema:
    """One of several; numbers swallow integers, and whatever allows everything swallows all."""
    if not schemas or {} in schemas:
        return {}
    flat = [part for schema in schemas for part in (schema["anyOf"] if set(schema) == {"anyOf"} else [schema])]
    kept = [schema for i, schema in enumerate(flat) if schema not in flat[:i]]
    simple = [schema["type"] for schema in kept if set(schema) == {"type"}]
    if len(simple) == len(kept) and all(isinstance(kind, str) for kind in simple):
        return {"type": simple[0] if len(simple) == 1 else simple}
    return kept[0] if len(kept) == 1 else {"anyOf": kept}
