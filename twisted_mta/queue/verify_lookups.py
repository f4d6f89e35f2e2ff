"""The part of `mta queue verify` that looks at what is kept to be looked for: holds, reasons and segments."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from ..mail.envelope import Delivery
from ..mail.ids import ID_BYTES, key_id
from .batch import Batch
from .environment import Tables
from .records import REASON_KEY_BYTES, decode_delivery, decode_message
from .summary import Header, having, page_key
from .summing import give_up
from .terms import REASON_BYTES, Segment, is_segment, normal, reason_key, terms_of

Found = Callable[[str, Callable[[Batch], None]], None]
Rows = Callable[[Any], Iterator[tuple[bytes, Any]]]


class Lookups:
    """One check, in the snapshot of ``txn``, which gives buffers.  ``found`` is told what is wrong and what mends it;
    ``rows`` walks a table."""

    def __init__(self, txn: Any, tables: Tables, rows: Rows, found: Found) -> None:
        self._txn = txn
        self._tables = tables
        self._rows = rows
        self._found = found

    def check_delivery(self, key: bytes, delivery: Delivery) -> None:
        """Whether a delivery can be found by its state and its last reply."""
        words = f"delivery of {delivery.id} to {delivery.destination} can't be found by its"
        if delivery.state == "held" and self._txn.get(key, db=self._tables.held) is None:
            self._found(f"{words} state", lambda batch: _enter(batch, key))
        if delivery.last_reply:
            reason = reason_key(delivery.last_reply)
            get, table = self._txn.get, self._tables.reason
            if get(reason + key, db=table) is None or get(reason, db=table) != _text(delivery):
                self._found(f"{words} last reply", lambda batch: _enter(batch, key))

    def check(self) -> None:
        """Whether what is found is there, and every message in a segment's interval can be found by it."""
        for key, _ in self._rows(self._tables.held):
            delivery = self._delivery(key)
            if delivery is None or delivery.state != "held":
                line = f"{key_id(key[:ID_BYTES])} is listed as held where no such delivery is"
                self._found(line, lambda batch, key=key: _forget_hold(batch, key))  # type: ignore[misc]
        self._check_reasons()
        self._check_segments()
        self._check_summaries()

    def _delivery(self, key: bytes) -> Delivery | None:
        raw = self._txn.get(key, db=self._tables.delivery)
        return decode_delivery(raw) if raw is not None else None

    def _check_reasons(self) -> None:
        text, used = b"", True
        for key, _ in self._rows(self._tables.reason):
            if len(key) != REASON_KEY_BYTES:
                self._check_used(text, used)
                text, used = key, False
                continue
            used = True
            delivery = self._delivery(key[REASON_BYTES:])
            if delivery is None or reason_key(delivery.last_reply) != key[:REASON_BYTES]:
                line = f"{key_id(key[REASON_BYTES:][:ID_BYTES])} is listed with a reply that it did not get"
                self._found(line, lambda batch, key=key: _forget_reason(batch, key))  # type: ignore[misc]
        self._check_used(text, used)

    def _check_used(self, text: bytes, used: bool) -> None:
        if not used:
            self._found("a reply is kept that no delivery got", lambda batch: batch.look_at_reason(text))

    def _check_segments(self) -> None:
        first = b""
        for last, raw in self._rows(self._tables.segment):
            if is_segment(raw) and not self._is_complete(first, last, raw):
                line = f"not all messages up to {key_id(last)} can be found by address"
                self._found(line, lambda batch, last=last: batch.spoil_interval(last))  # type: ignore[misc]
            first = last

    def _check_summaries(self) -> None:
        for end, raw in self._rows(self._tables.summary):
            if len(end) == ID_BYTES and (header := Header.read(raw)).ready and not self._sums_up(end, header):
                line = f"not all segments up to {key_id(end)} would be asked"
                self._found(line, lambda batch, end=end: give_up(batch, end))  # type: ignore[misc]

    def _sums_up(self, end: bytes, header: Header) -> bool:
        def page(number: int) -> Any:
            return self._txn.get(page_key(end, number), db=self._tables.summary)

        for number, last in enumerate(header.ends):
            if not header.struck >> number & 1:
                raw = self._txn.get(last, db=self._tables.segment)
                if raw is None or not is_segment(raw):
                    return False
                for term in Segment(raw).different():
                    if not having(header, term, page) >> number & 1:
                        return False
        return True

    def _is_complete(self, first: bytes, last: bytes, raw: Any) -> bool:
        known = Segment(raw).terms()
        with self._txn.cursor(self._tables.message) as cursor:
            more = cursor.set_range(first + b"\0")
            while more and (mid := bytes(cursor.key())) <= last:
                message = decode_message(cursor.value())
                if not terms_of(message, self._deliveries(mid)) <= known.get(mid, set()):
                    return False
                more = cursor.next()
        return True

    def _deliveries(self, mid: bytes) -> list[Delivery]:
        found = []
        with self._txn.cursor(self._tables.delivery) as cursor:
            more = cursor.set_range(mid)
            while more and cursor.key()[:ID_BYTES] == mid:
                found.append(decode_delivery(cursor.value()))
                more = cursor.next()
        return found


def _text(delivery: Delivery) -> bytes:
    return normal(delivery.last_reply).encode("utf-8", "surrogatepass")


def _there(batch: Batch, key: bytes) -> Delivery | None:
    raw = batch.txn.get(key, db=batch.tables.delivery)
    return decode_delivery(raw) if raw is not None else None


def _enter(batch: Batch, key: bytes) -> None:
    delivery = _there(batch, key)
    if delivery is not None:
        batch.enlist(key, delivery)


def _forget_hold(batch: Batch, key: bytes) -> None:
    delivery = _there(batch, key)
    if delivery is None or delivery.state != "held":
        batch.txn.delete(key, db=batch.tables.held)


def _forget_reason(batch: Batch, key: bytes) -> None:
    delivery = _there(batch, key[REASON_BYTES:])
    if delivery is None or reason_key(delivery.last_reply) != key[:REASON_BYTES]:
        batch.txn.delete(key, db=batch.tables.reason)
        batch.look_at_reason(key[:REASON_BYTES])
