"""Signals reach a worker wherever Python happens to be."""

import signal
import subprocess
import sys

import pytest

PROGRAM = """
import os, signal, sys, time, weakref
from dinopl.sweep.signals import Stopping

class Thing: pass

stopping, thing = Stopping(), Thing()
reference = weakref.ref(thing, lambda _: os.kill(os.getpid(), signal.{name}))
del thing  # the handler raises inside the callback, where Python swallows it
time.sleep(30)
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_inside_a_callback_is_not_lost(number: signal.Signals) -> None:
    ran = subprocess.run(
        [sys.executable, "-c", PROGRAM.format(name=number.name)],
        capture_output=True,
        text=True,
        timeout=25,
        check=False,
    )
    ended = (143,) if number == signal.SIGTERM else (130, -signal.SIGINT)
    assert ran.returncode in ended, ran.stderr
    assert "ignored" not in ran.stderr
