"""The queue in memory: the in-memory twin of the LMDB store, for tests and to try things out.

Everything is done at once and every Deferred has fired already; nothing survives the process.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import msgspec
from twisted.internet.defer import Deferred, execute, fail, succeed
from twisted.internet.interfaces import IReactorTime
from zope.interface import implementer

from ..config.settings import Queue
from ..mail.envelope import Delivery, Lane, Message
from ..mail.events import Done, EventSink, HistoryEvent, no_events
from ..mail.ids import ID_CHARS, IdMaker, id_time
from .incoming import HELD_CHUNKS
from .interfaces import (
    CHUNK,
    Charge,
    Claim,
    Commit,
    IIncoming,
    IMessageStore,
    NewMessage,
    Page,
    QueueFilter,
    QueueStats,
    QuotaExceeded,
    Removal,
    Settlement,
    Usage,
)
from .pending import operator_event
from .quota import Counters
from .records import destination_key, safe_id_key
from .rules import (
    ACTIONS,
    acted,
    came_with,
    chunks,
    deliveries_of,
    joined,
    matches,
    never_busy,
    remaining,
    split_after,
    stopping,
    waits,
)

replace = msgspec.structs.replace

OWNER = 1
"""The one process there is."""


@implementer(IIncoming)
class MemoryIncoming:
    """A message on its way in."""

    def __init__(self, store: MemoryStore) -> None:
        self.id = store.new_id()
        self.size = 0
        self._store = store
        self._content: list[bytes] = []
        self._ended = False

    def write(self, data: bytes) -> Deferred[None] | None:
        """Add content."""
        if self._ended:
            return fail(stopping())
        self._content.append(data)
        self.size += len(data)
        return None

    @property
    def whole(self) -> bytes | None:
        """All of it, if it is small."""
        return b"".join(self._content) if self.size <= HELD_CHUNKS * CHUNK else None

    def commit(self, new: NewMessage) -> Deferred[None]:
        """Store the message."""
        if self._ended:
            return fail(RuntimeError("this message was committed or aborted before"))
        self._ended = True
        return execute(self._store.accept, new, b"".join(self._content))

    def abort(self) -> None:
        """Forget the message."""
        self._ended = True
        self._content = []


@implementer(IMessageStore)
class MemoryStore:
    """See :class:`~twisted_mta.queue.interfaces.IMessageStore`.  ``clock`` gives the time."""

    def __init__(self, clock: IReactorTime, settings: Queue | None = None, events: EventSink = no_events) -> None:
        self._clock = clock
        self._settings = settings if settings is not None else Queue()
        self._events = events
        self._ids = IdMaker(OWNER, clock.seconds)
        self._running = False
        self._changes = 0
        self._messages: dict[str, Message] = {}
        self._content: dict[str, bytes] = {}
        self._deliveries: dict[tuple[str, str], Delivery] = {}
        self._counters: dict[str, Counters] = {}
        self._history: dict[str, list[HistoryEvent]] = {}
        self._removals: list[Removal] = []

    # Life

    def start(self) -> Deferred[None]:
        """Be ready."""
        self._running = True
        return succeed(None)

    def stop(self) -> Deferred[None]:
        """Refuse more.  What is queued is there after another ``start``."""
        self._running = False
        return succeed(None)

    def _check_running(self) -> None:
        if not self._running:
            raise stopping()

    # Mail in

    def incoming(self) -> IIncoming:
        """Begin a message."""
        self._check_running()
        return MemoryIncoming(self)

    def watch_commits(self, tell: Callable[[Commit], None]) -> None:
        """Nothing is committed to a disk."""

    def new_id(self) -> str:
        """A new message id."""
        return self._ids()

    def _counted(self, customer: str) -> Counters:
        return self._counters.setdefault(customer, Counters(customer))

    def usage(self, customer: str) -> Usage:
        """What a customer has used."""
        return self._counted(customer).usage(self._clock.seconds())

    def check(self, charge: Charge) -> QuotaExceeded | None:
        """Whether a charge would be refused."""
        return self._counted(charge.customer).check(charge, self._clock.seconds())

    def accept(self, new: NewMessage, content: bytes) -> None:
        """Store a message if the quotas allow it."""
        self._check_running()
        if new.charge is not None:
            charge = replace(new.charge, bytes=len(content))
            counters, now = self._counted(charge.customer), self._clock.seconds()
            exceeded = counters.check(charge, now)
            if exceeded is not None:
                raise exceeded
            counters.charge(charge, now)
        self._store(new, content)

    def _store(self, new: NewMessage, content: bytes) -> None:
        message = replace(new.message, size=len(content), chunks=chunks(len(content)))
        self.tell(new.story)
        self._messages[message.id] = message
        self._content[message.id] = content
        if message.customer:
            self._counted(message.customer).queue(1, message.size)
        for delivery in deliveries_of(new, OWNER):
            self._deliveries[message.id, delivery.destination] = delivery
        self._leave(message.id)

    def _leave(self, mid: str) -> None:
        if self.deliveries(mid) or mid not in self._messages:
            return
        message = self._messages.pop(mid)
        del self._content[mid]
        if message.customer:
            self._counted(message.customer).queue(-1, -message.size)
        now = self._clock.seconds()
        done = Done(time=now, id=mid, seconds=max(0.0, now - message.arrived))
        self.tell((done,))
        self._events(done)

    # Mail out

    def _queued(self) -> list[Delivery]:
        """What waits in lanes."""
        return [it for it in self._deliveries.values() if it.state == "queued" and not it.owner]

    def due(self, now: float, limit: int, mine: Callable[[str], bool] | None = None) -> list[Lane]:
        """The lanes that are due."""
        first: dict[Lane, float] = {}
        for delivery in self._queued():
            if delivery.next_attempt <= now and (mine is None or mine(delivery.destination)):
                first[delivery.lane] = min(delivery.next_attempt, first.get(delivery.lane, delivery.next_attempt))
        return sorted(first, key=lambda lane: first[lane])[:limit]

    def next_due(self) -> float | None:
        """When the next delivery is due."""
        return min((delivery.next_attempt for delivery in self._queued()), default=None)

    def claim(
        self,
        lane: Lane,
        now: float,
        limit: int,
        rearm: Callable[[Delivery], float],
        busy: Callable[[Delivery], float | None] = never_busy,
    ) -> Deferred[list[Claim]]:
        """Take what is due in a lane.  ``rearm`` is given the delivery with the attempt counted in."""
        return execute(self._claim, lane, now, limit, rearm, busy)

    def _claim(
        self,
        lane: Lane,
        now: float,
        limit: int,
        rearm: Callable[[Delivery], float],
        busy: Callable[[Delivery], float | None],
    ) -> list[Claim]:
        self._check_running()
        due = [delivery for delivery in self._queued() if delivery.lane == lane and delivery.next_attempt <= now]
        claims = []
        for delivery in sorted(due, key=lambda delivery: (delivery.next_attempt, delivery.id))[:limit]:
            later = busy(delivery)
            if later is not None:
                self._deliveries[delivery.id, delivery.destination] = replace(delivery, next_attempt=later)
                continue
            begun = replace(delivery, attempts=delivery.attempts + 1, last_attempt=now, owner=0)
            begun = replace(begun, next_attempt=rearm(begun))
            self._deliveries[begun.id, begun.destination] = replace(begun, owner=OWNER)
            message = self._messages[begun.id]
            claims.append(Claim(message, begun, self._content[begun.id] if message.size <= CHUNK else None))
        return claims

    def settle(self, settlements: Sequence[Settlement]) -> Deferred[None]:
        """Write how attempts ended."""
        return execute(self._settle, settlements)

    def _settle(self, settlements: Sequence[Settlement]) -> None:
        self._check_running()
        for settlement in settlements:
            self.tell(settlement.story)
            claimed = settlement.delivery
            there = self._deliveries.pop((claimed.id, claimed.destination), None)
            if there is None:
                continue
            for new, content in settlement.reports:
                self._store(new, content)
            for delivery in remaining(there, settlement, self._clock.seconds()):
                key = (delivery.id, delivery.destination)
                present = self._deliveries.get(key)
                self._deliveries[key] = delivery if present is None else joined(present, delivery)
            self._leave(claimed.id)

    def give_up(self, settlements: Sequence[Settlement]) -> Deferred[list[bool]]:
        """Settle what waits."""
        return execute(self._give_up, settlements)

    def _give_up(self, settlements: Sequence[Settlement]) -> list[bool]:
        made: list[bool] = []
        for settlement in settlements:
            known = settlement.delivery
            made.append(waits(self._deliveries.get((known.id, known.destination)), known))
            if made[-1]:
                self._settle([settlement])
        return made

    def reclaim(self, busy: Callable[[Delivery], float | None] = never_busy) -> Deferred[int]:
        """Make due what was forgotten; whoever dies takes the queue along."""
        now = self._clock.seconds()
        for key, delivery in self._deliveries.items():
            if delivery.owner and delivery.state == "queued" and delivery.next_attempt <= now:
                later = busy(delivery)
                changed = replace(delivery, owner=0) if later is None else replace(delivery, next_attempt=later)
                self._deliveries[key] = changed
        return succeed(0)

    def read(self, id: str, chunk: int) -> Deferred[bytes]:  # noqa: A002
        """One chunk of content."""
        if id not in self._messages or not 0 <= chunk < self._messages[id].chunks:
            return fail(KeyError(id))
        return succeed(self._content[id][chunk * CHUNK : (chunk + 1) * CHUNK])

    # Looking

    def message(self, id: str) -> Message | None:  # noqa: A002
        """A message."""
        return self._messages.get(id)

    def _sorted(self) -> list[Delivery]:
        return sorted(self._deliveries.values(), key=_place)

    def deliveries(self, id: str) -> list[Delivery]:  # noqa: A002
        """What is queued of a message."""
        return [delivery for delivery in self._sorted() if delivery.id == id]

    def page(
        self, match: QueueFilter, after: str = "", limit: int = 100, seconds: float | None = None
    ) -> Deferred[Page]:
        """One page of deliveries."""
        return succeed(self._page(match, after, limit))

    def _page(self, match: QueueFilter, after: str, limit: int) -> Page:
        now = self._clock.seconds()
        mid, destination = split_after(after)
        if after and safe_id_key(mid) is None:
            return Page()
        place = (mid.lower(), destination_key(destination) if len(after) > ID_CHARS else b"\xff" * 17)
        found = [
            (self._messages[delivery.id], delivery)
            for delivery in self._sorted()
            if (not after or _place(delivery) > place) and matches(match, self._messages[delivery.id], delivery, now)
        ]
        if len(found) <= limit:
            return Page(found)
        message, last = found[limit - 1]
        return Page(found[:limit], f"{message.id}/{last.destination}")

    def tend(self) -> Deferred[bool]:
        """Nothing is kept to make it quick."""
        return succeed(False)

    def problem(self) -> str:
        """None: nothing can fail here."""
        return ""

    def lost(self) -> bool:
        """Never."""
        return False

    def stats(self) -> QueueStats:
        """The size of the queue."""
        return QueueStats(
            messages=len(self._messages),
            deliveries=len(self._deliveries),
            recipients=sum(len(delivery.recipients) for delivery in self._deliveries.values()),
            bytes=sum(message.size for message in self._messages.values()),
            held=sum(delivery.state == "held" for delivery in self._deliveries.values()),
            destinations=len({it.destination for it in self._deliveries.values() if not it.owner}),
            oldest=self._messages[min(self._messages)].arrived if self._messages else None,
            map_size=0,
            map_used=0,
            disk_free=0,
        )

    # On record

    def recall(self, message_id: str, before: str, limit: int) -> tuple[list[str], str]:
        """The ids of messages that came with this Message-ID."""
        known = [mid for mid in sorted(self._history, reverse=True) if not before or mid < before]
        looked = known[:limit]
        found = [mid for mid in looked if came_with(self._history[mid], message_id)]
        return found, looked[-1] if len(known) > limit else ""

    def history(self, id: str) -> list[HistoryEvent]:  # noqa: A002
        """What became of a message."""
        return list(self._history.get(id, ()))

    def tell(self, events: Iterable[HistoryEvent]) -> None:
        """Add to the history."""
        for event in events:
            self._history.setdefault(event.id, []).append(event)

    def expire_history(self, before: float, limit: int) -> Deferred[int]:
        """Forget old histories."""
        old = [mid for mid in sorted(self._history) if id_time(mid) < before and mid not in self._messages][:limit]
        for mid in old:
            del self._history[mid]
        return succeed(len(old))

    # Operators

    def act(self, action: str, deliveries: Sequence[tuple[str, str]], who: str, now: float) -> Deferred[int]:
        """An operator's action."""
        if action not in ACTIONS:
            return fail(ValueError(f"no such action: {action!r}"))
        return execute(self._act, action, deliveries, who, now)

    def _act(self, action: str, deliveries: Sequence[tuple[str, str]], who: str, now: float) -> int:
        self._check_running()
        self._changes += action != "run"
        count = 0
        for key in deliveries:
            delivery = self._deliveries.get(key)
            if delivery is None:
                continue
            count += 1
            after = acted(delivery, action, now)
            if after is delivery:
                continue
            event = operator_event(delivery, action, who, now)
            self.tell((event,))
            self._events(event)
            if after is None:
                del self._deliveries[key]
                self._leave(delivery.id)
            else:
                self._deliveries[key] = after
        return count

    def remove(self, match: QueueFilter, who: str, now: float, seconds: float | None = None) -> Deferred[Removal]:
        """An operator's removal of all that matches: it is over at once."""
        return execute(self._remove, match, who, now)

    def _remove(self, match: QueueFilter, who: str, now: float) -> Removal:
        found = [it for _, it in self._page(match, "", len(self._deliveries)).found]
        removal = Removal(
            number=len(self._removals) + 1,
            match=match,
            who=who,
            began=now,
            deliveries=self._act("remove", [(it.id, it.destination) for it in found], who, now),
            recipients=sum(len(it.recipients) for it in found),
            ended=self._clock.seconds(),
        )
        self._removals.append(removal)
        return removal

    def removals(self) -> list[Removal]:
        """All of them."""
        return list(self._removals)

    def work_off(self, number: int | None = None) -> Deferred[bool]:
        """Nothing is left of any."""
        return succeed(False)

    def changes(self) -> int:
        """The count of operators' actions."""
        return self._changes

    def verify(self, repair: bool) -> Deferred[list[str]]:
        """Nothing is counted twice here."""
        return succeed([])


def _place(delivery: Delivery) -> tuple[str, bytes]:
    return delivery.id, destination_key(delivery.destination)
