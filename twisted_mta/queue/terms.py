"""What ``mta queue list`` can look for without reading every row: addresses, customers, destinations and reasons.

**Terms.**  A message's senders, recipients, their domains, its customers and its destinations never change while it
stays where it is, so that they are written down long after it was accepted, and not one by one: a *segment* covers all
ids of an interval, and says for each term which of the interval's messages have it.  A look-up is a binary search in
each segment: what few messages have, or none, is found in ten millions as quickly as what many have.  A segment that
no longer knows all terms of its interval is emptied, and its interval is read row by row until it is made anew.

**Reasons.**  What a delivery was last answered changes with each attempt.  Replies are told apart by their
:func:`normal` form only, so that a site that puts a queue id into each reply does not make a million reasons of one.
"""

from __future__ import annotations

import functools
import hashlib
import re
from array import array
from bisect import bisect_left
from collections.abc import Iterable, Sequence
from struct import Struct
from typing import Final
from zlib import crc32

from ..mail.envelope import Delivery, Message
from ..mail.ids import ID_BYTES
from .interfaces import QueueFilter

SEGMENT: Final = 1024
"""Messages of one segment at most."""

SEGMENT_TERMS: Final = 6800
"""Terms after which a segment takes no more messages: it is no larger than a chunk of content then."""

NEAR: Final = 128
"""Entries by which a term may be off the place where it is expected."""

REASON_BYTES: Final = 8

_FORM: Final = 1
_HEAD = Struct("=BxHI")  # form, messages, terms

# Kinds of terms: each is hashed with what it names.
_SENDER, _SENDER_DOMAIN, _RECIPIENT, _RECIPIENT_DOMAIN, _CUSTOMER, _DESTINATION = "sSrRcd"


def _term(kind: str, text: str) -> int:
    return crc32(f"{kind}{text}".encode("utf-8", "surrogatepass"))


def terms_of(message: Message, deliveries: Iterable[Delivery]) -> set[int]:
    """All terms of a message."""
    sender = message.sender.lower()
    terms = {_term(_SENDER, sender), _term(_SENDER_DOMAIN, sender.rpartition("@")[2])}
    for delivery in deliveries:
        terms.add(_term(_CUSTOMER, delivery.customer))
        terms.add(_term(_DESTINATION, delivery.destination))
        for recipient in delivery.recipients:
            address = recipient.address.lower()
            terms.add(_term(_RECIPIENT, address))
            terms.add(_term(_RECIPIENT_DOMAIN, address.rpartition("@")[2]))
            if recipient.original != recipient.address:
                address = recipient.original.lower()
                terms.add(_term(_RECIPIENT, address))
                terms.add(_term(_RECIPIENT_DOMAIN, address.rpartition("@")[2]))
    return terms


def terms_asked(match: QueueFilter) -> list[int]:
    """The terms that every message has of which a delivery matches."""
    terms = []
    if match.sender is not None:
        terms.append(_address_term(match.sender, _SENDER, _SENDER_DOMAIN))
    if match.recipient:
        terms.append(_address_term(match.recipient, _RECIPIENT, _RECIPIENT_DOMAIN))
    if match.customer is not None:
        terms.append(_term(_CUSTOMER, match.customer))
    if match.destination:
        terms.append(_term(_DESTINATION, match.destination))
    return terms


def _address_term(wanted: str, whole: str, domain: str) -> int:
    wanted = wanted.lower()
    return _term(domain, wanted[1:]) if wanted.startswith("@") else _term(whole, wanted)


def make_segment(messages: Sequence[tuple[bytes, set[int]]]) -> bytes:
    """A segment's value: of messages in order (key, terms), at most :data:`SEGMENT`."""
    entries = array("Q", sorted([term << 16 | number for number, (_, terms) in enumerate(messages) for term in terms]))
    return _HEAD.pack(_FORM, len(messages), len(entries)) + entries.tobytes() + b"".join([mid for mid, _ in messages])


class Segment:
    """A segment's value, read where it lies; ``raw`` must stay what it is meanwhile.

    ``count`` is how many messages it has, ``size`` how many terms they have together."""

    __slots__ = ("_entries", "_ids", "count", "size")

    def __init__(self, raw: memoryview) -> None:
        form, self.count, self.size = _HEAD.unpack_from(raw)
        end = _HEAD.size + 8 * self.size
        if form != _FORM or len(raw) != end + self.count * ID_BYTES:
            raise ValueError("not a segment of this version")
        self._entries = raw[_HEAD.size : end].cast("Q")
        self._ids = raw[end:]

    def id(self, number: int) -> bytes:
        """The key of one of its messages, which may have left."""
        return bytes(self._ids[number * ID_BYTES : (number + 1) * ID_BYTES])

    def having(self, terms: Sequence[int]) -> list[bytes]:
        """The keys, in order, of the messages that have all these terms."""
        found: set[int] | None = None
        for term in terms:
            numbers = self._numbers(term)
            found = set(numbers) if found is None else found.intersection(numbers)
            if not found:
                return []
        return [self.id(number) for number in sorted(found or ())]

    def different(self) -> list[int]:
        """The terms that its messages have."""
        return list({entry >> 16 for entry in self._entries})

    def terms(self) -> dict[bytes, set[int]]:
        """All that it says, by message."""
        found: dict[bytes, set[int]] = {self.id(number): set() for number in range(self.count)}
        ids = list(found)
        for entry in self._entries:
            found[ids[entry & 0xFFFF]].add(entry >> 16)
        return found

    def _numbers(self, term: int) -> list[int]:
        entries, count, wanted = self._entries, self.size, term << 16
        # Terms lie evenly, so it is known about where one is: a page of the file is touched rather than one for each
        # step of a search, which counts where none of them is in memory.
        about = term * count >> 32
        least, most = max(0, about - NEAR), min(count, about + NEAR)
        if (least and entries[least] >= wanted) or (most < count and entries[most - 1] < wanted):
            least, most = 0, count
        start = bisect_left(entries, wanted, least, most)
        if start == count or entries[start] >> 16 != term:
            return []
        end = bisect_left(entries, (term + 1) << 16, start)
        return [entry & 0xFFFF for entry in entries[start:end]]


def is_segment(raw: memoryview | bytes) -> bool:
    """Whether a value is a segment; else its interval is to be read row by row."""
    return len(raw) >= _HEAD.size and raw[0] == _FORM


# Letters and digits mixed, four or more: queue ids, times, most names of hosts that are numbered.
_MIXED = re.compile(r"(?<![a-z0-9])(?=[a-z0-9]{4})[a-z]*+[0-9][a-z0-9]*+")


@functools.lru_cache(4096)
def normal(reply: str) -> str:
    """A reply, or a part of one, without what differs from one delivery to the next: in lower case, and with "#" for
    each word of four letters or digits and more that has a digit.

    Its results are in the queue: another form is another schema."""
    return _MIXED.sub("#", reply.lower())


@functools.lru_cache(4096)
def reason_key(reply: str) -> bytes:
    """What stands for a reply's normal form in keys; of no reply, nothing."""
    if not reply:
        return b""
    return hashlib.blake2b(normal(reply).encode("utf-8", "surrogatepass"), digest_size=REASON_BYTES).digest()


def is_normal(wanted: str) -> bool:
    """Whether a text can be looked for in the normal form of replies."""
    return normal(wanted) == wanted.lower()


def says(reply: str, wanted: str) -> bool:
    """Whether a reply contains a text, in any case: one with a queue id or the like in the reply itself, any other in
    its normal form."""
    return wanted.lower() in (normal(reply) if is_normal(wanted) else reply.lower())
