"""The parser's message made short: which option, what is wrong, what was probably meant.

jsonargparse explains a wrong value with every type that it tried, over many lines. What a user needs is one: the dotted
option, the innermost complaint, and the nearest name that exists.
"""

import importlib
import inspect
import re
import traceback
from collections.abc import Container, Iterable, Mapping
from typing import Any

from dinopl.cli.config import flatten, import_class
from dinopl.cli.tools.schema import HOMES, Classes
from dinopl.core.suggest import did_you_mean

_KNOWN = ("dinopl", "fprnn", "kd", "torch", "lightning")
_NOISE = re.compile(
    r"^(Does not validate against|Subtypes:|Errors:|Given value|Expected a NoneType$|Problem with given class_path"
    r"|Expected a path but)"
)
_TYPE = re.compile(r"<class '(?:\w+\.)*(\w+)'>")
_KEY = re.compile(r"Parser key \"([^\"]+)\":")
_CLASS_PATH = re.compile(r"Problem with given class_path '([^']+)'")
_UNKNOWN_CLASS = re.compile(r"Expected a dot import path string: (\S*[^\s.])")
_ABSTRACT = re.compile(r"Expected an instantiatable class, but ([\w.]+) is abstract")
_OWNER = re.compile(r".*?Got value: Namespace\(.*?class_path='([^']+)'")
_FACTORY = re.compile(r"Got value: Namespace\([^\n]*?class_path='([^']+)'")
_UNKNOWN_ARGUMENT = re.compile(r"unrecognized arguments: --([\w.+-]+)")
_UNKNOWN_KEY = re.compile(r"(?:does not accept|Option) (?:option )?'([\w.]+)'")
_ARGUMENT = re.compile(r"(?P<name>[a-z]\w*)(=|: )")
_DATA_OPTION = re.compile(r"--data\.(\w+(?:\.\w+)*)")
_NO_NUMBER = re.compile(r"Expected a <class '(float|int)'>\s+- Expected a dot import path string: (\S+)")
_NOT_FINITE = re.compile(r"[+-]?\.?(nan|inf|infinity)", re.IGNORECASE)
_NO_MEMORY = re.compile(r"can't allocate memory|out of memory|Storage size calculation overflowed")
_AMOUNT = re.compile(r"(?:tried|unable) to allocate ([\d.]+ \w+)", re.IGNORECASE)
_GIVEN = re.compile(r"Given value: (?:NestedArg\(key='[^']*', val=(?P<nested>.*)\)|(?P<plain>.*))$", re.MULTILINE)


def one_line(message: str, options: Iterable[str]) -> str:
    """Condenses a parser's message.

    Args:
        message: what the parser said.
        options: the top-level and ``trainer.`` options that exist, for suggestions.

    Returns:
        One line: option, complaint, and "did you mean" where a near name exists.
    """
    classes = _CLASS_PATH.findall(message)
    if match := _NO_NUMBER.search(message):  # torch's numbers may be tensors, which have a class
        return f"{_option(message)}: {_expected([match[1]], match[2])}"
    if match := _UNKNOWN_CLASS.search(message):
        if match[1] in _class_names():
            return f"{_option(message)}: {match[1]} is a class of another kind than this option takes."
        names = _fitting(message, match) or _class_names()
        return f"{_option(message)}: no class {match[1]!r}{did_you_mean(match[1], names)}"
    if match := _ABSTRACT.search(message):
        return f"{_option(message)}: name a class first: {', '.join(_concrete(match[1]))}."
    if match := _UNKNOWN_ARGUMENT.search(message) or _UNKNOWN_KEY.search(message):
        name = match[1].rstrip("+")
        if not classes:
            return f"--{name}: no such option{did_you_mean(name, options)}"
        inner = _OWNER.match(message, match.end())  # of a factory within a class; it is named behind the complaint
        leaf, owner = name.split(".")[0], inner[1] if inner else classes[-1]
        parent = _option(message)
        return (
            f"{parent}.{name}: {owner.rsplit('.', 1)[-1]} has no option {leaf!r}{did_you_mean(leaf, _arguments(owner))}"
        )
    return f"{_option(message)}: {_complaint(message)}" if _KEY.search(message) else _complaint(message)


def _fitting(message: str, unknown: re.Match[str]) -> list[str]:
    """Names of our classes that the option takes to which an unknown one was given; none if they cannot be told.

    The class whose option it is is named before the complaint, or, if a factory makes it, behind.
    """
    before = message[: unknown.start()]
    if before.rfind("expects a function or a callable class") > before.rfind("Problem with given class_path"):
        owner = _FACTORY.search(message, unknown.end())
    else:
        owner = next(reversed(list(_CLASS_PATH.finditer(before))), None)
    return Classes.public().fitting(import_class(owner[1]), _option(message).split(".")[-1]) if owner else []


def _option(message: str) -> str:
    """The dotted option that the message is about: the keys of all levels, joined."""
    keys: list[str] = []
    for key in _KEY.findall(message):
        if not keys or key != keys[-1]:
            keys.append(key)
    return "--" + ".".join(keys)


def innermost(message: str) -> str:
    """What a constructor complained of, without the types that were tried around it."""
    return _complaint(message)


def placed(complaint: str, config: Mapping[str, Any]) -> str:
    """A complaint with its option's whole name.

    A part knows its arguments but not where it stands: "rank=0 must ..." becomes "--model.layer.mixer.rank=0 must ...",
    by the place in the configuration that has this name, best with this value. Data within data take themselves for the
    outermost: where these have no such option, "--data.batch_size 0" becomes "--data.data.batch_size 0".

    Args:
        complaint: one that begins with "NAME=VALUE", "NAME: VALUE" or "--data.NAME"; others are left alone.
        config: the run's configuration.
    """
    if match := _DATA_OPTION.match(complaint):
        name, paths = tuple(match[1].split(".")), {path for path, _ in flatten(config)}
        inner = ("data", *name) not in paths and ("data", "data", *name) in paths
        return complaint.replace("--data.", "--data.data.") if inner else complaint
    if not (match := _ARGUMENT.match(complaint)):
        return complaint
    places = [(path, value) for path, value in flatten(config) if path[-1:] == (match["name"],)]
    fits = [path for path, value in places if complaint.startswith(f"{match[0]}{value}")]
    path = next(iter(fits or [path for path, _ in places]), None)
    return f"--{'.'.join(path)}{complaint.removeprefix(match['name'])}" if path else complaint


def optimisation_option(error: BaseException) -> str | None:
    """The option whose object complained, if that is one of torch's optimisers or schedules.

    They know their arguments by other names ("Invalid learning rate: -1.0") and are made by the model, so that where an
    error was raised is all that tells.
    """
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    home = "" if trace is None else str(trace.tb_frame.f_globals.get("__name__", ""))
    if home.startswith("torch.optim.lr_scheduler"):
        return "--model.lr_scheduler"
    return "--model.optimizer" if home.startswith("torch.optim.") else None


def trainer_option(complaint: str, names: Container[str]) -> str:
    """The Trainer's option that it complains of: the first that it names; ``--trainer`` if it names none.

    Args:
        complaint: the Trainer's text.
        names: its arguments.
    """
    name = next((word for word in re.findall(r"\w+", complaint) if word in names), None)
    return f"--trainer.{name}" if name else "--trainer"


def memory_shortage(error: BaseException) -> str | None:
    """What to tell of an error that comes of too little memory, also indirectly; None of any other."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, MemoryError) or _NO_MEMORY.search(str(cause)):
            amount = _AMOUNT.search(str(cause))
            needed = f"{amount[1]} of memory that are not there" if amount else "more memory than there is"
            return f"the configuration needs {needed}; choose smaller sizes in --model or --data."
        cause = cause.__cause__ or cause.__context__ or _without_text(cause)
    return None


def _without_text(error: BaseException) -> BaseException | None:
    """The error without a text, such as a bare MemoryError, over which jsonargparse stumbled, if that is what happened.

    It cannot indent an empty text and raises an IndexError that does not refer to the first error.
    """
    if not isinstance(error, IndexError):
        return None
    frames = (frame for frame, _ in traceback.walk_tb(error.__traceback__))
    tried = (cause for frame in frames for cause in frame.f_locals.get("exceptions") or ())
    return next((cause for cause in tried if isinstance(cause, MemoryError)), None)


def _complaint(message: str) -> str:
    """The lines that say something, in one: what was expected, and the value that was given instead."""
    lines = [_TYPE.sub(r"\1", _clean(line)) for line in message.splitlines()]
    told = list(dict.fromkeys(line for line in lines if line and not _NOISE.match(line)))
    expected = [line.removeprefix("Expected a ") for line in told if line.startswith("Expected a ")]
    others = [line for line in told if not line.startswith("Expected a ")]
    if others:
        return "; ".join(others)
    given = next((nested or plain for nested, plain in _GIVEN.findall(message) if nested or plain), None)
    told_already = any(", got " in line for line in expected)
    shown = given is not None and not told_already and not given.startswith(("Namespace(", "{"))
    return _expected(expected, given if shown else None)


def _expected(types: list[str], given: str | None) -> str:
    """What was expected, and what was given instead, if that is to be shown."""
    if given is not None and _NOT_FINITE.fullmatch(given.strip("'")) and {"float", "int"} & set(types):
        return f"{given} is not a finite number; give one, such as 1."
    return f"expected {' or '.join(types)}{'' if given is None else f', got {given}'}."


def _clean(line: str) -> str:
    """A line without what it was wrapped in."""
    line = re.sub(
        r"Type \S+\[.*\] expects a function or a callable class: ", "", re.sub(r"^[\s-]*\s|^- ", "", line).strip()
    )
    line = re.sub(r"Parser key \"[^\"]*\":\s*", "", line)
    line = re.sub(r"\. Got value: Namespace\(.*$", "", line)
    line = re.sub(r"typing\.Literal\[([^\]]*)\]", r"\1", line)
    return re.sub(r"\. Got value: ", ", got ", line)


def _arguments(class_path: str) -> list[str]:
    return list(inspect.signature(import_class(class_path)).parameters)


def _concrete(class_path: str) -> list[str]:
    """Names of the classes below an abstract one that can be made."""
    below = list(import_class(class_path).__subclasses__())
    for cls in below:  # grows on the way
        below += cls.__subclasses__()
    return sorted({cls.__name__ for cls in below if not inspect.isabstract(cls)})


def _class_names() -> list[str]:
    """Names that an option may take: our public classes, torch's optimisers and schedules, Lightning's callbacks."""
    homes = [importlib.import_module(home) for home in HOMES]
    values = [getattr(home, name) for home in homes for name in getattr(home, "__all__", vars(home))]
    classes = {value for value in values if inspect.isclass(value)}
    return sorted({cls.__name__ for cls in classes if cls.__module__.split(".")[0] in _KNOWN})
