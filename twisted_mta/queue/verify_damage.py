"""The part of `mta queue verify` that mends rows which can't be read.

What the history of a message says it has been, and where it was to go, is put together again, and put on hold: an
operator looks at it, and releases or removes it.  What no history knows is removed, on record.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from typing import TypeVar

import msgspec

from ..mail.envelope import Body, Delivery, Handling, Message, Recipient
from ..mail.events import Accepted, Bounced, Deferred, Delivered, HistoryEvent, Operator, Routed
from ..mail.ids import ID_BYTES, key_id
from . import damage
from .batch import Batch
from .pieces import joined
from .records import (
    CHUNK_BYTES,
    DESTINATION_BYTES,
    LANE_BYTES,
    STORY_BYTES,
    decode_delivery,
    decode_history,
    decode_lane,
    decode_message,
    delivery_key,
    destination_key,
    encode,
)
from .searching import prefixed

_T = TypeVar("_T")

EXTENDED = 86400.0
"""Seconds until a message that was put together again expires, so that there is time for it."""

WHO = "mta queue verify"


def readable(batch: Batch, table: str, key: bytes) -> bool:
    """Whether a row is there no more, or can be read."""
    raw = batch.txn.get(key, db=getattr(batch.tables, table))
    decode = {"message": decode_message, "delivery": decode_delivery, "lanes": decode_lane}[table]
    try:
        return raw is None or decode(raw) is not None
    except damage.ROWS:
        return False


def mend_message(batch: Batch, mid: bytes) -> None:
    """A message's row; its deliveries are on hold then."""
    if readable(batch, "message", mid):
        return
    made = _message(batch, mid)
    if made is None:
        batch.txn.delete(mid, db=batch.tables.message)
        for key, raw in list(prefixed(batch.txn, batch.tables.delivery, mid)):
            with contextlib.suppress(*damage.ROWS):
                batch.remove(mid, decode_delivery(raw))
                continue
            batch.txn.delete(key, db=batch.tables.delivery)
        batch.trash(mid)
        _record(batch, mid, "remove", ())
        return
    batch.txn.put(mid, encode(made), db=batch.tables.message)
    everyone: list[str] = []
    for _, raw in list(prefixed(batch.txn, batch.tables.delivery, mid)):
        with contextlib.suppress(*damage.ROWS):  # those that can't be read are put on hold when they are mended
            delivery = decode_delivery(raw)
            everyone += [recipient.address for recipient in delivery.recipients]
            if delivery.state != "held":
                batch.replace(mid, delivery, msgspec.structs.replace(delivery, state="held"))
    _record(batch, mid, "hold", everyone)


def mend_delivery(batch: Batch, key: bytes) -> None:
    """A delivery's row."""
    if readable(batch, "delivery", key):
        return
    mid = key[:ID_BYTES]
    batch.txn.delete(key, db=batch.tables.delivery)
    made = _delivery(batch, key)
    if made is None:
        _record(batch, mid, "remove", ())
        if readable(batch, "message", mid):
            batch.leave(mid)
        return
    batch.put(mid, made)
    _record(batch, mid, "hold", [recipient.address for recipient in made.recipients])


def remove_lane_row(batch: Batch, key: bytes) -> None:
    """The counters of a lane: the next count makes them anew."""
    if not readable(batch, "lanes", key):
        batch.txn.delete(key, db=batch.tables.lanes)
        others = prefixed(batch.txn, batch.tables.lanes, key[:DESTINATION_BYTES])
        batch.totals.destinations -= all(len(other) != LANE_BYTES for other, _ in others)


def forget_totals(batch: Batch) -> None:
    """The counters of the whole queue: likewise."""
    batch.totals  # noqa: B018 - to be read and, being damaged, written anew


def _record(batch: Batch, mid: bytes, action: str, recipients: Iterable[str]) -> None:
    event = Operator(time=batch.now, id=key_id(mid), action=action, who=WHO, recipients=tuple(recipients))
    batch.tell((event,))
    batch.events.append(event)


def _story(batch: Batch, mid: bytes) -> list[HistoryEvent]:
    story: list[HistoryEvent] = []
    for raw in joined(prefixed(batch.txn, batch.tables.history, mid), STORY_BYTES):
        with contextlib.suppress(*damage.ROWS):
            story += decode_history(raw)
    return story


def _first(story: Iterable[HistoryEvent], kind: type[_T]) -> _T | None:
    return next((event for event in story if isinstance(event, kind)), None)


def _message(batch: Batch, mid: bytes) -> Message | None:
    accepted = _first(_story(batch, mid), Accepted)
    if accepted is None:
        return None
    body: Body = "7BIT"
    count = size = 0
    for key, chunk in prefixed(batch.txn, batch.tables.content, mid):
        count += len(key) == CHUNK_BYTES
        size += len(chunk)
        body = body if chunk.isascii() else "8BITMIME"
    if count == 0:
        return None
    handling = Handling(
        release=accepted.release,
        deliver_by=accepted.deliver_by,
        by_mode=accepted.by_mode if accepted.by_mode in {"R", "N"} else "",  # type: ignore[arg-type]
        priority=accepted.priority,
    )
    return Message(
        id=key_id(mid),
        arrived=accepted.time,
        sender=accepted.sender,
        recipients=len(accepted.recipients),
        size=size,
        chunks=count,
        expires=batch.now + EXTENDED,
        body=body,
        customer=accepted.customer,
        user=accepted.user,
        client=accepted.client,
        helo=accepted.helo,
        protocol=accepted.protocol,
        listener=accepted.listener,
        message_id=accepted.message_id,
        utf8=accepted.protocol.startswith("UTF8"),
        handling=handling if handling != Handling() else None,
        requiretls=accepted.requiretls if accepted.requiretls in {"required", "optional"} else "",  # type: ignore[arg-type]
    )


def _delivery(batch: Batch, key: bytes) -> Delivery | None:
    mid, story = key[:ID_BYTES], _story(batch, key[:ID_BYTES])
    accepted = _first(story, Accepted)
    whose: dict[str, dict[str, str]] = {}
    for event in story:
        if isinstance(event, Routed):
            names = {target: alias for alias, targets in event.expanded.items() for target in targets}
            for destination, addresses in event.destinations.items():
                whose.setdefault(destination, {}).update({it: names.get(it, it) for it in addresses})
        elif isinstance(event, Deferred):
            whose.setdefault(event.destination, {})[event.recipient] = event.original or event.recipient
    ended = {event.recipient for event in story if isinstance(event, Delivered | Bounced)}
    for destination, found in whose.items():
        recipients = tuple(Recipient(address, name) for address, name in found.items() if address not in ended)
        if destination_key(destination) == key[ID_BYTES:] and recipients:
            assert delivery_key(mid, destination) == key
            return Delivery(
                id=key_id(mid),
                destination=destination,
                customer=accepted.customer if accepted is not None else "",
                recipients=recipients,
                next_attempt=batch.now,
                state="held",
                priority=accepted.priority if accepted is not None else 0,
            )
    return None
