"""Takes what is due, fairly, and has it delivered.

Fresh mail comes from :meth:`Scheduler.offer` and goes to its agent from memory; all other mail is claimed from the
store in pages, lane by lane, once it is due (:mod:`.claims`).  Whose turn it is says :mod:`.lanes`; what became of an
attempt says :mod:`.settlement`; :mod:`.settler` writes it down.  What is in memory, :mod:`.active`, is bounded.
"""

from __future__ import annotations

from collections.abc import Coroutine, Iterable, Mapping, Sequence
from functools import partial
from random import Random
from typing import Any

import msgspec
from twisted.internet.defer import CancelledError, Deferred, DeferredList, maybeDeferred
from twisted.internet.defer import TimeoutError as TimedOut
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from ..config.settings import Settings
from ..mail.envelope import Delivery, Lane
from ..mail.events import EventSink
from ..mail.status import MailError, Reply
from ..queue.interfaces import CHUNK, IMessageStore, IRouter, IScheduler, NewDelivery, NewMessage, Settlement
from ..report.reporter import Reporter
from ..runtime.coroutines import run
from .active import ActiveQueue, DestinationState
from .claims import Claims
from .conclusion import Conclusions
from .content import Content
from .interfaces import IDeliveryAgent, Job, Result
from .lanes import Entry
from .pace import Pace
from .reroute import Rerouted, reroute
from .retry import RetryPolicy
from .settlement import all_recipients, connection_failed, must_return, suspended
from .settler import Ended, Settler
from .shares import Shares, Tell

TICK = 1.0
"""Seconds between two looks at what is due and at what operators did."""

RECLAIM = 2
"""Ticks between two looks for processes that have died."""

STARTS = 200
"""Attempts of one agent begun in one turn of the reactor."""

UNSETTLED = 2000
"""Attempts that ended and are not on record yet; beyond it none is begun."""

STOP = 30.0
"""Seconds that attempts under way are given to end when the service stops."""

OVERDUE = 2 * 3600.0
"""Seconds after which an attempt is given up whose agent does not answer, besides what the message's size adds.

No agent of ours takes so long: who does hangs, and must not keep its place for ever."""

SLOWEST = 4096
"""Octets a second that are waited for."""

WATCH = 30
"""Ticks between two looks for such attempts."""

NO_ANSWER = Reply(451, "4.4.2", "The attempt did not end; it was given up, and will be tried again")

FAULT = Reply(451, "4.3.0", "A fault on our side; delivery will be tried again")


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
        self.shares = Shares(self._claims, tell)
        self._pace = Pace()
        self._generation = 0
        self._ticks = 0
        self._under_way: set[Entry] = set()
        self._moved: dict[Entry, set[Lane]] = {}
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
        self._pace.arrived(self._clock.seconds())
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
            active.admit(message, delivery, content, lane, fresh=True, generation=self._generation, octets=octets)
            octets = 0  # shared by the others
        if not self._running:  # a stop began during the commit
            self._put_back()
        elif self._run_call is None:
            self._wake()

    def announce(self, new: NewMessage) -> None:
        """See :class:`IScheduler`."""
        self._pace.arrived(self._clock.seconds())
        self.shares.announce(new)

    def pressed(self) -> None:
        """Clients are turned away for want of time: what is in the queue gets a fair share of it."""
        self._pace.pressed(self._clock.seconds())

    def run(self, lanes: Iterable[Lane]) -> None:
        """See :class:`IScheduler`."""
        self.shares.run(lanes)

    def snapshot(self) -> list[DestinationState]:
        """The destinations that have mail in memory or are dead, by name."""
        return self.active.snapshot()

    @property
    def under_way(self) -> int:
        """Attempts that agents are making now."""
        return len(self._under_way)

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
            generation = self._store.changes()
            if generation != self._generation:
                self._generation = self._claims.generation = generation
                for destination in self.active:  # an operator who says "retry" means it
                    destination.probe_at = min(destination.probe_at, now)
            self.active.sweep()
            for entry in self.active.deadlines.over(now):
                self._conclusions.out_of_time(entry, now)
            self._ticks += 1
            if self._ticks % WATCH == 0:
                self._watch(now)
            if not self._settler.stuck:
                if self._ticks % RECLAIM == 1:
                    self._store.reclaim(self._claims.busy).addErrback(self._not_reclaimed)
                self._claims.poll(now)
        except Exception:
            self._log.failure("looking for what is due failed")
        self._wake()

    def _watch(self, now: float) -> None:
        """Take their places from attempts that do not end.  What becomes of one afterwards is nobody's business."""
        for entry in [it for it in self._under_way if now - it.started > OVERDUE + it.message.size / SLOWEST]:
            delivery, task = entry.delivery, entry.task
            self._log.error("{id} to {destination} does not end", id=delivery.id, destination=delivery.destination)
            entry.lane.destination.failed(str(NO_ANSWER), now)
            self._leave(entry)
            self._conclusions.attempted(entry, all_recipients(delivery.recipients, NO_ANSWER), now)
            if task is not None:
                task.cancel()

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
        paced = self._pace.allowance(STARTS, self.active.fresh, now)
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
                    self._back(entry, now)  # on hold it stays so, removed it stays away
                    entry.lane.destination.unpark()
                elif not self.shares.ours(entry.delivery.destination):  # it has gone over to another process
                    self._back(entry, now)
                    entry.lane.destination.unpark()
                elif must_return(entry.message, now):
                    self._conclusions.out_of_time(entry, now)
                    entry.lane.destination.unpark()
                elif attempt:
                    self._begin(entry, now)
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

    # One attempt.

    def _begin(self, entry: Entry, now: float) -> None:
        destination = entry.lane.destination
        destination.active += 1
        destination.turns.active += 1
        entry.started = now
        self._under_way.add(entry)
        if entry.fresh:  # what another process has taken in is none of what has arrived here
            self._pace.began()
        message = entry.message
        content = Content(self._store, message, entry.content)
        job = Job(message, entry.delivery, content)
        agent = self._agents.get(entry.delivery.destination.partition(":")[0])
        attempt: Coroutine[Deferred[Any], Any, Sequence[Result] | Rerouted]
        try:
            attempt = agent.deliver(job) if agent is not None and entry.fresh else self._attempt(job, agent)
        except Exception:
            self._fault(entry, Failure(), now)  # type: ignore[no-untyped-call]
            return
        task = run(attempt, partial(self._ended, entry), partial(self._broke, entry))
        if entry in self._under_way:
            entry.task = task

    async def _attempt(self, job: Job, agent: IDeliveryAgent | None) -> Sequence[Result] | Rerouted:
        delivery = job.delivery
        try:
            rerouted = await reroute(self._router, delivery, self._clock.seconds())
        except MailError as error:
            reply = error.reply if error.temporary else Reply(451, "4.3.0", error.reply.text)
            return all_recipients(delivery.recipients, reply)
        if rerouted is not None:
            return rerouted
        if agent is None:
            name = delivery.destination.partition(":")[0]
            return all_recipients(delivery.recipients, Reply(451, "4.3.5", f"No agent {name!r} is configured"))
        return await agent.deliver(job)

    def _ended(self, entry: Entry, results: Sequence[Result] | Rerouted) -> None:
        if entry not in self._under_way:  # it was given up
            return
        now = self._clock.seconds()
        destination = entry.lane.destination
        try:
            if isinstance(results, Rerouted):
                self._leave(entry)
                self._moved[entry] = {delivery.lane for delivery in results.deliveries}
                self._conclusions.reroute(entry, results, now)
                return
            if [result.recipient for result in results] != list(entry.delivery.recipients):
                raise ValueError(f"agent's results are not one for each recipient: {results!r}")
            if not self._running and all(_not_begun(result) for result in results):
                self._leave(entry)
                self._back(entry, now)
                return
            reason = connection_failed(results)
            if reason:
                destination.failed(reason, now)
            else:
                destination.succeeded()
            self._leave(entry)
            self._conclusions.attempted(entry, results, now)
            self.active.release(entry)
        except Exception:
            self._fault(entry, Failure(), now)  # type: ignore[no-untyped-call]
        finally:
            self._check_quiet()  # not before the end is the settler's: a stop goes on from here to close the store
            self._wake()

    def _broke(self, entry: Entry, error: BaseException) -> None:
        if entry not in self._under_way:
            return
        now = self._clock.seconds()
        if not self._running and isinstance(error, CancelledError):
            self._leave(entry)
            self.active.forget(entry)  # it is armed in the store
        else:
            self._fault(entry, Failure(error), now)  # type: ignore[no-untyped-call]
        self._check_quiet()
        self._wake()

    def _fault(self, entry: Entry, failure: Failure, now: float) -> None:
        """A fault of ours: logged, and all recipients are deferred."""
        self._leave(entry)
        delivery = entry.delivery
        self._log.failure(
            "delivering {id} to {destination} failed", failure, id=delivery.id, destination=delivery.destination
        )
        try:
            self._conclusions.attempted(entry, all_recipients(delivery.recipients, FAULT), now)
        except Exception:
            self._log.failure("{id} is left to be tried again", id=delivery.id)
            self.active.forget(entry)

    def _leave(self, entry: Entry) -> None:
        """The agent is through with an entry."""
        if entry in self._under_way:
            self._under_way.discard(entry)
            entry.task = None
            destination = entry.lane.destination
            destination.turns.active -= 1
            destination.ended()

    def _suspend(self, entry: Entry, now: float) -> None:
        """The destination is dead: put the delivery off without trying it."""
        destination = entry.lane.destination
        entry.started = now
        results = all_recipients(entry.delivery.recipients, suspended(destination.reason))
        self._conclusions.attempted(entry, results, now, not_before=destination.probe_at)

    def _settled(self, entry: Entry) -> None:
        self.active.forget(entry)
        moved = self._moved.pop(entry, None)
        if moved:
            # By their due times they stand behind all that is due already, which may be a whole queue to be moved.
            self.shares.are_due(moved)
        self._wake()

    # The end.

    async def _stop(self) -> None:
        self._running = False
        self._claims.halted = True
        for call in (self._run_call, self._tick_call):
            if call is not None and call.active():
                call.cancel()
        self._run_call = self._tick_call = None
        self._put_back()
        self._quiet = quiet = Deferred[None]()  # an agent that gives up at once may fire it
        agents = DeferredList([maybeDeferred(agent.stop) for agent in self._agents.values()], consumeErrors=True)
        self._check_quiet()
        await self._within(quiet, STOP, "attempts under way")
        for entry in list(self._under_way):
            if entry.task is not None:
                entry.task.cancel()
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
            self._back(entry, now)

    def _back(self, entry: Entry, now: float) -> None:
        """What was not attempted is due at once for the next process."""
        delivery = entry.delivery
        back = msgspec.structs.replace(delivery, next_attempt=now, attempts=delivery.attempts - 1)
        self._settler.add(Ended(Settlement(delivery=delivery, remaining=(back,)), (), entry))

    def _check_quiet(self) -> None:
        quiet = self._quiet
        if quiet is not None and not self._under_way and not self._claims.outstanding:
            self._quiet = None
            quiet.callback(None)

    async def _within(self, waiting: Deferred[Any], seconds: float, what: str) -> None:
        try:
            await waiting.addTimeout(seconds, self._clock)
        except TimedOut:
            self._log.warn("stopping did not wait longer than {seconds} s for {what}", seconds=seconds, what=what)


def _not_begun(result: Result) -> bool:
    """Whether an agent that stops has given a recipient back."""
    return result.reply.enhanced == "4.3.2" and not result.remote
