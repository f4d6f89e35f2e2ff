"""The attempts under way: each from its beginning with an agent to what came of it."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Mapping, Sequence
from functools import partial
from typing import Any

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from ..mail.envelope import Lane
from ..mail.status import MailError, Reply
from ..queue.interfaces import IMessageStore, IRouter
from ..runtime.coroutines import run
from .active import ActiveQueue
from .conclusion import Conclusions
from .content import Content
from .interfaces import IDeliveryAgent, Job, Result
from .lanes import Entry
from .reroute import Rerouted, reroute
from .settlement import all_recipients, connection_failed

OVERDUE = 2 * 3600.0
"""Seconds after which an attempt is given up whose agent does not answer, besides what the message's size adds.

No agent of ours takes so long: who does hangs, and must not keep its place for ever."""

SLOWEST = 4096
"""Octets a second that are waited for."""

NO_ANSWER = Reply(451, "4.4.2", "The attempt did not end; it was given up, and will be tried again")

FAULT = Reply(451, "4.3.0", "A fault on our side; delivery will be tried again")


class Attempts:
    """Begins attempts, and has what came of them concluded.

    ``agents`` are the scheduler's, by their names.  ``over`` is called whenever an attempt has ended, after its end was
    handed on.  Once :attr:`stopping` is set, what an agent gives back, or was cancelled, is left for the next process.
    """

    _log = Logger()

    def __init__(
        self,
        store: IMessageStore,
        router: IRouter,
        agents: Mapping[str, IDeliveryAgent],
        active: ActiveQueue,
        conclusions: Conclusions,
        clock: IReactorTime,
        over: Callable[[], None],
    ) -> None:
        self._store = store
        self._router = router
        self._agents = agents
        self._active = active
        self._conclusions = conclusions
        self._clock = clock
        self._over = over
        self._under_way: set[Entry] = set()
        self._moved: dict[Entry, set[Lane]] = {}
        self.stopping = False

    def __len__(self) -> int:
        """How many are under way."""
        return len(self._under_way)

    def begin(self, entry: Entry, now: float) -> None:
        """Give an entry, whose turn it is, to its agent."""
        destination = entry.lane.destination
        destination.active += 1
        destination.turns.active += 1
        entry.started = now
        self._under_way.add(entry)
        message = entry.message
        job = Job(message, entry.delivery, Content(self._store, message, entry.content))
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
        concluded = False
        try:
            if isinstance(results, Rerouted):
                self._leave(entry)
                self._moved[entry] = {delivery.lane for delivery in results.deliveries}
                self._conclusions.reroute(entry, results, now)
                return
            if [result.recipient for result in results] != list(entry.delivery.recipients):
                raise ValueError(f"agent's results are not one for each recipient: {results!r}")
            if self.stopping and all(_not_begun(result) for result in results):
                self._leave(entry)
                self._conclusions.put_back(entry, now)
                return
            reason = connection_failed(results)
            if reason:
                destination.failed(reason, now)
            else:
                destination.succeeded()
            self._leave(entry)
            self._conclusions.attempted(entry, results, now)
            concluded = True
            self._active.release(entry)
        except Exception:
            if concluded:
                self._log.failure("after the end of an attempt of {id}", id=entry.delivery.id)
            else:
                known = () if isinstance(results, Rerouted) else results
                self._fault(entry, Failure(), now, known)  # type: ignore[no-untyped-call]
        finally:
            self._over()  # not before the end is the settler's: a stop goes on from here to close the store

    def _broke(self, entry: Entry, error: BaseException) -> None:
        if entry not in self._under_way:
            return
        now = self._clock.seconds()
        if self.stopping and isinstance(error, CancelledError):
            self._leave(entry)
            self._active.forget(entry)  # it is armed in the store
        else:
            self._fault(entry, Failure(error), now)  # type: ignore[no-untyped-call]
        self._over()

    def _fault(self, entry: Entry, failure: Failure, now: float, known: Sequence[Result] = ()) -> None:
        """A fault of ours: logged, and all recipients are deferred of whom no outcome is known."""
        self._leave(entry)
        delivery = entry.delivery
        self._log.failure(
            "delivering {id} to {destination} failed", failure, id=delivery.id, destination=delivery.destination
        )
        results = all_recipients(delivery.recipients, FAULT)
        try:
            outcomes = {result.recipient: result for result in known}
            results = [outcomes.get(result.recipient, result) for result in results]
            self._conclusions.attempted(entry, results, now)
        except Exception:
            self._log.failure("{id} is left to be tried again for whoever has not got it", id=delivery.id)
            if not self._conclusions.taken(entry, results, now):
                self._active.forget(entry)

    def _leave(self, entry: Entry) -> None:
        """The agent is through with an entry."""
        if entry in self._under_way:
            self._under_way.discard(entry)
            entry.task = None
            destination = entry.lane.destination
            destination.turns.active -= 1
            destination.ended()

    def moved(self, entry: Entry) -> set[Lane] | None:
        """The lanes into which an entry has gone that is settled now, if it was found to belong elsewhere; once."""
        return self._moved.pop(entry, None)

    def give_up(self, now: float) -> None:
        """Take their places from attempts that do not end.  What becomes of one afterwards is nobody's business."""
        for entry in [it for it in self._under_way if now - it.started > OVERDUE + it.message.size / SLOWEST]:
            delivery, task = entry.delivery, entry.task
            self._log.error("{id} to {destination} does not end", id=delivery.id, destination=delivery.destination)
            entry.lane.destination.failed(str(NO_ANSWER), now)
            self._leave(entry)
            self._conclusions.attempted(entry, all_recipients(delivery.recipients, NO_ANSWER), now)
            if task is not None:
                task.cancel()

    def cancel(self) -> None:
        """End all of them where they are."""
        for entry in list(self._under_way):
            if entry.task is not None:
                entry.task.cancel()


def _not_begun(result: Result) -> bool:
    """Whether an agent that stops has given a recipient back."""
    return result.reply.enhanced == "4.3.2" and not result.remote
