"""Making the segments of :mod:`.terms`, a little at a time and long after the messages came.

A segment is made in three steps, so that it never misses a message that comes or changes meanwhile.  A :class:`Mark`
is put at its last id and committed: from then on whoever stores such a message empties the mark, as he would a segment.
The terms are gathered from a snapshot taken after that.  :class:`Enter` puts them in the place of the mark, if it is
still there.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from time import monotonic, sleep
from typing import Any

import msgspec

from ..mail.ids import ID_BYTES, id_key, time_floor
from . import damage
from .batch import Batch
from .environment import Environment
from .operations import Operation
from .records import decode_delivery, decode_message
from .summary import strike
from .terms import SEGMENT, SEGMENT_TERMS, Segment, is_segment, make_segment, terms_of

AGE = 30.0
"""Seconds after which most mail has left the queue, and what is left is worth a segment."""

LOOKS = 16
"""Segments of which one step looks how many messages are left: each takes :data:`SAMPLES` pages of the file."""

PASSES = 4096
"""Segments that it passes to find an interval without one."""

SAMPLES = 16
"""Messages of a segment that are looked for, to know how many of it are left."""

ROOMY = 0.75
"""How full the segment may be that takes the place of neighbours."""

WORK = 0.001
PAUSE = 0.002
"""Seconds of work in a thread, and of waiting, in turns: whoever needs the interpreter is not held up."""

_MARK = b"\0"
_SHORT = 64
"""Octets of which a mark has less."""


class Interval(msgspec.Struct, frozen=True):
    """What is to have a segment: the ids behind ``first``, which is the end of the interval before it, up to ``last``.

    ``drop`` are the ends, in order, of the intervals that it takes in.
    """

    first: bytes
    last: bytes
    drop: tuple[bytes, ...] = ()


class Mark(Operation):
    """Say that the terms of an interval are being gathered.  The result: the mark; None: it is not what it was."""

    __slots__ = ("_interval",)

    def __init__(self, interval: Interval) -> None:
        super().__init__()
        self._interval = interval

    def apply(self, batch: Batch) -> bytes | None:
        interval, table = self._interval, batch.tables.segment
        ends = (*interval.drop, interval.last)
        with batch.txn.cursor(table) as cursor:
            there = cursor.set_range(ends[0])
            if (cursor.key() if (cursor.prev() if there else cursor.last()) else b"") != interval.first:
                return None
            more = cursor.set_range(ends[0])
            for end in ends if interval.drop or (there and cursor.key() == interval.last) else ():
                if not more or cursor.key() != end or batch.is_spoilt(end):
                    return None
                more = cursor.next()
        mark = _MARK + os.urandom(8)
        for end in interval.drop:
            batch.txn.delete(end, db=table)
        for end in ends:
            strike(batch.txn, batch.tables, end)
        batch.txn.put(interval.last, mark, db=table)
        return mark


class Enter(Operation):
    """Put a segment in the place of a mark, if that is still there.  It may end before the interval does: what is
    behind it is for another."""

    __slots__ = ("_interval", "_last", "_mark", "_segment", "weight")

    def __init__(self, interval: Interval, mark: bytes, last: bytes, segment: bytes) -> None:
        super().__init__()
        self._interval = interval
        self._mark = mark
        self._last = last
        self._segment = segment
        self.weight = len(segment)

    def apply(self, batch: Batch) -> None:
        end, table = self._interval.last, batch.tables.segment
        if batch.txn.get(end, db=table) != self._mark or batch.is_spoilt(end):
            return
        if self._last != end:
            batch.txn.put(end, b"", db=table)
            strike(batch.txn, batch.tables, self._last, void=True)
        batch.txn.put(self._last, self._segment, db=table)


class Indexer:
    """Finds what has no segment, or too many, and has one made of it.  ``clock`` tells seconds since the epoch."""

    def __init__(self, environment: Environment, clock: Callable[[], float]) -> None:
        self._environment = environment
        self._tables = environment.tables
        self._clock = clock
        self._passed = self._position = b""  # behind which the next looks begin
        self._stopped = False

    def stop(self) -> None:
        """Give up what is being gathered."""
        self._stopped = True

    async def step(self, read: Callable[..., Any], submit: Callable[[Operation], Any]) -> bool:
        """Make one segment, or see that none is wanted: then false."""
        until = id_key(time_floor(max(0.0, self._clock() - AGE)))
        interval = await read(self._wanted, until)
        if interval is None or self._stopped:
            return False
        mark = await submit(Mark(interval))
        gathered = await read(self._gather, interval) if mark is not None else None
        if gathered is not None:
            await submit(Enter(interval, mark, *gathered))
        return not self._stopped

    # In a thread

    def _wanted(self, until: bytes) -> Interval | None:
        with self._environment.read_in_thread(buffers=True) as txn:
            return self._unmade(txn) or self._worn(txn) or self._tail(txn, until)

    def _unmade(self, txn: Any) -> Interval | None:
        """The next interval without a segment.  No page of one that has is touched."""
        with txn.cursor(self._tables.segment) as cursor:
            previous, more = _behind(cursor, self._passed)
            for _ in range(PASSES):
                if not more:
                    self._passed = b""
                    return None
                self._passed, raw = bytes(cursor.key()), cursor.value()
                if len(raw) < _SHORT and not is_segment(raw):
                    return Interval(previous, self._passed)
                previous = self._passed
                more = cursor.next()
        return None

    def _worn(self, txn: Any) -> Interval | None:
        """Some neighbours that have few messages left, or an interval without a segment beside them."""
        run: list[bytes] = []  # the ends of such neighbours
        first, total = b"", 0.0
        with txn.cursor(self._tables.segment) as cursor:
            previous, more = _behind(cursor, self._position)
            for _ in range(LOOKS):
                if not more:
                    self._position = b""
                    break
                last, raw = bytes(cursor.key()), cursor.value()
                if not is_segment(raw):
                    self._position = last
                    return Interval(previous, last)
                left = self._left(txn, Segment(raw))
                if run and total and total + left > ROOMY:  # an empty one goes with any
                    if len(run) > 1:
                        break
                    run = []
                if not run:
                    first, total = previous, 0.0
                run.append(last)
                total += left
                self._position = previous = last
                more = cursor.next()
        return Interval(first, run[-1], tuple(run[:-1])) if len(run) > 1 else None

    def _left(self, txn: Any, segment: Segment) -> float:
        """About how full a segment would be that has only what is still queued."""
        step = max(1, segment.count // SAMPLES)
        numbers = range(0, segment.count, step)
        there: int = sum(txn.get(segment.id(number), db=self._tables.message) is not None for number in numbers)
        full: float = max(segment.count / SEGMENT, segment.size / SEGMENT_TERMS)
        return full * there / max(1, len(numbers))

    def _tail(self, txn: Any, until: bytes) -> Interval | None:
        """The next ids behind all segments, if there are enough."""
        first = b""
        with txn.cursor(self._tables.segment) as cursor:
            if cursor.last():
                first = bytes(cursor.key())
        with txn.cursor(self._tables.message) as cursor:
            more = cursor.set_range(first + b"\0") if first else cursor.first()
            count, key = 0, b""
            while more and count < SEGMENT:
                key = bytes(cursor.key())
                if key > until:
                    return None
                count += 1
                more = cursor.next()
        return Interval(first, key) if count == SEGMENT else None

    def _gather(self, interval: Interval) -> tuple[bytes, bytes] | None:
        """A segment, and its last id; None: it is given up."""
        messages: list[tuple[bytes, set[int]]] = []
        count = 0
        pause = monotonic() + WORK
        with (
            self._environment.read_in_thread(buffers=True) as txn,
            txn.cursor(self._tables.message) as cursor,
            txn.cursor(self._tables.delivery) as deliveries,
        ):
            more = cursor.set_range(interval.first + b"\0") if interval.first else cursor.first()
            while more:
                mid = bytes(cursor.key())
                if mid > interval.last:
                    break
                if self._stopped or self._environment.gate.wanted:
                    return None
                terms = self._terms(cursor.value(), mid, deliveries)
                count += len(terms)
                if messages and (len(messages) >= SEGMENT or count > SEGMENT_TERMS):
                    return messages[-1][0], make_segment(messages)
                messages.append((mid, terms))
                if monotonic() >= pause:
                    sleep(PAUSE)
                    pause = monotonic() + WORK
                more = cursor.next()
        return interval.last, make_segment(messages)

    def _terms(self, raw: Any, mid: bytes, deliveries: Any) -> set[int]:
        found = []
        more = deliveries.set_range(mid)
        while more and deliveries.key()[:ID_BYTES] == mid:
            with contextlib.suppress(*damage.ROWS):  # what can't be read can't be found
                found.append(decode_delivery(deliveries.value()))
            more = deliveries.next()
        try:
            return terms_of(decode_message(raw), found)
        except damage.ROWS:
            return set()


def _behind(cursor: Any, position: bytes) -> tuple[bytes, bool]:
    """Go to the first row behind a position; the key of the row before it, and whether there is one."""
    more = cursor.set_range(position + b"\0") if position else cursor.first()
    if not more:
        return b"", False
    if not cursor.prev():
        return b"", cursor.first()
    previous = bytes(cursor.key())
    return previous, cursor.next()
