"""`mta queue verify`: recount everything, and mend what does not agree.

The count is taken from one snapshot, in a thread that may take its time, while the queue goes on.  A counter that is
wrong is therefore mended by the difference found, and a row that is missing or stray is looked at again in the
transaction that mends it.

However long the queue is, it takes little memory: tables that stand in the order of ids are walked side by side,
customers are counted a part of them at a time, lanes one after the other (:mod:`.verify_lanes`), and a count ends early
once it has found a great many discrepancies.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import msgspec

from ..mail.envelope import Message
from ..mail.ids import ID_BYTES, key_id
from . import damage
from .batch import Batch
from .environment import Environment
from .operations import Operation
from .records import (
    CHUNK_BYTES,
    LANE_BYTES,
    META_TOTALS,
    Totals,
    decode_counters,
    decode_delivery,
    decode_lane,
    decode_message,
    decode_totals,
    due_key,
    owned_delivery,
    owned_key,
    spool_owner,
    usage_key,
)
from .rules import chunks, unavailable
from .verify_damage import forget_totals, mend_delivery, mend_message, remove_lane_row
from .verify_lanes import Lanes
from .verify_lookups import Lookups
from .verify_mends import add_total, count_destinations, make_due, remove, trash

ATTEMPTS = 5
EVERY = 1000

MOST = 50_000
"""Discrepancies after which a count ends, and customers that are counted at a time."""


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


class Findings(msgspec.Struct, frozen=True):
    """What a count has found.  ``complete``: it went on to its end."""

    found: list[Finding]
    complete: bool

    @property
    def lines(self) -> list[str]:
        """In words."""
        return [finding.line for finding in self.found]

    @property
    def mends(self) -> list[Finding]:
        """Those that can be mended, in the order in which they are to be."""
        return sorted([finding for finding in self.found if finding.mend is not None], key=lambda it: it.after)


class _InterruptedError(Exception):
    """The map is to be grown: give up the snapshot."""


class _EnoughError(Exception):
    """There are so many discrepancies that they are to be mended first."""


class Verifier:
    """One recount.  ``alive`` says whether the process of an incarnation lives."""

    def __init__(self, environment: Environment, alive: Callable[[int], bool]) -> None:
        self._environment = environment
        self._alive = alive

    def run(self) -> Findings:
        """What does not agree.  Runs in any thread."""
        for _ in range(ATTEMPTS):
            try:
                with self._environment.read_in_thread(buffers=True) as txn:
                    return _Count(self._environment, txn, self._alive).run()
            except _InterruptedError:
                continue
        raise unavailable(text="The queue grows too fast to be counted now")


class _Ahead:
    """An iterator of pairs whose next one is looked at first: ``key`` is empty at its end."""

    def __init__(self, pairs: Iterator[tuple[bytes, Any]]) -> None:
        self._pairs = pairs
        self.key = b""
        self.value: Any = None
        self.step()

    def step(self) -> None:
        """Go to the next."""
        self.key, self.value = next(self._pairs, (b"", None))


_MADE = "--repair makes it anew from its history, on hold, or removes it where it has none"


def _unreadable(decode: Callable[[Any], Any], raw: Any) -> bool:
    try:
        decode(raw)
    except damage.ROWS:
        return True
    return False


class _Count:
    def __init__(self, environment: Environment, txn: Any, alive: Callable[[int], bool]) -> None:
        self._environment = environment
        self._tables = environment.tables
        self._txn = txn
        self._alive = alive
        self._findings: list[Finding] = []
        self._totals = Totals()
        self._steps = 0
        self._damaged = False
        self._spooled: dict[bytes, int] = {}
        self._lanes = Lanes(txn, self._tables, self._rows, self._found)
        self._lookups = Lookups(txn, self._tables, self._rows, self._found)

    def run(self) -> Findings:
        try:
            self._check_spool()
            self._check_messages()
            self._check_rows()
            self._unless_damaged()
            self._lanes.check()
            self._check_owned()
            self._check_usage()
            self._totals.destinations = self._lanes.destinations
            self._check_totals()
            self._lookups.check()
        except _EnoughError:
            return Findings(self._findings, False)
        return Findings(self._findings, True)

    def _unless_damaged(self) -> None:
        """What can't be read is to be mended before anything is counted that stands on it."""
        if self._damaged:
            raise _EnoughError

    def _found(self, line: str, mend: Callable[[Batch], None] | None, after: bool = False) -> None:
        self._findings.append(Finding(line, mend, after))
        if len(self._findings) >= MOST:
            raise _EnoughError

    def _rows(self, table: Any) -> Iterator[tuple[bytes, Any]]:
        with self._txn.cursor(table) as cursor:
            for key, value in cursor:
                self._steps += 1
                if self._steps % EVERY == 0 and self._environment.gate.wanted:
                    raise _InterruptedError
                yield bytes(key), value

    def _check_spool(self) -> None:
        self._spooled = {key: spool_owner(raw) for key, raw in self._rows(self._tables.spool)}
        for mid, owner in self._spooled.items():
            if owner and not self._alive(owner):
                line = f"content of {key_id(mid)} was left by a process that died"
                self._found(line, lambda batch, mid=mid: trash(batch, mid))  # type: ignore[misc]

    # Messages, with their deliveries and their content, all in the order of ids

    def _check_messages(self) -> None:
        deliveries, contents = _Ahead(self._rows(self._tables.delivery)), _Ahead(self._contents())
        totals = self._totals
        for mid, raw in self._rows(self._tables.message):
            self._check_before(mid, deliveries, contents)
            try:
                message = decode_message(raw)
            except damage.ROWS as error:
                line = f"message {key_id(mid)} can't be read ({error}); {_MADE}"
                self._is_damaged(line, lambda batch, mid=mid: mend_message(batch, mid))  # type: ignore[misc]
                while deliveries.key[:ID_BYTES] == mid:
                    deliveries.step()
                while contents.key == mid:
                    contents.step()
                continue
            totals.messages += 1
            totals.bytes += message.size
            if deliveries.key[:ID_BYTES] != mid:
                self._found(f"message {message.id} has no delivery", lambda batch, mid=mid: batch.leave(mid))  # type: ignore[misc]
            while deliveries.key[:ID_BYTES] == mid:
                self._check_delivery(deliveries.key, deliveries.value, True)
                deliveries.step()
            if contents.key == mid:
                self._check_content(message, *contents.value)
                contents.step()
            elif message.chunks:
                self._found(f"message {message.id} has no content; remove it", None)
        self._check_before(b"", deliveries, contents)

    def _check_before(self, mid: bytes, deliveries: _Ahead, contents: _Ahead) -> None:
        """What is before a message, or behind the last, belongs to none."""
        while deliveries.key and (not mid or deliveries.key[:ID_BYTES] < mid):
            self._check_delivery(deliveries.key, deliveries.value, False)
            deliveries.step()
        while contents.key and (not mid or contents.key < mid):
            if contents.key not in self._spooled:
                line = f"content of {key_id(contents.key)} has no message"
                self._found(line, lambda batch, mid=contents.key: trash(batch, mid))  # type: ignore[misc]
            contents.step()

    def _contents(self) -> Iterator[tuple[bytes, tuple[int, int]]]:
        """For each message its chunks and their octets."""
        mid, count, size = b"", 0, 0
        for key, raw in self._rows(self._tables.content):
            if key[:ID_BYTES] != mid:
                if mid:
                    yield mid, (count, size)
                mid, count, size = key[:ID_BYTES], 0, 0
            count += len(key) == CHUNK_BYTES
            size += len(raw)
        if mid:
            yield mid, (count, size)

    def _check_content(self, message: Message, count: int, size: int) -> None:
        if (count, size) != (message.chunks, message.size) or message.chunks != chunks(message.size):
            line = f"message {message.id} has {size} octets in {count} chunks"
            self._found(f"{line}, and should have {message.size} in {message.chunks}; remove it", None)

    def _check_delivery(self, key: bytes, raw: Any, has_message: bool) -> None:
        mid, totals = key[:ID_BYTES], self._totals
        try:
            delivery = decode_delivery(raw)
        except damage.ROWS as error:
            line = f"a delivery of {key_id(mid)} can't be read ({error}); {_MADE}"
            self._is_damaged(line, lambda batch: mend_delivery(batch, key))
            return
        totals.deliveries += 1
        totals.recipients += len(delivery.recipients)
        totals.held += delivery.state == "held"
        self._lookups.check_delivery(key, delivery)
        words = f"delivery of {delivery.id} to {delivery.destination}"
        if not has_message:
            self._found(f"{words} has no message", lambda batch: remove(batch, mid, delivery))
        if not delivery.owner:
            self._lanes.count(due_key(delivery, mid), delivery)
        elif has_message and self._txn.get(owned_key(delivery, mid), db=self._tables.owned) is None:
            self._found(f"{words} could not be reclaimed", lambda batch: make_due(batch, mid, delivery))

    def _is_damaged(self, line: str, mend: Callable[[Batch], None]) -> None:
        self._damaged = True
        self._found(line, mend)

    def _check_rows(self) -> None:
        """Whether what counts can be read."""
        for key, raw in self._rows(self._tables.lanes):
            if len(key) == LANE_BYTES and _unreadable(decode_lane, raw):
                line = "the counters of a lane can't be read; they are made anew"
                self._is_damaged(line, lambda batch, key=key: remove_lane_row(batch, key))  # type: ignore[misc]
        for key, raw in self._rows(self._tables.usage):
            if _unreadable(decode_counters, raw):
                line = "the counters of a customer can't be read; they begin anew"
                self._is_damaged(line, lambda batch, key=key: batch.txn.delete(key, db=batch.tables.usage) and None)  # type: ignore[misc]
        for key, raw in self._rows(self._tables.meta):
            if key == META_TOTALS and _unreadable(decode_totals, raw):
                self._is_damaged("the queue's counters can't be read; they are made anew", forget_totals)

    def _check_owned(self) -> None:
        for key, _ in self._rows(self._tables.owned):
            there = owned_delivery(key)
            raw = self._txn.get(there, db=self._tables.delivery)
            if raw is None or owned_key(decode_delivery(raw), there[:ID_BYTES]) != key:
                line = f"{key_id(there[:ID_BYTES])} is listed as in memory where no such delivery is"
                self._found(line, lambda batch, key=key: batch.owned(key) and None)  # type: ignore[misc]

    # Customers

    def _check_usage(self) -> None:
        """Customers are counted in the order of their keys, as many of them at a time as fit into memory."""
        first: bytes | None = b""
        while first is not None:
            first = self._check_customers(first)

    def _check_customers(self, first: bytes) -> bytes | None:
        """Those from a key on; where to go on."""
        counted, end = self._queued(first)
        with self._txn.cursor(self._tables.usage) as cursor:
            more = cursor.set_range(first) if first else cursor.first()
            while more and (end is None or bytes(cursor.key()) < end):
                counters = decode_counters(cursor.value())
                _, *queued = counted.pop(counters.customer, (b"", 0, 0))
                self._check_customer(counters.customer, [counters.queued_messages, counters.queued_bytes], queued)
                more = cursor.next()
        for customer, (_, *queued) in counted.items():
            self._check_customer(customer, [0, 0], queued)
        return end

    def _queued(self, first: bytes) -> tuple[dict[str, tuple[bytes, int, int]], bytes | None]:
        """Messages and octets of customers with keys from ``first`` on, and where that ends."""
        counted: dict[str, tuple[bytes, int, int]] = {}
        end: bytes | None = None
        for _, raw in self._rows(self._tables.message):
            message = decode_message(raw)
            there = counted.get(message.customer)
            if there is not None:
                key, messages, size = there
            else:
                key, messages, size = usage_key(message.customer), 0, 0
                if not message.customer or key < first or (end is not None and key >= end):
                    continue
            counted[message.customer] = (key, messages + 1, size + message.size)
            if len(counted) > MOST:  # the upper half is for the next time
                end = sorted(key for key, _, _ in counted.values())[len(counted) // 2]
                counted = {customer: it for customer, it in counted.items() if it[0] < end}
        return counted, end

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
                self._found(line, lambda batch, name=name, by=new - old: add_total(batch, name, by))  # type: ignore[misc]
        if stored.destinations != self._totals.destinations:
            line = f"the queue's destinations are counted as {stored.destinations}, and are {self._totals.destinations}"
            self._found(line, count_destinations, after=True)
