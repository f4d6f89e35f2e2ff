"""One write transaction in the making: the rows that its operations share, read once and written once.

Operations change deliveries, messages and counters through a :class:`Batch` only.  That keeps what must agree in
agreement: a delivery's row, its place in a lane or in a process' memory, its lane's numbers and its entry in ``wake``,
the customer's usage and the totals.  Counters are read when first needed and written by :meth:`Batch.flush`, so that
fifty messages of one customer cost one write of his record.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterable
from operator import itemgetter
from typing import Any, TypeVar

from msgspec.structs import replace

from ..mail.envelope import Delivery, Message
from ..mail.events import AnyEvent, Done, HistoryEvent
from ..mail.ids import ID_BYTES, id_key, key_id
from . import damage
from .environment import Db, Tables, Txn
from .pending import Removals, operator_event, removals_in, write
from .pieces import PIECE, Row, in_pieces
from .quota import Counters
from .records import (
    DUE_BYTES,
    HELD,
    LANE_BYTES,
    META_CHANGES,
    META_TOTALS,
    TIME_BYTES,
    LaneRow,
    RemovalRow,
    Spool,
    Totals,
    by_message,
    chunk_key,
    decode_counters,
    decode_delivery,
    decode_lane,
    decode_message,
    decode_totals,
    delivery_key,
    destination_key,
    due_key,
    due_time,
    encode,
    lane_key,
    owned_delivery,
    owned_key,
    story_key,
    usage_key,
)
from .summary import strike
from .terms import normal, reason_key

FEW_CHUNKS = 16
"""Content of so many chunks is removed with its message; that of larger ones in slices afterwards."""

_T = TypeVar("_T")

_KEY = itemgetter(0)
_BEHIND = HELD + b"\xff" * ID_BYTES
"""After a lane's key: behind all of its deliveries."""


class _Lane:
    """A lane's row in this transaction.  ``earliest`` is the earliest due time added; ``look``: one was taken away."""

    __slots__ = ("earliest", "look", "row", "stored")

    def __init__(self, row: LaneRow, stored: bool) -> None:
        self.row = row
        self.stored = stored
        self.earliest = b""
        self.look = False


class Batch:
    """What the operations of one write transaction do it with.

    ``events`` are to be emitted once it is committed; ``sweep`` are ids whose content is to be removed in slices;
    ``passed`` is how many entries of lanes claims have looked at in vain while removals are under way.
    """

    __slots__ = (
        "_content",
        "_deliveries",
        "_due",
        "_entered",
        "_generation",
        "_history",
        "_lanes",
        "_left",
        "_messages",
        "_owned",
        "_removals",
        "_removals_known",
        "_spoilt",
        "_stories",
        "_tables",
        "_totals",
        "_transaction",
        "_usage",
        "changed",
        "events",
        "now",
        "passed",
        "sweep",
        "txn",
    )

    def __init__(self, tables: Tables, txn: Txn, now: float, generation: int = 0) -> None:
        self.txn = txn
        self.now = now
        self.events: list[AnyEvent] = []
        self.sweep: list[bytes] = []
        self.changed = False
        self.passed = 0
        self._tables = tables
        self._generation = generation
        self._transaction = txn.id()
        self._stories = 0
        self._lanes: dict[bytes, _Lane] = {}
        self._usage: dict[str, Counters] = {}
        self._totals: Totals | None = None
        self._removals: Removals | None = None
        self._removals_known = False
        # Rows that no other operation of this transaction can ask for, because nobody knows their message's id yet.
        self._messages: list[Row] = []
        self._content: list[Row] = []
        self._deliveries: list[Row] = []
        self._due: list[Row] = []
        self._owned: list[Row] = []
        self._history: list[Row] = []
        self._entered: set[bytes] = set()  # reasons whose text is stored
        self._left: set[bytes] = set()  # reasons that a delivery less has
        self._spoilt: set[bytes] = set()  # intervals whose segments do not know all of their messages' terms any more

    # What is counted

    @property
    def tables(self) -> Tables:
        """The handles of the tables, for what an operation reads by itself."""
        return self._tables

    @property
    def totals(self) -> Totals:
        """The size of the queue; changing it is counting."""
        totals = self._totals
        if totals is None:
            raw = self.txn.get(META_TOTALS, db=self._tables.meta)
            totals = self._decoded(decode_totals, raw, "the queue's counters") or Totals()
            self._totals = totals
        return totals

    @property
    def removals(self) -> Removals | None:
        """The removals under way."""
        if not self._removals_known:
            self._removals = removals_in(self.txn, self._tables)
            self._removals_known = True
        return self._removals

    def begin_removal(self, row: RemovalRow) -> None:
        """Add a removal to those under way."""
        there = self.removals
        self._removals = Removals([*there.rows, row] if there is not None else [row])
        self._removals.changed = True

    def usage(self, customer: str) -> Counters:
        """A customer's counters; changing them is counting."""
        counters = self._usage.get(customer)
        if counters is None:
            raw = self.txn.get(usage_key(customer), db=self._tables.usage)
            counters = self._decoded(decode_counters, raw, f"the counters of {customer}") or Counters(customer)
            self._usage[customer] = counters
        return counters

    def lane(self, destination: str, customer: str, priority: int) -> _Lane:
        """A lane's row; changing it is counting."""
        key = lane_key(destination, customer, priority)
        lane = self._lanes.get(key)
        if lane is None:
            raw = self.txn.get(key, db=self._tables.lanes)
            found = self._decoded(decode_lane, raw, f"the counters of {destination} for {customer or 'nobody'}")
            row = found or LaneRow(destination, customer, priority=priority)
            lane = self._lanes[key] = _Lane(row, raw is not None)
            lane.look = raw is not None and found is None
        return lane

    def _decoded(self, decode: Callable[[bytes], _T], raw: bytes | None, what: str) -> _T | None:
        """A row that counts, None where it is damaged: then it is counted anew from nothing, and to be mended."""
        if raw is None:
            return None
        try:
            return decode(raw)
        except damage.ROWS as error:
            self.events.append(damage.event(self.now, f"{what} begin anew: {error}"))
            return None

    def look(self, destination: str, customer: str, priority: int) -> None:
        """Have the lane's entry in ``wake`` made anew from its deliveries."""
        self.lane(destination, customer, priority).look = True

    # Messages

    def add_message(
        self, mid: bytes, message: Message, row: bytes, chunks: Iterable[tuple[int, bytes | memoryview]]
    ) -> None:
        """A new message, with the chunks of its content that are not stored yet.  Its deliveries follow."""
        self._messages.append((mid, row))
        for number, chunk in chunks:
            self._content += in_pieces(chunk_key(mid, number), chunk)
        totals = self.totals
        totals.messages += 1
        totals.bytes += message.size
        if message.customer:
            self.usage(message.customer).queue(1, message.size)

    def message(self, mid: bytes) -> Message | None:
        """A message that was there before this transaction."""
        raw = self.txn.get(mid, db=self._tables.message)
        return decode_message(raw) if raw is not None else None

    def leave(self, mid: bytes) -> None:
        """Remove a message if none of its deliveries is left."""
        txn, tables = self.txn, self._tables
        with txn.cursor(tables.delivery) as cursor:
            if cursor.set_range(mid) and cursor.key().startswith(mid):
                return
        raw = txn.pop(mid, db=tables.message)
        if raw is None:
            return
        try:
            message = decode_message(raw)
        except damage.ROWS as error:
            self.events.append(damage.event(self.now, f"{key_id(mid)} has left, and can't be read: {error}"))
            self.trash(mid)
            return
        self._drop(mid, message)
        self.done(mid, message)

    def _drop(self, mid: bytes, message: Message) -> None:
        """Remove the content of a message whose row is removed, and count it out."""
        txn, tables = self.txn, self._tables
        if message.size <= PIECE:
            txn.delete(chunk_key(mid, 0), db=tables.content)
        elif message.chunks <= FEW_CHUNKS:
            with txn.cursor(tables.content) as cursor:
                more = cursor.set_range(mid)
                while more and cursor.key().startswith(mid):
                    more = cursor.delete()
        else:
            self.trash(mid)
        totals = self.totals
        totals.messages -= 1
        totals.bytes -= message.size
        if message.customer:
            self.usage(message.customer).queue(-1, -message.size)

    def done(self, mid: bytes, message: Message) -> None:
        """Put on record that no recipient of the message is left."""
        done = Done(time=self.now, id=message.id, seconds=max(0.0, self.now - message.arrived))
        self.add_story(mid, encode((done,)))
        self.events.append(done)

    def trash(self, mid: bytes) -> None:
        """Leave content to be removed in slices: now, or after a crash at the next start."""
        self.txn.put(mid, encode(Spool(0)), db=self._tables.spool)
        self.sweep.append(mid)

    # Deliveries

    def add_delivery(self, mid: bytes, delivery: Delivery, row: bytes) -> None:
        """A delivery of a message that is added in this transaction."""
        if self._comes_late(mid, delivery):
            delivery = self._spared(delivery)
            row = encode(delivery)
        self._count_in(delivery)
        key = delivery_key(mid, delivery.destination)
        self._deliveries.append((key, row))
        if delivery.last_reply or delivery.state == "held":
            self.enlist(key, delivery)
        if delivery.owner:
            self._owned.append((owned_key(delivery, mid), b""))
        else:
            self._due.append((due_key(delivery, mid), b""))

    def delivery(self, mid: bytes, destination: str) -> Delivery | None:
        """A delivery as it is now.  One that a removal under way is about is taken out, and there is none."""
        raw = self.txn.get(delivery_key(mid, destination), db=self._tables.delivery)
        delivery = decode_delivery(raw) if raw is not None else None
        return None if delivery is None or self._is_removed(mid, delivery) else delivery

    def owned(self, key: bytes) -> tuple[bytes, Delivery | None]:
        """The delivery that stands under a key of ``owned``, with its message's key.  What leads to none is removed."""
        there, mid = owned_delivery(key), owned_delivery(key)[:ID_BYTES]
        raw = self.txn.get(there, db=self._tables.delivery)
        try:
            delivery = decode_delivery(raw) if raw is not None else None
        except damage.ROWS as error:
            delivery = None
            how = f"{key_id(mid)} can't be read, and is not delivered: {error}"
            self.events.append(damage.event(self.now, how))
        if delivery is not None and delivery.owner and owned_key(delivery, mid) == key:
            return mid, None if self._is_removed(mid, delivery) else delivery
        self.txn.delete(key, db=self._tables.owned)
        return mid, None

    def _is_removed(self, mid: bytes, delivery: Delivery) -> bool:
        """Take out what a removal under way is about."""
        removals = self.removals
        row = removals.of(mid, delivery, lambda: self.message(mid)) if removals is not None else None
        if removals is None or row is None:
            return False
        event = operator_event(delivery, "remove", row.who, row.began)
        self.events.append(event)
        self.add_story(mid, encode((event,)))
        self.remove(mid, delivery)
        self.leave(mid)
        row.deliveries += 1
        row.recipients += len(delivery.recipients)
        removals.changed = True
        return True

    def _comes_late(self, mid: bytes, delivery: Delivery) -> bool:
        """Whether a delivery that is about to be written could be taken for one that a removal under way is about."""
        removals = self.removals
        return removals is not None and removals.spares(mid, delivery)

    def _spared(self, delivery: Delivery) -> Delivery:
        removals = self.removals
        return replace(delivery, spared=removals.newest) if removals is not None else delivery

    def put(self, mid: bytes, delivery: Delivery) -> None:
        """Store a delivery that is not there."""
        if self._comes_late(mid, delivery):
            delivery = self._spared(delivery)
        self._spoil(mid)
        self._count_in(delivery)
        key = delivery_key(mid, delivery.destination)
        self.enlist(key, delivery)
        self.txn.put(key, encode(delivery), db=self._tables.delivery)
        self.place(mid, delivery)

    def remove(self, mid: bytes, delivery: Delivery) -> None:
        """Remove a delivery that is there."""
        self._count_out(delivery)
        key = delivery_key(mid, delivery.destination)
        self._unlist(key, delivery)
        self.txn.delete(key, db=self._tables.delivery)
        self._displace(mid, delivery)

    def place(self, mid: bytes, delivery: Delivery) -> None:
        """Enter a delivery in its lane, or among those of its owner."""
        if delivery.owner:
            self.txn.put(owned_key(delivery, mid), b"", db=self._tables.owned)
        else:
            self.txn.put(due_key(delivery, mid), b"", db=self._tables.lanes)

    def _displace(self, mid: bytes, delivery: Delivery) -> None:
        if delivery.owner:
            self.txn.delete(owned_key(delivery, mid), db=self._tables.owned)
        else:
            self.txn.delete(due_key(delivery, mid), db=self._tables.lanes)

    def take_out(self, mid: bytes, delivery: Delivery, message: Message, event: HistoryEvent, cursor: Any) -> None:
        """Remove the delivery at which ``cursor`` stands, with its message if it is the last, but not from its lane, if
        it is in one: :meth:`count_away` is to follow then.  ``event`` goes on record."""
        totals = self.totals
        totals.deliveries -= 1
        totals.recipients -= len(delivery.recipients)
        totals.held -= delivery.state == "held"
        self._unlist(cursor.key(), delivery)
        if delivery.owner:
            self._displace(mid, delivery)
        cursor.delete()
        others = cursor.key().startswith(mid) or (cursor.prev() and cursor.key().startswith(mid))
        if others or not self.txn.delete(mid, db=self._tables.message):
            self.add_story(mid, encode((event,)))
            return
        self._drop(mid, message)
        done = Done(time=self.now, id=message.id, seconds=max(0.0, self.now - message.arrived))
        self.add_story(mid, encode((event, done)))
        self.events.append(done)

    def count_away(
        self, destination: str, customer: str, priority: int, deliveries: int, recipients: int, held: int
    ) -> None:
        """Count deliveries out of their lane that were taken out before, and their entries there removed."""
        lane = self.lane(destination, customer, priority)
        lane.row.deliveries -= deliveries
        lane.row.recipients -= recipients
        lane.row.held -= held
        lane.look = True

    def replace(self, mid: bytes, old: Delivery, new: Delivery) -> None:
        """Store a delivery in place of another state of it."""
        if self._comes_late(mid, new):
            new = self._spared(new)
        if (old.destination, old.customer, old.priority) != (new.destination, new.customer, new.priority):
            self.remove(mid, old)
            self.put(mid, new)
            return
        if old.recipients != new.recipients and not set(new.recipients) <= set(old.recipients):
            self._spoil(mid)
        self._count_out(old)
        self._count_in(new)
        key = delivery_key(mid, new.destination)
        self._list_anew(key, old, new)
        self.txn.put(key, encode(new), db=self._tables.delivery)
        if old.owner != new.owner or due_time(old) != due_time(new):
            self._displace(mid, old)
            self.place(mid, new)

    def _count_in(self, delivery: Delivery) -> None:
        totals, recipients, held = self.totals, len(delivery.recipients), delivery.state == "held"
        totals.deliveries += 1
        totals.recipients += recipients
        totals.held += held
        if delivery.owner:
            return
        lane = self.lane(delivery.destination, delivery.customer, delivery.priority)
        row = lane.row
        row.deliveries += 1
        row.recipients += recipients
        if held:
            row.held += 1
            return
        time = due_time(delivery)
        if not lane.earliest or time < lane.earliest:
            lane.earliest = time

    def _count_out(self, delivery: Delivery) -> None:
        totals, recipients, held = self.totals, len(delivery.recipients), delivery.state == "held"
        totals.deliveries -= 1
        totals.recipients -= recipients
        totals.held -= held
        if delivery.owner:
            return
        lane = self.lane(delivery.destination, delivery.customer, delivery.priority)
        row = lane.row
        row.deliveries -= 1
        row.recipients -= recipients
        row.held -= held
        lane.look = True

    # What can be looked for

    def enlist(self, key: bytes, delivery: Delivery) -> None:
        """Have a delivery found by its state and its last reply."""
        if delivery.state == "held":
            self.txn.put(key, b"", db=self._tables.held)
        if delivery.last_reply:
            self._enter_reason(key, delivery.last_reply)

    def _unlist(self, key: bytes, delivery: Delivery) -> None:
        if delivery.state == "held":
            self.txn.delete(key, db=self._tables.held)
        if delivery.last_reply:
            self._leave_reason(key, delivery.last_reply)

    def _list_anew(self, key: bytes, old: Delivery, new: Delivery) -> None:
        if old.state != new.state:
            if new.state == "held":
                self.txn.put(key, b"", db=self._tables.held)
            else:
                self.txn.delete(key, db=self._tables.held)
        was, now = old.last_reply, new.last_reply
        if was != now and reason_key(was) != reason_key(now):
            if was:
                self._leave_reason(key, was)
            if now:
                self._enter_reason(key, now)

    def _enter_reason(self, key: bytes, reply: str) -> None:
        reason, table = reason_key(reply), self._tables.reason
        if reason not in self._entered:
            self._entered.add(reason)
            self.txn.put(reason, normal(reply).encode("utf-8", "surrogatepass"), overwrite=False, db=table)
        self.txn.put(reason + key, b"", db=table)

    def _leave_reason(self, key: bytes, reply: str) -> None:
        reason = reason_key(reply)
        self.txn.delete(reason + key, db=self._tables.reason)
        self._left.add(reason)

    def look_at_reason(self, reason: bytes) -> None:
        """Forget a reason if no delivery has it any more."""
        self._left.add(reason)

    def spoil_interval(self, last: bytes) -> None:
        """Have the segment of that end made anew."""
        if self.txn.get(last, db=self._tables.segment) is not None:
            self._spoilt.add(last)

    def _spoil(self, mid: bytes) -> None:
        """A message has terms that the segment which covers it, if one does, may not know."""
        with self.txn.cursor(self._tables.segment) as cursor:
            if cursor.set_range(mid):
                self._spoilt.add(cursor.key())

    # History

    def tell(self, events: Iterable[HistoryEvent]) -> None:
        """Add to the history."""
        for mid, story in by_message(events).items():
            self.add_story(id_key(mid), encode(story))

    def add_story(self, mid: bytes, row: bytes) -> None:
        """Add events, already encoded, to the history of one message."""
        self._history += in_pieces(story_key(mid, self._generation, self._transaction, self._stories), row)
        self._stories += 1

    # The end

    def flush(self) -> None:
        """Write what was gathered: the last thing before the commit."""
        tables = self._tables
        for rows, table in (
            (self._messages, tables.message),
            (self._content, tables.content),
            (self._deliveries, tables.delivery),
            (self._due, tables.lanes),
            (self._owned, tables.owned),
            (self._history, tables.history),
        ):
            if rows:
                self._write(table, rows)
        if self._messages:
            self._find_late()
        for last in self._spoilt:
            self.txn.put(last, b"", db=tables.segment)
            strike(self.txn, tables, last)
        for reason in self._left:
            self._forget_reason(reason)
        if self._lanes:
            self._flush_lanes()
        if self._removals is not None and self._removals.changed:
            write(self.txn, tables, self._removals)
        for customer, counters in self._usage.items():
            self.txn.put(usage_key(customer), encode(counters), db=tables.usage)
        if self._totals is not None:
            self.txn.put(META_TOTALS, encode(self._totals), db=tables.meta)
        if self.changed:
            changes = int(self.txn.get(META_CHANGES, db=tables.meta) or b"0") + 1
            self.txn.put(META_CHANGES, b"%d" % changes, db=tables.meta)

    def _write(self, table: Db, rows: list[Row]) -> None:
        """Write rows in the order of their keys, those behind the last one there is as such: LMDB then fills its pages,
        which it leaves half empty else, so that half as many are written and kept."""
        rows.sort()
        with self.txn.cursor(table) as cursor:
            behind = bisect_right(rows, (cursor.key(), b"\xff")) if cursor.last() else 0
            if behind:
                cursor.putmulti(rows[:behind])
                rows = rows[behind:]
            if rows:
                cursor.putmulti(rows, append=True)

    def is_spoilt(self, last: bytes) -> bool:
        """Whether something was added in this transaction to the interval of that end."""
        return last in self._spoilt

    def _find_late(self) -> None:
        """Messages that took long to arrive may have come into an interval that is covered already."""
        with self.txn.cursor(self._tables.segment) as cursor:
            if cursor.last():
                last = cursor.key()
                for mid, _ in self._messages:  # in order
                    if mid > last:
                        break
                    self._spoil(mid)

    def _forget_reason(self, reason: bytes) -> None:
        with self.txn.cursor(self._tables.reason) as cursor:
            if cursor.set_range(reason + b"\0") and cursor.key().startswith(reason):
                return
        self.txn.delete(reason, db=self._tables.reason)

    def _flush_lanes(self) -> None:
        txn, tables = self.txn, self._tables
        for key, lane in sorted(self._lanes.items(), key=_KEY):
            row = lane.row
            first = b""
            if lane.look:
                first = self._first_due(key)
                wake = b"" if first == HELD else first
            elif lane.earliest:
                wake = min(lane.earliest, row.wake) if row.wake else lane.earliest
            else:
                wake = row.wake
            if wake != row.wake:
                if row.wake:
                    txn.delete(row.wake + key, db=tables.wake)
                if wake:
                    txn.put(wake + key, b"", db=tables.wake)
                row.wake = wake
            # A lane with mail is never forgotten, whatever its counters say.
            if row.deliveries > 0 or first:
                if not lane.stored:
                    self.totals.destinations += not self._has_lanes(row.destination)
                txn.put(key, encode(row), db=tables.lanes)
            elif lane.stored:
                txn.delete(key, db=tables.lanes)
                self.totals.destinations -= not self._has_lanes(row.destination)

    def _first_due(self, lane: bytes) -> bytes:
        with self.txn.cursor(self._tables.lanes) as cursor:
            if cursor.set_range(lane + b"\0"):
                key = cursor.key()
                if key.startswith(lane):
                    return key[LANE_BYTES : LANE_BYTES + TIME_BYTES]
        return b""

    def _has_lanes(self, destination: str) -> bool:
        prefix = destination_key(destination)
        with self.txn.cursor(self._tables.lanes) as cursor:
            more = cursor.set_range(prefix)
            while more and (key := cursor.key()).startswith(prefix):
                if len(key) == LANE_BYTES:
                    return True
                more = cursor.set_range(key[:LANE_BYTES] + _BEHIND)  # a lane of this transaction that has no row yet
        return False

    def due_keys(self, lane: bytes, until: bytes, limit: int) -> list[bytes]:
        """The entries of a lane that are due by a time, the longest due first."""
        last = lane + until
        found: list[bytes] = []
        with self.txn.cursor(self._tables.lanes) as cursor:
            more = cursor.set_range(lane + b"\0")
            while more and len(found) < limit:
                key = cursor.key()
                if len(key) != DUE_BYTES or not key.startswith(lane) or key[: LANE_BYTES + TIME_BYTES] > last:
                    break
                found.append(key)
                more = cursor.next()
        return found
