"""Ctrl-C and SIGTERM: a worker finishes what must not be cut in two, then stops."""

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Iterator
from types import FrameType
from typing import Any

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Stopping:
    """Notes SIGINT and SIGTERM, and raises what they stand for where that does no harm.

    SIGINT raises ``KeyboardInterrupt`` and SIGTERM ``SystemExit(143)``: at once, but for a block that is ``shielded``,
    at its end. While Lightning has put its own handler in front, SIGTERM is only noted: Lightning ends the run. Python
    swallows what is raised inside a destructor or a weak reference's callback: such a signal is sent again.

    Attributes:
        signal: the first that came; None so far.
    """

    def __init__(self) -> None:
        self.signal: int | None = None
        self._shielded = False
        self._unraisable, sys.unraisablehook = sys.unraisablehook, self._swallowed
        self.listen()

    def _swallowed(self, unraisable: Any) -> None:
        if self.signal is None or not isinstance(unraisable.exc_value, KeyboardInterrupt | SystemExit):
            self._unraisable(unraisable)
            return
        number, self.signal = self.signal, None
        threading.Timer(0.1, os.kill, (os.getpid(), number)).start()  # by then the callback is over

    def listen(self) -> None:
        """Puts the handlers in place, again after Lightning has changed them."""
        for each in SIGNALS:
            signal.signal(each, self._handle)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.signal is not None:
            return
        self.signal = number
        in_front = signal.getsignal(signal.SIGTERM) != self._handle
        if not self._shielded and not (number == signal.SIGTERM and in_front):
            self.check()

    def check(self) -> None:
        """Raises if a signal has come."""
        if self.signal == signal.SIGINT:
            raise KeyboardInterrupt
        if self.signal is not None:
            raise SystemExit(128 + self.signal)

    @contextlib.contextmanager
    def shielded(self) -> Iterator[None]:
        """Puts signals off until the end of a block."""
        self._shielded = True
        try:
            yield
        finally:
            self._shielded = False
        self.check()
