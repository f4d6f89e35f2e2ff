"""When a delivery that was deferred is tried again.

Source: RFC 5321 §4.5.4.1 (a message is tried again after a delay, and given up after days).
"""

from __future__ import annotations

from random import Random

from ..config.settings import Queue

JITTER = 0.2
"""How much longer than the schedule says a wait may become, so that what failed together is not tried together."""

CRASH_WAIT = 60.0
"""Seconds for which a delivery under way is armed at least: in the store it must not be due again at once, however
short the schedule is.  It matters only where the process dies."""


class RetryPolicy:
    """The schedule of ``queue.retry``: pure, for a given ``rng``."""

    def __init__(self, settings: Queue, rng: Random) -> None:
        if not settings.retry:
            raise ValueError("queue.retry needs at least one wait")
        self._waits = tuple(float(wait) for wait in settings.retry)
        self._random = rng.random

    def wait(self, attempts: int) -> float:
        """Seconds from the end of attempt number ``attempts`` (from 1) to the next, with jitter."""
        waits = self._waits
        return waits[min(max(attempts, 1), len(waits)) - 1] * (1.0 + JITTER * self._random())

    def next_attempt(self, attempts: int, now: float, expires: float) -> float | None:
        """When the attempt after number ``attempts`` is due; None if the lifetime is over and there is none.

        The last attempt is made when the lifetime ends, rather than up to a whole wait before or after it.
        """
        if now >= expires:
            return None
        return min(now + self.wait(attempts), expires)

    def armed(self, attempts: int, now: float) -> float:
        """When a delivery whose attempt number ``attempts`` begins is due again should this process die."""
        return now + max(self.wait(attempts), CRASH_WAIT)
