"""A worker: a process of its own that serves, and does as its parent says.

``python -m twisted_mta.workers.worker``, with the parent's socket as descriptor 3 and listening sockets as others.
When the parent is gone, however that came, it finishes what is under way and ends.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall
from twisted.logger import ILogObserver, Logger, LogLevel, eventAsText, globalLogBeginner
from twisted.protocols import amp
from twisted.python.failure import Failure
from zope.interface import provider

from ..mail.envelope import Lane
from ..runtime import sockets, tuning
from ..runtime.signals import Signals
from . import commands as c
from .hashing import Division, Mine
from .merging import families
from .serving import PairBytes, Serving

PARENT = 3
"""The descriptor of the socket to the parent."""
GATHER_DUE = 0.02
"""Seconds between two times that the parent is told of what is due elsewhere.  The first is told of at once; each
costs three processes as much as a message does."""
GATHER = 0.02
"""The same for counts and logins."""
GATHER_SMALL = 0.25
"""Seconds until a count is told that has changed by no more than a part in :data:`PART`."""
PART = 8
SLACK = 12
"""Of all sessions, no count is as small as the part of ``smtp.connections`` in so many: a hundredth of the limit more
or less is no hurry."""
GATHER_RATES = 0.05
"""The same for what rates count: more, and less urgent, so the first waits as well."""
MOST_RATES = 5000
"""How many of these are told at once: a flood from more addresses than that is told by half."""


class Worker(amp.AMP):
    """The worker's end of the socket.  ``reactor`` is stopped when all is over."""

    _log = Logger()

    def __init__(self, reactor: Any) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._reactor = reactor
        self._serving: Serving | None = None
        self._started: Deferred[None] | None = None
        self._ending = False
        self._slot = 0
        self._due: Counter[tuple[Lane, bool]] = Counter()
        self._changed: set[tuple[str, str]] = set()
        self._known: dict[tuple[str, str], int] = {}  # as the parent knows it
        self._attempts: c.Entries = []
        self._rates: dict[tuple[str, str, int], int] = {}
        self._rates_call: IDelayedCall | None = None
        self._due_call: IDelayedCall | None = None
        self._news_call: IDelayedCall | None = None
        self._news_soon = False
        self._told: dict[str, float] = {}

    # What the parent asks

    @c.Start.responder
    def _start(self, order: c.Order) -> Deferred[dict[str, Any]]:
        self._started = Deferred()
        return Deferred.fromCoroutine(self._serve(order)).addErrback(_refuse)

    async def _serve(self, order: c.Order) -> dict[str, Any]:
        self._slot = order.slot
        bound = [(name, sockets.inherited(descriptor)) for name, descriptor in order.sockets]
        try:
            self._serving = serving = Serving(
                order.settings, self._reactor, order.pair, tell=self._tell_due, fair=len(order.slots) > 1
            )
            parts = serving.parts
            parts.scheduler.shares.divide(Mine(Division(order.slots), order.slot))
            parts.throttle.tell = self._tell_attempt
            parts.rates.tell = parts.greeting.tell = self._tell_rate
            self._count(order.counts)
            for kind, tally in parts.tallies.items():
                tally.changed = partial(self._tell_count, kind)
            tuning.settle()
            await serving.start(bound)
        finally:
            for _, one in bound:
                one.close()
            assert self._started is not None
            self._started.callback(None)
        return {}

    @c.Ping.responder
    def _ping(self) -> dict[str, Any]:
        return {"report": self._serving.report() if self._serving is not None and not self._ending else c.Report()}

    @c.Snapshot.responder
    def _snapshot(self) -> dict[str, Any]:
        return {"families": families(self._serving.metrics.registry) if self._serving is not None else []}

    @c.Prepare.responder
    def _prepare(self, settings: Any, pair: PairBytes) -> Deferred[dict[str, Any]]:
        assert self._serving is not None
        prepared = Deferred.fromCoroutine(self._serving.prepare(settings, pair))
        return prepared.addCallbacks(_nothing, _refuse)

    @c.Commit.responder
    def _commit(self) -> Deferred[dict[str, Any]]:
        assert self._serving is not None
        return Deferred.fromCoroutine(self._serving.commit()).addCallback(_nothing)

    @c.Abandon.responder
    def _abandon(self) -> Deferred[dict[str, Any]]:
        assert self._serving is not None
        return Deferred.fromCoroutine(self._serving.abandon()).addCallback(_nothing)

    @c.Reopen.responder
    def _reopen(self) -> dict[str, Any]:
        if self._serving is not None:
            self._serving.reopen()
        return {}

    @c.Divide.responder
    def _divide(self, slots: tuple[int, ...]) -> dict[str, Any]:
        if self._serving is not None:
            self._serving.parts.scheduler.shares.divide(Mine(Division(slots), self._slot))
        return {}

    @c.Due.responder
    def _is_due(self, lanes: Sequence[tuple[str, str, int, bool, int]]) -> dict[str, Any]:
        if self._serving is not None and not self._ending:
            shares = self._serving.parts.scheduler.shares
            for probe in (False, True):
                shares.notice({Lane(*lane[:3]): lane[4] for lane in lanes if lane[3] == probe}, probe)
        return {}

    @c.Counts.responder
    def _counts(self, entries: c.Entries) -> dict[str, Any]:
        self._count(entries)
        return {}

    def _count(self, entries: Iterable[tuple[str, str, int]]) -> None:
        if self._serving is not None:
            tallies = self._serving.parts.tallies
            for kind, key, count in entries:
                tallies[kind].elsewhere(key, count)

    @c.Attempts.responder
    def _heard(self, entries: c.Entries) -> dict[str, Any]:
        if self._serving is not None:
            for address, user, good in entries:
                self._serving.parts.throttle.learn(address, user, bool(good))
        return {}

    @c.Rates.responder
    def _counted(self, entries: c.Counted) -> dict[str, Any]:
        if self._serving is not None:
            parts = self._serving.parts
            for scope, key, kind, amount in entries:
                if scope == "greeting":
                    parts.greeting.learn(key)
                else:
                    parts.rates.learn(scope, key, kind, amount)
        return {}

    @c.Retire.responder
    def _retire(self) -> dict[str, Any]:
        self.end(retire=True)
        return {}

    @c.Stop.responder
    def _stop(self) -> dict[str, Any]:
        self.end()
        return {}

    def connectionLost(self, reason: Failure) -> None:  # type: ignore[override]  # noqa: N802 - Twisted's name
        """The parent is gone."""
        super().connectionLost(reason)  # type: ignore[no-untyped-call]
        self.end()

    # What the parent is told

    def _tell_due(self, lanes: Mapping[Lane, int], probe: bool) -> None:
        for lane, count in lanes.items():
            self._due[lane, probe] += count
        if self._due_call is None:
            self._due_call = self._reactor.callLater(self._pause("due", GATHER_DUE), self._send_due)

    def _send_due(self) -> None:
        self._due_call = None
        due, self._due = self._due, Counter()
        lanes = [(lane.destination, lane.customer, lane.priority, probe, new) for (lane, probe), new in due.items()]
        self._say(c.Due, lanes=lanes)

    def _tell_count(self, kind: str, key: str, count: int) -> None:
        what = (kind, key)
        self._changed.add(what)
        known = self._known.get(what, 0)
        worth = known
        if kind == "sessions" and self._serving is not None:
            worth = max(known, self._serving.parts.settings.smtp.connections // SLACK)
        if abs(count - known) * PART > worth:
            self._soon()
        elif self._news_call is None:
            self._news_call = self._reactor.callLater(GATHER_SMALL, self._send_news)
            self._news_soon = False

    def _tell_attempt(self, address: str, user: str, good: bool) -> None:
        self._attempts.append((address, user, int(good)))
        self._soon()

    def _tell_rate(self, scope: str, key: str, kind: int, amount: int) -> None:
        what = (scope, key, kind)
        if what in self._rates or len(self._rates) < MOST_RATES:
            self._rates[what] = self._rates.get(what, 0) + amount
        if self._rates_call is None:
            self._rates_call = self._reactor.callLater(GATHER_RATES, self._send_rates)

    def _send_rates(self) -> None:
        self._rates_call = None
        rates, self._rates = self._rates, {}
        self._say(c.Rates, entries=[(*what, amount) for what, amount in rates.items()])

    def _soon(self) -> None:
        if self._news_soon:
            return
        self._news_soon = True
        pause = self._pause("news", GATHER)
        if self._news_call is None:
            self._news_call = self._reactor.callLater(pause, self._send_news)
        elif self._news_call.getTime() > self._reactor.seconds() + pause:
            self._news_call.reset(pause)

    def _pause(self, kind: str, gather: float) -> float:
        """Seconds until something of a kind may be told, of which something was told a moment ago, or not."""
        now: float = self._reactor.seconds()
        pause = min(max(0.0, self._told.get(kind, 0.0) + gather - now), gather)
        self._told[kind] = now + pause
        return pause

    def _send_news(self) -> None:
        self._news_call = None
        self._news_soon = False
        if self._serving is None:
            return
        entries = self._news()
        if entries:
            self._say(c.Counts, entries=entries)
        attempts, self._attempts = self._attempts, []
        if attempts:
            self._say(c.Attempts, entries=attempts)

    def _news(self) -> c.Entries:
        """The counts that are not as the parent knows them."""
        assert self._serving is not None
        tallies, counted = self._serving.parts.tallies, self._known
        changed, self._changed = self._changed, set()
        entries: c.Entries = []
        for what in changed:
            kind, key = what
            count = tallies[kind].own.get(key, 0)
            if count != counted.get(what, 0):
                entries.append((kind, key, count))
                if count:
                    counted[what] = count
                else:
                    del counted[what]
        return entries

    def _say(self, command: Any, **arguments: Any) -> None:
        if self.transport is not None:
            self.callRemote(command, **arguments)  # type: ignore[no-untyped-call]

    # The end

    def end(self, retire: bool = False) -> None:
        """Finish, and stop the reactor.  Asked to retire first, it may still be asked to hurry."""
        if not retire and self._ending and self._serving is not None:
            self._serving.parts.sessions.drain(30.0)
        if self._ending:
            return
        self._ending = True
        Deferred.fromCoroutine(self._end(retire)).addErrback(
            lambda failure: self._log.failure("The worker could not end as it should", failure)
        ).addBoth(lambda _: self._reactor.stop())

    async def _end(self, retire: bool) -> None:
        if self._started is not None and not self._started.called:
            waiting: Deferred[None] = Deferred()
            self._started.addCallback(waiting.callback)
            await waiting
        if self._serving is not None:
            if retire:
                await self._serving.retire()
            await self._serving.stop()
            self._serving.close()

    def reopen(self) -> None:
        """Open the event log again, asked by a signal."""
        self._reopen()


def _nothing(_: None) -> dict[str, Any]:
    return {}


def _refuse(failure: Failure) -> Failure:
    """What went wrong, in words for the parent; with a traceback for the log where nobody expected it."""
    error = failure.value
    if not isinstance(error, OSError | ValueError | c.Refused) and not hasattr(error, "reply"):
        Worker._log.failure("A worker could not do what it was told", failure)
    return Failure(c.Refused(failure.getErrorMessage() or type(error).__name__))  # type: ignore[no-untyped-call]


def _log_to_parent() -> None:
    """Diagnostics go to standard error, which the parent reads and logs; it knows the time, and which worker it is."""

    @provider(ILogObserver)
    def observe(event: Any) -> None:
        level = event.get("log_level", LogLevel.info)
        if level is LogLevel.debug or (level is LogLevel.info and event.get("log_namespace", "") == "log_legacy"):
            return
        text = eventAsText(event, includeTimestamp=False, includeSystem=False)
        sys.stderr.write("".join(f"{level.name} {line}\n" for line in text.splitlines()))
        sys.stderr.flush()

    globalLogBeginner.beginLoggingTo([observe], redirectStandardIO=False, discardBuffer=True)


def main() -> None:
    """Be a worker."""
    from twisted.internet import reactor as running

    reactor: Any = running
    _log_to_parent()
    os.set_inheritable(PARENT, False)
    worker = Worker(reactor)
    with socket.socket(fileno=PARENT) as parent:
        parent.setblocking(False)
        reactor.adoptStreamConnection(parent.fileno(), socket.AF_UNIX, _Factory(worker))
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGUSR2):
        signal.signal(number, signal.SIG_IGN)  # they are the parent's
    Signals(reactor, {signal.SIGTERM: worker.end, signal.SIGUSR1: worker.reopen}).startService()
    reactor.run(installSignalHandlers=False)


class _Factory:
    """Gives the one protocol that there is."""

    def __init__(self, worker: Worker) -> None:
        self._worker = worker

    def doStart(self) -> None:  # noqa: N802 - Twisted's name
        """Nothing."""

    def doStop(self) -> None:  # noqa: N802 - Twisted's name
        """Nothing."""

    def buildProtocol(self, address: object) -> Worker:  # noqa: N802 - Twisted's name
        """The worker."""
        return self._worker


if __name__ == "__main__":
    # As a module of its name, lest its classes exist twice.
    from twisted_mta.workers.worker import main as run

    run()
