"""Queue runs that clients ask for with ETRN.

Source: RFC 1985 §5 (the command, its replies and its limits).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from ..config.settings import Settings
from ..mail.envelope import Delivery, Message
from ..mail.events import EventSink, Service
from ..mail.status import MailError, Reply
from ..policy.tally import Tally
from ..queue.interfaces import IMessageStore, IScheduler, QueueFilter
from ..wire import commands as c

if TYPE_CHECKING:
    from .server import MtaServer

PAGE = 200
"""Deliveries looked for and made due at once."""
PATIENCE = 0.1
"""Seconds that the queue is searched before the client is answered."""
RUNS = 8
"""Runs under way at once."""
KNOWN = 10_000
"""Domains of which is remembered when they were asked for last."""

_log = Logger()


def offered(settings: Settings, role: str) -> bool:
    """Whether anybody may use ETRN on a listener of this role."""
    who = settings.extensions.etrn
    return (role == "submission" and "users" in who) or (
        role == "mx" and "networks" in who and bool(settings.relay.networks)
    )


class QueueRuns:
    """The runs that clients have begun; one for a process.  ``clock`` gives seconds since the epoch.

    ``asked`` has the domains that may not be asked for again yet, here and in the other processes.
    """

    def __init__(self, store: IMessageStore, scheduler: IScheduler, events: EventSink, clock: IReactorTime) -> None:
        self._store = store
        self._scheduler = scheduler
        self._events = events
        self._clock = clock
        self.asked = Tally()
        self._until: dict[str, float] = {}  # the domains asked for here, those of longest ago first
        self._forgetting: IDelayedCall | None = None
        self._under_way = 0

    async def begin(self, node: str, interval: float, who: str) -> Reply:
        """Have what waits for a domain tried now; the reply to ETRN.  ``interval`` is how soon it may be asked again,
        in seconds; ``who`` goes on record.  Whoever asks may."""
        now = self._clock.seconds()
        if self.asked.total(node):
            wait = self._until.get(node, now + interval) - now
            words = f"Unable to queue messages for node {node}: it was asked for just now, ask again in {wait:.0f} s"
            return Reply(458, "4.7.0", words)
        if self._under_way >= RUNS:
            return Reply(458, "4.3.2", f"Unable to queue messages for node {node}: too many are being queued already")
        self._remember(node, interval)
        match = QueueFilter(recipient=f"@{node}", state="queued")
        page = await self._store.page(match, limit=PAGE, seconds=PATIENCE)
        count = await self._run(page.found, who)
        if page.more:
            self._under_way += 1
            going = Deferred.fromCoroutine(self._go_on(match, page.more, who))
            going.addBoth(self._over, node)
            started = "pending messages" if count else "queuing"
            return Reply(252 if count else 250, "2.0.0", f"OK, {started} for node {node} started")
        self._tell(node, who, f"{count} messages")
        if not count:
            return Reply(251, "2.0.0", f"OK, no messages waiting for node {node}")
        return Reply(253, "2.0.0", f"OK, {count} pending messages for node {node} started")

    def stop(self) -> None:
        """No domain is asked for any more."""
        if self._forgetting is not None:
            self._forgetting.cancel()
            self._forgetting = None

    def _remember(self, node: str, interval: float) -> None:
        if interval <= 0:
            return
        self._until[node] = self._clock.seconds() + interval
        self.asked.add(node)
        if len(self._until) > KNOWN:
            self._forget(next(iter(self._until)))
        if self._forgetting is None:
            self._forgetting = self._clock.callLater(interval, self._forget_all)

    def _forget(self, node: str) -> None:
        del self._until[node]
        self.asked.remove(node)

    def _forget_all(self) -> None:
        """Forget what may be asked for again."""
        self._forgetting = None
        now = self._clock.seconds()
        for node in [node for node, until in self._until.items() if until <= now]:
            self._forget(node)
        if self._until:
            self._forgetting = self._clock.callLater(min(self._until.values()) - now, self._forget_all)

    async def _run(self, found: list[tuple[Message, Delivery]], who: str) -> int:
        """Make these due, and have them tried even where their destinations seem dead.  How many messages it is."""
        if not found:
            return 0
        now = self._clock.seconds()
        waiting = [delivery for _, delivery in found if not delivery.put_off(now)]
        if waiting:
            await self._store.act("run", [(it.id, it.destination) for it in waiting], who, now)
            self._scheduler.run({delivery.lane for delivery in waiting})
        return len({delivery.id for delivery in waiting})

    async def _go_on(self, match: QueueFilter, after: str, who: str) -> None:
        while after:
            page = await self._store.page(match, after, PAGE, PATIENCE)
            await self._run(page.found, who)
            after = page.more

    def _over(self, result: object, node: str) -> None:
        self._under_way -= 1
        if not isinstance(result, Failure):
            self._tell(node, "", "all that waited")
        elif isinstance(result.value, MailError):
            _log.warn("the run for {node} ended early: {reason}", node=node, reason=result.getErrorMessage())
        else:
            _log.failure("the run for {node} failed", result, node=node)

    def _tell(self, node: str, who: str, what: str) -> None:
        by = f" by {who}" if who else ""
        self._events(Service(time=self._clock.seconds(), what="etrn", detail=f"{node}{by}: {what}"))


async def etrn(server: MtaServer, command: c.Etrn) -> Reply:
    """ETRN (RFC 1985 §5.3)."""
    peer, settings, node = server.peer, server.factory.settings, command.node
    directory = server.factory.directory
    if not offered(settings, peer.role):
        return Reply(502, "5.5.1", "ETRN is not served here")
    if peer.role == "submission" and peer.account is None:
        return Reply(530, "5.7.0", "Authentication required")
    if command.option:  # what waits is known by domains; there are no queues with names
        what = "its subdomains are asked for one by one" if command.option == "@" else "there is no such queue"
        return Reply(458, "4.5.4", f"Unable to queue messages for node {node}: {what}")
    if peer.account is not None:
        domain, user = await directory.domain(node), await directory.user(peer.user)
        allowed = domain is not None and domain.customer == peer.customer and user is not None and not user.suspended
        why = "it is no domain of yours"
    else:
        allowed = peer.relaying
        why = "your address may not ask for it"
    if not allowed:
        return Reply(459, "4.7.1", f"Node {node} not allowed: {why}")
    who = f"etrn {peer.user or peer.address}"
    return await server.factory.reception.runs.begin(node, settings.extensions.etrn_interval, who)
