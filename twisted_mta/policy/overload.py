"""Overload: who has waited too long at the door to be served, and is better told so at once.

A connection waits in the kernel until it is accepted, first come, first served, and nobody sees it wait.  Where more
come than can be served, all come to wait for as long as the line is, give up, and are then accepted in vain.  So a line
is held short: who has waited longer than is good is refused, and whoever is let in is served in time.  As in CoDel
(RFC 8289) a burst may wait for a while, if the line has an end; where it has had none for :data:`INTERVAL`, waiting
gains nobody anything, and the bound is a fraction of that.

A client that may relay is a customer, and waits longer before it is refused: so strangers make room first, and as long
as they are the most of those who come, no customer is refused at all.
"""

from __future__ import annotations

from enum import Enum

INTERVAL = 1.0
"""Seconds for which there was always somebody who had waited too long, after which this is no burst."""
STANDING = 0.2
"""What then remains of the time that somebody may wait."""
GONE = 0.25
"""Where somebody at its head has waited for no more than this part of what remains, a line is as good as gone."""
CUSTOMERS = 3.0
"""How many times longer customers may wait."""
CROWDED = 0.75
"""The part of the line that is taken above which strangers give way, and no burst may wait."""
BRIMFUL = 0.85
"""The same for whoever has waited at all: the next who come would not even be heard."""


class Welcome(Enum):
    """Who is let in, of those who have waited for so long."""

    ALL = "all"
    CUSTOMERS = "customers"
    NOBODY = "nobody"


class _Bound:
    """How long those of one kind may wait now."""

    __slots__ = ("_late",)

    def __init__(self) -> None:
        self._late: float | None = None  # since when there is a line with those at its head who have waited too long

    def allows(self, now: float, waited: float, wait: float, left_over: bool, filled: float) -> bool:
        least = wait * STANDING
        if not left_over or waited <= least * GONE:
            self._late = None
        if self._late is None and waited > least:
            self._late = now
        standing = self._late is not None and now - self._late >= INTERVAL
        if filled >= BRIMFUL:
            return waited <= least * GONE
        return waited <= (least if standing or filled >= CROWDED else wait)


class Door:
    """Judges those who come to one listener, in the order in which they came.

    ``wait``: seconds that a stranger may wait, 0 for ever.  The times given are seconds of any clock that goes on.
    """

    __slots__ = ("_customers", "_judged", "_strangers", "wait")

    def __init__(self, wait: float) -> None:
        self.wait = wait
        self._strangers, self._customers = _Bound(), _Bound()
        self._judged = 0.0

    def presses(self, waited: float) -> bool:
        """Whether there is a line because there is not time for all, be it a burst: somebody has ``waited`` for longer
        than anybody may once it has no end."""
        return bool(self.wait) and waited > self.wait * STANDING

    def judge(self, now: float, waited: float, filled: float) -> Welcome:
        """Who of those that have ``waited`` for so many seconds is let in.

        ``filled``: what part of the line is taken, of which 1 has no room for more, and who finds none is not even
        heard.  Who is known to have waited for next to nothing need not be asked about.
        """
        wait = self.wait
        if not wait:
            return Welcome.ALL
        left_over = now - waited <= self._judged  # else nobody was, of those who stood here the last time
        self._judged = now
        strangers = self._strangers.allows(now, waited, wait, left_over, filled) and filled < CROWDED
        customers = self._customers.allows(now, waited, wait * CUSTOMERS, left_over, filled)
        return Welcome.ALL if strangers else Welcome.CUSTOMERS if customers else Welcome.NOBODY
