"""The part of `mta queue verify` that looks at lanes, and at what wakes them.

Lanes stand in another order than deliveries, so to look up one for each entry of the other would touch a page anywhere
for each.  Instead both are walked in their own order, and sums of hashes over what there is, and over what there should
be, are compared: each number that counts is in one of them.  Only where they differ everything is looked up.
Whatever the number of lanes, no more than one is in memory.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..mail.envelope import Delivery
from ..mail.ids import ID_BYTES, key_id
from .batch import Batch
from .environment import Tables
from .pending import delivery_of, recipients_of, removals_in, taken_entries
from .records import (
    DESTINATION_BYTES,
    DUE_BYTES,
    HELD,
    LANE_BYTES,
    META_TAKEN,
    TIME_BYTES,
    LaneRow,
    decode_delivery,
    decode_lane,
    due_key,
    removal_of,
)
from .verify_lookups import Found, Rows
from .verify_mends import add_wake, make_due, mend_lane, remove_due, remove_taken, remove_wake, waits

_BEHIND = b"\xff" * DUE_BYTES
"""After a lane's key: behind all of its entries."""


class Lanes:
    """One check, in the snapshot of ``txn``, which gives buffers.  ``found`` is told what is wrong and what mends it;
    ``rows`` walks a table.  ``destinations`` is how many there are, once it is done."""

    def __init__(self, txn: Any, tables: Tables, rows: Rows, found: Found) -> None:
        self._txn = txn
        self._tables = tables
        self._rows = rows
        self._found = found
        self.destinations = 0
        # Of all deliveries: what should be there, less what is.
        self._entries = 0
        self._recipients = 0
        self._missing: dict[bytes, LaneRow] = {}  # what is in deliveries and not in lanes
        self._taken = _Taken(txn, tables)
        self._wakes = 0

    def count(self, key: bytes, delivery: Delivery) -> None:
        """A delivery that waits: to be called for each of them, before :meth:`check`.  ``key`` is that of its entry."""
        self._entries += hash(key)
        self._recipients += hash(key[:LANE_BYTES]) * len(delivery.recipients)

    def check(self) -> None:
        """Whether lanes have what waits, and nothing else, and count it rightly."""
        for key, raw in self._rows(self._tables.lanes):
            if len(key) == LANE_BYTES:
                self._recipients -= hash(key) * decode_lane(raw).recipients
            else:
                self._entries -= hash(key)
        for entry in taken_entries(self._txn, self._tables):
            recipients, _ = recipients_of(entry)
            self._recipients += hash(entry[:LANE_BYTES]) * recipients
            key = entry[:DUE_BYTES]
            if self._txn.get(key, db=self._tables.lanes) is not None and not self._is_live(key):
                self._entries += hash(key)
        agree = not self._entries and not self._recipients
        if not agree:
            self._find_missing()
        self._walk(agree)
        self._check_wake()
        self._check_taken()

    def _is_live(self, key: bytes) -> bool:
        """Whether an entry leads to a delivery."""
        raw = self._txn.get(delivery_of(key), db=self._tables.delivery)
        return raw is not None and waits(decode_delivery(raw), key[-ID_BYTES:], key)

    def _find_missing(self) -> None:
        get, lanes, messages = self._txn.get, self._tables.lanes, self._tables.message
        for there, raw in self._rows(self._tables.delivery):
            delivery, mid = decode_delivery(raw), there[:ID_BYTES]
            if delivery.owner:
                continue
            key = due_key(delivery, mid)
            if get(key, db=lanes) is None:
                _add(self._missing.setdefault(key[:LANE_BYTES], _empty(delivery)), delivery, key)
                if get(mid, db=messages) is not None:
                    line = f"delivery of {delivery.id} to {delivery.destination} would never be due"
                    self._found(line, lambda batch, mid=mid, it=delivery: make_due(batch, mid, it))  # type: ignore[misc]

    def _walk(self, agree: bool) -> None:
        """Count each lane in turn, by its entries alone where these are known to ``agree`` with deliveries."""
        lane, row, counts = b"", None, LaneRow("", "")
        destination = b""
        for key, raw in self._rows(self._tables.lanes):
            if key[:LANE_BYTES] != lane:
                self._taken.add_absent(lane, lane + _BEHIND, counts)
                destination = self._end(lane, row, counts, destination, agree)
                lane, row, counts = key[:LANE_BYTES], None, LaneRow("", "")
                missing = self._missing.pop(lane, None)
                if missing is not None:
                    counts = missing
            if len(key) == LANE_BYTES:
                row = decode_lane(raw)
                continue
            self._taken.add_absent(lane, key, counts)
            taken = self._taken.recipients_at(key)
            if taken is not None and not self._is_live(key):
                counts.recipients += taken
                _add_entry(counts, key)
                continue
            if taken is not None:
                self._taken.count_again(key, taken, counts)
            if agree:
                _add_entry(counts, key)
            else:
                delivery = self._delivery(key)
                if delivery is not None:
                    counts.destination, counts.customer = delivery.destination, delivery.customer
                    counts.priority = delivery.priority
                    _add(counts, delivery, key)
        self._taken.add_absent(lane, lane + _BEHIND, counts)
        self._end(lane, row, counts, destination, agree)
        last = b""
        for key in sorted(self._missing):
            if self._has_lanes(key[:DESTINATION_BYTES]):
                last = key[:DESTINATION_BYTES]  # its destination is counted already
            last = self._end(key, None, self._missing[key], last, agree)

    def _has_lanes(self, destination: bytes) -> bool:
        with self._txn.cursor(self._tables.lanes) as cursor:
            return cursor.set_range(destination) and bytes(cursor.key()).startswith(destination)

    def _delivery(self, key: bytes) -> Delivery | None:
        """What an entry leads to."""
        lane, time, mid = key[:LANE_BYTES], key[LANE_BYTES:][:TIME_BYTES], key[LANE_BYTES + TIME_BYTES :]
        raw = self._txn.get(mid + lane[:DESTINATION_BYTES], db=self._tables.delivery)
        delivery = decode_delivery(raw) if raw is not None else None
        if delivery is not None and waits(delivery, mid, key):
            return delivery
        what = "held" if time == HELD else "due"
        line = f"{key_id(mid)} is listed as {what} where no such delivery is"
        self._found(line, lambda batch: remove_due(batch, key))
        return None

    def _end(self, lane: bytes, row: LaneRow | None, counted: LaneRow, last: bytes, agree: bool) -> bytes:
        """A lane is counted.  Gives its destination; ``last`` is the one before it."""
        if not lane:
            return last
        if counted.deliveries and lane[:DESTINATION_BYTES] != last:
            self.destinations += 1
            last = lane[:DESTINATION_BYTES]
        if row is None:
            if not counted.deliveries:
                return last  # nothing but strays, which are told
            row = _empty(counted)
        elif agree:
            counted.recipients = row.recipients
        self._compare(row, counted)
        return last

    def _compare(self, row: LaneRow, counted: LaneRow) -> None:
        self._wakes += bool(row.wake)
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
            self._found(line, _mended(row, counted))

    def _check_wake(self) -> None:
        for key, _ in self._rows(self._tables.wake):
            raw = self._txn.get(key[TIME_BYTES:], db=self._tables.lanes)
            if raw is None or decode_lane(raw).wake != key[:TIME_BYTES]:
                self._found("an entry wakes a lane at a wrong time", lambda batch, key=key: remove_wake(batch, key))  # type: ignore[misc]
            else:
                self._wakes -= 1
        if not self._wakes:
            return
        for lane, raw in self._rows(self._tables.lanes):
            if len(lane) == LANE_BYTES:
                row = decode_lane(raw)
                if row.wake and self._txn.get(row.wake + lane, db=self._tables.wake) is None:
                    line = f"lane {row.destination} of {row.customer or 'nobody'} would never wake"
                    self._found(line, lambda batch, key=row.wake + lane: add_wake(batch, key))  # type: ignore[misc]

    def _check_taken(self) -> None:
        removals = removals_in(self._txn, self._tables)
        known = {row.number for row in removals.rows} if removals is not None else set()
        for key, _ in self._rows(self._tables.meta):
            if key.startswith(META_TAKEN) and removal_of(key) not in known:
                line = "a removal that is over has left something"
                self._found(line, lambda batch, key=key: remove_taken(batch, key))  # type: ignore[misc]


class _Taken:
    """What removals have taken out and left in lanes, as lanes are walked: claims may have removed entries of it."""

    def __init__(self, txn: Any, tables: Tables) -> None:
        self._entries = taken_entries(txn, tables)
        self._entry = next(self._entries, b"")

    def add_absent(self, lane: bytes, key: bytes, counts: LaneRow) -> None:
        """Count what of a lane has no entry any more and would stand before a key; what is before the lane has none
        that could count it, and the lane's row is told to be missing."""
        while lane and self._entry and self._entry[:DUE_BYTES] < key:
            if self._entry.startswith(lane):
                recipients, held = recipients_of(self._entry)
                counts.deliveries += 1
                counts.recipients += recipients
                counts.held += held
            self._entry = next(self._entries, b"")

    def recipients_at(self, key: bytes) -> int | None:
        """For how many recipients the entry stood that was taken out from under a key."""
        if self._entry[:DUE_BYTES] != key:
            return None
        recipients, _ = recipients_of(self._entry)
        self._entry = next(self._entries, b"")
        return recipients

    def count_again(self, key: bytes, recipients: int, counts: LaneRow) -> None:
        """Count what was taken out from under a key that leads to another delivery now."""
        counts.deliveries += 1
        counts.recipients += recipients
        counts.held += key[LANE_BYTES:][:TIME_BYTES] == HELD


def _mended(row: LaneRow, counted: LaneRow) -> Callable[[Batch], None]:
    return lambda batch: mend_lane(batch, row, counted)


def _empty(like: Delivery | LaneRow) -> LaneRow:
    return LaneRow(like.destination, like.customer, priority=like.priority)


def _add(row: LaneRow, delivery: Delivery, key: bytes) -> None:
    row.recipients += len(delivery.recipients)
    _add_entry(row, key)


def _add_entry(row: LaneRow, key: bytes) -> None:
    row.deliveries += 1
    time = key[LANE_BYTES:][:TIME_BYTES]
    if time == HELD:
        row.held += 1
    elif not row.wake or time < row.wake:
        row.wake = time
