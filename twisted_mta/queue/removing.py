"""Removing a great many deliveries at once.

A queue's rows stand in the order of ids, but for those of ``lanes`` and ``wake``, which stand in the order of lanes.
A million removed one after the other would touch a page anywhere in these for each; so they go in two passes.  The
first takes the deliveries out, in the order of ids: from then on they are gone.  What is left of them in ``lanes`` is
removed in the second, in the order of lanes.  Each pass is many commits, between which others write.

Between the passes lanes have entries of deliveries that are not there, which claims pass over, and count them.
A process that dies then leaves a note behind, by which the next repair (:mod:`.verify`) knows that it is wanted.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby
from operator import itemgetter

from ..mail.envelope import Delivery, Message
from ..mail.ids import id_key
from .batch import Batch
from .operations import Operation, operator_event
from .records import (
    LANE_BYTES,
    META_REMOVING,
    decode_delivery,
    decode_lane,
    delivery_key,
    due_key,
    encode,
)

DELIVERIES = 2000
"""Deliveries that one commit takes out."""

ENTRIES = 5000
"""Entries of ``lanes`` that one commit removes."""

MOST = 1_000_000
"""Deliveries that are taken out, in 80 octets of memory each, before their entries are removed."""

_HELD = 1 << 31
_COUNT = 4
_LANE = itemgetter(slice(LANE_BYTES))


class TakeOut(Operation):
    """Remove deliveries, but for their entries in ``lanes``.

    The result: those, each with what :class:`Forget` is to know of it; an empty one for what was in no lane.
    ``owner`` is the incarnation of the process.
    """

    __slots__ = ("_deliveries", "_now", "_owner", "_who")
    bulk = True

    def __init__(self, deliveries: Sequence[tuple[Message, Delivery]], owner: int, who: str, now: float) -> None:
        super().__init__()
        self._deliveries = deliveries
        self._owner = owner
        self._who = who
        self._now = now

    def apply(self, batch: Batch) -> Iterator[list[bytes]]:
        batch.changed = True
        batch.txn.put(removing_key(self._owner), b"", db=batch.tables.meta)
        entries: list[bytes] = []
        with batch.txn.cursor(batch.tables.delivery) as cursor:
            for message, delivery in self._deliveries:
                mid = id_key(delivery.id)
                if cursor.set_key(delivery_key(mid, delivery.destination)):
                    raw = cursor.value()
                    there = delivery if raw == encode(delivery) else decode_delivery(raw)
                    entries.append(b"" if there.owner else _entry(there, mid))
                    event = operator_event(there, "remove", self._who, self._now)
                    batch.events.append(event)
                    batch.take_out(mid, there, message, event, cursor)
                yield entries
        if not self._deliveries:
            yield entries


class Forget(Operation):
    """Remove entries of ``lanes`` whose deliveries were taken out, in order, and count their lanes anew."""

    __slots__ = ("_entries",)
    bulk = True

    def __init__(self, entries: Sequence[bytes]) -> None:
        super().__init__()
        self._entries = entries

    def apply(self, batch: Batch) -> Iterator[None]:
        for lane, entries in groupby([entry for entry in self._entries if entry], _LANE):
            recipients = held = deliveries = 0
            for entry in entries:
                count = int.from_bytes(entry[-_COUNT:], "big")
                batch.txn.delete(entry[:-_COUNT], db=batch.tables.lanes)
                deliveries += 1
                recipients += count & ~_HELD
                held += bool(count & _HELD)
                yield
            raw = batch.txn.get(lane, db=batch.tables.lanes)
            if raw is not None:
                row = decode_lane(raw)
                batch.count_away(row.destination, row.customer, row.priority, deliveries, recipients, held)
        yield


class Finish(Operation):
    """Say that a process has removed all that it took out."""

    __slots__ = ("_owner",)

    def __init__(self, owner: int) -> None:
        super().__init__()
        self._owner = owner

    def apply(self, batch: Batch) -> None:
        batch.txn.delete(removing_key(self._owner), db=batch.tables.meta)


def removing_key(owner: int) -> bytes:
    """The key, in ``meta``, of the note of a process that removes."""
    return META_REMOVING + b"%d" % owner


def _entry(delivery: Delivery, mid: bytes) -> bytes:
    """One value for each, because there are many: the key, then how many recipients, and whether it was held."""
    count = len(delivery.recipients) | (_HELD if delivery.state == "held" else 0)
    return due_key(delivery, mid) + count.to_bytes(_COUNT, "big")
