"""The place of one worker."""

from __future__ import annotations

import time
from typing import Any, Protocol

from twisted.internet.interfaces import IDelayedCall

from . import commands as c
from .child import Child
from .supervision import STEADY, Keeper, Life, rest


class IPool(Protocol):
    """Who has the place."""

    reactor: Any

    def spawn(self, slot: Slot) -> None:
        """Start a process in it."""

    def gone(self) -> None:
        """It is empty for good."""


class Slot(Keeper):
    """The place of one worker, in which one process after the other serves."""

    def __init__(self, number: int, pool: IPool) -> None:
        self.number = number
        self.life = Life(self)
        self.child: Child | None = None
        self.failures = 0
        self.why = ""
        self.started = 0.0
        self.snapshot: list[c.Family] = []
        self._pool = pool
        self._call: IDelayedCall | None = None
        self._served = 0.0

    @property
    def heard(self) -> Child | None:
        """Its process, if that serves or ends."""
        return self.child if self.state in ("serving", "ending") else None

    def spawn(self) -> None:
        """Start a process."""
        self._call = None
        self.started = time.time()
        self._served = 0.0
        self._pool.spawn(self)

    def serves(self) -> None:
        """It is ready."""
        self._served = time.monotonic()
        self.life.ready()

    def kill(self) -> None:
        """End the process."""
        if self.child is not None:
            self.child.kill()

    def rest(self) -> None:
        """Wait, the longer the more often it has died at once."""
        steady = self._served and time.monotonic() - self._served >= STEADY
        self.failures = 1 if steady else self.failures + 1
        self._call = self._pool.reactor.callLater(rest(self.failures), self.life.again)

    def over(self) -> None:
        """It is gone."""
        if self._call is not None and self._call.active():
            self._call.cancel()
        self._pool.gone()
