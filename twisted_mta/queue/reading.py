"""The questions that the store answers: short read transactions, none of which outlives its call."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from itertools import islice
from math import inf
from time import monotonic, sleep
from typing import Any

from ..mail.envelope import Delivery, Lane, Message
from ..mail.events import HistoryEvent
from ..mail.ids import ID_BYTES, id_key, key_id
from . import damage
from .environment import Disk, Environment, Tables, Txn
from .interfaces import Charge, Page, QueueFilter, QueueStats, QuotaExceeded, Removal, Usage
from .pending import Removals, all_removals, delivery_of, removals_in
from .pieces import joined, whole
from .quota import Counters
from .records import (
    DESTINATION_BYTES,
    DUE_BYTES,
    LANE_BYTES,
    META_CHANGES,
    META_REMOVING,
    OWNED_BYTES,
    OWNER_BYTES,
    STORY_BYTES,
    TIME_BYTES,
    RemovalRow,
    chunk_key,
    decode_counters,
    decode_delivery,
    decode_history,
    decode_lane,
    decode_message,
    delivery_key,
    key_time,
    owner_key,
    safe_id_key,
    time_key,
    usage_key,
)
from .rules import came_with
from .searching import Search, prefixed, totals_of
from .terms import reason_key

PASSED = 20_000
"""How many due lanes of other workers may be passed in one look."""

DAMAGED = 1000
"""Messages that can't be read that are passed for the oldest one that can."""

_LAST = b"\xff" * STORY_BYTES
"""After a message's key: behind all of its history."""

KNOWN_LANES = 100_000
"""Of how many lanes is remembered that they are another worker's."""


def usage_of(txn: Txn, tables: Tables, customer: str) -> Counters:
    """A customer's counters."""
    raw = txn.get(usage_key(customer), db=tables.usage)
    try:
        return decode_counters(raw) if raw is not None else Counters(customer)
    except damage.ROWS:  # as the next transaction finds it, which says so
        return Counters(customer)


def _arrived(cursor: Any) -> float | None:
    """When the first message came that can be read."""
    for _, raw in islice(cursor.iternext(), DAMAGED):
        with contextlib.suppress(*damage.ROWS):
            return decode_message(raw).arrived
    return None


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
                found = self._lane(txn, key[TIME_BYTES:])
                if found is not None:
                    lanes.append(found)
                more = cursor.next()
        return lanes

    def _lane(self, txn: Txn, key: bytes) -> Lane | None:
        """The lane of a key; where its row is damaged, as the first of its deliveries has it."""
        raw = txn.get(key, db=self._tables.lanes)
        if raw is None:
            return None
        try:
            row = decode_lane(raw)
            return Lane(row.destination, row.customer, row.priority)
        except damage.ROWS:
            for entry, _ in prefixed(txn, self._tables.lanes, key, key + b"\0"):
                there = txn.get(entry[-ID_BYTES:] + key[:DESTINATION_BYTES], db=self._tables.delivery)
                with contextlib.suppress(*damage.ROWS):
                    if there is not None:
                        return decode_delivery(there).lane
            return None

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
                    found = self._lane(txn, lane)
                    if found is not None:
                        own = mine(found.destination)
                        if own:
                            lanes.append(found)
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
            chunk = whole(txn, self._tables.content, chunk_key(key, number))
        if chunk is None:
            raise KeyError(mid)
        return chunk

    def owners(self) -> list[int]:
        """The incarnations of processes that have deliveries in memory, or died with some."""
        found: list[int] = []
        with self._environment.read() as txn, txn.cursor(self._tables.owned) as cursor:
            more = cursor.first()
            while more:
                found.append(int.from_bytes(cursor.key()[:OWNER_BYTES], "big"))
                more = cursor.set_range(owner_key(found[-1] + 1))
        return found

    def owned(self, owner: int, limit: int, until: float | None = None) -> list[bytes]:
        """The keys in ``owned`` of what a process has in memory; ``until``: of what it has armed for before that."""
        prefix = owner_key(owner)
        last = prefix + (time_key(until) if until is not None else b"\xff" * OWNED_BYTES)
        found: list[bytes] = []
        with self._environment.read() as txn, txn.cursor(self._tables.owned) as cursor:
            more = cursor.set_range(prefix)
            while more and len(found) < limit:
                key = cursor.key()
                if not key.startswith(prefix) or key[: len(last)] > last:
                    break
                found.append(key)
                more = cursor.next()
        return found

    def message(self, mid: str) -> Message | None:
        """A message."""
        key = safe_id_key(mid)
        if key is None:
            return None
        with self._environment.read() as txn, damage.named():
            raw = txn.get(key, db=self._tables.message)
            removals = removals_in(txn, self._tables) if raw is not None else None
            if removals is not None and not self._deliveries(txn, key, removals):
                return None
        with damage.named():
            return decode_message(raw) if raw is not None else None

    def deliveries(self, mid: str) -> list[Delivery]:
        """What is queued of a message."""
        key = safe_id_key(mid)
        if key is None:
            return []
        with self._environment.read() as txn, damage.named():
            return self._deliveries(txn, key, removals_in(txn, self._tables))

    def _deliveries(self, txn: Txn, key: bytes, removals: Removals | None) -> list[Delivery]:
        """What is queued of a message, and not removed."""
        found = [decode_delivery(raw) for _, raw in prefixed(txn, self._tables.delivery, key)]
        if removals is None:
            return found

        def message() -> Message | None:
            raw = txn.get(key, db=self._tables.message)
            return decode_message(raw) if raw is not None else None

        return [it for it in found if removals.of(key, it, message) is None]

    def recall(self, message_id: str, before: str, limit: int) -> tuple[list[str], str]:
        """The ids of messages that came with this Message-ID.  Only rows that have its octets are decoded."""
        words = message_id.encode()
        found: list[str] = []
        key, looked, rest = safe_id_key(before), 0, b""
        with self._environment.read() as txn, damage.named(), txn.cursor(self._tables.history) as cursor:
            more = cursor.prev() if key is not None and cursor.set_range(key) else cursor.last()
            while more:
                place, raw = cursor.item()
                mid = place[:ID_BYTES]
                if key is not None and looked >= limit and mid != key:
                    return found, key_id(key)
                key, looked, rest = mid, looked + 1, raw + rest
                if len(place) == STORY_BYTES:  # the first piece, which comes last
                    if words in rest and came_with(decode_history(rest), message_id):
                        found.append(key_id(mid))
                    rest = b""
                more = cursor.prev()
        return found, ""

    def history(self, mid: str) -> list[HistoryEvent]:
        """What became of a message."""
        key = safe_id_key(mid)
        if key is None:
            return []
        with self._environment.read() as txn, damage.named():
            rows = prefixed(txn, self._tables.history, key)
            return [event for raw in joined(rows, STORY_BYTES) for event in decode_history(raw)]

    def changes(self) -> int:
        """The count of operators' actions."""
        with self._environment.read() as txn:
            return int(txn.get(META_CHANGES, db=self._tables.meta) or b"0")

    def removals(self) -> list[Removal]:
        """The removals under way, and those that are over."""
        with self._environment.read() as txn:
            return all_removals(txn, self._tables)

    def rows(self) -> list[RemovalRow]:
        """The removals under way."""
        with self._environment.read() as txn:
            there = removals_in(txn, self._tables)
        return there.rows if there is not None else []

    def removed(self, row: RemovalRow, limit: int, seconds: float) -> Page:
        """The next deliveries that fall under a removal, on any thread; it is looked for so many seconds."""
        return self._page(row.match, row.after, limit, row.began, monotonic() + seconds, row)

    def touch(self, found: Sequence[tuple[Message, Delivery]]) -> None:
        """Have what is to be removed with these in memory, on any thread: a write transaction that waits for the disk
        makes all others wait."""
        tables = self._tables
        with self._environment.read_in_thread(buffers=True) as txn, txn.cursor(tables.history) as history:
            for message, delivery in found:
                mid = id_key(message.id)
                txn.get(chunk_key(mid, 0), db=tables.content)
                history.set_range(mid + _LAST)
                if delivery.last_reply:
                    key = delivery_key(mid, delivery.destination)
                    txn.get(reason_key(delivery.last_reply) + key, db=tables.reason)

    def touch_lanes(self, entries: Sequence[bytes]) -> None:
        """The same of entries of lanes, in order."""
        tables, last = self._tables, b""
        with self._environment.read_in_thread(buffers=True) as txn:
            for entry in entries:
                txn.get(entry[:DUE_BYTES], db=tables.lanes)
                txn.get(delivery_of(entry[:DUE_BYTES]), db=tables.delivery)
                lane = entry[:LANE_BYTES]
                if lane != last:
                    raw = txn.get(lane, db=tables.lanes)
                    with contextlib.suppress(*damage.ROWS):  # who removes the entries goes on without its row
                        txn.get((decode_lane(raw).wake if raw is not None else b"") + lane, db=tables.wake)
                    last = lane

    def note(self, key: bytes) -> bytes | None:
        """What is in ``meta`` under a key, on any thread."""
        with self._environment.read_in_thread() as txn:
            found: bytes | None = txn.get(key, db=self._tables.meta)
        return found

    def removing(self) -> list[int]:
        """The incarnations of processes of schema 3 that died while they removed a great many deliveries."""
        with self._environment.read() as txn:
            return [int(key[len(META_REMOVING) :]) for key, _ in prefixed(txn, self._tables.meta, META_REMOVING)]

    def stats(self) -> QueueStats:
        """The size of the queue."""
        with self._environment.read() as txn:
            totals = totals_of(txn, self._tables)
            with txn.cursor(self._tables.message) as cursor:
                oldest = _arrived(cursor)
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

    def page(self, match: QueueFilter, after: str, limit: int, now: float, seconds: float | None) -> Page:
        """One page of the deliveries that match, on any thread.  It ends early where the map is to be grown."""
        return self._page(match, after, limit, now, monotonic() + seconds if seconds is not None else inf)

    def _page(
        self, match: QueueFilter, after: str, limit: int, now: float, end: float, removal: RemovalRow | None = None
    ) -> Page:
        gate = self._environment.gate

        def enough() -> bool:
            sleep(0)  # whoever else needs the interpreter goes first
            return gate.wanted or monotonic() >= end

        with self._environment.search_in_thread() as (segments, txn):
            return Search(txn, segments, self._tables, match, now, enough, removal).page(after, limit)
