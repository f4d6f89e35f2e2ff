"""`mta queue verify`: recount everything, and mend what does not agree.

The count is taken from one snapshot, in a thread that may take its time, while the queue goes on.  A counter that is
wrong is therefore mended by the difference found, and a row that is missing or stray is looked at again in the
transaction that mends it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import msgspec

from ..mail.envelope import Delivery
from ..mail.ids import ID_BYTES, key_id
from .batch import Batch
from .environment import Environment
from .operations import Operation
from .records import (
    DESTINATION_BYTES,
    HELD,
    LANE_BYTES,
    META_TOTALS,
    TIME_BYTES,
    LaneRow,
    Totals,
    decode_counters,
    decode_delivery,
    decode_lane,
    decode_message,
    decode_spool,
    decode_totals,
    due_key,
    due_time,
    lane_key,
    owned_delivery,
    owned_key,
)
from .rules import chunks, unavailable
from .verify_lookups import Lookups

ATTEMPTS = 5
EVERY = 1000


class Finding(msgspec.Struct, frozen=True):
    """One discrepancy in words, and what mends it; ``after`` the others are mended."""

    line: str
    mend: Callable[[Batch], None] | None
    after: bool = False


class Mend(Operation):
    """Mend findings."""

    __slots__ = ("_findings",)

    def __init__(self, findings: Sequence[Finding]) -> None:
        super().__init__()
        self._findings = findings

    def apply(self, batch: Batch) -> Iterator[None]:
        for finding in self._findings:
            if finding.mend is not None:
                finding.mend(batch)
            yield


class _InterruptedError(Exception):
    """The map is to be grown: give up the snapshot."""


class Verifier:
    """One recount.  ``alive`` says whether the process of an incarnation lives."""

    def __init__(self, environment: Environment, alive: Callable[[int], bool]) -> None:
        self._environment = environment
        self._alive = alive

    def run(self) -> list[Finding]:
        """What does not agree.  Runs in any thread."""
        for _ in range(ATTEMPTS):
            try:
                with self._environment.read_in_thread(buffers=True) as txn:
                    return _Count(self._environment, txn, self._alive).run()
            except _InterruptedError:
                continue
        raise unavailable(text="The queue grows too fast to be counted now")


class _Count:
    def __init__(self, environment: Environment, txn: Any, alive: Callable[[int], bool]) -> None:
        self._environment = environment
        self._tables = environment.tables
        self._txn = txn
        self._alive = alive
        self._findings: list[Finding] = []
        self._totals = Totals()
        self._lanes: dict[bytes, LaneRow] = {}
        self._usage: dict[str, list[int]] = defaultdict(lambda: [0, 0])
        self._steps = 0
        self._lookups = Lookups(txn, self._tables, self._rows, self._found)

    def run(self) -> list[Finding]:
        self._count_messages()
        self._count_deliveries()
        self._count_content()
        self._check_lanes()
        self._check_owned()
        self._check_wake()
        self._check_usage()
        self._check_totals()
        self._lookups.check()
        return self._findings

    def _found(self, line: str, mend: Callable[[Batch], None] | None, after: bool = False) -> None:
        self._findings.append(Finding(line, mend, after))

    def _rows(self, table: Any) -> Iterator[tuple[bytes, Any]]:
        with self._txn.cursor(table) as cursor:
            for key, value in cursor:
                self._steps += 1
                if self._steps % EVERY == 0 and self._environment.gate.wanted:
                    raise _InterruptedError
                yield bytes(key), value

    def _has_prefix(self, table: Any, prefix: bytes) -> bool:
        with self._txn.cursor(table) as cursor:
            return cursor.set_range(prefix) and bytes(cursor.key()).startswith(prefix)

    def _count_messages(self) -> None:
        totals, usage = self._totals, self._usage
        for mid, raw in self._rows(self._tables.message):
            message = decode_message(raw)
            totals.messages += 1
            totals.bytes += message.size
            if message.customer:
                queued = usage[message.customer]
                queued[0] += 1
                queued[1] += message.size
            if not self._has_prefix(self._tables.delivery, mid):
                self._found(f"message {message.id} has no delivery", lambda batch, mid=mid: batch.leave(mid))  # type: ignore[misc]

    def _count_deliveries(self) -> None:
        totals = self._totals
        for key, raw in self._rows(self._tables.delivery):
            delivery = decode_delivery(raw)
            mid, recipients = key[:ID_BYTES], len(delivery.recipients)
            held = delivery.state == "held"
            totals.deliveries += 1
            totals.recipients += recipients
            totals.held += held
            if not delivery.owner:
                self._count_lane(delivery, recipients, held)
            self._lookups.check_delivery(key, delivery)
            if self._txn.get(mid, db=self._tables.message) is None:
                line = f"delivery of {delivery.id} to {delivery.destination} has no message"
                self._found(line, lambda batch, mid=mid, it=delivery: _remove(batch, mid, it))  # type: ignore[misc]
            elif delivery.owner:
                if self._txn.get(owned_key(delivery, mid), db=self._tables.owned) is None:
                    line = f"delivery of {delivery.id} to {delivery.destination} could not be reclaimed"
                    self._found(line, lambda batch, mid=mid, it=delivery: _make_due(batch, mid, it))  # type: ignore[misc]
            elif self._txn.get(due_key(delivery, mid), db=self._tables.lanes) is None:
                line = f"delivery of {delivery.id} to {delivery.destination} would never be due"
                self._found(line, lambda batch, mid=mid, it=delivery: _make_due(batch, mid, it))  # type: ignore[misc]
        totals.destinations = len({lane[:DESTINATION_BYTES] for lane in self._lanes})

    def _count_lane(self, delivery: Delivery, recipients: int, held: bool) -> None:
        lane = lane_key(delivery.destination, delivery.customer, delivery.priority)
        row = self._lanes.get(lane)
        if row is None:
            row = self._lanes[lane] = _empty_lane(delivery)
        row.deliveries += 1
        row.recipients += recipients
        row.held += held
        if not held:
            time = due_time(delivery)
            row.wake = min(row.wake, time) if row.wake else time

    def _count_content(self) -> None:
        spooled = {key: decode_spool(raw).owner for key, raw in self._rows(self._tables.spool)}
        for mid, owner in spooled.items():
            if owner and not self._alive(owner):
                line = f"content of {key_id(mid)} was left by a process that died"
                self._found(line, lambda batch, mid=mid: _trash(batch, mid))  # type: ignore[misc]
        mid, count, size = b"", 0, 0
        for key, raw in self._rows(self._tables.content):
            if key[:ID_BYTES] != mid:
                self._check_content(mid, count, size, spooled)
                mid, count, size = key[:ID_BYTES], 0, 0
            count += 1
            size += len(raw)
        self._check_content(mid, count, size, spooled)
        for mid, raw in self._rows(self._tables.message):
            message = decode_message(raw)
            if message.chunks and not self._has_prefix(self._tables.content, mid):
                self._found(f"message {message.id} has no content; remove it", None)

    def _check_content(self, mid: bytes, count: int, size: int, spooled: dict[bytes, int]) -> None:
        if not mid:
            return
        raw = self._txn.get(mid, db=self._tables.message)
        if raw is None:
            if mid not in spooled:
                line = f"content of {key_id(mid)} has no message"
                self._found(line, lambda batch: _trash(batch, mid))
            return
        message = decode_message(raw)
        if (count, size) != (message.chunks, message.size) or message.chunks != chunks(message.size):
            line = f"message {message.id} has {size} octets in {count} chunks"
            self._found(f"{line}, and should have {message.size} in {message.chunks}; remove it", None)

    def _check_lanes(self) -> None:
        seen = set()
        for key, raw in self._rows(self._tables.lanes):
            if len(key) == LANE_BYTES:
                seen.add(key)
                row = decode_lane(raw)
                self._check_lane(key, row, self._lanes.get(key) or _empty_lane(row))
            else:
                self._check_due(key)
        for key, counted in self._lanes.items():
            if key not in seen:
                self._check_lane(key, _empty_lane(counted), counted)

    def _check_due(self, key: bytes) -> None:
        lane, time, mid = key[:LANE_BYTES], key[LANE_BYTES:][:TIME_BYTES], key[LANE_BYTES + TIME_BYTES :]
        raw = self._txn.get(mid + lane[:DESTINATION_BYTES], db=self._tables.delivery)
        if raw is None or not _waits(decode_delivery(raw), mid, key):
            what = "held" if time == HELD else "due"
            line = f"{key_id(mid)} is listed as {what} where no such delivery is"
            self._found(line, lambda batch: _remove_due(batch, key))

    def _check_owned(self) -> None:
        for key, _ in self._rows(self._tables.owned):
            there = owned_delivery(key)
            raw = self._txn.get(there, db=self._tables.delivery)
            if raw is None or owned_key(decode_delivery(raw), there[:ID_BYTES]) != key:
                line = f"{key_id(there[:ID_BYTES])} is listed as in memory where no such delivery is"
                self._found(line, lambda batch, key=key: batch.owned(key) and None)  # type: ignore[misc]

    def _check_lane(self, key: bytes, row: LaneRow, counted: LaneRow) -> None:
        numbers = [
            f"{name} {getattr(row, name)} instead of {getattr(counted, name)}"
            for name in ("deliveries", "recipients", "held")
            if getattr(row, name) != getattr(counted, name)
        ]
        if row.wake != counted.wake:
            numbers.append("a wrong time to wake")
        if not numbers and not counted.deliveries:
            numbers.append("no delivery at all")
        if numbers:
            line = f"lane {row.destination} of {row.customer or 'nobody'} has {', '.join(numbers)}"
            self._found(line, lambda batch: _mend_lane(batch, row, counted))

    def _check_wake(self) -> None:
        seen = set()
        for key, _ in self._rows(self._tables.wake):
            time, lane = key[:TIME_BYTES], key[TIME_BYTES:]
            raw = self._txn.get(lane, db=self._tables.lanes)
            if raw is None or decode_lane(raw).wake != time:
                self._found("an entry wakes a lane at a wrong time", lambda batch, key=key: _remove_wake(batch, key))  # type: ignore[misc]
            else:
                seen.add(lane)
        for lane, raw in self._rows(self._tables.lanes):
            if len(lane) != LANE_BYTES:
                continue
            row = decode_lane(raw)
            if row.wake and lane not in seen:
                line = f"lane {row.destination} of {row.customer or 'nobody'} would never wake"
                self._found(line, lambda batch, key=row.wake + lane: _add_wake(batch, key))  # type: ignore[misc]

    def _check_usage(self) -> None:
        for _, raw in self._rows(self._tables.usage):
            counters = decode_counters(raw)
            counted = self._usage.pop(counters.customer, [0, 0])
            self._check_customer(counters.customer, [counters.queued_messages, counters.queued_bytes], counted)
        for customer, counted in self._usage.items():
            self._check_customer(customer, [0, 0], counted)

    def _check_customer(self, customer: str, stored: list[int], counted: list[int]) -> None:
        if stored != counted:
            messages, size = counted[0] - stored[0], counted[1] - stored[1]
            line = (
                f"customer {customer} is charged for {stored[0]} messages of {stored[1]} octets"
                f" and has {counted[0]} of {counted[1]}"
            )
            self._found(line, lambda batch: batch.usage(customer).queue(messages, size))

    def _check_totals(self) -> None:
        raw = self._txn.get(META_TOTALS, db=self._tables.meta)
        stored = decode_totals(raw) if raw is not None else Totals()
        for name in ("messages", "deliveries", "recipients", "bytes", "held"):
            old, new = getattr(stored, name), getattr(self._totals, name)
            if old != new:
                line = f"the queue's {name} are counted as {old}, and are {new}"
                self._found(line, lambda batch, name=name, by=new - old: _add_total(batch, name, by))  # type: ignore[misc]
        if stored.destinations != self._totals.destinations:
            line = f"the queue's destinations are counted as {stored.destinations}, and are {self._totals.destinations}"
            self._found(line, _count_destinations, after=True)


def _empty_lane(like: Delivery | LaneRow) -> LaneRow:
    return LaneRow(like.destination, like.customer, priority=like.priority)


def _remove(batch: Batch, mid: bytes, delivery: Delivery) -> None:
    there = batch.delivery(mid, delivery.destination)
    if there is not None and batch.message(mid) is None:
        batch.remove(mid, there)


def _make_due(batch: Batch, mid: bytes, delivery: Delivery) -> None:
    there = batch.delivery(mid, delivery.destination)
    if there is not None:
        batch.place(mid, there)
        batch.look(there.destination, there.customer, there.priority)


def _waits(delivery: Delivery, mid: bytes, key: bytes) -> bool:
    return not delivery.owner and due_key(delivery, mid) == key


def _remove_due(batch: Batch, key: bytes) -> None:
    mid, lane = key[LANE_BYTES + TIME_BYTES :], key[:LANE_BYTES]
    raw = batch.txn.get(mid + lane[:DESTINATION_BYTES], db=batch.tables.delivery)
    if raw is None or not _waits(decode_delivery(raw), mid, key):
        batch.txn.delete(key, db=batch.tables.lanes)
        row = batch.txn.get(lane, db=batch.tables.lanes)
        if row is not None:
            stored = decode_lane(row)
            batch.look(stored.destination, stored.customer, stored.priority)


def _mend_lane(batch: Batch, row: LaneRow, counted: LaneRow) -> None:
    batch.look(row.destination, row.customer, row.priority)
    now = batch.lane(row.destination, row.customer, row.priority).row
    now.deliveries += counted.deliveries - row.deliveries
    now.recipients += counted.recipients - row.recipients
    now.held += counted.held - row.held


def _remove_wake(batch: Batch, key: bytes) -> None:
    raw = batch.txn.get(key[TIME_BYTES:], db=batch.tables.lanes)
    if raw is None or decode_lane(raw).wake != key[:TIME_BYTES]:
        batch.txn.delete(key, db=batch.tables.wake)


def _add_wake(batch: Batch, key: bytes) -> None:
    raw = batch.txn.get(key[TIME_BYTES:], db=batch.tables.lanes)
    if raw is not None and decode_lane(raw).wake == key[:TIME_BYTES]:
        batch.txn.put(key, b"", db=batch.tables.wake)


def _trash(batch: Batch, mid: bytes) -> None:
    if batch.message(mid) is None:
        batch.trash(mid)


def _add_total(batch: Batch, name: str, by: int) -> None:
    setattr(batch.totals, name, getattr(batch.totals, name) + by)


def _count_destinations(batch: Batch) -> None:
    with batch.txn.cursor(batch.tables.lanes) as cursor:
        batch.totals.destinations = len(
            {key[:DESTINATION_BYTES] for key in cursor.iternext(keys=True, values=False) if len(key) == LANE_BYTES}
        )
