"""Processes that are warm: torch, Lightning and Optuna are imported once, and every process of a sweep is a copy.

The copies are made by a server that has done nothing but import: so there are no threads and no CUDA to copy along.
Where copying is not safe, each process imports everything itself.
"""

import contextlib
import os
import signal
import sys
import traceback
from collections.abc import Callable, Mapping
from multiprocessing import get_context, set_forkserver_preload
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Any, TypeVar

T = TypeVar("T")

IMPORTED = ("dinopl.cli.runs", "dinopl.sweep.settle", "dinopl.sweep.worker", "optuna", "sklearn.datasets")


def start(target: Callable[..., Any], *arguments: Any, environment: Mapping[str, str] | None = None) -> BaseProcess:
    """Starts a process that calls ``target`` in this one's working directory.

    Args:
        target: a function of a module.
        arguments: for it.
        environment: the process's; by default this one's.
    """
    linux = sys.platform == "linux"
    if linux:
        set_forkserver_preload(list(IMPORTED))
    context: Any = get_context("forkserver" if linux else "spawn")
    own = dict(os.environ if environment is None else environment)
    process: BaseProcess = context.Process(target=_enter, args=(os.getcwd(), own, target, arguments))
    process.start()
    return process


def _enter(
    directory: str, environment: Mapping[str, str], target: Callable[..., Any], arguments: tuple[Any, ...]
) -> None:
    os.chdir(directory)
    os.environ.clear()
    os.environ.update(environment)
    target(*arguments)


def apart(function: Callable[..., T], *arguments: Any) -> T:
    """What a function returns or raises in a process of its own, so that this one need not import what it needs."""
    receive, send = get_context("spawn").Pipe(duplex=False)
    process = start(_answer, send, function, arguments)
    send.close()
    try:
        answer = receive.recv()
    except EOFError:
        process.join()
        raise RuntimeError(f"a process ended with exit code {process.exitcode} before it was done") from None
    except BaseException:
        process.terminate()
        raise
    finally:
        receive.close()
        process.join()
    if isinstance(answer, BaseException):
        raise answer
    result: T = answer
    return result


def _answer(send: "Connection[Any, Any]", function: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # whoever waits for the answer tells of Ctrl-C
    try:
        answer = function(*arguments)
    except (Exception, SystemExit) as error:
        error.add_note(traceback.format_exc())  # it does not travel otherwise
        answer = error
    with contextlib.suppress(BrokenPipeError):  # whoever asked was stopped
        send.send(answer)
    send.close()
