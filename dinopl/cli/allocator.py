"""How glibc handles the memory that a training step frees: kept for the next step, or handed back to the system."""

import ctypes
import os
import sys

# Of glibc's malloc.h. Setting one of them fixes the other, so that both are set: the second to the largest value that
# glibc would arrive at by itself.
TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3
NEVER, LARGEST = 2**31 - 1, 32 * 2**20  # bytes
CHOSEN_BY_USER = ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "MALLOC_TOP_PAD_", "GLIBC_TUNABLES")


def keep_freed_memory() -> bool:
    """Has the process keep what it frees, save for blocks of 32 MiB or more.

    A step frees nearly all that it allocates. By default glibc hands it back as soon as twice the largest block is free
    at the heap's end, and the next step faults every page in anew and has it cleared. What is kept is at most the
    process's own peak.

    Returns:
        Whether it was set: not where the C library is another, nor where the user's environment tunes it.
    """
    if sys.platform != "linux" or any(name in os.environ for name in CHOSEN_BY_USER):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    return mallopt is not None and bool(mallopt(MMAP_THRESHOLD, LARGEST) and mallopt(TRIM_THRESHOLD, NEVER))
