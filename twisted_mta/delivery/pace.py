"""A burst of mail is taken in before it goes out.

Taking a message in and carrying it out compete for one thread.  Clients wait for the first, nobody waits for the
second; so while mail arrives, attempts begin one in a turn of the reactor.  Turns are short as long as there is time
for both, and then that holds nothing up.  A busy reactor's turns are long, and deliveries keep a share of it that does
not depend on how much comes in.  All this holds while the burst is small enough to wait in memory: a flood that goes
on has to share evenly, for a queue that only grows helps nobody (Postfix has ``in_flow_delay`` for it).
"""

from __future__ import annotations

RATE = 600.0
"""Attempts a second that begin however busy the reactor is."""

BURST = 10_000
"""New deliveries that wait in memory, above which both get the same."""

PAUSE = 0.05
"""Seconds without new mail after which a burst is over."""


class Pace:
    """Says how many attempts may begin now.  Times are seconds, of any clock that goes on."""

    __slots__ = ("_arrived", "_asked")

    def __init__(self) -> None:
        self._arrived = -PAUSE
        self._asked = 0.0

    def arrived(self, now: float) -> None:
        """New mail has come in."""
        self._arrived = now

    def allowance(self, most: int, waiting: int, now: float) -> int:
        """How many attempts, from 1 to ``most``, may begin in this turn while ``waiting`` new deliveries wait."""
        turn, self._asked = now - self._asked, now
        if waiting > BURST or not 0 <= now - self._arrived < PAUSE or turn <= 0:
            return most
        return max(1, min(most, int(turn * RATE)))
