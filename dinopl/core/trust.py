"""What a file from someone else may name: classes on a closed list, and no function that it would call.

A checkpoint, an export, a run folder or a teacher's file holds a configuration in plain values, and a configuration is
code: ``class_path: os.system`` with ``init_args`` is a command. What the user's own files and options name is trusted.
What such a file may name is decided here, wherever one is read, and before anything is imported:

- **A class path** must lead to a class, by the path at which the class is defined or by the one at which a package
  above it exports it, and the class must be on the list: ours, but for the command, the sweeps and the reports; layers
  of ``torch.nn``; optimisers and schedules of ``torch.optim``, except for ``LambdaLR`` and ``MultiplicativeLR``; models
  of torchvision and timm; and of Lightning what ``LIGHTNING`` names. No function, and no attribute of a module that
  another module imported (``dinopl.loading.os.popen``).
- **A string** is read by the annotation of its argument. If that takes a class or a callable, the string must be such
  a path; if it takes plain text only, the string is text; in doubt, a dotted name is a path. The activation functions
  of ``FUNCTIONS`` may be named in this way: a layer calls them with tensors and not with what the file says.
- **An argument** of a listed class that says where to write (``PLACES``) must stay below the working directory. One
  that makes another library load a file is refused.

Lightning's callbacks that watch, print, save, stop or average are listed. ``LambdaCallback``, ``ModelPruning`` and
``ThroughputMonitor`` are not, since they call what they are given; nor are the finders of batch size and learning rate,
which set an attribute that the file names. Loggers that write to this machine are listed, and none that send to a host
that the file names. Strategies, plugins and profilers may be named by their short words only (``ddp``,
``simple``).

Not guarded against: how large a network is, which local file a data set is read from, where data sets are downloaded
to, and below which folder the new run folder is made.
"""

import importlib
import inspect
import os
import pickle
import re
import types
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from enum import Enum
from functools import partial
from pathlib import Path, PurePath
from typing import Any

import torch
from lightning.pytorch import LightningDataModule, LightningModule, Trainer
from lightning.pytorch.loggers import Logger
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from dinopl.core.checkpoints import load_checkpoint
from dinopl.core.moved import current_path

REFUSED = "which a checkpoint may not import"


def _names(prefix: str, words: str) -> frozenset[str]:
    return frozenset(prefix + word for word in words.split())


OURS = ("dinopl", "fprnn", "kd")
# Parts of ours that no configuration names: the command, what starts processes, and what reads run folders.
OUTSIDE = _names("", "cli core loading reports sweep")
LIGHTNING = _names(
    "lightning.pytorch.callbacks.",
    "BackboneFinetuning DeviceStatsMonitor EMAWeightAveraging EarlyStopping GradientAccumulationScheduler "
    "LearningRateMonitor ModelCheckpoint ModelSummary OnExceptionCheckpoint RichModelSummary RichProgressBar "
    "StochasticWeightAveraging TQDMProgressBar Timer",
) | _names("lightning.pytorch.", "loggers.CSVLogger loggers.TensorBoardLogger cli.ReduceLROnPlateau")
CALLING_SCHEDULES = _names("", "LambdaLR MultiplicativeLR")
# LSUN unpickles an index beside its data, unchecked; DatasetFolder calls its loader.
CALLING_DATA_SETS = _names("", "DatasetFolder LSUN LSUNClass")
FUNCTIONS = _names("torch.", "relu sigmoid tanh") | _names(
    "torch.nn.functional.",
    "celu elu gelu hardsigmoid hardswish hardtanh leaky_relu logsigmoid mish relu relu6 selu sigmoid silu softplus "
    "softsign tanh",
)
# Arguments that say where something is written, by class and argument.
PLACES = _names(
    "",
    "CSVLogger.name CSVLogger.save_dir CSVLogger.version ModelCheckpoint.dirpath ModelCheckpoint.filename "
    "OnExceptionCheckpoint.dirpath OnExceptionCheckpoint.filename PredictionWriter.folder CachedOutputs.folder "
    "TensorBoardLogger.name TensorBoardLogger.save_dir TensorBoardLogger.sub_dir TensorBoardLogger.version",
)
# Of timm.create_model: each names a file or an address to load weights from.
LOADING_ARGUMENTS = _names("", "cache_dir checkpoint_path pretrained_cfg pretrained_cfg_overlay")

DEPTH = 60
_WORD = re.compile(r"[^\W\d]\w*(?:\.[^\W\d]\w*)+")
# A mapping or a list written as text, in YAML.
_STRUCTURE = re.compile(r"[{}\[\]\n]|: |:$|^- |^[!&*]")
_PLAIN_TYPES = (str, int, float, bool, complex, bytes, type(None), Path, PurePath)
_UNKNOWN: Any = inspect.Parameter.empty

# A context and not an argument: the user admits modules, and an argument of a class could be given by the file itself.
_ADMITTED: ContextVar[tuple[str, ...]] = ContextVar("admitted_modules", default=())
_NAMED: ContextVar[frozenset[str]] = ContextVar("named_paths", default=frozenset())


@contextmanager
def admitting(modules: Iterable[str] = (), named: Iterable[str] = ()) -> Iterator[None]:
    """A context within which a file may also name what the user trusts.

    Args:
        modules: names of modules or packages. What they define may be named, classes and functions alike.
        named: paths that the user's own files and options name.

    Raises:
        ValueError: if one of ``modules`` is not the name of a module.
    """
    modules = tuple(modules)
    if wrong := [name for name in modules if not all(part.isidentifier() for part in name.split("."))]:
        raise ValueError(f"trusted_modules={wrong[0]}: must be the name of a module, such as my_package.networks")
    admitted = _ADMITTED.set(_ADMITTED.get() + modules)
    paths = _NAMED.set(_NAMED.get() | frozenset(named))
    try:
        yield
    finally:
        _NAMED.reset(paths)
        _ADMITTED.reset(admitted)


def named_paths(*nodes: Any) -> frozenset[str]:
    """Every dotted name in the values of configurations, also within longer text."""
    found: set[str] = set()
    for node in nodes:
        if isinstance(node, str):
            found.update(_WORD.findall(node))
        elif isinstance(node, Mapping):
            found |= named_paths(*node.values())
        elif isinstance(node, list | tuple):
            found |= named_paths(*node)
    return frozenset(found)


def resolve(path: str, place: str = "") -> Any:
    """Resolves a path in a file from someone else: to a listed class, one of ``FUNCTIONS``, or what the user admitted.

    Args:
        path: a dotted path.
        place: the argument that it is given for, for messages.

    Returns:
        The class. Of a module that the user admitted it may be a function, too.

    Raises:
        ValueError: if the file may not name it. No module is imported then, except one of a listed package.
    """
    path = current_path(path)
    module, _, name = path.rpartition(".")
    if not module or not all(part.isidentifier() for part in path.split(".")):
        raise ValueError(_refusal(path, "not the path of a class", place))
    admitted = path in _NAMED.get() or _is_admitted(module)
    if not (admitted or path in FUNCTIONS or _is_listed(module)):
        raise ValueError(_refusal(path, "not of a package that it may name", place))
    try:
        found = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError):
        raise ValueError(f"names {_shown(path)}, which is not there{f' at {place}' if place else ''}") from None
    if path in _NAMED.get() or path in FUNCTIONS:
        return found
    home = str(getattr(found, "__module__", None))
    if admitted and _is_admitted(home) and callable(found):
        return found
    if not inspect.isclass(found):
        raise ValueError(_refusal(path, "no class", place))
    if found.__qualname__ != name or not (home == module or home.startswith(f"{module}.")):
        raise ValueError(_refusal(path, f"{home}.{found.__qualname__} under another name", place))
    if not _is_listed(home) or not _is_on_the_list(found, module):
        raise ValueError(_refusal(path, "not on the list of classes that it may name", place))
    return found


def checked(config: Any, kind: Any = _UNKNOWN, place: str = "", depth: int = 0) -> Any:
    """A copy of a configuration from someone else, whose every class path and string has been checked.

    Args:
        config: plain values: a class's path, or a mapping with ``class_path`` and ``init_args``; also lists of such.
        kind: the annotation of the argument that it is given for.
        place: its name, for messages.
        depth: number of containers around it.

    Returns:
        A copy, with what has moved under its present path.

    Raises:
        ValueError: if it names anything else, or holds what is no plain value.
    """
    if depth > DEPTH:
        raise ValueError(f"nests deeper than {DEPTH} levels at {place[:60]}")
    if isinstance(config, str):
        return _checked_text(config, kind, place)
    if isinstance(config, Mapping):
        if "class_path" in config:
            return _checked_object(config, place, depth)
        item = _items(kind)
        for key in config:
            # The parser reads "encoder.class_path" and "callbacks+" as options of their own.
            if isinstance(key, str) and not key.isidentifier() and ("class_path" in key or _is_open(item)):
                raise ValueError(f"has an option {_shown(key)} in {place or 'its configuration'}, which is no name")
        return {key: checked(below, item, f"{place}.{key}", depth + 1) for key, below in config.items()}
    if isinstance(config, list | tuple):
        return [checked(below, _items(kind), place, depth + 1) for below in config]
    if config is None or type(config) in (bool, int, float):
        return config
    raise ValueError(f"holds a {type(config).__name__} at {place}, which is no plain value")


def checked_run(config: Mapping[str, Any]) -> dict[str, Any]:
    """As :func:`checked`, for the complete configuration of a run; only options of the run itself are kept.

    Options that say where checkpoints and further files are read from are dropped.
    """
    kinds: dict[str, Any] = {"model": LightningModule, "data": LightningDataModule, "seed_everything": bool | int}
    kinds |= {"name": str, "threads": int, "test_after_fit": bool}
    kept = {key: checked(config[key], kind, key) for key, kind in kinds.items() if key in config}
    if isinstance(trainer := config.get("trainer"), Mapping):
        kept["trainer"] = _checked_arguments(trainer, Trainer, "trainer", 0)
    elif trainer is not None:
        raise ValueError(f"gives trainer {_shown(trainer)}, which is no mapping")
    return kept


def made(value: Any, hint: Any = None) -> Any:
    """What a plain value of a checked configuration stands for.

    Args:
        value: from :func:`checked`.
        hint: the annotation of the argument that it is given for.

    Returns:
        For ``class_path`` and ``init_args`` an object, or a factory where the annotation is of one; for a list, what
        its items stand for; or the value itself.
    """
    if isinstance(value, list):
        return [made(item) for item in value]
    if isinstance(value, str) and typing.get_origin(hint) is Callable and "." in value:
        return resolve(value)  # of an activation, and the like
    if not (isinstance(value, Mapping) and "class_path" in value):
        return value
    cls = resolve(value["class_path"])
    hints = typing.get_type_hints(cls.__init__ if inspect.isclass(cls) else cls)
    given = {key: made(item, hints.get(key)) for key, item in (value.get("init_args") or {}).items()}
    return partial(cls, **given) if "Callable" in str(hint) else cls(**given)


class CheckedLoading:
    """Lightning's ``load_from_checkpoint``, in which the file does not choose how hyper-parameters become objects.

    List it before ``LightningModule`` among the bases of a class.
    """

    @classmethod
    def load_from_checkpoint(cls, checkpoint_path: Any, *args: Any, **kwargs: Any) -> Any:
        """The module of a checkpoint, with its weights; always read with ``weights_only=True``.

        Arguments that are not given are those of the configuration in the checkpoint, as far as a file may name their
        classes. A checkpoint that was made without the command holds no configuration: give all arguments then.

        Raises:
            ValueError: if the file asks for code to be run, names what makes its hyper-parameters into objects, holds
                another module than this one, or names a class that it may not.
        """
        if isinstance(checkpoint_path, str | os.PathLike) and "://" not in str(checkpoint_path):
            content = load_checkpoint(Path(checkpoint_path))
        else:
            try:
                content = torch.load(checkpoint_path, map_location="cpu", weights_only=True)
            except pickle.UnpicklingError as error:
                raise ValueError(f"'{checkpoint_path}' is no checkpoint, or asks for code to be run") from error
        ours = content.get("dinopl")
        found = ours.get("family") if isinstance(ours, Mapping) else None
        if found not in (None, getattr(cls, "family", found)):
            raise ValueError(
                f"'{checkpoint_path}': a checkpoint of {_shown(found)}, not of {cls.__name__}; give such a one"
            )
        kept = [value for key, value in content.items() if isinstance(value, Mapping) and key != "state_dict"]
        if not isinstance(content.get("hparams_type", ""), str | type):  # Lightning would call it
            raise ValueError(f"'{checkpoint_path}': its hparams_type is no type; give another checkpoint")
        # Lightning would call it with the rest of them, and build every class that they name.
        if any("_instantiator" in value for value in kept):
            raise ValueError(f"'{checkpoint_path}': its hyper-parameters have an _instantiator, {REFUSED}")
        if hasattr(checkpoint_path, "seek"):
            checkpoint_path.seek(0)
        model: Any = ours
        for key in ("config", "model"):
            model = model.get(key) if isinstance(model, Mapping) else None
        if isinstance(model, Mapping) and isinstance(model.get("class_path"), str):
            name = model["class_path"].rpartition(".")[2]
            if name != cls.__name__:
                raise ValueError(
                    f"'{checkpoint_path}': holds {_shown(name)}, not {cls.__name__}; load it with that class"
                )
            own = _annotations(cls)
            given = {key: value for key, value in (model.get("init_args") or {}).items() if key not in kwargs}
            try:
                given = _checked_arguments(given, cls, "model", 0)
                arguments = {key: made(value, own.get(key)) for key, value in given.items()}
            except ValueError as error:
                raise ValueError(f"'{checkpoint_path}': its configuration {error}; give that argument") from error
            # what the command reads from the data is beside the configuration
            linked = {key: value for key, value in (ours or {}).items() if key in own and arguments.get(key) is None}
            kwargs = arguments | linked | kwargs
        kwargs["weights_only"] = True
        return super().load_from_checkpoint(checkpoint_path, *args, **kwargs)  # type: ignore[misc]


def _checked_object(node: Mapping[str, Any], place: str, depth: int) -> dict[str, Any]:
    path = node["class_path"]
    if not isinstance(path, str):
        raise ValueError(f"names {_shown(path)} at {place}, which is no class path")
    if current_path(path) in FUNCTIONS:  # with arguments it would be called with them
        raise ValueError(_refusal(path, "no class", place))
    maker = resolve(path, place)
    found: dict[str, Any] = {"class_path": current_path(path)}
    for key, below in node.items():
        if key == "class_path":
            continue
        if key not in ("init_args", "dict_kwargs") or not isinstance(below, Mapping | None):
            raise ValueError(
                f"has {_shown(key)} {_shown(below)} beside the class at {place}; only init_args may stand there"
            )
        found[key] = _checked_arguments(below or {}, maker, place, depth)
    return found


def _checked_arguments(given: Mapping[str, Any], maker: Any, place: str, depth: int) -> dict[str, Any]:
    """Arguments of a class or of an admitted function."""
    kinds, found = _annotations(maker), {}
    for name, value in given.items():
        where = f"{place}.{name}"
        if not isinstance(name, str) or not name.isidentifier():
            raise ValueError(f"has an option {_shown(name)} in {place}, which is no name")
        found[name] = checked(value, kinds.get(name, _UNKNOWN), where, depth + 1)
        if inspect.isclass(maker):
            _check_reach({f"{cls.__name__}.{name}" for cls in maker.__mro__}, value, where)
    return found


def _check_reach(option: set[str], value: Any, place: str) -> None:
    """Refuses arguments that let a listed class write, load or send more than its name suggests.

    ``option`` is the argument after the name of the class, and after those of its base classes.
    """
    if option & PLACES and isinstance(value, str):
        path = PurePath(value)
        if path.is_absolute() or ".." in path.parts or value.startswith("~") or ":" in value or "\\" in value:
            raise ValueError(f"gives {place} {_shown(value)}, a place outside the working directory to write to")
    # A data set's path is annotated as text, since the class that takes it imports it itself.
    if "TorchvisionImages.dataset" in option and isinstance(value, str):
        module, _, name = value.rpartition(".")
        reads = module == "torchvision.datasets" and name not in CALLING_DATA_SETS and not name.startswith("_")
        if not (reads or value in _NAMED.get() or _is_admitted(module)):
            raise ValueError(_refusal(value, "not a data set of torchvision's that reads checked files", place))
    if option & {"TimmClassifier.name", "TimmEncoder.name"} and not re.fullmatch(r"[\w.-]+", str(value)):
        raise ValueError(f"gives {place} {_shown(value)}, which is not a model of timm's own")
    arguments = option & {"TimmClassifier.arguments", "TimmEncoder.arguments"}
    if arguments and isinstance(value, Mapping) and LOADING_ARGUMENTS & value.keys():
        raise ValueError(f"gives {place} {min(LOADING_ARGUMENTS & value.keys())}, which loads another file")
    if "Trainer.model_registry" in option and value is not None:
        raise ValueError(f"gives {place} {_shown(value)}, which sends checkpoints away")


def _checked_text(value: str, kind: Any, place: str) -> str:
    """A string of the file, if its argument takes text, or if it is the path of a class that may be named."""
    members = list(_members(kind))
    if not any(map(_is_open, members)):  # the parser imports nothing for such an option
        return value
    in_doubt = kind is _UNKNOWN or Any in members
    # The parser strips blanks and quotes from what it reads as YAML.
    dotted = re.fullmatch(rf"\W*{_WORD.pattern}\W*", value)
    if dotted or not (in_doubt or any(map(_is_text, members))):
        if in_doubt or current_path(value) not in FUNCTIONS:
            resolve(value, place)
        return current_path(value)
    # Here the parser would also take a mapping written as text, a file that holds one, or the short name of a class.
    takes_class = any(_is_open(member) and not _is_text(member) and member is not Any for member in members)
    short_name = value.isidentifier() and not value.islower()
    if _STRUCTURE.search(value) or (takes_class and (short_name or "/" in value or "\\" in value)):
        raise ValueError(_refusal(value, "not the path of a class", place))
    return value


def _is_admitted(module: str) -> bool:
    return any(module == name or module.startswith(f"{name}.") for name in _ADMITTED.get())


def _is_listed(module: str) -> bool:
    """Whether a module is of a package whose classes may be named; the class itself is checked later."""
    parts = module.split(".")
    if any(part.startswith("_") for part in parts):
        return False
    match parts:
        case [package, *below] if package in OURS:
            return not below or below[0] not in OUTSIDE or below == ["core", "schedules"]
        case ["torch", "nn"] | ["torch", "nn", "modules", *_] | ["torch", "optim", *_]:
            return True
        case ["lightning", "pytorch", "callbacks" | "loggers", *_] | ["lightning", "pytorch", "cli"]:
            return True
    return parts[:2] in (["torchvision", "models"], ["timm", "models"], ["timm", "layers"])


def _is_on_the_list(found: type, module: str) -> bool:
    package = module.split(".")[0]
    if package in OURS:
        return not issubclass(found, tuple | dict | BaseException | Logger)
    if package == "lightning":
        return f"lightning.pytorch.{module.split('.')[2]}.{found.__name__}" in LIGHTNING
    if module.startswith("torch.optim"):
        calling = CALLING_SCHEDULES & {cls.__name__ for cls in found.__mro__}
        return issubclass(found, Optimizer | LRScheduler) and not calling
    return issubclass(found, nn.Module)


def _annotations(maker: Any) -> dict[str, Any]:
    """Annotations of arguments by name; for a class also those of its base classes' constructors."""
    found: dict[str, Any] = {}
    for owner in reversed(maker.__mro__) if inspect.isclass(maker) else [maker]:
        function = vars(owner).get("__init__") if inspect.isclass(maker) else owner
        if function is None or owner is object:
            continue
        try:
            found |= typing.get_type_hints(function)
        except (NameError, TypeError, AttributeError):  # what cannot be resolved is in doubt
            found |= dict.fromkeys(getattr(function, "__annotations__", {}), _UNKNOWN)
    return found


def _members(kind: Any) -> Iterator[Any]:
    """The alternatives of an annotation."""
    if typing.get_origin(kind) in (typing.Union, types.UnionType):
        for member in typing.get_args(kind):
            yield from _members(member)
    elif typing.get_origin(kind) is typing.Annotated:
        yield from _members(typing.get_args(kind)[0])
    elif isinstance(kind, typing.TypeAliasType if hasattr(typing, "TypeAliasType") else ()):
        yield from _members(kind.__value__)
    else:
        yield kind


def _items(kind: Any) -> Any:
    """The annotation of what a list or a mapping of this kind holds."""
    found: list[Any] = []
    for member in _members(kind):
        if member in (Any, dict, list, tuple):
            return Any
        found += _item_types(member)
    return typing.Union[tuple(found)] if found else _UNKNOWN  # noqa: UP007


def _item_types(member: Any) -> list[Any]:
    origin, inner = typing.get_origin(member), typing.get_args(member)
    if not inspect.isclass(origin) or origin in (type, Callable, types.UnionType):
        return []
    return [item for item in (inner[-1:] if issubclass(origin, Mapping) else inner) if item is not Ellipsis]


def _is_text(member: Any) -> bool:
    return (typing.get_origin(member) or member) in (str, Path, PurePath, os.PathLike, typing.Literal)


def _is_open(kind: Any) -> bool:
    """Whether a string given for this annotation may be taken for something to import."""
    if kind in _PLAIN_TYPES:
        return False
    origin = typing.get_origin(kind)
    if origin is typing.Literal or (inspect.isclass(kind) and issubclass(kind, Enum)):
        return False
    if origin in (typing.Union, types.UnionType, typing.Annotated):
        return any(map(_is_open, _members(kind)))
    items = _item_types(kind)
    return any(map(_is_open, items)) if items else True


def _refusal(path: str, reason: str, place: str = "") -> str:
    return f"names {_shown(path)}, {REFUSED} ({reason}){f' at {place}' if place else ''}"


def _shown(value: Any) -> str:
    text = " ".join(str(value).split())
    return text if len(text) <= 80 else f"{text[:77]}..."
