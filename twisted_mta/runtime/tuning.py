"""How this process is set up for a long life under load."""

from __future__ import annotations

import gc

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
