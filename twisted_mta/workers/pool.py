"""The parent's workers: started, watched, told what they need to know of each other, and stopped."""

from __future__ import annotations

import socket
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from prometheus_client import CollectorRegistry
from twisted.internet.defer import Deferred, DeferredList
from twisted.internet.defer import TimeoutError as TimedOut
from twisted.internet.task import LoopingCall
from twisted.logger import Logger
from twisted.protocols import amp

from ..admin.eventlog import EventLog
from ..admin.metrics import Metrics
from ..admin.statusfile import WorkerStatus
from ..config.settings import Settings
from ..mail.events import EventSink, Service
from ..parts import fan_out
from . import commands as c
from .child import Child
from .hashing import Division
from .ledger import Ledger
from .merging import families, growing, merge, registry_of
from .serving import GRACE, PairBytes
from .slot import Slot
from .supervision import LOST

START, LEAST_START = 4.0, 30.0
"""How many times ``worker_timeout``, and how many seconds at least, a worker may take to start: on a busy machine that
is long, and who is killed over it leaves the next one to start as slowly."""
PING = 1.0
"""Seconds between two questions to each worker."""
SNAPSHOT = 5.0
"""Seconds between two looks at the metrics of each worker, for what it has counted when it dies."""
SCRAPE = 2.0
"""Seconds for which a scrape waits for a worker; then what it said last is shown."""
STOPPING = 2 * GRACE + 60.0
"""Seconds after which workers that were told to stop are killed."""


class Pool:
    """As many workers as the settings say, on the same sockets.

    ``failed`` is called with words when no worker can be kept alive: then the parent should give up, too.
    """

    _log = Logger()

    def __init__(self, settings: Settings, reactor: Any, pair: PairBytes, failed: Callable[[str], None]) -> None:
        self.reactor = reactor
        self.metrics = Metrics()
        self.event_log = EventLog(settings.log, settings.hostname, reactor=reactor)
        self.events: EventSink = fan_out(self.event_log, self.metrics)
        self._settings = settings
        self._pair = pair
        self._prepared: tuple[Settings, PairBytes] | None = None
        self._asked: list[Child] = []
        self._failed = failed
        self._bound: Sequence[tuple[str, socket.socket]] = ()
        self._slots = [Slot(number, self) for number in range(settings.workers)]
        self._division = Division(range(settings.workers))
        self._ledger = Ledger()
        self._departed: list[c.Family] = []
        self._first: Deferred[None] | None = None
        self._all_gone: Deferred[None] | None = None
        self._pings = LoopingCall(self._ping)
        self._snapshots = LoopingCall(self._look)
        self._pings.clock = self._snapshots.clock = reactor

    # Life

    async def start(self, bound: Sequence[tuple[str, socket.socket]]) -> None:
        """Start all workers on these sockets, which stay the caller's; returns when all serve.

        Raises :class:`Refused` when one can't.
        """
        self._bound = bound
        self._first = Deferred()
        for slot in self._slots:
            slot.life.begin()
        for loop, seconds in ((self._pings, PING), (self._snapshots, SNAPSHOT)):
            loop.start(seconds, now=False).addErrback(
                lambda failure: self._log.failure("The workers are no longer watched", failure)
            )
        await self._first

    async def retire(self) -> None:
        """Leave the service to a new version; workers end when their sessions have."""
        await self._end(c.Retire)

    async def stop(self) -> None:
        """Have all finish what is under way, and end."""
        call = self.reactor.callLater(STOPPING, self._kill)
        try:
            await self._end(c.Stop)
        finally:
            if call.active():
                call.cancel()
            for loop in (self._pings, self._snapshots):
                if loop.running:
                    loop.stop()

    async def _end(self, command: type[amp.Command]) -> None:
        gone: Deferred[None] = Deferred()
        former, self._all_gone = self._all_gone, gone
        if former is not None:
            gone.chainDeferred(former)
        for slot in self._slots:
            if slot.child is not None and slot.state in ("starting", "serving", "ending"):
                slot.child.tell(command)
            slot.life.stop()
        self.gone()
        await gone

    def gone(self) -> None:
        """A worker is gone for good."""
        if self._all_gone is not None and all(slot.state == "gone" for slot in self._slots):
            gone, self._all_gone = self._all_gone, None
            gone.callback(None)

    def _kill(self) -> None:
        for slot in self._slots:
            slot.kill()

    def close(self) -> None:
        """Write the last events."""
        self.event_log.close()

    def spawn(self, slot: Slot) -> None:
        """Start a worker's process."""
        try:
            slot.child = child = Child(self, slot.number, [one for _, one in self._bound], self.reactor)
        except OSError as error:
            self.reactor.callLater(0, self._not_spawned, slot, f"it cannot be started: {error}")
            return
        order = c.Order(
            slot=slot.number,
            settings=self._settings,
            pair=self._pair,
            sockets=tuple(zip((name for name, _ in self._bound), child.descriptors, strict=True)),
            slots=self._division.slots,
            counts=self._ledger.join(slot.number),
        )
        self._news()
        started = child.ask(c.Start, order=order)
        started.addCallbacks(lambda _: self._ready(slot), lambda failure: self._not_ready(slot, child, failure))

    def _not_spawned(self, slot: Slot, why: str) -> None:
        slot.life.ended()
        self._log.error("worker {slot}: {why}", slot=slot.number, why=why)
        self._after_death(slot)

    def _ready(self, slot: Slot) -> None:
        slot.serves()
        if slot.child is not None:
            slot.child.quiet = 0.0
        if slot.state != "serving":
            return
        if self._first is None:
            self._event("worker-started", f"worker {slot.number}, process {slot.child.pid if slot.child else 0}")
        elif all(one.state == "serving" for one in self._slots):
            first, self._first = self._first, None
            first.callback(None)
        if slot.number not in self._division.slots:
            self._divide({*self._division.slots, slot.number})

    def _not_ready(self, slot: Slot, child: Child, failure: Any) -> None:
        if failure.check(c.Refused):
            slot.why = failure.getErrorMessage()
            if self._first is not None:
                first, self._first = self._first, None
                first.errback(failure)
            child.kill()

    def ended(self, child: Child, why: str) -> None:
        """A worker's process has ended."""
        slot = self._slots[child.slot]
        if slot.child is not child:
            return
        slot.child = None
        wanted = slot.state in ("starting", "serving")
        self._departed = merge([self._departed, growing(slot.snapshot)])
        slot.snapshot = []
        self._ledger.leave(slot.number)
        self._news()
        slot.life.ended()
        if wanted:
            words = f"worker {slot.number}, process {child.pid}: {slot.why or why}"
            self._log.error("{words}; it is started again", words=words)
            self._event("worker-died", words)
            slot.why = ""
            self._after_death(slot)

    def _after_death(self, slot: Slot) -> None:
        if slot.failures < LOST:
            return
        if self._first is not None:
            first, self._first = self._first, None
            first.errback(c.Refused(f"worker {slot.number} dies as often as it is started"))
        elif all(one.failures >= LOST and one.state != "serving" for one in self._slots):
            self._failed("no worker can be kept alive")
        elif slot.number in self._division.slots and len(self._division.slots) > 1:
            self._divide({*self._division.slots} - {slot.number})

    def _divide(self, slots: Iterable[int]) -> None:
        self._division = Division(tuple(slots))
        for child in self._hearing():
            child.tell(c.Divide, slots=self._division.slots)

    # What they know of each other

    def heard(self, child: Child, command: type[amp.Command], entries: Any) -> None:
        """A worker says something."""
        if command is c.Due:
            lanes: dict[int, list[tuple[str, str, int, bool, int]]] = defaultdict(list)
            for lane in entries:
                lanes[self._division.owner(lane[0])].append(lane)
            for number, theirs in lanes.items():
                owner = self._slots[number].heard
                if owner is not None:
                    owner.tell(c.Due, lanes=theirs)
        elif command is c.Counts:
            self._ledger.say(child.slot, entries)
            self._news()
        else:  # failed logins, and what rates count
            for other in self._hearing():
                if other is not child:
                    other.tell(command, entries=entries)

    def _news(self) -> None:
        for number, entries in self._ledger.news().items():
            child = self._slots[number].child
            if child is not None:
                child.tell(c.Counts, entries=entries)

    def _hearing(self) -> list[Child]:
        return [child for slot in self._slots if (child := slot.heard) is not None]

    def _ping(self) -> None:
        for slot in self._slots:
            child = slot.child
            if child is None:
                continue
            child.quiet += PING  # not by the clock: we may have been asleep ourselves
            allowed: float = self._settings.worker_timeout
            if slot.state == "starting":
                allowed = max(START * allowed, LEAST_START)
            if child.quiet > allowed:
                child.quiet = 0.0
                slot.why = f"no answer for {allowed:g} s"
                slot.life.silent()
            elif not child.pinged:
                child.pinged = True
                child.ask(c.Ping).addCallbacks(self._answered, _lost, callbackArgs=(slot, child))

    def _answered(self, answer: Any, slot: Slot, child: Child) -> None:
        child.pinged = False
        child.quiet = 0.0
        child.report = answer["report"]
        if child.report.lost and slot.child is child and not slot.why:
            # Its store takes nothing more until it is opened anew, which another process does while others serve.
            # Any other trouble passes, or is there for the next process as well.
            slot.why = child.report.trouble
            slot.life.silent()

    # Reload

    async def prepare(self, settings: Settings, pair: PairBytes) -> None:
        """Have all be ready for a reload.  Raises :class:`Refused` when one is not."""
        self._prepared = (settings, pair)
        self._asked = children = [child for child in self._hearing() if self._slots[child.slot].state == "serving"]
        if not children:
            raise c.Refused("no worker is there to take them over")
        asked = [self._within(child.ask(c.Prepare, settings=settings, pair=pair)) for child in children]
        results: Any = await DeferredList(asked, consumeErrors=True)
        for child, (good, result) in zip(children, results, strict=True):
            if not good:
                raise c.Refused(f"worker {child.slot}: {result.getErrorMessage() or result.type.__name__}")

    async def commit(self) -> None:
        """Have all take over what was prepared; one that starts from now on begins with it."""
        assert self._prepared is not None
        (self._settings, self._pair), self._prepared = self._prepared, None
        self.event_log.reconfigure(self._settings.log)
        for slot in self._slots:
            if slot.child is not None and slot.child not in self._asked:
                slot.why = "it began with the settings of before the reload"  # after the others were asked
                slot.child.tell(c.Stop)
        await self._tell_all(c.Commit)

    async def abandon(self) -> None:
        """Have all forget what was prepared."""
        self._prepared = None
        await self._tell_all(c.Abandon)

    async def _tell_all(self, command: type[amp.Command]) -> None:
        await DeferredList([self._within(child.ask(command)) for child in self._hearing()], consumeErrors=True)

    def _within(self, asked: Deferred[Any]) -> Deferred[Any]:
        return asked.addTimeout(self._settings.worker_timeout, self.reactor)

    def reopen(self) -> None:
        """Have all open the event log again."""
        self.event_log.reopen()
        for child in self._hearing():
            child.ask(c.Reopen).addErrback(lambda failure: None)  # it ends

    # How they are

    def report(self) -> c.Report:
        """All of them in numbers."""
        reports = [child.report for child in self._hearing()]
        return c.Report(
            sessions=sum(one.sessions for one in reports),
            under_way=sum(one.under_way for one in reports),
            messages=max((one.messages for one in reports), default=0),
            refused=sum(one.refused for one in reports),
            refused_last=max((one.refused_last for one in reports), default=0.0),
        )

    def problem(self) -> str:
        """What is wrong, in words; "" if nothing is."""
        found = [f"worker {slot.number} is {slot.state}" for slot in self._slots if slot.state != "serving"]
        found += [f"worker {it.slot}: {it.report.trouble}" for it in self._hearing() if it.report.trouble]
        return "; ".join(found)

    def workers(self) -> tuple[WorkerStatus, ...]:
        """Each of them."""
        return tuple(
            WorkerStatus(
                slot=slot.number,
                pid=slot.child.pid if slot.child is not None else 0,
                started=slot.started,
                sessions=slot.child.report.sessions if slot.child is not None else 0,
                state=slot.state,
            )
            for slot in self._slots
        )

    def gather(self) -> Deferred[CollectorRegistry]:
        """The metrics of all, as those of one."""
        return Deferred.fromCoroutine(self._gather())

    async def _gather(self) -> CollectorRegistry:
        await self._snap()
        ours = families(self.metrics.registry)
        return registry_of(merge([*(slot.snapshot for slot in self._slots), ours, self._departed]))

    def _look(self) -> Deferred[None]:
        return Deferred.fromCoroutine(self._snap())

    async def _snap(self) -> None:
        await DeferredList([Deferred.fromCoroutine(self._snap_one(slot)) for slot in self._slots if slot.heard])

    async def _snap_one(self, slot: Slot) -> None:
        child = slot.heard
        assert child is not None
        try:
            answer = await child.ask(c.Snapshot).addTimeout(SCRAPE, self.reactor)
        except (TimedOut, Exception):
            return  # what it said last stands
        if slot.child is child:
            slot.snapshot = answer["families"]

    def _event(self, what: str, detail: str) -> None:
        self.events(Service(time=self.reactor.seconds(), what=what, detail=detail))


def _lost(failure: Any) -> None:
    """It has ended, which :meth:`Pool.ended` hears."""
