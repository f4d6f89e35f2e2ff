"""The tables of the LMDB store: their keys and the records in them.

All keys are bytes whose order is the order of the query they serve, and none is longer than 42 octets: what a peer may
choose (destinations, customers' names) is in them as a hash.

=============  ====================================  ==============================================================
table          key                                   value
=============  ====================================  ==============================================================
``message``    id                                    :class:`~twisted_mta.mail.envelope.Message`
``content``    id, chunk number                      up to :data:`~twisted_mta.queue.interfaces.CHUNK` octets, in pieces
                                                     (:mod:`.pieces`)
``delivery``   id, destination                       :class:`~twisted_mta.mail.envelope.Delivery`
``lanes``      lane (destination, customer, priority) :class:`LaneRow`
``lanes``      lane, time, id                        nothing; one for each delivery that waits; a held one's time is
                                                     :data:`HELD`
``wake``       time, lane                            nothing; one for each lane with a due delivery: its earliest
``owned``      owner, time, id, destination          nothing; one for each delivery that is in the memory of a process,
                                                     and therefore in no lane
``usage``      customer                              :class:`~twisted_mta.queue.quota.Counters`
``history``    id, transaction, number in it         a list of :data:`~twisted_mta.mail.events.HistoryEvent`, in pieces
``spool``      id                                    :class:`Spool`: content without a message, yet or any more
``held``       id, destination                       nothing; one for each held delivery
``reason``     reason                                its text: the normal form of a last reply
``reason``     reason, id, destination               nothing; one for each delivery with such a last reply
``segment``    the last id of an interval            the terms of the interval's messages (:mod:`.terms`), a mark that
                                                     they are being gathered, or nothing
``summary``    the last id of its last segment       which segments do not have a term (:mod:`.summary`): their last ids
``summary``    the same, number of a page            its pages
``meta``       name                                  schema version, incarnation, generation, changes, :class:`Totals`,
                                                     removals, and entries of ``lanes`` whose deliveries they took out
=============  ====================================  ==============================================================

Records are MessagePack arrays that begin with a version tag.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Iterable
from struct import Struct
from typing import Final

import msgspec

from ..mail.envelope import Delivery, Message
from ..mail.events import HistoryEvent
from ..mail.ids import ID_BYTES, id_key
from .interfaces import QueueFilter
from .quota import Counters
from .terms import REASON_BYTES

SCHEMA: Final = 4
TABLES: Final = (
    "message",
    "content",
    "delivery",
    "lanes",
    "wake",
    "owned",
    "usage",
    "history",
    "spool",
    "held",
    "reason",
    "segment",
    "summary",
    "meta",
)

DESTINATION_BYTES: Final = 16
CUSTOMER_BYTES: Final = 8
LANE_BYTES: Final = DESTINATION_BYTES + CUSTOMER_BYTES
TIME_BYTES: Final = 8
DUE_BYTES: Final = LANE_BYTES + TIME_BYTES + ID_BYTES
OWNER_BYTES: Final = 4
OWNED_BYTES: Final = OWNER_BYTES + TIME_BYTES + ID_BYTES + DESTINATION_BYTES
CHUNK_BYTES: Final = ID_BYTES + 2
STORY_BYTES: Final = ID_BYTES + 12
REASON_KEY_BYTES: Final = REASON_BYTES + ID_BYTES + DESTINATION_BYTES

HELD: Final = b"\xff" * TIME_BYTES
"""In place of the time of a delivery that an operator holds."""
_LAST_TIME: Final = (1 << 63) - 1

META_SCHEMA: Final = b"schema"
META_INCARNATION: Final = b"incarnation"
META_GENERATION: Final = b"generation"
META_CHANGES: Final = b"changes"
META_TOTALS: Final = b"totals"
META_REMOVALS: Final = b"removals"
"""The removals under way, a list of :class:`RemovalRow`: absent where there are none."""
META_REMOVED: Final = b"removed"
"""The last removals that are over, the newest last."""
META_TAKEN: Final = b"taken "
"""Before the number of a removal and of a row of it: entries of ``lanes`` whose deliveries it took out."""
META_REMOVING: Final = b"removing "
"""Before the incarnation of a process of schema 3 that removed a great many deliveries, and died over it."""


class LaneRow(msgspec.Struct, array_like=True, tag=1):
    """A lane that mail waits in.  ``wake`` is the time (8 octets) of its entry in ``wake``, empty if all is held."""

    destination: str
    customer: str
    deliveries: int = 0
    recipients: int = 0
    held: int = 0
    wake: bytes = b""
    priority: int = 0


class Totals(msgspec.Struct, array_like=True, tag=1):
    """The size of the whole queue.  ``destinations`` are those that have lanes."""

    messages: int = 0
    deliveries: int = 0
    recipients: int = 0
    bytes: int = 0
    held: int = 0
    destinations: int = 0


class Spool(msgspec.Struct, array_like=True, tag=1):
    """Content that belongs to no message: one that is coming in, or (``owner`` 0) one to be removed.

    ``owner`` is the incarnation of the process that receives it.
    """

    owner: int


class RemovalRow(msgspec.Struct, array_like=True, tag=1):
    """An operator's removal of all that matched at one time.  See :mod:`.pending`.

    ``end`` is the last message's key then.  What is before ``after`` (of a page) has been taken out, and what is left
    of it in ``lanes`` is written down in ``runs``, each in order, ``entries`` in all.  ``forgetting``: these are being
    removed now, and ``passed`` is the last one that is.  ``looked``: all has been taken out.  ``owner`` is the
    incarnation of who works at it.  ``ended``: 0.0 while it is under way.
    """

    number: int
    match: QueueFilter
    who: str
    began: float
    end: bytes
    after: str = ""
    looked: bool = False
    entries: int = 0
    runs: int = 0
    forgetting: bool = False
    passed: bytes = b""
    deliveries: int = 0
    recipients: int = 0
    owner: int = 0
    ended: float = 0.0


_encoder = msgspec.msgpack.Encoder()
encode = _encoder.encode
decode_message = msgspec.msgpack.Decoder(Message).decode
decode_delivery = msgspec.msgpack.Decoder(Delivery).decode
decode_lane = msgspec.msgpack.Decoder(LaneRow).decode
decode_counters = msgspec.msgpack.Decoder(Counters).decode
decode_totals = msgspec.msgpack.Decoder(Totals).decode
decode_removals = msgspec.msgpack.Decoder(list[RemovalRow]).decode
decode_spool = msgspec.msgpack.Decoder(Spool).decode
decode_history = msgspec.msgpack.Decoder(list[HistoryEvent]).decode


def spool_owner(raw: bytes | memoryview) -> int:
    """Who receives the content of a row of ``spool``; 0, nobody any more, where the row is damaged."""
    try:
        return decode_spool(raw).owner
    except (msgspec.DecodeError, UnicodeDecodeError):
        return 0


_pack_time = Struct(">Q").pack
owner_key = Struct(">I").pack
"""The incarnation of a process as it stands in keys."""
_pack_chunk = Struct(">H").pack
_pack_taken = Struct(">IIH").pack
_RUN_BYTES = 6
_pack_story = Struct(">QI").pack
_GENERATION: Final = 40
"""Bits of a transaction's number: a thousand of them a second for 34 years."""
MAX_CHUNKS: Final = 1 << 16


def _digest(text: str, size: int) -> bytes:
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=size).digest()


@functools.lru_cache(16384)
def destination_key(destination: str) -> bytes:
    """What stands for a destination in keys."""
    return _digest(destination, DESTINATION_BYTES)


@functools.lru_cache(16384)
def customer_key(customer: str) -> bytes:
    """What stands for a customer in keys of lanes."""
    return _digest(customer, CUSTOMER_BYTES)


@functools.lru_cache(16384)
def lane_key(destination: str, customer: str, priority: int = 0) -> bytes:
    """The key of a lane: those of one destination stand together."""
    whose = f"{customer}\0{priority}" if priority else customer
    return destination_key(destination) + customer_key(whose)


@functools.lru_cache(4096)
def usage_key(customer: str) -> bytes:
    """The key of a customer's counters."""
    return _digest(customer, DESTINATION_BYTES)


def time_key(when: float) -> bytes:
    """A time, in seconds since the epoch, as it stands in keys: microseconds.  :func:`key_time` goes back and forth."""
    return _pack_time(min(max(round(when * 1e6), 0), _LAST_TIME))


def key_time(key: bytes) -> float:
    """The time that :func:`time_key` gave."""
    return int.from_bytes(key, "big") / 1e6


def due_time(delivery: Delivery) -> bytes:
    """The time under which a delivery stands in its lane, or in ``owned``."""
    return HELD if delivery.state == "held" else time_key(delivery.next_attempt)


def due_key(delivery: Delivery, mid: bytes) -> bytes:
    """The key of a delivery in ``lanes``."""
    return lane_key(delivery.destination, delivery.customer, delivery.priority) + due_time(delivery) + mid


def owned_key(delivery: Delivery, mid: bytes) -> bytes:
    """The key of a delivery in ``owned``."""
    return owner_key(delivery.owner) + due_time(delivery) + mid + destination_key(delivery.destination)


def owned_delivery(key: bytes) -> bytes:
    """The key in ``delivery`` of what has this one in ``owned``."""
    return key[OWNER_BYTES + TIME_BYTES :]


def delivery_key(mid: bytes, destination: str) -> bytes:
    """The key of a delivery."""
    return mid + destination_key(destination)


def chunk_key(mid: bytes, number: int) -> bytes:
    """The key of a chunk of content."""
    return mid + _pack_chunk(number)


def story_key(mid: bytes, generation: int, transaction: int, number: int) -> bytes:
    """The key of what one transaction, of one generation of the file, adds to a message's history."""
    return mid + _pack_story(generation << _GENERATION | transaction, number)


def taken_key(removal: int, run: int, part: int) -> bytes:
    """The key, in ``meta``, of a part of a run of what a removal took out."""
    return META_TAKEN + _pack_taken(removal, run, part)


def taken_keys(removal: int) -> bytes:
    """What all of a removal's have in the beginning."""
    return taken_key(removal, 0, 0)[:-_RUN_BYTES]


def removal_of(key: bytes) -> int:
    """The number of the removal that such a row belongs to."""
    return int.from_bytes(key[len(META_TAKEN) :][:4], "big")


def safe_id_key(mid: str) -> bytes | None:
    """The key of an id that somebody typed, or None for what cannot be one."""
    try:
        return id_key(mid)
    except ValueError:
        return None


def by_message(events: Iterable[HistoryEvent]) -> dict[str, list[HistoryEvent]]:
    """Events by the id of their message, in order."""
    stories: dict[str, list[HistoryEvent]] = {}
    for event in events:
        story = stories.get(event.id)
        if story is None:
            stories[event.id] = [event]
        else:
            story.append(event)
    return stories
