"""The questions that the store answers: short read transactions, none of which outlives its call."""

from __future__ import annotations

import heapq
import re
from collections.abc import Callable, Collection, Iterator

from ..mail.envelope import PRIORITIES, Delivery, Lane, Message
from ..mail.events import HistoryEvent
from ..mail.ids import ID_BYTES, id_key, time_floor
from .environment import Db, Disk, Environment, Tables, Txn
from .interfaces import Charge, QueueFilter, QueueStats, QuotaExceeded, Usage
from .quota import Counters
from .records import (
    DESTINATION_BYTES,
    DUE_BYTES,
    HELD,
    LANE_BYTES,
    META_CHANGES,
    META_TOTALS,
    TIME_BYTES,
    LaneRow,
    Totals,
    chunk_key,
    decode_counters,
    decode_delivery,
    decode_history,
    decode_lane,
    decode_message,
    decode_totals,
    delivery_key,
    destination_key,
    encode,
    key_time,
    lane_key,
    safe_id_key,
    time_key,
    usage_key,
)
from .rules import matches, split_after

LANE_SCAN = 8
"""How many entries of ``due`` can be passed in the time that one delivery takes to be read and compared."""

MANY_LANES = 10_000
"""How many lanes may be looked through to find those that a filter asks for."""

PASSED = 20_000
"""How many due lanes of other workers may be passed in one look."""

KNOWN_LANES = 100_000
"""Of how many lanes is remembered that they are another worker's."""

OWNED = 5000
"""How many deliveries are looked through in one look for those of the dead."""

ID_DELAY = 3600.0
"""Seconds by which a message's id may be younger than its arrival."""


def usage_of(txn: Txn, tables: Tables, customer: str) -> Counters:
    """A customer's counters."""
    raw = txn.get(usage_key(customer), db=tables.usage)
    return decode_counters(raw) if raw is not None else Counters(customer)


class Reader:
    """Answers from an open environment, on the reactor's thread."""

    def __init__(self, environment: Environment, disk: Disk) -> None:
        self._environment = environment
        self._disk = disk
        self._tables = environment.tables
        self._mine: Callable[[str], bool] | None = None
        self._is_mine: dict[bytes, bool] = {}  # lanes of others, so that passing them costs no look-up
        self._resume = b""

    def usage(self, customer: str, now: float) -> Usage:
        """What a customer has used."""
        with self._environment.read() as txn:
            return usage_of(txn, self._tables, customer).usage(now)

    def check(self, charge: Charge, now: float) -> QuotaExceeded | None:
        """Whether a charge would be refused."""
        with self._environment.read() as txn:
            return usage_of(txn, self._tables, charge.customer).check(charge, now)

    def due(self, now: float, limit: int) -> list[Lane]:
        """The lanes that are due, the longest due first."""
        last = time_key(now)
        lanes: list[Lane] = []
        with self._environment.read() as txn, txn.cursor(self._tables.wake) as cursor:
            more = cursor.first()
            while more and len(lanes) < limit:
                key = cursor.key()
                if key[:TIME_BYTES] > last:
                    break
                raw = txn.get(key[TIME_BYTES:], db=self._tables.lane)
                if raw is not None:
                    row = decode_lane(raw)
                    lanes.append(Lane(row.destination, row.customer, row.priority))
                more = cursor.next()
        return lanes

    def due_of(self, now: float, limit: int, mine: Callable[[str], bool]) -> list[Lane]:
        """The same of one's own destinations, passing :data:`PASSED` lanes of others at most.

        Who has more of them before its own goes on behind them the next time, and comes back to the start in the end.
        """
        if mine is not self._mine:
            self._mine, self._is_mine, self._resume = mine, {}, b""
        last, known = time_key(now), self._is_mine
        lanes: list[Lane] = []
        passed = 0
        with self._environment.read() as txn, txn.cursor(self._tables.wake) as cursor:
            more = cursor.set_range(self._resume) if self._resume else cursor.first()
            self._resume = b""
            while more and len(lanes) < limit:
                key = cursor.key()
                if key[:TIME_BYTES] > last:
                    break
                if passed >= PASSED:
                    self._resume = key
                    break
                lane = key[TIME_BYTES:]
                own = known.get(lane)
                if own is not False:
                    raw = txn.get(lane, db=self._tables.lane)
                    if raw is not None:
                        row = decode_lane(raw)
                        own = mine(row.destination)
                        if own:
                            lanes.append(Lane(row.destination, row.customer, row.priority))
                        elif len(known) < KNOWN_LANES:
                            known[lane] = False
                passed += not own
                more = cursor.next()
        return lanes

    def next_due(self) -> float | None:
        """The first entry of ``wake``."""
        with self._environment.read() as txn, txn.cursor(self._tables.wake) as cursor:
            return key_time(cursor.key()[:TIME_BYTES]) if cursor.first() else None

    def chunk(self, mid: str, number: int) -> bytes:
        """One chunk of content, from a thread that may wait for the disk.  Raises KeyError."""
        key = safe_id_key(mid)
        if key is None or not 0 <= number < 1 << 16:
            raise KeyError(mid)
        with self._environment.read_in_thread() as txn:
            chunk: bytes | None = txn.get(chunk_key(key, number), db=self._tables.content)
        if chunk is None:
            raise KeyError(mid)
        return chunk

    def owned(self, owners: Collection[int], before: bytes) -> tuple[list[tuple[str, str]], bytes | None]:
        """Which deliveries (id, destination) these processes have in memory, from the newest to the oldest.

        Looks through :data:`OWNED` of them in a thread; the second value is where to go on, None at the end.
        """
        found: list[tuple[str, str]] = []
        needles = [encode(owner) for owner in owners]
        key = b""
        with self._environment.read_in_thread() as txn, txn.cursor(self._tables.delivery) as cursor:
            there = cursor.set_range(before) and cursor.prev() if before else cursor.last()
            if not there:
                return found, None
            for passed, (key, raw) in enumerate(cursor.iterprev()):
                if passed >= OWNED:
                    return found, key + b"\0"
                if any(needle in raw for needle in needles):  # most rows are seen to be others' without being decoded
                    delivery = decode_delivery(raw)
                    if delivery.owner in owners:
                        found.append((delivery.id, delivery.destination))
        return found, None

    def message(self, mid: str) -> Message | None:
        """A message."""
        key = safe_id_key(mid)
        if key is None:
            return None
        with self._environment.read() as txn:
            raw = txn.get(key, db=self._tables.message)
        return decode_message(raw) if raw is not None else None

    def deliveries(self, mid: str) -> list[Delivery]:
        """What is queued of a message."""
        key = safe_id_key(mid)
        if key is None:
            return []
        with self._environment.read() as txn:
            return [decode_delivery(raw) for _, raw in _prefixed(txn, self._tables.delivery, key)]

    def history(self, mid: str) -> list[HistoryEvent]:
        """What became of a message."""
        key = safe_id_key(mid)
        if key is None:
            return []
        with self._environment.read() as txn:
            return [event for _, raw in _prefixed(txn, self._tables.history, key) for event in decode_history(raw)]

    def changes(self) -> int:
        """The count of operators' actions."""
        with self._environment.read() as txn:
            return int(txn.get(META_CHANGES, db=self._tables.meta) or b"0")

    def stats(self) -> QueueStats:
        """The size of the queue."""
        with self._environment.read() as txn:
            totals = totals_of(txn, self._tables)
            with txn.cursor(self._tables.message) as cursor:
                oldest = decode_message(cursor.value()).arrived if cursor.first() else None
        return QueueStats(
            messages=totals.messages,
            deliveries=totals.deliveries,
            recipients=totals.recipients,
            bytes=totals.bytes,
            held=totals.held,
            destinations=totals.destinations,
            oldest=oldest,
            map_size=self._environment.map_size,
            map_used=self._environment.map_used,
            disk_free=self._disk.free(),
        )

    def page(self, match: QueueFilter, after: str, limit: int, now: float) -> list[tuple[Message, Delivery]]:
        """One page of the deliveries that match."""
        with self._environment.read() as txn:
            return Page(txn, self._tables, match, now).read(after, limit)


def totals_of(txn: Txn, tables: Tables) -> Totals:
    """The size of the whole queue."""
    raw = txn.get(META_TOTALS, db=tables.meta)
    return decode_totals(raw) if raw is not None else Totals()


def _prefixed(txn: Txn, table: Db, prefix: bytes) -> Iterator[tuple[bytes, bytes]]:
    with txn.cursor(table) as cursor:
        more = cursor.set_range(prefix)
        while more:
            key, value = cursor.item()
            if not key.startswith(prefix):
                return
            yield key, value
            more = cursor.next()


def needle_of(text: str) -> bytes:
    """What the record of whatever contains this text, in any case, has in it as well, in lower case."""
    return max(re.findall(r"[\x00-\x7f]+", text.lower()), key=len, default="").encode()


def needles_of(match: QueueFilter) -> list[bytes]:
    """What the record of each delivery that matches has in it."""
    texts = (match.recipient, match.reason, match.destination, match.customer or "")
    return [needle for needle in map(needle_of, texts) if needle]


class Page:
    """A page of deliveries: by their keys where few lanes hold all that can match, else by looking at each in turn."""

    def __init__(self, txn: Txn, tables: Tables, match: QueueFilter, now: float) -> None:
        self._txn = txn
        self._tables = tables
        self._match = match
        self._now = now

    def read(self, after: str, limit: int) -> list[tuple[Message, Delivery]]:
        """Up to ``limit`` deliveries behind ``after``, in the order of their keys."""
        start = b""
        if after:
            mid, destination = split_after(after)
            key = safe_id_key(mid)
            if key is None:
                return []
            start = delivery_key(key, destination) + b"\0"
        if self._match.id:
            return self._of_message(start, limit)
        lanes = self._lanes(limit)
        return self._scan(start, limit) if lanes is None else self._of_lanes(lanes, start, limit)

    def _of_message(self, start: bytes, limit: int) -> list[tuple[Message, Delivery]]:
        mid = safe_id_key(self._match.id)
        found: list[tuple[Message, Delivery]] = []
        if mid is None:
            return found
        for key, raw in _prefixed(self._txn, self._tables.delivery, mid):
            if key >= start and len(found) < limit:
                self._add(found, raw)
        return found

    def _add(self, found: list[tuple[Message, Delivery]], raw: bytes) -> None:
        match, delivery = self._match, decode_delivery(raw)
        if (
            (match.destination and delivery.destination != match.destination)
            or (match.customer is not None and delivery.customer != match.customer)
            or (match.state is not None and delivery.state != match.state)
        ):
            return
        message = self._txn.get(id_key(delivery.id), db=self._tables.message)
        if message is not None:
            envelope = decode_message(message)
            if matches(match, envelope, delivery, self._now):
                found.append((envelope, delivery))

    def _end(self) -> bytes:
        if self._match.older_than is None:
            return b"\xff" * ID_BYTES
        # An id is made when a message's content begins to arrive, which may be some time after `arrived`.
        return id_key(time_floor(self._now - self._match.older_than + ID_DELAY))

    def _scan(self, start: bytes, limit: int) -> list[tuple[Message, Delivery]]:
        if self._match.sender:
            return self._scan_messages(start, limit)
        found: list[tuple[Message, Delivery]] = []
        end, needles = self._end(), needles_of(self._match)
        with self._txn.cursor(self._tables.delivery) as cursor:
            if not cursor.set_range(start):
                return found
            for key, raw in cursor.iternext():
                if key >= end:
                    break
                if needles:
                    # Most rows are seen not to match without being decoded, which costs ten times as much.
                    lower = raw.lower()
                    if not all(needle in lower for needle in needles):
                        continue
                self._add(found, raw)
                if len(found) >= limit:
                    break
        return found

    def _scan_messages(self, start: bytes, limit: int) -> list[tuple[Message, Delivery]]:
        found: list[tuple[Message, Delivery]] = []
        end, needle = self._end(), needle_of(self._match.sender or "")
        with self._txn.cursor(self._tables.message) as cursor:
            if not cursor.set_range(start[:ID_BYTES]):
                return found
            for mid, row in cursor.iternext():
                if mid >= end or len(found) >= limit:
                    break
                if needle in row.lower():
                    for key, raw in _prefixed(self._txn, self._tables.delivery, mid):
                        if key >= start and len(found) < limit:
                            self._add(found, raw)
        return found

    def _lanes(self, limit: int) -> list[tuple[bytes, LaneRow]] | None:
        """The lanes that hold all that can match; None if looking at each delivery in turn costs less."""
        match = self._match
        if match.state == "held" and not totals_of(self._txn, self._tables).held:
            return []
        table = self._tables.lane
        if match.destination and match.customer is not None:
            keys = [lane_key(match.destination, match.customer, priority) for priority in PRIORITIES]
            rows = [(key, self._txn.get(key, db=table)) for key in keys]
            lanes = [(key, decode_lane(raw)) for key, raw in rows if raw is not None]
        elif match.destination:
            lanes = self._matching_lanes(destination_key(match.destination))
        elif (match.customer is not None or match.state == "held") and self._txn.stat(table)["entries"] <= MANY_LANES:
            lanes = self._matching_lanes(b"")
        else:
            return None
        # Looking in turn finds `limit` of them after limit * total / theirs deliveries, if they lie evenly.
        theirs = sum(self._weight(row) for _, row in lanes)
        total = totals_of(self._txn, self._tables).deliveries
        return lanes if theirs * theirs <= LANE_SCAN * limit * total else None

    def _weight(self, row: LaneRow) -> int:
        return row.held if self._match.state == "held" else row.deliveries

    def _matching_lanes(self, prefix: bytes) -> list[tuple[bytes, LaneRow]]:
        match = self._match
        lanes = [(key, decode_lane(raw)) for key, raw in _prefixed(self._txn, self._tables.lane, prefix)]
        return [
            (key, row)
            for key, row in lanes
            if (match.customer is None or row.customer == match.customer) and self._weight(row)
        ]

    def _of_lanes(self, lanes: list[tuple[bytes, LaneRow]], start: bytes, limit: int) -> list[tuple[Message, Delivery]]:
        end = self._end()
        keys = [mid + lane[:DESTINATION_BYTES] for lane, _ in lanes for mid in self._ids(lane) if mid < end]
        found: list[tuple[Message, Delivery]] = []
        heapq.heapify(keys)  # nearly always less than all of them are wanted
        while keys and len(found) < limit:
            key = heapq.heappop(keys)
            if key >= start:
                raw = self._txn.get(key, db=self._tables.delivery)
                if raw is not None:
                    self._add(found, raw)
        return found

    def _ids(self, lane: bytes) -> Iterator[bytes]:
        prefix = lane + HELD if self._match.state == "held" else lane
        with self._txn.cursor(self._tables.due) as cursor:
            if not cursor.set_range(prefix):
                return
            for key in cursor.iternext(keys=True, values=False):
                if not key.startswith(prefix) or len(key) != DUE_BYTES:
                    return
                yield key[LANE_BYTES + TIME_BYTES :]
