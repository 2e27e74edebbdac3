"""Memory that is freed is kept for the next step, on glibc and unless the user tunes it."""

import os
import platform
import subprocess
import sys

import pytest

from dinopl.cli.allocator import CHOSEN_BY_USER

STEPS = """
import resource, sys
from dinopl.cli.allocator import keep_freed_memory

def step():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    blocks = [bytearray(n << 20) for n in (1, 12, 5, 20, 8, 17)]
    del blocks
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

step()
assert keep_freed_memory() == bool(int(sys.argv[1]))
first, *later = [step() for _ in range(4)]
print(max(later))
"""
PAGES = 63 * 2**20 // os.sysconf("SC_PAGE_SIZE")  # of one step
glibc = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="needs glibc")


def faults(kept: bool, **environment: str) -> int:
    """Page faults of a step that allocates and frees what the one before did."""
    inherited = {name: value for name, value in os.environ.items() if name not in CHOSEN_BY_USER}
    words = [sys.executable, "-c", STEPS, str(int(kept))]
    run = subprocess.run(words, env=inherited | environment, capture_output=True, text=True, check=True)
    return int(run.stdout)


@glibc
def test_a_step_finds_its_memory_where_the_last_one_left_it() -> None:
    assert faults(True) < PAGES / 20


@glibc
@pytest.mark.parametrize("name", ["MALLOC_TRIM_THRESHOLD_", "GLIBC_TUNABLES"])
def test_the_users_own_choice_stands(name: str) -> None:
    value = {"MALLOC_TRIM_THRESHOLD_": "131072", "GLIBC_TUNABLES": "glibc.malloc.trim_threshold=131072"}[name]
    assert faults(False, **{name: value}) > PAGES / 2
