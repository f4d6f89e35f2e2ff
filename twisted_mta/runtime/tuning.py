"""How this process is set up for a long life under load: the garbage collector, and the kernel's timers."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import sys

YOUNG = 20_000
"""Objects made, less those gone, after which the collector looks at the youngest.  Python's 700 fit a script."""

_PR_SET_TIMERSLACK = 29


def settle() -> None:
    """Call it once all is loaded and before the first connection, on the reactor's thread.

    What is there now stays, so the collector need not look at it again; what a message needs goes with its last
    reference, and only failures make cycles, so that the collector may come seldom.  The thread's sleeps end on time
    instead of up to 50 microseconds late (prctl(2)), which is several times as long as those of the queue's writer.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(YOUNG, 20, 20)
    if sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL(None).prctl(_PR_SET_TIMERSLACK, 1000, 0, 0, 0)
