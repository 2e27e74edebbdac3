"""Error messages of one line: which option, what is wrong, what to do.

The library raises ``name=value: what is wrong; remedy`` and does not know the command. Here the option's path is put
before that text: ``construct`` makes every object that the configuration describes and records the class whose
constructor failed, and ``placed`` finds that class in the configuration.

jsonargparse names a wrong value's option and the reason only in the text of its errors, which has many lines and every
type that was tried; ``parser_message`` extracts them.
"""

import dis
import errno
import importlib
import inspect
import os
import re
import textwrap
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from lightning.fabric.utilities.exceptions import MisconfigurationException

from dinopl.cli.config import import_class, parameters
from dinopl.cli.tools.schema import HOMES, Classes
from dinopl.core.errors import DataError, did_you_mean

Config = Mapping[str, Any]

# What a constructor or `setup` raises when the user can correct it; for TypeErrors see ``_is_mistake``.
MISTAKES = (ValueError, FileNotFoundError, MisconfigurationException)
NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
LIBRARIES = ("torch", "torchvision", "timm", "lightning", "torchmetrics", "sklearn")

_KNOWN = ("dinopl", "fprnn", "kd", "torch", "lightning")
_NOISE = re.compile(
    r"^(Does not validate against|Subtypes:|Errors:|Given value|Expected a NoneType$|Problem with given class_path"
    r"|Expected a path but)"
)
_KEY = re.compile(r"Parser key \"([^\"]+)\":")
_CLASS_PATH = re.compile(r"Problem with given class_path '([^']+)'")
_UNKNOWN_CLASS = re.compile(r"Expected a dot import path string: (\S*[^\s.])")
_ABSTRACT = re.compile(r"Expected an instantiatable class, but ([\w.]+) is abstract")
_OWNER = re.compile(r".*?Got value: Namespace\(.*?class_path='([^']+)'")
_FACTORY = re.compile(r"Got value: Namespace\([^\n]*?class_path='([^']+)'")
_UNKNOWN_ARGUMENT = re.compile(r"unrecognized arguments: --([\w.+-]+)")
_UNKNOWN_KEY = re.compile(r"(?:does not accept|Option) (?:option )?'([\w.]+)'")
_NO_NUMBER = re.compile(r"Expected a <class '(float|int)'>\s+- Expected a dot import path string: (\S+)")
_NOT_FINITE = re.compile(r"[+-]?\.?(nan|inf|infinity)", re.IGNORECASE)
_GIVEN = re.compile(r"Given value: (?:NestedArg\(key='[^']*', val=(?P<nested>.*)\)|(?P<plain>.*))$", re.MULTILINE)
# What jsonargparse wraps around the informative text, and its replacement.
_WRAPPING = (
    (re.compile(r"^[\s-]*\s|^- |\s+$"), ""),
    (re.compile(r"Type \S+\[.*\] expects a function or a callable class: "), ""),
    (re.compile(r"Parser key \"[^\"]*\":\s*"), ""),
    (re.compile(r"\. Got value: Namespace\(.*$"), ""),
    (re.compile(r"typing\.Literal\[([^\]]*)\]"), r"\1"),
    (re.compile(r"\. Got value: "), ", got "),
    (re.compile(r"<class '(?:\w+\.)*(\w+)'>"), r"\1"),
)

# "alpha=1.5: must", "rank=0 must", "path: nothing", "lr_scheduler.total_steps=None: training".
_NAMED = re.compile(
    r"(?P<name>[A-Za-z_]\w*)(?P<below>(?:\.\w+)*)"
    r"(?:=(?:(?P<value>\[[^\]]*\]|\([^)]*\)|\{[^}]*\}|'[^']*'|\S+?)(?=: ))?|(?=: ))"
)
_AS_TYPED = {"None": "null", "True": "true", "False": "false"}
_NO_MEMORY = re.compile(r"can't allocate memory|out of memory|Storage size calculation overflowed")
_UNKNOWN_METRIC = re.compile(
    r"(?P<owner>Early stopping|ReduceLROnPlateau) conditioned on metric `?(?P<name>[^\s`]+)`? which is not available"
    r"|`(?P<owner_>ModelCheckpoint)\(monitor='(?P<name_>[^']+)'\)` could not find the monitored key"
)
_AMOUNT = re.compile(r"(?:tried|unable) to allocate ([\d.]+ \w+)", re.IGNORECASE)

# The constructor that failed last: its error, the class and its arguments. Kept here since jsonargparse, where several
# types are possible, raises another error, without a reference to this one. At most one entry.
_FAILED: list[tuple[BaseException, type, dict[str, Any]]] = []


def construct(cls: type, /, *args: Any, **kwargs: Any) -> Any:
    """Makes an object that the configuration describes, and records its class if the constructor fails."""
    # a function of a module, since factories hold it, which are copied and pickled with the model
    try:
        return cls(*args, **kwargs)
    except Exception as error:
        if not any(error is known for known, _, _ in _FAILED):  # of a factory called by a constructor, the inner counts
            _FAILED[:] = [(error, cls, kwargs)]
        raise


def forget_failures() -> None:
    """Discards the recorded failure, such as one of a class that the parser only tried."""
    _FAILED.clear()


def mistake(error: BaseException, config: Config, *, building: bool = False) -> str | None:
    """The message for an error that the user can correct; None for any other.

    Args:
        error: raised while a run is set up.
        config: the run's complete configuration.
        building: whether the parser raised it while it built the objects of the configuration.
    """
    causes = list(_causes(error))
    failed = [entry for entry in _FAILED if building or any(entry[0] is cause for cause in causes)]
    cause, cls, arguments = failed[0] if failed else (error, None, {})
    if lacking := no_memory(error) or no_memory(cause):
        return lacking
    text = str(cause) if failed or not building else _condensed(str(error))
    if "loading state_dict" in text:  # torch raises a RuntimeError, with a line for each misfit
        misfit = next((line.strip() for line in text.splitlines()[1:] if line.strip()), text)
        shown = textwrap.shorten(misfit, 160, placeholder=" ...")
        return f"--ckpt_path: the weights do not fit the configured model: {shown} Use the run's own config.yaml."
    if building and isinstance(cause, ImportError):  # a callback or a logger whose package is not installed
        text = f"{' '.join(text.split())}; install what it needs, or leave {cls.__name__ if cls else 'it'} out."
    elif not (_is_mistake(error, None) or _is_mistake(cause, cls)):
        return None
    if cls is not None and cls.__module__.startswith("torch."):  # which calls its arguments by other names
        text = f"{text.rstrip('.')}; give that argument another value."
    return placed(text, config, cls, arguments)


def _is_mistake(error: BaseException, cls: type | None) -> bool:
    """Whether an error is due to a value that the user gave, and not to a bug that needs its traceback.

    While an object of the configuration is built, a TypeError is about the values that it is given, and so is every
    error of a library's constructor. Later a TypeError counts only if a ``raise`` statement raised it: an operator or a
    call that fails shows a value that some check should have refused.

    Args:
        error: from a constructor or ``setup``.
        cls: class of the object that was being built; None if none was.
    """
    if isinstance(error, MISTAKES) or (cls is not None and isinstance(error, TypeError)):
        return True
    if cls is not None:
        return isinstance(error, Exception) and cls.__module__.split(".")[0] in LIBRARIES
    return isinstance(error, TypeError) and raised_by(error) != ""


def raised_by(error: BaseException) -> str:
    """The module whose ``raise`` statement raised an error; empty for what an operator or a call raised."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    if trace is None or dis.opname[trace.tb_frame.f_code.co_code[trace.tb_lasti]] != "RAISE_VARARGS":
        return ""
    return str(trace.tb_frame.f_globals.get("__name__"))


def placed(text: str, config: Config, cls: type | None = None, arguments: Config | None = None) -> str:
    """An error's text with the option's path before it.

    ``rank=0: must be ...`` becomes ``--model.layer.mixer.rank 0: must be ...``. The argument is searched in the object
    that was being built; then in the model, the data, the Trainer and the command; then in the parts of the model and
    of the data. If several have it, one with the value in question comes first. A text that names no argument gets the
    path of the object.

    Args:
        text: as the library raises it.
        config: the run's complete configuration.
        cls: class of the object that was being built; None if that is not known.
        arguments: of its constructor, which distinguish several objects of one class.
    """
    found = [(path, import_class(name), given) for path, name, given in _objects(config)]
    found += [(("trainer",), None, config.get("trainer") or {}), ((), None, config)]
    plain = {key: value for key, value in (arguments or {}).items() if isinstance(value, bool | int | float | str)}
    same_class = [i for i, (_, kind, _) in enumerate(found) if cls is not None and kind is cls]
    own = max(same_class, key=lambda i: sum(found[i][2].get(key) == plain[key] for key in plain), default=None)

    def has(i: int, name: str) -> bool:  # of the model, also what is read from the data
        return name in found[i][2] or (found[i][0] == ("model",) and name in parameters(found[i][1]))

    if match := _NAMED.match(text):
        name, value = match["name"], match["value"]

        def rank(i: int) -> tuple[Any, ...]:
            path, _, given = found[i]
            forms = (str(given.get(name)), repr(given.get(name)))
            has_value = text.startswith(tuple(f"{name}={form}{end}" for form in forms for end in " :"))
            outer = path in ((), ("trainer",))  # after the model and the data, before what they are made of
            return i != own, not has_value, 1.5 if outer else len(path), path[:1] != ("model",)

        if candidates := [i for i in range(len(found)) if has(i, name)]:
            option = ".".join((*found[min(candidates, key=rank)][0], name)) + match["below"]
            shown = "" if value is None else f" {_AS_TYPED.get(value, value)}"
            rest = text[match.end() :] if value is not None else text.removeprefix(name + match["below"])
            return f"--{option}{shown}{rest}"
    return f"--{'.'.join(found[own][0])}: {text}" if own is not None and len(found[own][0]) > 1 else text


def _objects(config: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], str, Config]]:
    """Path, class path and arguments of every object in a configuration; items of a list have the list's path."""
    if isinstance(config, list):
        for item in config:
            yield from _objects(item, path)
    elif isinstance(config, Mapping):
        if isinstance(config.get("class_path"), str):
            yield path, config["class_path"], config.get("init_args") or {}
        for key, value in config.items():
            yield from _objects(value, path if key == "init_args" else (*path, str(key)))


def _causes(error: BaseException) -> Iterator[BaseException]:
    cause: BaseException | None = error
    while cause is not None:
        yield cause
        cause = cause.__cause__ or cause.__context__


def in_training(error: BaseException, config: Config) -> str | None:
    """The message for a run whose data cannot be read; None for any other error in training.

    A worker process passes on its error with the whole traceback, whose last line is the error's own.
    """
    if not isinstance(error, DataError):
        return None
    lines = [line for line in str(error).splitlines() if line.strip()]
    own = f"{type(error).__module__}.{type(error).__name__}: "
    return placed(lines[-1].removeprefix(own) if len(lines) > 1 else str(error), config)


def no_memory(error: BaseException) -> str | None:
    """The message for memory that could not be allocated; None for any other error."""
    for each in _causes(error):
        if isinstance(each, MemoryError) or _NO_MEMORY.search(str(each)):
            amount = _AMOUNT.search(str(each))
            needed = f"{amount[1]} of memory that are not there" if amount else "more memory than there is"
            return f"the configuration needs {needed}; choose smaller sizes in --model or --data."
    return None


def no_space(error: BaseException, folder: object) -> str | None:
    """The message for a file that the system does not let grow; None for any other error.

    Args:
        error: raised while a run was made.
        folder: of the run, for an error that names no file.
    """
    for cause in _causes(error):
        if isinstance(cause, OSError) and cause.errno in NO_SPACE:
            reason = os.strerror(cause.errno or 0)
            return (
                f"cannot write {cause.filename or f'to {folder}'}: {reason}; make room, or choose another folder with "
                "--trainer.default_root_dir. What was whole before is kept."
            )
    return None


def unknown_metric(error: BaseException, known: Iterable[str]) -> str | None:
    """The message for a callback or schedule that monitors none of the ``known`` metrics; None for any other error."""
    match = _UNKNOWN_METRIC.search(str(error))
    if match is None:
        return None
    owner, name, names = match["owner"] or match["owner_"], match["name"] or match["name_"], sorted(known)
    return f"{owner}: no metric {name!r} is logged{did_you_mean(name, names)} There are {', '.join(names)}."


def parser_message(message: str, options: Iterable[str]) -> str:
    """The parser's text in one line: option, what is wrong, and "did you mean" if one of ``options`` is similar."""
    keys: list[str] = []  # of all levels, from the outermost
    for key in _KEY.findall(message):
        keys += [key] if keys[-1:] != [key] else []
    option = "--" + ".".join(keys)
    classes = _CLASS_PATH.findall(message)
    if match := _NO_NUMBER.search(message):  # torch's numbers may be tensors, which have a class
        return f"{option}: {_expected([match[1]], match[2])}"
    if match := _UNKNOWN_CLASS.search(message):
        if match[1] in _class_names():
            return f"{option}: {match[1]} is a class of another kind than this option takes."
        # The class whose option it is stands before the error's text or, if a factory makes it, behind.
        before = message[: match.start()]
        if before.rfind("expects a function or a callable class") > before.rfind("Problem with given class_path"):
            owners = _FACTORY.findall(message, match.end())[:1]
        else:
            owners = _CLASS_PATH.findall(before)[-1:]
        names = [name for owner in owners for name in Classes().fitting(import_class(owner), keys[-1])]
        hint = did_you_mean(match[1], names or _class_names())
        if hint == "." and len(names) == 1:  # what else than that class's options could be meant
            fitting = [cls for cls in Classes().paths if cls.__name__ == names[0]]
            hint = f"; give {names[0]}, and its options {', '.join(parameters(fitting[0]))}." if fitting else hint
        return f"{option}: no class {match[1]!r}{hint}"
    if match := _ABSTRACT.search(message):
        below = list(import_class(match[1]).__subclasses__())
        for cls in below:  # grows on the way
            below += cls.__subclasses__()
        concrete = sorted({cls.__name__ for cls in below if not inspect.isabstract(cls)})
        return f"{option}: name a class first: {', '.join(concrete)}."
    if match := _UNKNOWN_ARGUMENT.search(message) or _UNKNOWN_KEY.search(message):
        name = match[1].rstrip("+")
        if not classes:
            return f"--{name}: no such option{did_you_mean(name, options)}"
        inner = _OWNER.match(message, match.end())  # of a factory within a class; it stands behind the error's text
        leaf, owner = name.split(".")[0], inner[1] if inner else classes[-1]
        hint = did_you_mean(leaf, parameters(import_class(owner)))
        return f"{option}.{name}: {owner.rsplit('.', 1)[-1]} has no option {leaf!r}{hint}"
    text = _condensed(message)
    if keys and "arguments are required" in text:
        text = f"{text.rstrip('.')}; give them, or another class."
    return f"{option}: {text}" if keys else text


def _condensed(message: str) -> str:
    """The informative lines as one: what was expected, and the value that was given instead."""
    lines = message.splitlines()
    for pattern, replacement in _WRAPPING:
        lines = [pattern.sub(replacement, line) for line in lines]
    kept = list(dict.fromkeys(line for line in lines if line and not _NOISE.match(line)))
    expected = [line.removeprefix("Expected a ") for line in kept if line.startswith("Expected a ")]
    if others := [line for line in kept if not line.startswith("Expected a ")]:
        return "; ".join(others)
    given = next((nested or plain for nested, plain in _GIVEN.findall(message) if nested or plain), None)
    known = any(", got " in line for line in expected)
    shown = given is not None and not known and not given.startswith(("Namespace(", "{"))
    return _expected(expected, given if shown else None)


def _expected(types: list[str], given: str | None) -> str:
    """What was expected, and what was given instead, if that is to be shown."""
    if given is not None and _NOT_FINITE.fullmatch(given.strip("'")) and {"float", "int"} & set(types):
        return f"{given} is not a finite number; give one, such as 1."
    return f"expected {' or '.join(types)}{'' if given is None else f', got {given}'}."


def _class_names() -> list[str]:
    """Names that an option may take: our public classes, torch's optimisers and schedules, Lightning's callbacks."""
    homes = [importlib.import_module(home) for home in HOMES]
    values = [getattr(home, name) for home in homes for name in getattr(home, "__all__", vars(home))]
    classes = {value for value in values if inspect.isclass(value)}
    return sorted({cls.__name__ for cls in classes if cls.__module__.split(".")[0] in _KNOWN})
