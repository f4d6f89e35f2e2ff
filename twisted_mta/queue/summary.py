"""Which of the segments of :mod:`.terms` certainly do not have a term, said for 64 of them at once.

To ask ten thousand segments is to read all of them: py-lmdb touches all pages of a value that a cursor comes to.  A
*summary* says beforehand which of its 64 segments need not be asked: it has a Bloom filter for each, of which it keeps
the same bit of all 64 together, as one word, and all words of a term in one page.  So one page tells of 64 segments
what few of them have.

A summary is a row of its own, which lists the last ids of its segments, and its pages.  Whoever changes a segment
strikes it in that list, and it is asked again.
"""

from __future__ import annotations

import math
import os
from array import array
from bisect import bisect_left
from collections.abc import Callable, Sequence
from struct import Struct
from typing import Any, Final

import msgspec

from ..mail.ids import ID_BYTES
from .environment import Tables
from .pieces import PIECE

GROUP: Final = 64
"""Segments of one summary: the bits of a word."""

BITS: Final = 16
"""Bits for each term of the segment that has most of them: one segment of a thousand is asked in vain."""

WORDS: Final = PIECE // 8
"""Words of a page."""

_MARK, _READY = 3, 4
_HEAD = Struct(f"=BxH8sQ{ID_BYTES}s")  # which of these, pages, what tells marks apart, what is struck, first
_LAST = b"\xff" * (ID_BYTES + 1)
_SHIFTS = (55, 46, 37, 28, 19, 10)


class Header(msgspec.Struct):
    """The row of a summary: under the last of its segments, the last ids of all, in order.

    One that is not ``ready`` is being made, and ``token`` says by whom; or it is void.  ``first`` is the end of the
    segment before all of them, and ``struck`` has a bit for each of which nothing is said any more.
    """

    ready: bool
    pages: int
    token: bytes
    struck: int
    first: bytes
    ends: list[bytes]

    @classmethod
    def new(cls, first: bytes, ends: Sequence[bytes]) -> Header:
        """One that is to be made."""
        return cls(False, 0, os.urandom(8), 0, first, list(ends))

    @classmethod
    def read(cls, raw: bytes | memoryview) -> Header:
        """From its row."""
        state, pages, token, struck, first = _HEAD.unpack_from(raw)
        rest = bytes(raw[_HEAD.size :])
        ends = [rest[at : at + ID_BYTES] for at in range(0, len(rest), ID_BYTES)]
        return cls(state == _READY, pages, token, struck, first.rstrip(b"\0") and first, ends)

    def row(self) -> bytes:
        """As it is stored."""
        state = _READY if self.ready else _MARK
        return _HEAD.pack(state, self.pages, self.token, self.struck, self.first) + b"".join(self.ends)

    def strike(self, end: bytes) -> bool:
        """Say nothing of a segment any more.  Whether something was said of it."""
        bit = 1 << self.ends.index(end) if end in self.ends else 0
        new = bit & ~self.struck
        self.struck |= bit
        return bool(new)


def page_key(end: bytes, number: int) -> bytes:
    """The key of a page of the summary whose last segment ends there."""
    return end + number.to_bytes(2, "big")


def pages_for(terms: int) -> int:
    """Pages of a summary of segments with so many different terms, each, at most."""
    return min(max(1, math.ceil(terms * BITS / WORDS)), 0xFFFF)


def words_of(term: int) -> list[int]:
    """Which words of its page a term has."""
    mixed = term * 0x9E3779B97F4A7C15 & 0xFFFFFFFFFFFFFFFF
    return [(mixed >> shift & 511) % WORDS for shift in _SHIFTS]


class Bits:
    """The pages of a summary in the making."""

    def __init__(self, pages: int) -> None:
        self.pages = pages
        self._words = array("Q", bytes(8 * WORDS * pages))

    def add(self, number: int, terms: Sequence[int]) -> None:
        """The segment of that number has these terms."""
        words, pages, bit = self._words, self.pages, 1 << number
        for term in terms:
            first = (term * pages >> 32) * WORDS
            mixed = term * 0x9E3779B97F4A7C15 & 0xFFFFFFFFFFFFFFFF
            for shift in _SHIFTS:
                words[first + (mixed >> shift & 511) % WORDS] |= bit

    def rows(self, end: bytes) -> list[tuple[bytes, bytes]]:
        """As they are stored."""
        raw = self._words.tobytes()
        size = 8 * WORDS
        return [(page_key(end, number), raw[number * size : (number + 1) * size]) for number in range(self.pages)]


def having(header: Header, term: int, page: Callable[[int], bytes | memoryview | None]) -> int:
    """The segments, a bit for each, that may have a term.  ``page`` gives the page of a number."""
    raw = page(term * header.pages >> 32)
    if raw is None or len(raw) != 8 * WORDS:
        return -1
    words = memoryview(raw).cast("Q")
    found = -1
    for number in words_of(term):
        found &= words[number]
    return found


class Sieve:
    """Leads past segments that do not have all of some terms; in the snapshot of ``txn``."""

    def __init__(self, txn: Any, tables: Tables, terms: Sequence[int]) -> None:
        self._txn = txn
        self._table = tables.summary
        self._terms = terms
        self._first = self._end = b""
        self._asked: Sequence[bytes] | None = ()

    def next(self, start: bytes) -> bytes:
        """Where the next segment that is to be asked ends, or later than any before it: at ``start`` or behind it."""
        while True:
            if start > self._end or not self._end:
                self._load(start)
            if self._asked is None or (self._first and start <= self._first):
                return start
            at = bisect_left(self._asked, start)
            if at < len(self._asked):
                return self._asked[at]
            start = self._end + b"\0"

    def _load(self, start: bytes) -> None:
        self._first, self._end, self._asked = b"", _LAST, None
        with self._txn.cursor(self._table) as cursor:
            more = cursor.set_range(start) if start else cursor.first()
            while more and len(cursor.key()) != ID_BYTES:  # the pages of the one before
                more = cursor.set_range(bytes(cursor.key()[:ID_BYTES]) + b"\xff\xff\xff")
            if not more:
                return
            self._end, header = bytes(cursor.key()), Header.read(cursor.value())
        if header.ready:
            found, end = -1, self._end
            for term in self._terms:
                found &= having(header, term, lambda number: self._txn.get(page_key(end, number), db=self._table))
            found |= header.struck
            self._first = header.first
            self._asked = [it for number, it in enumerate(header.ends) if found >> number & 1]


def strike(txn: Any, tables: Tables, last: bytes, void: bool = False) -> None:
    """A segment is not what it was: no summary may say anything of it.  ``void``: there is one more than there were."""
    with txn.cursor(tables.summary) as cursor:
        if cursor.set_range(last) and len(cursor.key()) == ID_BYTES:
            header = Header.read(cursor.value())
            if void and last > header.first:
                header.ready, header.token = False, bytes(8)
            elif not header.strike(last):
                return
            cursor.put(bytes(cursor.key()), header.row())
