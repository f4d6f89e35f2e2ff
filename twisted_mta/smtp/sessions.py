"""All sessions of the service: how many there may be, who has been silent too long, and how they end at a stop."""

from __future__ import annotations

from typing import Protocol

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime

from ..policy.tally import Tally

SWEEP = 1.0
"""Seconds between two looks at the deadlines, and so how late one may be noticed."""


class Session(Protocol):
    """What is asked of a session."""

    deadline: float

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
        self._open: set[Session] = set()
        self._sweep: IDelayedCall | None = None
        self._drained: list[Deferred[None]] = []
        self.tally = Tally()
        self.draining = False

    def __len__(self) -> int:
        return len(self._open)

    @property
    def total(self) -> int:
        """How many there are in all processes of the service."""
        return self.tally.total("")

    def add(self, session: Session) -> None:
        """A session has begun."""
        self._open.add(session)
        self.tally.add("")
        if self._sweep is None:
            self._sweep = self._clock.callLater(SWEEP, self._look)

    def remove(self, session: Session) -> None:
        """A session is over."""
        if session in self._open:
            self._open.remove(session)
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
        for session in [session for session in self._open if session.deadline <= now]:
            session.expire()
