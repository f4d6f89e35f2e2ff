"""A burst of mail is taken in before it goes out.

Taking a message in and carrying it out compete for one thread.  Clients wait for the first, nobody waits for the
second; so while mail arrives, attempts begin one in a turn of the reactor.  Turns are short as long as there is time
for both, and then that holds nothing up.  A busy reactor's turns are long, and deliveries keep a share of it that does
not depend on how much comes in.  All this holds while the burst is small enough to wait in memory: a flood that goes
on has to share evenly, for a queue that only grows helps nobody (Postfix has ``in_flow_delay`` for it).
While there is no time for all who come it is no burst either: what has been taken in goes out about as fast as more
comes in.  Where it does not, because turns are long, fewer are let in until it has caught up.
"""

from __future__ import annotations

RATE = 600.0
"""Attempts a second that begin however busy the reactor is."""

BURST = 10_000
"""New deliveries that wait in memory, above which both get the same."""

PAUSE = 0.05
"""Seconds without new mail after which a burst is over."""

PRESSED = 1.0
"""Seconds for which clients that there was no time for count."""

SHARE = 0.6
"""Attempts that begin for each message that comes in meanwhile."""

BEHIND = 20
"""Attempts by which that share may have fallen behind before fewer clients are let in."""


class Pace:
    """Says how many attempts may begin now.  Times are seconds, of any clock that goes on."""

    __slots__ = ("_arrived", "_asked", "_due", "_pressed")

    def __init__(self) -> None:
        self._arrived = -PAUSE
        self._asked = 0.0
        self._pressed = -PRESSED
        self._due = 0.0  # attempts that the share allows, and have not begun

    def arrived(self, now: float, count: int = 1) -> None:
        """So many new deliveries of ours have come in."""
        self._arrived = now
        self._due += SHARE * count

    def pressed(self, now: float) -> None:
        """There is no time for all who come."""
        self._pressed = now

    def behind(self, now: float) -> bool:
        """Whether there is no time for all who come, and attempts have not had their share."""
        return self._due > BEHIND and 0 <= now - self._pressed < PRESSED

    def began(self) -> None:
        """An attempt has begun, for mail of which :meth:`arrived` was told."""
        self._due -= 1.0

    def allowance(self, most: int, waiting: int, claimed: int, now: float) -> int:
        """How many attempts, from 1 to ``most``, may begin in this turn while ``waiting`` new deliveries wait in
        memory, and ``claimed`` that had waited in the store."""
        turn, self._asked = now - self._asked, now
        due = self._due = max(0.0, min(self._due, waiting + claimed))
        if waiting > BURST or not 0 <= now - self._arrived < PAUSE or turn <= 0:
            return most
        if 0 <= now - self._pressed < PRESSED:
            return max(1, min(most, int(max(turn * RATE, due))))
        return max(1, min(most, int(turn * RATE)))
