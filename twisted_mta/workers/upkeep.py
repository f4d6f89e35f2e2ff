"""What the queue needs done now and then, by one process for all: old history is forgotten, segments are made, and
removals are worked off."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import LoopingCall, deferLater
from twisted.logger import Logger

from ..parts import Parts

SWEEP = 60.0
"""Seconds between two looks at history that has grown too old."""
SWEEP_LIMIT = 1000
"""Messages whose history one look forgets."""
FIRST = 10.0
"""Seconds from the start to the first look: mail goes first."""
TEND = 1.0
"""Seconds between two looks at what has no segment."""
REST = 0.1
"""Seconds between two segments that are made."""
LEAST_REST = 0.005
"""Seconds at least between two commits of a removal; it is as long as the last one took, and :data:`REST` at most."""
SWEEPER = "history:"
"""Who has this "destination" does it for all workers."""


class Upkeep:
    """The upkeep of one process' store, from :meth:`start`, after the store's, to :meth:`stop`, before it."""

    _log = Logger()

    def __init__(self, parts: Parts, reactor: Any) -> None:
        self._parts = parts
        self._reactor = reactor
        self._calls: list[LoopingCall] = []
        self._running = False
        self._rests: set[Deferred[None]] = set()
        self._resume = 0.0

    def start(self) -> None:
        """Begin."""
        self._running = True
        self._resume = self._reactor.seconds() + FIRST
        for work, seconds in ((self._forget, SWEEP), (self._tend, TEND), (self._work_off, TEND)):
            call = LoopingCall(lambda work=work: Deferred.fromCoroutine(self._carefully(work)))
            call.clock = self._reactor
            call.start(seconds, now=False).addErrback(
                lambda failure: self._log.failure("The queue has no more upkeep", failure)
            )
            self._calls.append(call)

    def stop(self) -> None:
        """Begin nothing more."""
        self._running = False
        for call in self._calls:
            if call.running:
                call.stop()
        self._calls = []
        for rest in list(self._rests):
            rest.cancel()

    async def _carefully(self, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        if self._reactor.seconds() < self._resume:
            return
        try:
            await work()
        except CancelledError:
            pass
        except Exception as error:
            self._resume = self._reactor.seconds() + SWEEP
            self._log.warn("Upkeep of the queue waits: {why}", why=str(error) or repr(error))

    def _ours(self) -> bool:
        return self._running and self._parts.scheduler.shares.ours(SWEEPER)

    async def _forget(self) -> None:
        before = self._reactor.seconds() - self._parts.settings.queue.history
        while self._ours() and await self._parts.store.expire_history(before, SWEEP_LIMIT) == SWEEP_LIMIT:
            pass

    async def _tend(self) -> None:
        while self._ours() and await self._parts.store.tend():
            await self._sleep(REST)

    async def _work_off(self) -> None:
        began = self._reactor.seconds()
        while self._ours() and await self._parts.store.work_off():
            took = self._reactor.seconds() - began
            await self._sleep(min(max(took, LEAST_REST), REST))
            began = self._reactor.seconds()

    async def _sleep(self, seconds: float) -> None:
        if not self._running:
            return
        rest: Deferred[None] = deferLater(self._reactor, seconds)
        self._rests.add(rest)
        try:
            await rest
        finally:
            self._rests.discard(rest)
