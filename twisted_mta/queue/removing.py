"""Removing a great many deliveries: working off what :mod:`.pending` has put in force.

A queue's rows stand in the order of ids, but for those of ``lanes`` and ``wake``, which stand in the order of lanes.
A million removed one after the other would touch a page anywhere in these for each; so it is done in two passes.  The
first takes deliveries out, in the order of ids, and writes down their entries in ``lanes``, which claims pass over from
then on.  The second removes these, in the order of lanes.  Each is many commits, between which others write, and each
commit says how far it has come: whoever works at it may die at any point, and another goes on from there.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from heapq import merge
from itertools import groupby, islice
from operator import itemgetter
from typing import Any

from twisted.internet.defer import Deferred, gatherResults

from ..mail.envelope import Delivery, Message
from ..mail.events import EventSink, Service
from ..mail.ids import id_key
from . import damage
from .batch import Batch
from .interfaces import Page, QueueFilter
from .operations import Operation
from .owners import Owners
from .pending import (
    MOST_REMOVALS,
    concerns,
    delivery_of,
    entry_of,
    next_number,
    operator_event,
    recipients_of,
    run_rows,
    runs_of,
)
from .reading import Reader
from .records import (
    DUE_BYTES,
    LANE_BYTES,
    META_REMOVING,
    RemovalRow,
    decode_delivery,
    decode_lane,
    delivery_key,
    due_key,
    encode,
    taken_keys,
)
from .rules import unavailable

DELIVERIES = 500
"""Deliveries that one commit takes out."""

ENTRIES = 2000
"""Entries of ``lanes`` that one commit removes."""

CLEARED = 1000
"""Rows of what was written down that one commit forgets."""

MOST = 1_000_000
"""Entries that are written down before they are removed."""

TOUCHERS = 3
"""Threads that read what is to be removed."""

LOOK = 0.1
"""Seconds for which the next deliveries are looked for."""

_LANE = itemgetter(slice(LANE_BYTES))


class Begin(Operation):
    """Put a removal in force.  The result: its number.  Raises StoreUnavailable where too many are under way."""

    __slots__ = ("_match", "_now", "_owner", "_who")

    def __init__(self, match: QueueFilter, owner: int, who: str, now: float) -> None:
        super().__init__()
        self._match = match
        self._owner = owner
        self._who = who
        self._now = now

    def apply(self, batch: Batch) -> int:
        there = batch.removals
        if there is not None and len(there.rows) >= MOST_REMOVALS:
            raise unavailable(text=f"There are {MOST_REMOVALS} removals under way; try again when some are over")
        number = next_number(batch.txn, batch.tables, there)
        with batch.txn.cursor(batch.tables.message) as cursor:
            end = cursor.key() if cursor.last() else b""
        batch.begin_removal(RemovalRow(number, self._match, self._who, self._now, end, owner=self._owner))
        batch.changed = True
        return number


class Release(Operation):
    """Leave a removal to whoever comes."""

    __slots__ = ("_number",)

    def __init__(self, number: int) -> None:
        super().__init__()
        self._number = number

    def apply(self, batch: Batch) -> None:
        row = _row(batch, self._number)
        if row is not None:
            row.owner = 0


class TakeOut(Operation):
    """Remove the deliveries of a page that fall under a removal, but for their entries in ``lanes``, which are written
    down.  ``row`` is the removal as it was when the page was looked for: another may have gone on since, and then this
    does nothing.  The result: the removal if it is over."""

    __slots__ = ("_at", "_avoid", "_owner", "_page", "_row")
    bulk = True

    def __init__(self, row: RemovalRow, page: Page, owner: int) -> None:
        super().__init__()
        self._row = row
        self._page = page
        self._owner = owner
        self._at = b""  # the message that is being looked at
        self._avoid: set[bytes] = set()  # those that can't be read

    def get_around(self) -> bool:
        """By what was being looked at."""
        if not self._at or self._at in self._avoid:
            return False
        self._avoid.add(self._at)
        return True

    def apply(self, batch: Batch) -> Iterator[RemovalRow | None]:
        row = _row(batch, self._row.number)
        if row is None or row.after != self._row.after or row.looked:
            yield None
            return
        row.owner = self._owner
        entries: list[bytes] = []
        self._at = b""
        for name in self._page.damaged:
            _set_aside(batch, name, "its row")
        with batch.txn.cursor(batch.tables.delivery) as cursor:
            for message, delivery in self._page.found:
                self._at = mid = id_key(delivery.id)
                if mid in self._avoid:
                    _set_aside(batch, delivery.id, "a page")
                elif cursor.set_key(delivery_key(mid, delivery.destination)):
                    self._take_out(batch, row, mid, cursor, message, delivery, entries)
                yield None
        self._at = b""
        if entries:
            for key, together in run_rows(row, entries):
                batch.txn.put(key, together, db=batch.tables.meta)
            row.runs += 1
            row.entries += len(entries)
        row.after = self._page.more
        row.looked = not row.after
        row.forgetting = row.entries > 0 and (row.looked or row.entries >= MOST)
        yield _ended(batch, row)

    def _take_out(
        self,
        batch: Batch,
        row: RemovalRow,
        mid: bytes,
        cursor: Any,
        message: Message,
        delivery: Delivery,
        entries: list[bytes],
    ) -> None:
        raw = cursor.value()
        there = delivery
        if raw != encode(delivery):
            try:
                there = decode_delivery(raw)
            except damage.ROWS as error:
                _set_aside(batch, there.id, str(error))
                return
            if not concerns(row, mid, there, lambda: message):
                return
        if not there.owner:
            entries.append(entry_of(due_key(there, mid), there))
        event = operator_event(there, "remove", row.who, row.began)
        batch.events.append(event)
        batch.take_out(mid, there, message, event, cursor)
        row.deliveries += 1
        row.recipients += len(there.recipients)


class Forget(Operation):
    """Remove entries of ``lanes``, in order, whose deliveries were taken out, and count their lanes anew."""

    __slots__ = ("_entries", "_owner", "_row")
    bulk = True

    def __init__(self, row: RemovalRow, entries: Sequence[bytes], owner: int) -> None:
        super().__init__()
        self._row = row
        self._entries = entries
        self._owner = owner

    def apply(self, batch: Batch) -> Iterator[None]:
        row = _row(batch, self._row.number)
        if row is None or row.passed != self._row.passed or not row.forgetting:
            yield None
            return
        row.owner = self._owner
        for lane, entries in groupby(self._entries, _LANE):
            recipients = held = deliveries = 0
            for entry in entries:
                if not _is_there(batch, entry[:DUE_BYTES]):
                    batch.txn.delete(entry[:DUE_BYTES], db=batch.tables.lanes)
                count, was_held = recipients_of(entry)
                deliveries += 1
                recipients += count
                held += was_held
                yield None
            raw = batch.txn.get(lane, db=batch.tables.lanes)
            its = None
            with contextlib.suppress(*damage.ROWS):  # then it is counted anew by a verification
                its = decode_lane(raw) if raw is not None else None
            if its is not None:
                batch.count_away(its.destination, its.customer, its.priority, deliveries, recipients, held)
        row.entries -= len(self._entries)
        row.passed = self._entries[-1] if self._entries else row.passed
        if not self._entries:
            row.entries = 0
        yield None


class Clear(Operation):
    """Forget what was written down of entries that are all removed.  The result: the removal if it is over."""

    __slots__ = ("_number",)
    bulk = True

    def __init__(self, row: RemovalRow) -> None:
        super().__init__()
        self._number = row.number

    def apply(self, batch: Batch) -> RemovalRow | None:
        row = _row(batch, self._number)
        if row is None or not row.forgetting or row.entries:
            return None
        prefix = taken_keys(row.number)
        with batch.txn.cursor(batch.tables.meta) as cursor:
            for _ in range(CLEARED):
                if not cursor.set_range(prefix) or not cursor.key().startswith(prefix):
                    break
                cursor.delete()
            else:
                return None
        row.runs = 0
        row.passed = b""
        row.forgetting = False
        return _ended(batch, row)


class ForgetNote(Operation):
    """Remove the note of a process of schema 3 that died while it removed."""

    __slots__ = ("_owner",)

    def __init__(self, owner: int) -> None:
        super().__init__()
        self._owner = owner

    def apply(self, batch: Batch) -> None:
        batch.txn.delete(META_REMOVING + b"%d" % self._owner, db=batch.tables.meta)


def _set_aside(batch: Batch, mid: str, how: str) -> None:
    """What can't be read must not stop the removal of all others: it stays until it is mended."""
    batch.events.append(damage.event(batch.now, f"{mid} can't be read, and is not removed: {how}"))


def _row(batch: Batch, number: int) -> RemovalRow | None:
    """A removal that is under way; it is written with this transaction."""
    removals = batch.removals
    row = removals.row(number) if removals is not None else None
    if removals is not None and row is not None:
        removals.changed = True
    return row


def _ended(batch: Batch, row: RemovalRow) -> RemovalRow | None:
    if not row.looked or row.forgetting:
        return None
    row.ended = batch.now
    row.owner = 0
    return row


def _is_there(batch: Batch, key: bytes) -> bool:
    """Whether a delivery has come under an entry of a lane after another was taken out from under it."""
    raw = batch.txn.get(delivery_of(key), db=batch.tables.delivery)
    if raw is None:
        return False
    try:
        delivery = decode_delivery(raw)
    except damage.ROWS:
        return False
    return not delivery.owner and due_key(delivery, id_key(delivery.id)) == key


class Remover:
    """Works off removals on behalf of the process ``owner``: one that another living process works at is left to it."""

    def __init__(
        self,
        reader: Reader,
        owners: Owners,
        owner: int,
        read: Callable[..., Deferred[Any]],
        submit: Callable[[Operation], Deferred[Any]],
        events: EventSink,
    ) -> None:
        self._reader = reader
        self._owners = owners
        self._owner = owner
        self._read = read
        self._submit = submit
        self._events = events
        self._at_work = False
        self._merged: Iterator[bytes] = iter(())
        self._merging: tuple[int, bytes] | None = None  # of which removal, and up to where it has been read

    async def step(self, number: int | None = None) -> bool:
        """Do the work of one commit, for any removal or that one; whether there was some."""
        if self._at_work:
            return False
        row = self._next(number)
        if row is None:
            return False
        self._at_work = True
        try:
            if row.forgetting and not row.entries:
                ended = await self._submit(Clear(row))
            elif row.forgetting:
                entries = await self._read(self._entries, row)
                await self._touch(self._reader.touch_lanes, entries)
                ended = await self._submit(Forget(row, entries, self._owner))
            else:
                page = await self._read(self._reader.removed, row, DELIVERIES, LOOK)
                await self._touch(self._reader.touch, page.found)
                ended = await self._submit(TakeOut(row, page, self._owner))
        finally:
            self._at_work = False
        if ended is not None:
            self._tell(ended)
        return True

    async def _touch(self, touch: Callable[[Any], None], found: Sequence[Any]) -> None:
        """Have several threads wait for the disk at once."""
        part = -(-len(found) // TOUCHERS) or 1
        parts = [found[at : at + part] for at in range(0, len(found), part)]
        await gatherResults([self._read(touch, some) for some in parts])

    def _entries(self, row: RemovalRow) -> list[bytes]:
        """The next entries to be removed from lanes, in a thread.  Where they come from is kept for the next time."""
        if self._merging != (row.number, row.passed):
            self._merged = merge(*runs_of(row, self._reader.note))
        found = list(islice(self._merged, ENTRIES))
        self._merging = (row.number, found[-1]) if found else None
        return found

    def _next(self, number: int | None) -> RemovalRow | None:
        for row in self._reader.rows():
            if number in (None, row.number) and (row.owner in (0, self._owner) or not self._owners.alive(row.owner)):
                return row
        return None

    def _tell(self, row: RemovalRow) -> None:
        seconds = max(0.0, row.ended - row.began)
        detail = f"removal {row.number} by {row.who}: {row.deliveries} deliveries, {row.recipients} recipients, "
        self._events(Service(time=row.ended, what="removal", detail=f"{detail}in {seconds:.1f} s"))
