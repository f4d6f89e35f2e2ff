"""How this process is set up for a long life under load."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import os

HEAPS = 2
"""Heaps of malloc for all threads.  glibc gives threads up to eight for each core, and each keeps the room of the
largest thing that it ever held; with the interpreter lock hardly two threads want memory at once."""

_M_ARENA_MAX = -8  # mallopt(3)

YOUNG = 20_000
"""Objects made, less those gone, after which the collector looks at the youngest.  Python's 700 fit a script."""


def settle() -> None:
    """Call it once all is loaded and before the first connection.

    What is there now stays, so the collector need not look at it again; what a message needs goes with its last
    reference, and only failures make cycles, so that the collector may come seldom.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(YOUNG, 20, 20)
    if "MALLOC_ARENA_MAX" not in os.environ:  # glibc has read it: the operator knows better
        with contextlib.suppress(AttributeError):  # another C library
            ctypes.CDLL(None).mallopt(_M_ARENA_MAX, HEAPS)
