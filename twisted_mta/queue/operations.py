"""What can be done inside a write transaction.  Each operation applies in full or, raising MailError, not at all.

An operation is made on the reactor's thread, where all that can be prepared is (keys and rows encoded), and applied by
the writer with a :class:`~twisted_mta.queue.batch.Batch`.  It may be applied again in a fresh transaction, when the
map was full or a neighbour failed: it keeps no state of its own between.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterator, Sequence
from typing import Any

import msgspec
from twisted.internet.defer import Deferred

from ..mail.envelope import Delivery, Lane
from ..mail.events import HistoryEvent
from ..mail.ids import ID_BYTES, id_key, key_id
from . import damage, schema
from .batch import Batch
from .interfaces import CHUNK, Charge, Claim, NewMessage, Settlement
from .pending import operator_event
from .pieces import in_pieces, whole
from .records import (
    META_GENERATION,
    META_INCARNATION,
    META_SCHEMA,
    Spool,
    by_message,
    chunk_key,
    encode,
    lane_key,
    safe_id_key,
    spool_owner,
    time_key,
)
from .rules import acted, chunks, deliveries_of, joined, orphaned, remaining, unavailable, waits

replace = msgspec.structs.replace

PASSED = 200
"""Entries of lanes that the claims of a commit may look at in vain while removals are under way, all of them together;
each may look at one more."""

SWEEP_PIECES = 1024
"""Pieces of content that one operation removes: 4 MiB."""


class Operation:
    """One piece of work for the writer.  ``deferred`` fires with what :meth:`apply` returns once it is committed.

    ``weight``: octets to be written.  ``bulk``: it gives way to others.
    """

    __slots__ = ("deferred",)
    weight: int = 0
    bulk: bool = False

    def __init__(self) -> None:
        self.deferred: Deferred[Any] = Deferred()

    def apply(self, batch: Batch) -> Any:
        """Do it.  An iterator is run to its end in slices, all in one transaction; its last item is the result.

        Raises MailError before the first write, or not at all.
        """
        raise NotImplementedError

    def get_around(self) -> bool:
        """It came upon a page of the file that is damaged: whether it will keep away from that the next time."""
        return False


class Accept(Operation):
    """Store a new message, with the chunks of its content from number ``first`` on that are not stored yet."""

    __slots__ = (
        "_charge",
        "_chunks",
        "_deliveries",
        "_first",
        "_key",
        "_message",
        "_row",
        "_spooled",
        "_stories",
        "weight",
    )

    def __init__(
        self,
        new: NewMessage,
        size: int,
        first: int,
        content: Sequence[bytes | memoryview],
        spooled: bool = False,
        owner: int = 0,
    ) -> None:
        super().__init__()
        self._message = message = replace(new.message, size=size, chunks=chunks(size))
        self._charge = replace(new.charge, bytes=size) if new.charge is not None else None
        self._key = id_key(message.id)
        self._row = encode(message)
        self._first = first
        self._chunks = content
        self._spooled = spooled
        self._deliveries = [(delivery, encode(delivery)) for delivery in deliveries_of(new, owner)]
        self._stories = _story_rows(new.story)
        self.weight = sum(map(len, content)) + len(self._row)

    def apply(self, batch: Batch) -> None:
        charge = self._charge
        if charge is not None:
            self._pay(batch, charge)
        self.store(batch)

    def _pay(self, batch: Batch, charge: Charge) -> None:
        counters = batch.usage(charge.customer)
        exceeded = counters.check(charge, batch.now)
        if exceeded is not None:
            raise exceeded
        counters.charge(charge, batch.now)

    def store(self, batch: Batch) -> None:
        """Store it whatever the quotas say."""
        key = self._key
        for mid, row in self._stories:
            batch.add_story(mid, row)
        if not self._deliveries:
            # Nobody is to get it: it is at its end already.
            if self._spooled:
                batch.trash(key)
            batch.done(key, self._message)
            return
        if self._spooled:
            batch.txn.delete(key, db=batch.tables.spool)
        batch.add_message(key, self._message, self._row, enumerate(self._chunks, self._first))
        for delivery, row in self._deliveries:
            batch.add_delivery(key, delivery, row)


def accept_whole(new: NewMessage, content: bytes) -> Accept:
    """The operation that stores a message whose content is at hand."""
    return Accept(new, len(content), 0, in_chunks(content))


def in_chunks(content: bytes) -> Sequence[bytes | memoryview]:
    """The chunks of a content, none of them copied."""
    if len(content) <= CHUNK:
        return (content,) if content else ()
    view = memoryview(content)
    return [view[at : at + CHUNK] for at in range(0, len(content), CHUNK)]


class WriteChunk(Operation):
    """Store one chunk of a message that is coming in."""

    __slots__ = ("_chunk", "_key", "_number", "_owner", "weight")
    bulk = True

    def __init__(self, mid: str, number: int, chunk: bytes, owner: int) -> None:
        super().__init__()
        self._key = id_key(mid)
        self._number = number
        self._chunk = chunk
        self._owner = owner
        self.weight = len(chunk)

    def apply(self, batch: Batch) -> None:
        # Not only with the first chunk, whose commit may have failed: content that no row names is never removed.
        batch.txn.put(self._key, encode(Spool(self._owner)), overwrite=False, db=batch.tables.spool)
        with batch.txn.cursor(batch.tables.content) as cursor:
            cursor.putmulti(in_pieces(chunk_key(self._key, self._number), self._chunk))


class Discard(Operation):
    """Give up a message that was coming in; its content is removed in slices."""

    __slots__ = ("_key",)
    bulk = True

    def __init__(self, mid: str) -> None:
        super().__init__()
        self._key = id_key(mid)

    def apply(self, batch: Batch) -> None:
        if batch.txn.get(self._key, db=batch.tables.spool) is not None:
            batch.trash(self._key)


class Sweep(Operation):
    """Remove a slice of content that belongs to nobody.  The result: whether some is left."""

    __slots__ = ("key",)
    bulk = True
    weight = CHUNK  # nothing is written, but pages are touched

    def __init__(self, key: bytes) -> None:
        super().__init__()
        self.key = key

    def apply(self, batch: Batch) -> bool:
        raw = batch.txn.get(self.key, db=batch.tables.spool)
        if raw is None or spool_owner(raw):
            return False
        with batch.txn.cursor(batch.tables.content) as cursor:
            for _ in range(SWEEP_PIECES):
                if not cursor.set_range(self.key) or not cursor.key().startswith(self.key):
                    batch.txn.delete(self.key, db=batch.tables.spool)
                    return False
                cursor.delete()
        return True


class TakeDue(Operation):
    """Claim what is due in a lane, as ``owner``."""

    __slots__ = ("_at", "_avoid", "_busy", "_lane", "_limit", "_now", "_owner", "_rearm")

    def __init__(
        self,
        lane: Lane,
        now: float,
        limit: int,
        rearm: Callable[[Delivery], float],
        busy: Callable[[Delivery], float | None],
        owner: int,
    ) -> None:
        super().__init__()
        self._lane = lane
        self._now = now
        self._limit = limit
        self._rearm = rearm
        self._busy = busy
        self._owner = owner
        self._at = b""  # the message that is being looked at
        self._avoid: set[bytes] = set()  # those that can't be read

    def get_around(self) -> bool:
        """By what was being looked at."""
        if not self._at or self._at in self._avoid:
            return False
        self._avoid.add(self._at)
        return True

    def apply(self, batch: Batch) -> Iterator[list[Claim]]:
        lane = self._lane
        self._at = b""
        txn, tables = batch.txn, batch.tables
        claims: list[Claim] = []
        for key in self._entries(batch, claims):
            self._at = mid = key[-ID_BYTES:]
            if mid in self._avoid:
                self._lay_aside(batch, key, "a page")
                yield claims
                continue
            try:
                delivery = batch.delivery(mid, lane.destination)
                message = batch.message(mid) if delivery is not None else None
            except damage.ROWS as error:
                self._lay_aside(batch, key, str(error))
                yield claims
                continue
            if delivery is None or message is None or delivery.lane != lane or delivery.owner:
                # It was removed, or a defect left it behind.  It must not hold up the lane; `verify` tells of the rest.
                txn.delete(key, db=tables.lanes)
                batch.look(lane.destination, lane.customer, lane.priority)
                yield claims
                continue
            later = self._busy(delivery)
            if later is not None:
                batch.replace(mid, delivery, replace(delivery, next_attempt=later))
                continue
            begun = replace(delivery, attempts=delivery.attempts + 1, last_attempt=self._now, owner=0)
            begun = replace(begun, next_attempt=self._rearm(begun))
            batch.replace(mid, delivery, replace(begun, owner=self._owner))
            content: bytes | None = None
            if message.chunks <= 1:
                content = whole(txn, tables.content, chunk_key(mid, 0)) if message.chunks else b""
                self._at = b""
            claims.append(Claim(message, begun, content))
            yield claims
        if not claims:
            yield claims

    def _entries(self, batch: Batch, claims: Sequence[Claim]) -> Iterator[bytes]:
        """The entries that are due, as many as there are still to be claims; where removals are under way some more,
        for all of the first may lead to what is removed."""
        lane, until = self._lane, time_key(self._now)
        key = lane_key(lane.destination, lane.customer, lane.priority)
        removing = batch.removals is not None
        # Taking out what is removed is work for others too: there is little of it in a commit, however many claim.
        size = max(1, min(self._limit, PASSED - batch.passed)) if removing else self._limit
        while size > 0:
            had = len(claims)
            found = batch.due_keys(key, until, size)
            yield from found
            if not removing or not found:
                return
            # Those that were looked at are gone from here: claimed, put off, or taken out.
            batch.passed += len(found) - (len(claims) - had)
            size = min(self._limit - len(claims), PASSED - batch.passed)

    def _lay_aside(self, batch: Batch, key: bytes, how: str) -> None:
        """What can't be read must not hold up the others: it stays, and is in no lane any more until it is mended."""
        lane = self._lane
        what = f"{key_id(key[-ID_BYTES:])} to {lane.destination} can't be read, and is not delivered: {how}"
        batch.events.append(damage.event(self._now, what))
        batch.txn.delete(key, db=batch.tables.lanes)
        batch.look(lane.destination, lane.customer, lane.priority)


class Settle(Operation):
    """Write how attempts ended."""

    __slots__ = ("_parts", "weight")

    def __init__(self, settlements: Sequence[Settlement]) -> None:
        super().__init__()
        self._parts = [
            (settlement, id_key(settlement.delivery.id), _story_rows(settlement.story), _reports(settlement))
            for settlement in settlements
        ]
        self.weight = sum([report.weight for _, _, _, reports in self._parts for report in reports])

    def apply(self, batch: Batch) -> Any:
        parts = self._parts
        if len(parts) == 1:
            self._settle(batch, *parts[0])
            return None
        return self._steps(batch)

    def _steps(self, batch: Batch) -> Iterator[None]:
        for part in self._parts:
            self._settle(batch, *part)
            yield

    def _settle(
        self,
        batch: Batch,
        settlement: Settlement,
        mid: bytes,
        stories: Sequence[tuple[bytes, bytes]],
        reports: Sequence[Accept],
    ) -> None:
        for key, row in stories:
            batch.add_story(key, row)
        there = batch.delivery(mid, settlement.delivery.destination)
        if there is None:
            return
        for report in reports:
            report.store(batch)
        stay = remaining(there, settlement, batch.now)
        if len(stay) == 1 and stay[0].destination == there.destination:
            batch.replace(mid, there, stay[0])
            return
        batch.remove(mid, there)
        for delivery in stay:
            # The route may lead to where others of this message wait already.
            present = batch.delivery(mid, delivery.destination)
            if present is None:
                batch.put(mid, delivery)
            else:
                batch.replace(mid, present, joined(present, delivery))
        if not stay:
            batch.leave(mid)


class GiveUp(Settle):
    """Settle what no process has in memory and what still waits for all the recipients it is about; nothing else is
    touched.  ``dead`` are owners that live no more.  The result: of each settlement whether it was made."""

    __slots__ = ("_dead",)

    def __init__(self, settlements: Sequence[Settlement], dead: Container[int]) -> None:
        super().__init__(settlements)
        self._dead = dead

    def apply(self, batch: Batch) -> Iterator[list[bool]]:
        made: list[bool] = []
        for settlement, mid, stories, reports in self._parts:
            there = batch.delivery(mid, settlement.delivery.destination)
            made.append(waits(there, settlement.delivery, self._dead))
            if made[-1]:
                self._settle(batch, settlement, mid, stories, reports)
            yield made
        if not made:
            yield made


_NO_ROWS: Sequence[tuple[bytes, bytes]] = ()
_NO_REPORTS: Sequence[Accept] = ()


def _story_rows(story: Sequence[HistoryEvent]) -> Sequence[tuple[bytes, bytes]]:
    """Events as rows of the history: one for each message."""
    if not story:
        return _NO_ROWS
    mid = story[0].id
    for event in story:
        if event.id != mid:
            return [(id_key(mid), encode(events)) for mid, events in by_message(story).items()]
    return [(id_key(mid), encode(story))]


def _reports(settlement: Settlement) -> Sequence[Accept]:
    if not settlement.reports:
        return _NO_REPORTS
    return [accept_whole(new, content) for new, content in settlement.reports]


class Act(Operation):
    """An operator's action.  The result: how many deliveries were there."""

    __slots__ = ("_action", "_deliveries", "_now", "_who")

    def __init__(self, action: str, deliveries: Sequence[tuple[str, str]], who: str, now: float) -> None:
        super().__init__()
        self._action = action
        self._deliveries = tuple(deliveries)
        self._who = who
        self._now = now

    def apply(self, batch: Batch) -> Iterator[int]:
        count = 0
        batch.changed = self._action != "run"  # whoever has it in memory need not look at all of it again
        for name, destination in self._deliveries:
            mid = safe_id_key(name)
            delivery = batch.delivery(mid, destination) if mid is not None else None
            if mid is not None and delivery is not None:
                count += 1
                self._act(batch, mid, delivery)
            yield count
        if not self._deliveries:
            yield 0

    def _act(self, batch: Batch, mid: bytes, delivery: Delivery) -> None:
        after = acted(delivery, self._action, self._now)
        if after is delivery:
            return
        event = operator_event(delivery, self._action, self._who, self._now)
        batch.tell((event,))
        batch.events.append(event)
        if after is None:
            batch.remove(mid, delivery)
            batch.leave(mid)
        else:
            batch.replace(mid, delivery, after)


class Reclaim(Operation):
    """Take what stands under these keys of ``owned`` from owners that have died.  The result: how many it were."""

    __slots__ = ("_keys", "_now")
    bulk = True

    def __init__(self, keys: Sequence[bytes], now: float) -> None:
        super().__init__()
        self._keys = keys
        self._now = now

    def apply(self, batch: Batch) -> Iterator[int]:
        count = 0
        for key in self._keys:
            mid, delivery = batch.owned(key)
            if delivery is not None:
                count += 1
                batch.replace(mid, delivery, orphaned(delivery, self._now))
            yield count
        if not self._keys:
            yield 0


class Remember(Operation):
    """Put back into their lanes what this process has in memory by these keys of ``owned``, but has not: ``busy`` says
    until when it has it.  The result: how many it were."""

    __slots__ = ("_busy", "_keys")

    def __init__(self, keys: Sequence[bytes], busy: Callable[[Delivery], float | None]) -> None:
        super().__init__()
        self._keys = keys
        self._busy = busy

    def apply(self, batch: Batch) -> Iterator[int]:
        count = 0
        for key in self._keys:
            mid, delivery = batch.owned(key)
            if delivery is not None:
                later = self._busy(delivery)
                count += later is None
                changed = replace(delivery, owner=0) if later is None else replace(delivery, next_attempt=later)
                batch.replace(mid, delivery, changed)
            yield count
        if not self._keys:
            yield 0


class Tell(Operation):
    """Add to the history."""

    __slots__ = ("_rows",)

    def __init__(self, events: Sequence[HistoryEvent]) -> None:
        super().__init__()
        self._rows = _story_rows(events)

    def apply(self, batch: Batch) -> None:
        for key, row in self._rows:
            batch.add_story(key, row)


class Expire(Operation):
    """Forget histories of messages that left the queue, of the ids from ``start`` to ``end``.

    The result: how many were forgotten, and where to go on, None at the end.
    """

    __slots__ = ("_end", "_limit", "_start")
    bulk = True
    LOOKS = 256

    def __init__(self, start: bytes, end: bytes, limit: int) -> None:
        super().__init__()
        self._start = start
        self._end = end
        self._limit = limit

    def apply(self, batch: Batch) -> tuple[int, bytes | None]:
        count = 0
        position = self._start
        with batch.txn.cursor(batch.tables.history) as cursor:
            for _ in range(self.LOOKS):
                if not cursor.set_range(position):
                    return count, None
                mid = cursor.key()[:10]
                if mid >= self._end:
                    return count, None
                if count >= self._limit:
                    break
                if batch.txn.get(mid, db=batch.tables.message) is None:
                    while cursor.key().startswith(mid) and cursor.delete():
                        pass
                    count += 1
                position = mid + b"\xff" * 13
        return count, position


class Enter(Operation):
    """Enter this process.  The result: its incarnation's number, never given before, and the file's generation.

    LMDB numbers the transactions of a compacted copy from the beginning.  So it is a copy, whoever made it and put it
    in place, when this transaction's number is no greater than that of the last one that entered.
    """

    __slots__ = ()

    def apply(self, batch: Batch) -> tuple[int, int]:
        meta = batch.tables.meta
        if batch.txn.get(META_SCHEMA, db=meta) != b"%d" % schema.VERSION:
            raise unavailable(text="The queue was brought up to a later schema as it was opened; start again")
        number = (int(batch.txn.get(META_INCARNATION, db=meta) or b"0") + 1) % (1 << 28) or 1
        batch.txn.put(META_INCARNATION, b"%d" % number, db=meta)
        generation, last = map(int, (batch.txn.get(META_GENERATION, db=meta) or b"0 0").split())
        transaction = batch.txn.id()
        generation += transaction <= last
        batch.txn.put(META_GENERATION, b"%d %d" % (generation, transaction), db=meta)
        return number, generation


class Orphan(Operation):
    """Hand what a process that died was receiving to the sweep."""

    __slots__ = ("_alive",)

    def __init__(self, alive: Callable[[int], bool]) -> None:
        super().__init__()
        self._alive = alive

    def apply(self, batch: Batch) -> None:
        with batch.txn.cursor(batch.tables.spool) as cursor:
            rows = [(key, spool_owner(value)) for key, value in cursor]
        for key, owner in rows:
            if not owner or not self._alive(owner):
                batch.trash(key)
