"""A page of the queue: of the ways to what a filter asks for, the one with the least to pass on it.

There are six: the rows of one message; the entries of few lanes; what is on hold; the deliveries with certain last
replies; the segments of :mod:`.terms`; and all rows in turn.  Each gives candidates in the order of keys, which are
then compared in full.  All of them know how far they have come, so that a page may end before it is full.
"""

from __future__ import annotations

import heapq
import re
from collections.abc import Callable, Iterator
from itertools import chain
from typing import Any

from ..mail.envelope import PRIORITIES, Delivery, Message
from ..mail.ids import ID_BYTES, ID_CHARS, id_key, key_id, time_floor
from . import damage
from .environment import Db, Tables, Txn
from .interfaces import Page, QueueFilter
from .pending import removals_in
from .records import (
    DESTINATION_BYTES,
    DUE_BYTES,
    HELD,
    LANE_BYTES,
    META_TOTALS,
    REASON_KEY_BYTES,
    TIME_BYTES,
    LaneRow,
    RemovalRow,
    Totals,
    decode_delivery,
    decode_lane,
    decode_message,
    decode_totals,
    delivery_key,
    destination_key,
    lane_key,
    owned_delivery,
    safe_id_key,
)
from .rules import matches, split_after
from .summary import Sieve
from .terms import REASON_BYTES, Segment, is_normal, is_segment, normal, terms_asked

FEW = 5_000
"""So many deliveries are looked through rather than the segments of the whole queue."""

PASSED = 100_000
"""Deliveries in the memory of processes that are passed for those of a destination."""

LANES = 1_000
"""Lanes of a destination that are looked at."""

ID_DELAY = 3600.0
"""Seconds by which a message's id may be younger than its arrival."""

TICK = 64
"""Rows between two looks at the clock."""

_BEHIND = b"\xff" * DESTINATION_BYTES + b"\xff"
"""After a message's key: behind all of its deliveries."""

Candidate = tuple[bytes, bytes | None]
"""The key of a delivery and its row; or a key up to which there is none, and None."""


def totals_of(txn: Txn, tables: Tables) -> Totals:
    """The size of the whole queue."""
    raw = txn.get(META_TOTALS, db=tables.meta)
    try:
        return decode_totals(raw) if raw is not None else Totals()
    except damage.ROWS:
        return Totals()


def prefixed(txn: Txn, table: Db, prefix: bytes, start: bytes = b"") -> Iterator[tuple[bytes, bytes]]:
    """The rows whose keys begin with ``prefix``, from ``start`` on."""
    with txn.cursor(table) as cursor:
        more = cursor.set_range(max(prefix, start))
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
    reason = match.reason if match.reason and (not is_normal(match.reason) or "#" not in match.reason) else ""
    texts = (match.recipient, reason, match.destination, match.customer or "")
    return [needle for needle in map(needle_of, texts) if needle]


class Search:
    """One look at the queue.

    ``segments`` is a read transaction with buffers, begun before ``txn``, the one that sees all else.  ``enough`` is
    asked now and then whether to end with what there is.  What is removed is not found; with a ``removal``, nothing but
    what falls under that.
    """

    def __init__(
        self,
        txn: Txn,
        segments: Any,
        tables: Tables,
        match: QueueFilter,
        now: float,
        enough: Callable[[], bool] = lambda: False,
        removal: RemovalRow | None = None,
    ) -> None:
        self._txn = txn
        self._segments = segments
        self._tables = tables
        self._match = match
        self._now = now
        self._enough = enough
        self._removal = removal
        self._removals = removals_in(txn, tables) if removal is None else None
        self._damaged: list[str] = []
        self._end = b"\xff" * ID_BYTES
        if removal is not None:
            self._end = removal.end + _BEHIND if removal.end else b""
        if match.older_than is not None:
            # An id is made when a message's content begins to arrive, which may be some time after `arrived`.
            self._end = min(self._end, id_key(time_floor(now - match.older_than + ID_DELAY)))

    def page(self, after: str, limit: int) -> Page:
        """Up to ``limit`` deliveries behind ``after``, in the order of their keys."""
        start = _position(after)
        if start is None:
            return Page()
        found: list[tuple[Message, Delivery]] = []
        steps, tired, last = 0, False, b""
        for key, row in self._candidates(start):
            mid = key[:ID_BYTES]
            if tired and mid != last and last:
                if self._enough():
                    return Page(found, key_id(last), tuple(self._damaged))
                tired = False
            last = mid
            steps += 1
            if steps >= TICK:
                steps, tired = 0, True
            try:
                pair = self._compare(mid, row) if row is not None else None
            except damage.ROWS:
                self._damaged.append(key_id(mid))
                continue
            if pair is not None:
                found.append(pair)
                if len(found) >= limit:
                    return Page(found, f"{pair[0].id}/{pair[1].destination}", tuple(self._damaged))
        return Page(found, damaged=tuple(self._damaged))

    def _compare(self, mid: bytes, raw: bytes) -> tuple[Message, Delivery] | None:
        match, delivery = self._match, decode_delivery(raw)
        if self._removal is not None and delivery.spared >= self._removal.number:
            return None
        if (
            (match.destination and delivery.destination != match.destination)
            or (match.customer is not None and delivery.customer != match.customer)
            or (match.state is not None and delivery.state != match.state)
        ):
            return None
        removals = self._removals
        if removals is not None and removals.of(mid, delivery, lambda: self._message(mid)) is not None:
            return None
        message = self._message(mid)
        if message is None or not matches(match, message, delivery, self._now):
            return None
        return message, delivery

    def _message(self, mid: bytes) -> Message | None:
        row = self._txn.get(mid, db=self._tables.message)
        return decode_message(row) if row is not None else None

    # Which way

    def _candidates(self, start: bytes) -> Iterator[Candidate]:
        match = self._match
        if match.id:
            mid = safe_id_key(match.id)
            return prefixed(self._txn, self._tables.delivery, mid, start) if mid is not None else iter(())
        lanes = self._few_lanes()
        if lanes is not None:
            return self._in_lanes(lanes, start)
        held = totals_of(self._txn, self._tables).held if match.state == "held" else None
        if held == 0:
            return iter(())
        reasons = self._reasons() if match.reason and is_normal(match.reason) else None
        if reasons is not None and not reasons:
            return iter(())
        terms = terms_asked(match)
        if held is not None and (held <= FEW or not (terms or reasons)):
            return self._on_hold(start)
        if reasons is not None and (not terms or self._are_few(reasons)):
            return self._with_reasons(reasons, start)
        return self._with_terms(terms, start) if terms else self._in_turn(start, self._end)

    # Lanes

    def _few_lanes(self) -> list[bytes] | None:
        """The lanes of the destination that is asked for, if few deliveries have to be passed there and in memory."""
        match = self._match
        if not match.destination:
            return None
        prefixes = [destination_key(match.destination)]
        if match.customer is not None:
            prefixes = [lane_key(match.destination, match.customer, priority) for priority in PRIORITIES]
        if self._txn.stat(self._tables.owned)["entries"] > PASSED:
            return None
        lanes, count = [], 0
        for key, raw in chain.from_iterable(self._lanes_of(prefix) for prefix in prefixes):
            try:
                row = decode_lane(raw)
            except damage.ROWS:
                return None
            count += self._weight(row)
            lanes.append(key)
            if count > FEW or len(lanes) > LANES:
                return None
        return lanes

    def _lanes_of(self, prefix: bytes) -> Iterator[tuple[bytes, bytes]]:
        """The rows of the lanes whose keys begin so."""
        with self._txn.cursor(self._tables.lanes) as cursor:
            more = cursor.set_range(prefix)
            while more:
                key, value = cursor.item()
                if not key.startswith(prefix):
                    return
                if len(key) == LANE_BYTES:
                    yield key, value
                more = cursor.set_range(key[:LANE_BYTES] + _BEHIND)

    def _weight(self, row: LaneRow) -> int:
        return row.held if self._match.state == "held" else row.deliveries

    def _in_lanes(self, lanes: list[bytes], start: bytes) -> Iterator[Candidate]:
        keys = [mid + lane[:DESTINATION_BYTES] for lane in lanes for mid in self._ids(lane) if mid < self._end]
        keys += [key for key in self._owned() if key < self._end]
        heapq.heapify(keys)  # nearly always less than all of them are wanted
        while keys:
            key = heapq.heappop(keys)
            if key >= start:
                yield key, self._txn.get(key, db=self._tables.delivery)

    def _ids(self, lane: bytes) -> Iterator[bytes]:
        prefix = lane + HELD if self._match.state == "held" else lane
        with self._txn.cursor(self._tables.lanes) as cursor:
            if not cursor.set_range(prefix + b"\0"):
                return
            for key in cursor.iternext(keys=True, values=False):
                if not key.startswith(prefix) or len(key) != DUE_BYTES:
                    return
                yield key[LANE_BYTES + TIME_BYTES :]

    def _owned(self) -> Iterator[bytes]:
        """What of the destination is in the memory of processes, and therefore in no lane."""
        destination = destination_key(self._match.destination)
        with self._txn.cursor(self._tables.owned) as cursor:
            for key in cursor.iternext(keys=True, values=False):
                if key.endswith(destination):
                    yield owned_delivery(key)

    # What is on hold

    def _on_hold(self, start: bytes) -> Iterator[Candidate]:
        with self._txn.cursor(self._tables.held) as cursor:
            if not cursor.set_range(start):
                return
            for key in cursor.iternext(keys=True, values=False):
                if key >= self._end:
                    return
                yield key, self._txn.get(key, db=self._tables.delivery)

    # Reasons

    def _reasons(self) -> list[bytes]:
        """The reasons that contain what is asked for."""
        wanted = normal(self._match.reason)
        found: list[bytes] = []
        with self._txn.cursor(self._tables.reason) as cursor:
            more = cursor.first()
            while more:
                key, text = cursor.item()
                if len(key) == REASON_BYTES and wanted in text.decode("utf-8", "surrogatepass"):
                    found.append(key)
                more = cursor.set_range(key[:REASON_BYTES] + _BEHIND + _BEHIND)
        return found

    def _keys_of(self, reason: bytes, start: bytes, limit: int) -> list[bytes]:
        """The first deliveries of a reason from ``start`` on."""
        found: list[bytes] = []
        with self._txn.cursor(self._tables.reason) as cursor:
            more = cursor.set_range(reason + max(start, b"\0"))
            while more and len(found) < limit:
                key = cursor.key()
                if not key.startswith(reason) or len(key) != REASON_KEY_BYTES:
                    break
                found.append(key[REASON_BYTES:])
                more = cursor.next()
        return found

    def _are_few(self, reasons: list[bytes]) -> bool:
        left = FEW
        for reason in reasons:
            left -= 1 + len(self._keys_of(reason, b"", left))
            if left <= 0:
                return False
        return True

    def _with_reasons(self, reasons: list[bytes], start: bytes) -> Iterator[Candidate]:
        each = max(4, 2000 // len(reasons))
        while True:
            keys: list[bytes] = []
            horizon = b""  # up to where all are known
            for reason in reasons:
                some = self._keys_of(reason, start, each)
                keys += some
                if len(some) == each and (not horizon or some[-1] < horizon):
                    horizon = some[-1]
            for key in sorted(keys):
                if key >= self._end:
                    return
                if horizon and key > horizon:
                    break
                yield key, self._txn.get(key, db=self._tables.delivery)
            if not horizon:
                return
            start = horizon + b"\0"

    # Terms

    def _with_terms(self, terms: list[int], start: bytes) -> Iterator[Candidate]:
        end, position = self._end, start
        with self._segments.cursor(self._tables.segment) as cursor:
            sieve = Sieve(self._segments, self._tables, terms)
            more = cursor.set_range(sieve.next(start[:ID_BYTES]) or b"\0")
            while more:
                last, raw = bytes(cursor.key()), cursor.value()
                if is_segment(raw):
                    for mid in Segment(raw).having(terms):
                        if mid >= end:
                            return
                        if mid >= start[:ID_BYTES]:
                            yield from prefixed(self._txn, self._tables.delivery, mid, start)
                else:
                    if cursor.prev():  # what was passed over has nothing
                        position = max(position, bytes(cursor.key()) + _BEHIND)
                    yield from self._in_turn(position, min(end, last + _BEHIND))
                if last >= end:
                    return
                yield last, None
                position = last + _BEHIND
                more = cursor.set_range(sieve.next(last + b"\0"))
            if cursor.last():
                position = max(position, bytes(cursor.key()) + _BEHIND)
        yield from self._in_turn(max(position, start), end)

    # All rows

    def _in_turn(self, start: bytes, end: bytes) -> Iterator[Candidate]:
        if self._match.sender:
            yield from self._messages_in_turn(start, end, needle_of(self._match.sender))
            return
        needles = needles_of(self._match)
        passed = 0
        with self._txn.cursor(self._tables.delivery) as cursor:
            if not cursor.set_range(start):
                return
            for key, row in cursor.iternext():
                if key >= end:
                    return
                if needles:
                    # Most rows are seen not to match without being decoded, which costs ten times as much.
                    lower = row.lower()
                    if not all([needle in lower for needle in needles]):  # noqa: C419 - much quicker
                        passed += 1
                        if not passed % TICK:
                            yield key, None
                        continue
                yield key, row

    def _messages_in_turn(self, start: bytes, end: bytes, needle: bytes) -> Iterator[Candidate]:
        passed = 0
        with self._txn.cursor(self._tables.message) as cursor:
            if not cursor.set_range(start[:ID_BYTES]):
                return
            for mid, row in cursor.iternext():
                if mid >= end:
                    return
                if needle in row.lower():
                    yield from prefixed(self._txn, self._tables.delivery, mid, start)
                else:
                    passed += 1
                    if not passed % TICK:
                        yield mid, None


def _position(after: str) -> bytes | None:
    """The least key behind ``after``, which is "", an id or "id/destination"; None if it is none of these."""
    if not after:
        return b""
    mid, destination = split_after(after)
    key = safe_id_key(mid)
    if key is None:
        return None
    return delivery_key(key, destination) + b"\0" if len(after) > ID_CHARS else key + _BEHIND
