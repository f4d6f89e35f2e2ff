"""Removals under way: an operator's word, in force from one commit, and worked off after it.

A removal is one row: what it is to match, and the id of the last message there was.  From its commit on whoever looks
at a delivery asks here first whether it is removed, so that nothing is sent, shown or acted on any more; the rows
themselves are taken out afterwards, in the order of ids (:mod:`.removing`), and are counted as queued until then.

A removal is about the queue as it was at its commit.  Much of what it asks for changes: the last reply, the
destination, the hold.  So whoever is about to write a delivery asks first, by what it was before: one that is removed
is taken out there and then; of any other is written down that it is ``spared`` this removal and all before it.  And so
is a message whose content began to arrive before the last one, but is only stored now.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from heapq import merge
from typing import Any

from ..mail.envelope import Delivery, Message
from ..mail.events import Operator
from ..mail.ids import ID_BYTES
from .environment import Tables, Txn
from .interfaces import Removal
from .pieces import PIECE
from .records import (
    DESTINATION_BYTES,
    DUE_BYTES,
    META_REMOVALS,
    META_REMOVED,
    RemovalRow,
    decode_removals,
    encode,
    taken_key,
)
from .rules import matches_delivery, matches_message

MOST_REMOVALS = 100
"""Removals that may be under way: each delivery that is looked at is compared with all of them."""

KEPT = 20
"""Removals that are over and still told of."""

COUNT_BYTES = 4
ENTRY_BYTES = DUE_BYTES + COUNT_BYTES
"""An entry of ``lanes`` as a removal keeps it: its key, and how many recipients it stood for."""

TOGETHER = PIECE // ENTRY_BYTES
"""Entries in one row: it has room in a page."""

_HELD = 1 << 31


def operator_event(delivery: Delivery, action: str, who: str, now: float) -> Operator:
    """What goes on record of an operator's action."""
    recipients = tuple([recipient.address for recipient in delivery.recipients])
    return Operator(time=now, id=delivery.id, action=action, who=who, recipients=recipients)


class Removals:
    """The removals under way as one transaction sees them; there is at least one.  ``newest`` is the greatest number,
    ``end`` the last key of a message that one of them is about; ``changed``: to be written."""

    __slots__ = ("changed", "end", "newest", "rows")

    def __init__(self, rows: list[RemovalRow]) -> None:
        self.rows = rows
        self.newest = max(row.number for row in rows)
        self.end = max(row.end for row in rows)
        self.changed = False

    def of(self, mid: bytes, delivery: Delivery, message: Callable[[], Message | None]) -> RemovalRow | None:
        """The removal that a delivery falls under.  ``message`` gives its message, where that is wanted."""
        for row in self.rows:
            if concerns(row, mid, delivery, message):
                return row
        return None

    def row(self, number: int) -> RemovalRow | None:
        """The removal of a number, if it is under way."""
        return next((row for row in self.rows if row.number == number), None)

    def spares(self, mid: bytes, delivery: Delivery) -> bool:
        """Whether it is to be written down of a delivery that none of these is about it."""
        return mid <= self.end and delivery.spared < self.newest


def concerns(row: RemovalRow, mid: bytes, delivery: Delivery, message: Callable[[], Message | None]) -> bool:
    """Whether a delivery falls under a removal."""
    if row.looked or delivery.spared >= row.number or mid > row.end or not matches_delivery(row.match, delivery):
        return False
    if row.match.sender is None and row.match.older_than is None:
        return True
    its = message()
    return its is not None and matches_message(row.match, its, row.began)


def removals_in(txn: Txn, tables: Tables) -> Removals | None:
    """The removals under way; None: there are none, which takes a microsecond to know."""
    raw = txn.get(META_REMOVALS, db=tables.meta)
    return Removals(decode_removals(raw)) if raw is not None else None


def write(txn: Txn, tables: Tables, removals: Removals) -> None:
    """Write them, with those that are over where they belong."""
    rows = [row for row in removals.rows if not row.ended]
    if rows:
        txn.put(META_REMOVALS, encode(rows), db=tables.meta)
    else:
        txn.delete(META_REMOVALS, db=tables.meta)
    over = [row for row in removals.rows if row.ended]
    if over:
        kept = sorted(_over(txn, tables) + over, key=lambda row: row.number)
        txn.put(META_REMOVED, encode(kept[-KEPT:]), db=tables.meta)


def _over(txn: Txn, tables: Tables) -> list[RemovalRow]:
    raw = txn.get(META_REMOVED, db=tables.meta)
    return decode_removals(raw) if raw is not None else []


def all_removals(txn: Txn, tables: Tables) -> list[Removal]:
    """Those that are over and those under way, in the order of their numbers."""
    there = removals_in(txn, tables)
    rows = _over(txn, tables) + (there.rows if there is not None else [])
    return [told(row) for row in sorted(rows, key=lambda row: row.number)]


def next_number(txn: Txn, tables: Tables, removals: Removals | None) -> int:
    """A number that no removal has had."""
    return 1 + max([row.number for row in _over(txn, tables)] + [removals.newest if removals is not None else 0])


def told(row: RemovalRow) -> Removal:
    """How a removal stands, for who is no part of the store."""
    return Removal(
        number=row.number,
        match=row.match,
        who=row.who,
        began=row.began,
        deliveries=row.deliveries,
        recipients=row.recipients,
        ended=row.ended or None,
    )


# What was taken out and is in lanes still


def entry_of(key: bytes, delivery: Delivery) -> bytes:
    """What is kept of an entry of ``lanes``, by its key, to count it out of its lane."""
    count = len(delivery.recipients) | (_HELD if delivery.state == "held" else 0)
    return key + count.to_bytes(COUNT_BYTES, "big")


def recipients_of(entry: bytes) -> tuple[int, bool]:
    """For how many recipients an entry stood, and whether they were held."""
    count = int.from_bytes(entry[DUE_BYTES:], "big")
    return count & ~_HELD, bool(count & _HELD)


def delivery_of(key: bytes) -> bytes:
    """The key in ``delivery`` of what an entry of ``lanes`` leads to."""
    return key[-ID_BYTES:] + key[:DESTINATION_BYTES]


def runs_of(row: RemovalRow, part: Callable[[bytes], bytes | None]) -> list[Iterator[bytes]]:
    """What a removal has taken out and not removed from lanes, in the runs in which it was written down, each in order.
    ``part`` gives what is in ``meta`` under a key."""
    return [_run(row, number, part) for number in range(row.runs)]


def _run(row: RemovalRow, number: int, part: Callable[[bytes], bytes | None]) -> Iterator[bytes]:
    for count in range(1 << 16):
        entries = part(taken_key(row.number, number, count))
        if entries is None:
            return
        if row.passed and entries[-ENTRY_BYTES:] <= row.passed:
            continue
        for at in range(0, len(entries), ENTRY_BYTES):
            entry = entries[at : at + ENTRY_BYTES]
            if entry > row.passed:
                yield entry


def taken_entries(txn: Any, tables: Tables) -> Iterator[bytes]:
    """All entries of ``lanes`` that removals have taken out and not removed, in order.  ``txn`` gives buffers."""
    removals = removals_in(txn, tables)

    def part(key: bytes) -> bytes | None:
        found = txn.get(key, db=tables.meta)
        return bytes(found) if found is not None else None

    return merge(*[run for row in (removals.rows if removals is not None else ()) for run in runs_of(row, part)])


def run_rows(row: RemovalRow, entries: Sequence[bytes]) -> list[tuple[bytes, bytes]]:
    """The rows of the next run of a removal."""
    entries = sorted(entries)
    return [
        (taken_key(row.number, row.runs, part), b"".join(entries[at : at + TOGETHER]))
        for part, at in enumerate(range(0, len(entries), TOGETHER))
    ]
