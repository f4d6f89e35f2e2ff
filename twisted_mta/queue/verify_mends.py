"""The part of `mta queue verify` that mends: in a write transaction, what is still wrong then."""

from __future__ import annotations

from ..mail.envelope import Delivery
from .batch import Batch
from .records import (
    DESTINATION_BYTES,
    LANE_BYTES,
    TIME_BYTES,
    LaneRow,
    decode_delivery,
    decode_lane,
    due_key,
    removal_of,
)


def remove(batch: Batch, mid: bytes, delivery: Delivery) -> None:
    """A delivery without a message."""
    there = batch.delivery(mid, delivery.destination)
    if there is not None and batch.message(mid) is None:
        batch.remove(mid, there)


def make_due(batch: Batch, mid: bytes, delivery: Delivery) -> None:
    """A delivery that is in no lane, nor in anybody's memory."""
    there = batch.delivery(mid, delivery.destination)
    if there is not None:
        batch.place(mid, there)
        batch.look(there.destination, there.customer, there.priority)


def waits(delivery: Delivery, mid: bytes, key: bytes) -> bool:
    """Whether a delivery is in a lane under this key."""
    return not delivery.owner and due_key(delivery, mid) == key


def remove_due(batch: Batch, key: bytes) -> None:
    """An entry of a lane that leads to nothing."""
    mid, lane = key[LANE_BYTES + TIME_BYTES :], key[:LANE_BYTES]
    raw = batch.txn.get(mid + lane[:DESTINATION_BYTES], db=batch.tables.delivery)
    if raw is None or not waits(decode_delivery(raw), mid, key):
        batch.txn.delete(key, db=batch.tables.lanes)
        row = batch.txn.get(lane, db=batch.tables.lanes)
        if row is not None:
            stored = decode_lane(row)
            batch.look(stored.destination, stored.customer, stored.priority)


def mend_lane(batch: Batch, row: LaneRow, counted: LaneRow) -> None:
    """A lane's numbers, by the difference; its time to wake anew."""
    batch.look(row.destination, row.customer, row.priority)
    now = batch.lane(row.destination, row.customer, row.priority).row
    now.deliveries += counted.deliveries - row.deliveries
    now.recipients += counted.recipients - row.recipients
    now.held += counted.held - row.held


def remove_wake(batch: Batch, key: bytes) -> None:
    """An entry that wakes a lane at a wrong time."""
    raw = batch.txn.get(key[TIME_BYTES:], db=batch.tables.lanes)
    if raw is None or decode_lane(raw).wake != key[:TIME_BYTES]:
        batch.txn.delete(key, db=batch.tables.wake)


def add_wake(batch: Batch, key: bytes) -> None:
    """A lane that nothing wakes."""
    raw = batch.txn.get(key[TIME_BYTES:], db=batch.tables.lanes)
    if raw is not None and decode_lane(raw).wake == key[:TIME_BYTES]:
        batch.txn.put(key, b"", db=batch.tables.wake)


def remove_taken(batch: Batch, key: bytes) -> None:
    """What a removal that is over has left."""
    there = batch.removals
    if there is None or there.row(removal_of(key)) is None:
        batch.txn.delete(key, db=batch.tables.meta)


def trash(batch: Batch, mid: bytes) -> None:
    """Content without a message."""
    if batch.message(mid) is None:
        batch.trash(mid)


def add_total(batch: Batch, name: str, by: int) -> None:
    """One of the totals, by the difference."""
    setattr(batch.totals, name, getattr(batch.totals, name) + by)


def count_destinations(batch: Batch) -> None:
    """How many destinations have lanes: they stand together."""
    count, last = 0, b""
    with batch.txn.cursor(batch.tables.lanes) as cursor:
        for key in cursor.iternext(keys=True, values=False):
            if len(key) == LANE_BYTES and key[:DESTINATION_BYTES] != last:
                count, last = count + 1, key[:DESTINATION_BYTES]
    batch.totals.destinations = count
