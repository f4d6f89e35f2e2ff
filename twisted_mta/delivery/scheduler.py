"""Takes what is due, fairly, and has it delivered.

Fresh mail comes from :meth:`Scheduler.offer` and goes to its agent from memory; all other mail is claimed from the
store in pages, lane by lane, once it is due (:mod:`.claims`).  Whose turn it is says :mod:`.lanes`; :mod:`.attempts`
are made with the agents, what became of one says :mod:`.settlement`, and :mod:`.settler` writes it down.  What is in
memory, :mod:`.active`, is bounded.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from random import Random
from typing import Any

import msgspec
from twisted.internet.defer import Deferred, DeferredList, maybeDeferred
from twisted.internet.defer import TimeoutError as TimedOut
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from ..config.settings import Settings
from ..mail.envelope import Delivery, Lane
from ..mail.events import EventSink
from ..mail.status import MailError
from ..queue.interfaces import CHUNK, IMessageStore, IRouter, IScheduler, NewDelivery, NewMessage
from ..report.reporter import Reporter
from .active import ActiveQueue, DestinationState
from .attempts import Attempts
from .claims import Claims
from .conclusion import Conclusions
from .interfaces import IDeliveryAgent
from .lanes import Entry
from .pace import Pace
from .retry import RetryPolicy
from .settlement import all_recipients, must_return, suspended
from .settler import Settler
from .shares import Shares, Tell

TICK = 1.0
"""Seconds between two looks at what is due and at what operators did."""

NOTICE = 0.05
"""Seconds after which nothing is begun without a look whether an operator has removed it, or put it on hold."""

COMMITTED = 5.0
"""Seconds that may lie between the commit of a message and its offer: what an operator did meanwhile is looked up."""

UNKNOWN = -1
"""In place of the number of an operator's last action that is known to have left an entry alone."""

RECLAIM = 2
"""Ticks between two looks for processes that have died."""

STARTS = 200
"""Attempts of one agent begun in one turn of the reactor."""

UNSETTLED = 2000
"""Attempts that ended and are not on record yet; beyond it none is begun."""

STOP = 30.0
"""Seconds that attempts under way are given to end when the service stops."""

WATCH = 30
"""Ticks between two looks for attempts that do not end."""


@implementer(IScheduler)
class Scheduler:
    """The one :class:`IScheduler`.

    ``agents`` maps the agents' names, the part of a destination before the colon, to the agents; they are stopped with
    the scheduler.  The store must be started before :meth:`start` and stopped after :meth:`stop` has fired.
    ``clock`` tells seconds since the epoch.  ``tell``: see :mod:`.shares`.
    """

    _log = Logger()

    def __init__(
        self,
        store: IMessageStore,
        router: IRouter,
        agents: Mapping[str, IDeliveryAgent],
        settings: Settings,
        events: EventSink,
        clock: IReactorTime,
        reporter: Reporter,
        rng: Random,
        tell: Tell | None = None,
    ) -> None:
        self._store = store
        self._router = router
        self._agents = dict(agents)
        self._clock = clock
        self._rng = rng
        self._retry = RetryPolicy(settings.queue, rng)
        self.active = ActiveQueue(settings, self._agents)
        self._settler = Settler(store, clock, events, self._settled)
        self._claims = Claims(store, self.active, self._retry, clock, self._arrived)
        self._conclusions = Conclusions(store, reporter, clock, self._settler, self._retry, settings)
        self._attempts = Attempts(store, router, self._agents, self.active, self._conclusions, clock, self._over)
        self.shares = Shares(self._claims, tell, lambda count: self._pace.arrived(clock.seconds(), count))
        self._pace = Pace()
        self._generation = 0
        self._changed = self._noticed = 0.0
        self._ticks = 0
        self._running = False
        self._run_call: IDelayedCall | None = None
        self._tick_call: IDelayedCall | None = None
        self._quiet: Deferred[None] | None = None

    # What the service and the reception ask.

    def start(self) -> None:
        """Begin to deliver; once."""
        if self._running:
            return
        self._running = True
        self._attempts.stopping = False
        self._tick()

    def stop(self) -> Deferred[None]:
        """Begin nothing more, give what is under way :data:`STOP` seconds to end and be recorded, stop the agents.

        What waits in memory is put back in the store as due now, so that the next process delivers it at once.
        """
        return Deferred.fromCoroutine(self._stop())

    def reconfigure(self, settings: Settings) -> None:
        """Take over changed settings; what is under way ends under the old ones."""
        self._retry = RetryPolicy(settings.queue, self._rng)
        self._claims.retry = self._retry
        self._conclusions.reconfigure(self._retry, settings)
        self.active.reconfigure(settings)
        self._wake()

    def room(self, deliveries: Sequence[NewDelivery]) -> float | None:
        """See :class:`IScheduler`."""
        if not self._running or self._settler.stuck or not self.active.has_room(deliveries):
            return None
        if not self.shares.all_ours(deliveries):
            return None
        return self._retry.armed(1, self._clock.seconds())

    def offer(self, new: NewMessage, content: bytes | None) -> None:
        """See :class:`IScheduler`."""
        message = new.message
        octets = 0 if content is None else len(content)
        if not message.chunks:  # the store has set them in its own copy
            if content is not None:
                message = msgspec.structs.replace(message, size=octets, chunks=-(-octets // CHUNK))
            elif (stored := self._store.message(message.id)) is not None:
                message = stored
            else:
                return
        active = self.active
        now = self._clock.seconds()
        self._pace.arrived(now, len(new.deliveries))
        generation = self._generation if now - self._changed > COMMITTED else UNKNOWN
        customer, priority, overdue = new.lane_customer, message.priority, message.came_late
        for part in new.deliveries:
            delivery = Delivery(
                id=message.id,
                destination=part.destination,
                customer=customer,
                recipients=part.recipients,
                next_attempt=new.next_attempt,
                attempts=1,
                priority=priority,
                overdue=overdue,
            )
            lane = active.destination(part.destination).lane(customer, priority)
            active.admit(message, delivery, content, lane, fresh=True, generation=generation, octets=octets)
            octets = 0  # shared by the others
        if not self._running:  # a stop began during the commit
            self._put_back()
        elif self._run_call is None:
            self._wake()

    def announce(self, new: NewMessage) -> None:
        """See :class:`IScheduler`."""
        self.shares.announce(new)

    def pressed(self) -> None:
        """Clients are turned away for want of time: what is in the queue gets a fair share of it."""
        self._pace.pressed(self._clock.seconds())

    def behind(self) -> bool:
        """Whether it has not had that share so far, so that fewer are to be let in."""
        return self._pace.behind(self._clock.seconds())

    def run(self, lanes: Iterable[Lane]) -> None:
        """See :class:`IScheduler`."""
        self.shares.run(lanes)

    def snapshot(self) -> list[DestinationState]:
        """The destinations that have mail in memory or are dead, by name."""
        return self.active.snapshot()

    @property
    def under_way(self) -> int:
        """Attempts that agents are making now."""
        return len(self._attempts)

    @property
    def unsettled(self) -> int:
        """Attempts that ended and are not on record yet."""
        return self._settler.pending

    @property
    def settle_failures(self) -> int:
        """How often the store could not record how attempts ended."""
        return self._settler.failures

    # The loop.

    def _tick(self) -> None:
        self._tick_call = self._clock.callLater(TICK, self._tick)
        try:
            now = self._clock.seconds()
            self._notice(now)
            self.active.sweep()
            for entry in self.active.deadlines.over(now):
                self._conclusions.out_of_time(entry, now)
            self._ticks += 1
            if self._ticks % WATCH == 0:
                self._attempts.give_up(now)
            if not self._settler.stuck:
                if self._ticks % RECLAIM == 1:
                    self._store.reclaim(self._claims.busy).addErrback(self._not_reclaimed)
                self._claims.poll(now)
        except Exception:
            self._log.failure("looking for what is due failed")
        self._wake()

    def _notice(self, now: float) -> None:
        """See whether an operator has done anything."""
        self._noticed = now
        generation = self._store.changes()
        if generation != self._generation:
            self._generation = self._claims.generation = generation
            self._changed = now
            for destination in self.active:  # an operator who says "retry" means it
                destination.probe_at = min(destination.probe_at, now)

    def _not_reclaimed(self, failure: Failure) -> None:
        """It is armed, and the next look finds it again."""
        if not isinstance(failure.value, MailError):
            self._log.failure("taking over what a process that died had in memory failed", failure)

    def _wake(self) -> None:
        """Have the turns taken in the next turn of the reactor, once, if there may be something to begin."""
        if self._run_call is None and self._running and self.active.ready:
            self._run_call = self._clock.callLater(0, self._run)

    def _arrived(self) -> None:
        if self._running:
            self._wake()
        else:
            self._put_back()
            self._check_quiet()

    def _run(self) -> None:
        self._run_call = None
        settler = self._settler
        now = self._clock.seconds()
        if not 0 <= now - self._noticed < NOTICE:
            self._notice(now)
        paced = self._pace.allowance(STARTS, self.active.fresh, self.active.claimed, now)
        for turns in list(self.active.turns.values()):
            for _ in range(paced):
                if settler.stuck or settler.pending >= UNSETTLED:
                    return  # woken when something is settled
                taken = turns.take(now)
                if taken is None:
                    break
                entry, attempt = taken
                if entry.started:  # its time was over while it waited
                    entry.lane.destination.unpark()
                elif entry.generation != self._generation and not self._wanted(entry):
                    self._conclusions.put_back(entry, now)  # on hold it stays so, removed it stays away
                    entry.lane.destination.unpark()
                elif not self.shares.ours(entry.delivery.destination):  # it has gone over to another process
                    self._conclusions.put_back(entry, now)
                    entry.lane.destination.unpark()
                elif must_return(entry.message, now):
                    self._conclusions.out_of_time(entry, now)
                    entry.lane.destination.unpark()
                elif attempt:
                    if entry.delivery.attempts == 1:  # what was put off before has not arrived now
                        self._pace.began()
                    self._attempts.begin(entry, now)
                else:
                    self._suspend(entry, now)
                if not entry.fresh:
                    self._claims.left(entry.lane.destination)
        self._wake()

    def _wanted(self, entry: Entry) -> bool:
        """Whether an entry is still in the queue and not on hold, after somebody changed something."""
        entry.generation = self._generation
        for delivery in self._store.deliveries(entry.delivery.id):
            if delivery.destination == entry.delivery.destination:
                return delivery.state == "queued"
        return False

    def _suspend(self, entry: Entry, now: float) -> None:
        """The destination is dead: put the delivery off without trying it."""
        destination = entry.lane.destination
        entry.started = now
        results = all_recipients(entry.delivery.recipients, suspended(destination.reason))
        self._conclusions.attempted(entry, results, now, not_before=destination.probe_at)

    def _over(self) -> None:
        """An attempt has ended, and a place is free."""
        self._check_quiet()
        self._wake()

    def _settled(self, entry: Entry) -> None:
        self.active.forget(entry)
        moved = self._attempts.moved(entry)
        if moved:
            # By their due times they stand behind all that is due already, which may be a whole queue to be moved.
            self.shares.are_due(moved)
        self._wake()

    # The end.

    async def _stop(self) -> None:
        self._running = False
        self._claims.halted = self._attempts.stopping = True
        for call in (self._run_call, self._tick_call):
            if call is not None and call.active():
                call.cancel()
        self._run_call = self._tick_call = None
        self._put_back()
        self._quiet = quiet = Deferred[None]()  # an agent that gives up at once may fire it
        agents = DeferredList([maybeDeferred(agent.stop) for agent in self._agents.values()], consumeErrors=True)
        self._check_quiet()
        await self._within(quiet, STOP, "attempts under way")
        self._attempts.cancel()
        await self._within(agents, STOP, "the agents")
        await self.recorded()

    async def recorded(self) -> None:
        """Wait until the store has all that ended and all that was put back, :data:`STOP` seconds at most.

        A store that can't be written any more is not waited for.
        """
        await self._within(self._settler.when_idle(), STOP, "the record of the last attempts")
        self._settler.close()

    def _put_back(self) -> None:
        now = self._clock.seconds()
        for entry in self.active.drain():
            self._conclusions.put_back(entry, now)

    def _check_quiet(self) -> None:
        quiet = self._quiet
        if quiet is not None and not self._attempts and not self._claims.outstanding:
            self._quiet = None
            quiet.callback(None)

    async def _within(self, waiting: Deferred[Any], seconds: float, what: str) -> None:
        try:
            await waiting.addTimeout(seconds, self._clock)
        except TimedOut:
            self._log.warn("stopping did not wait longer than {seconds} s for {what}", seconds=seconds, what=what)
