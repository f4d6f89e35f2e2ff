"""All sessions of the service: how many there may be, who has been silent too long, and how they end at a stop."""

from __future__ import annotations

import resource
from itertools import islice
from typing import Protocol

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime

from ..config.settings import Smtp
from ..policy.tally import Tally

OVERLOAD = 0.8
"""The share of ``smtp.connections`` above which strangers must be quick."""
CANDIDATES = 64
"""Of how many of the newest sessions one is looked for that can go."""
RESERVE = 256
"""File descriptors that sessions leave to deliveries, DNS, the store and the log; at most a quarter of all."""
SWEEP = 1.0
"""Seconds between two looks at the deadlines, and so how late one may be noticed."""


class Session(Protocol):
    """What is asked of a session."""

    deadline: float

    @property
    def stranger(self) -> bool:
        """Whether this is nobody's that we know of, and has no last word yet."""
        ...

    @property
    def silent_since(self) -> float:
        """When the client was last heard, as far as is known."""
        ...

    def shed(self) -> bool:
        """Make room for a customer, if this is a stranger bringing mail with none under way; says whether it did."""
        ...

    def expire(self) -> None:
        """The deadline has passed: say so, or give up the connection.  Sets a new deadline."""

    def drain(self) -> None:
        """Say goodbye now, or as soon as the message under way is through."""

    def drop(self) -> None:
        """Cut the connection."""


class Sessions:
    """The open sessions over all listeners.

    Deadlines are looked at once a second for all of them, rather than with a timer for each: a timer costs an idle
    session half a kilobyte, and a busy one a reset for each command.  ``clock`` gives seconds since the epoch.
    """

    def __init__(self, clock: IReactorTime) -> None:
        self._clock = clock
        self._open: dict[Session, None] = {}  # the newest last
        self.configure(Smtp())
        self._sweep: IDelayedCall | None = None
        self._drained: list[Deferred[None]] = []
        self.tally = Tally()
        self.draining = False

    def configure(self, smtp: Smtp) -> None:
        """Take over changed settings."""
        self._limit = smtp.connections
        self._patience = smtp.overload_timeout
        soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        self._descriptors = 1 << 62 if soft == resource.RLIM_INFINITY else soft - min(RESERVE, soft // 4)

    def __len__(self) -> int:
        return len(self._open)

    def crowded(self, descriptor: int) -> bool:
        """Whether there is no room for another session, whose file descriptor is given (-1: it has none).

        The system gives the lowest descriptor that is free, so a high one says how many are open, by whomever: no
        ``accept`` ever has to fail for want of one (Twisted would survive that, but could not say 421).
        """
        return self.total >= self._limit or descriptor >= self._descriptors

    def shed(self) -> bool:
        """End the newest session that can go; says whether there was one."""
        return any(session.shed() for session in tuple(islice(reversed(self._open), CANDIDATES)))

    @property
    def total(self) -> int:
        """How many there are in all processes of the service."""
        return self.tally.total("")

    def add(self, session: Session) -> None:
        """A session has begun."""
        self._open[session] = None
        self.tally.add("")
        if self._sweep is None:
            self._sweep = self._clock.callLater(SWEEP, self._look)

    def remove(self, session: Session) -> None:
        """A session is over."""
        if session in self._open:
            del self._open[session]
            self.tally.remove("")
        if not self._open:
            if self._sweep is not None:
                self._sweep.cancel()
                self._sweep = None
            waiting, self._drained = self._drained, []
            for drained in waiting:
                drained.callback(None)

    def drain(self, grace: float) -> Deferred[None]:
        """End all sessions: idle ones now with 421, others after the message they are handing in, those that are
        still there after ``grace`` seconds by force.  Fires when none is left.  New ones are turned away."""
        self.draining = True
        drained: Deferred[None] = Deferred()
        if not self._open:
            drained.callback(None)
            return drained
        self._drained.append(drained)
        for session in tuple(self._open):
            session.drain()
        if self._open:
            force = self._clock.callLater(grace, self._drop_all)
            drained.addBoth(lambda _: force.cancel() if force.active() else None)
        return drained

    def gone(self, seconds: float) -> Deferred[None]:
        """Fires when no session is left, or after so many seconds."""
        gone: Deferred[None] = Deferred()
        if not self._open:
            gone.callback(None)
            return gone

        def late() -> None:
            self._drained.remove(gone)
            gone.callback(None)

        call = self._clock.callLater(seconds, late)
        gone.addBoth(lambda _: call.cancel() if call.active() else None)
        self._drained.append(gone)
        return gone

    def _drop_all(self) -> None:
        for session in tuple(self._open):
            session.drop()

    def _look(self) -> None:
        self._sweep = self._clock.callLater(SWEEP, self._look)
        now = self._clock.seconds()
        due = [session for session in self._open if session.deadline <= now]
        if self.total > OVERLOAD * self._limit:
            since = now - self._patience
            due += [one for one in self._open if one.deadline > now and one.stranger and one.silent_since <= since]
        for session in due:
            session.expire()
